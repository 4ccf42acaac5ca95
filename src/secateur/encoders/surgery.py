"""Encoders rebuilt: another transformer, tokenizer or hidden width in the place of the old one."""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import cast

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense
from sentence_transformers.sentence_transformer.modules import Pooling
from torch import Tensor, nn
from transformers import (
    BertModel,
    CamembertModel,
    DistilBertModel,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    RobertaModel,
    XLMRobertaModel,
)

from secateur.encoders.encoder import TorchEncoder
from secateur.encoders.modeling import NAMES, PRUNED, RAGGED, config_class, head_size, layer_names, stock_type


def renumber_layers(model: PreTrainedModel, layers: Sequence[int]) -> dict[str, Tensor]:
    """Return a model's weights with layer layers[i] under the name of layer i, and no other layers."""
    weights = model.state_dict()
    prefix = layer_names(model.config).layers
    chosen = {name: value for name, value in weights.items() if not name.startswith(f"{prefix}.")}
    for new, old in enumerate(layers):
        before = f"{prefix}.{old}."
        for name, value in weights.items():
            if name.startswith(before):
                chosen[f"{prefix}.{new}.{name.removeprefix(before)}"] = value
    return chosen


STOCK: dict[str, type[PreTrainedModel]] = {
    "bert": BertModel,
    "camembert": CamembertModel,
    "distilbert": DistilBertModel,
    "roberta": RobertaModel,
    "xlm-roberta": XLMRobertaModel,
}


def resize_config(
    config: PreTrainedConfig,
    heads: Sequence[int],
    neurons: Sequence[int],
    *,
    has_pooler: bool,
    hidden: int | None = None,
    pieces: int | None = None,
    rank: int | None = None,
) -> PreTrainedConfig:
    """Return a config like `config` with these head and neuron counts, one for each layer.

    `hidden` (a multiple of the head size), `pieces` and `rank`, that of the word embeddings, are as they were where
    not given. It is the stock config where that can say it (as many heads as go into the hidden
    width, the same number of neurons in every layer, full rank), else the pruned one with `auto_map`, so that the
    folder also loads by its own modeling.py. Raises ValueError: a hidden width that is no multiple of the head size.
    """
    family = stock_type(config)
    hidden = config.hidden_size if hidden is None else hidden
    rank = getattr(config, "embedding_rank", None) if rank is None else rank
    if hidden % head_size(config):
        raise ValueError(f"hidden width {hidden} is not a multiple of the head size {head_size(config)}")
    full = hidden // head_size(config)
    key = FIELDS[family]
    fields = {name: value for name, value in config.to_diff_dict().items() if name not in OURS}
    fields |= {key.hidden: hidden, key.heads: full, key.layers: len(heads)}
    fields |= {"vocab_size": config.vocab_size if pieces is None else pieces}
    if set(heads) == {full} and len(set(neurons)) == 1 and neurons[0] > 0 and rank is None:
        return config_class(STOCK[family]).from_dict({**fields, key.neurons: neurons[0]})
    ragged = RAGGED[family]
    auto_map = {
        "AutoConfig": f"modeling.{config_class(ragged).__name__}",
        "AutoModel": f"modeling.{ragged.__name__}",
    }
    counts = {"heads_per_layer": list(heads), "neurons_per_layer": list(neurons), "embedding_rank": rank}
    return config_class(ragged).from_dict({**fields, **counts, "has_pooler": has_pooler, "auto_map": auto_map})


@dataclass(frozen=True)
class Fields:
    """What a family's config calls its sizes."""

    hidden: str = "hidden_size"
    heads: str = "num_attention_heads"
    layers: str = "num_hidden_layers"
    neurons: str = "intermediate_size"


FIELDS = dict.fromkeys(NAMES, Fields()) | {"distilbert": Fields("dim", "n_heads", "n_layers", "hidden_dim")}


def build_model(config: PreTrainedConfig, *, has_pooler: bool) -> PreTrainedModel:
    """Return the model of a config, with weights drawn at random; a pruned config says itself if it has a pooler."""
    family = stock_type(config)
    if config.model_type.startswith(PRUNED):
        return RAGGED[family](config)
    return STOCK[family](config) if family == "distilbert" else STOCK[family](config, add_pooling_layer=has_pooler)


def fill_model(
    config: PreTrainedConfig, weights: Mapping[str, Tensor], *, has_pooler: bool, like: PreTrainedModel
) -> PreTrainedModel:
    """Return the model of a config with copies of these weights, in evaluation mode, that attends as `like` does.

    The weights of a pooler are left out where it has none.
    """
    model = build_model(config, has_pooler=has_pooler)
    kept = {name: value for name, value in weights.items() if has_pooler or not name.startswith("pooler.")}
    model.load_state_dict(kept)
    model.config._attn_implementation = like.config._attn_implementation
    model.eval()
    return model


SIZES = ("heads_per_layer", "neurons_per_layer", "embedding_rank", "has_pooler")  # fields of our configs
OURS = ("model_type", "architectures", "auto_map", *SIZES)


def replace_transformer(encoder: TorchEncoder, transformer: PreTrainedModel) -> TorchEncoder:
    """Return a new encoder with copies of everything but the transformer, which is the one given."""
    first = shallow_copy(encoder.model[0])
    first.model = transformer
    rest = [deepcopy(module) for module in list(encoder.model)[1:]]
    return rebuild(encoder, [first, *rest])


def replace_tokenizer(encoder: TorchEncoder, tokenizer: PreTrainedTokenizerBase) -> TorchEncoder:
    """Return a new encoder that reads with another tokenizer; it shares everything else."""
    first = shallow_copy(encoder.model[0])
    first.__dict__["processor"] = tokenizer
    return rebuild(encoder, [first, *list(encoder.model)[1:]])


def replace_length(encoder: TorchEncoder, tokens: int) -> TorchEncoder:
    """Return a new encoder that reads at most so many tokens of a sentence; it shares everything else.

    Its tokenizer too: what is set on that holds for both, so give one of its own to an encoder that will be saved.
    """
    first = shallow_copy(encoder.model[0])
    setattr(first, "max_seq_length", tokens)  # noqa: B010 (a property of its class)
    return rebuild(encoder, [first, *list(encoder.model)[1:]])


def narrow_encoder(encoder: TorchEncoder, transformer: PreTrainedModel, channels: Sequence[int]) -> TorchEncoder:
    """Return a new encoder around a transformer that holds these channels of the encoder's hidden width alone.

    Behind its pooling a `Dense` module puts every channel back in its place, zeros between: the sentence vector keeps
    its dimension, and what follows the pooling stays. A pooler becomes a cls pooling and a `Dense` with its matrix.
    """
    width = encoder.transformer.config.hidden_size
    places = torch.eye(width, device=encoder.device)[:, list(channels)]  # [width, channels]
    first, old = shallow_copy(encoder.model[0]), encoder.model[1]
    first.model = transformer
    if encoder.uses_pooler:
        text = {"text": {"method": "forward", "method_output_name": "last_hidden_state"}}
        first.__dict__.update(module_output_name="token_embeddings", modality_config=text)
        pooler = cast(nn.Linear, encoder.transformer.get_submodule("pooler.dense"))
        pooling = Pooling(len(channels), pooling_mode="cls")
        dense = make_dense(pooler.weight @ places, pooler.bias, nn.Tanh())
        rest = list(encoder.model)[1:]
    else:
        pooling = Pooling(len(channels), pooling_mode=old.pooling_mode, include_prompt=old.include_prompt)
        weight = torch.block_diag(*[places] * (old.pooling_output_dimension // width))
        dense = make_dense(weight, None, nn.Identity())
        rest = list(encoder.model)[2:]
        if rest and isinstance(rest[0], Dense):  # one matrix after the other is one matrix
            dense = make_dense(rest[0].linear.weight @ weight, rest[0].linear.bias, rest[0].activation_function)
            rest = rest[1:]
    return rebuild(encoder, [first, pooling, dense, *map(deepcopy, rest)])


def rebuild(encoder: TorchEncoder, modules: list[nn.Module]) -> TorchEncoder:
    """Return an encoder of these modules, with everything else as in the one it comes from."""
    return replace(encoder, model=rebuild_model(encoder.model, modules).eval())


def rebuild_model(model: SentenceTransformer, modules: list[nn.Module]) -> SentenceTransformer:
    """Return a model of other modules, with the prompts, the default one and the similarity of the one given."""
    prompts = {name: text or "" for name, text in model.prompts.items()}
    return SentenceTransformer(
        modules=modules, device=str(model.device), prompts=prompts, default_prompt_name=model.default_prompt_name,
        similarity_fn_name=model.similarity_fn_name,
    )  # fmt: skip


def make_dense(weight: Tensor, bias: Tensor | None, activation: Callable[[Tensor], Tensor]) -> Dense:
    bias = weight.new_zeros(len(weight)) if bias is None else bias
    return Dense(
        weight.shape[1], len(weight), activation_function=activation, init_weight=weight.detach().clone(),
        init_bias=bias.detach().clone(),
    )  # fmt: skip


def shallow_copy(module: nn.Module) -> nn.Module:
    copied = module.__class__.__new__(module.__class__)
    copied.__dict__ = {**module.__dict__, "_modules": dict(module._modules)}
    return copied

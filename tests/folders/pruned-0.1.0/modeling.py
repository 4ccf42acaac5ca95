"""Encoders whose layers each have their own number of heads and neurons, in the transformers library's own terms.

The head counts and neuron counts of every layer stand in the config, so a saved folder reloads in stock
`AutoModel` and `SentenceTransformer`. Folders carry a copy of this file, for use without secateur
(`trust_remote_code=True`): it imports torch and transformers only.

It works because the attention of these encoders reads the number of heads from its query tensor
(transformers >= 5): fewer rows in query, key and value are fewer heads, down to none. The hidden width stays a
multiple of the head size, which is how the config says that size; a layer may have more heads than go into it.
Word embeddings may be of low rank, [pieces, rank] times [rank, hidden].
"""

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    BertConfig,
    BertModel,
    CamembertConfig,
    CamembertModel,
    DistilBertConfig,
    DistilBertModel,
    PreTrainedConfig,
    PreTrainedModel,
    RobertaConfig,
    RobertaModel,
    XLMRobertaConfig,
    XLMRobertaModel,
)


@dataclass(frozen=True)
class LayerNames:
    """Where an encoder family keeps the parts of a layer, as dotted module paths."""

    layers: str
    query: str
    key: str
    value: str
    attention_output: str  # the heads' output projection: [hidden, heads * head size]
    attention_norm: str  # the LayerNorm over its residual sum
    expand: str  # first FFN matrix: [neurons, hidden]
    activation: str
    contract: str  # second FFN matrix: [hidden, neurons]
    output_norm: str


BERT_NAMES = LayerNames(
    layers="encoder.layer",
    query="attention.self.query",
    key="attention.self.key",
    value="attention.self.value",
    attention_output="attention.output.dense",
    attention_norm="attention.output.LayerNorm",
    expand="intermediate.dense",
    activation="intermediate.intermediate_act_fn",
    contract="output.dense",
    output_norm="output.LayerNorm",
)
DISTILBERT_NAMES = LayerNames(
    layers="transformer.layer",
    query="attention.q_lin",
    key="attention.k_lin",
    value="attention.v_lin",
    attention_output="attention.out_lin",
    attention_norm="sa_layer_norm",
    expand="ffn.lin1",
    activation="ffn.activation",
    contract="ffn.lin2",
    output_norm="output_layer_norm",
)
NAMES = {
    "bert": BERT_NAMES,
    "camembert": BERT_NAMES,
    "distilbert": DISTILBERT_NAMES,
    "roberta": BERT_NAMES,
    "xlm-roberta": BERT_NAMES,
}
PRUNED = "pruned-"
COUNTED = ("roberta", "xlm-roberta", "camembert")  # families whose positions begin behind the number of the padding
WORDS = "embeddings.word_embeddings"  # modules of every family
POSITIONS = "embeddings.position_embeddings"


def stock_type(config: PreTrainedConfig) -> str:
    """Return the family of a stock or pruned config, `bert` for `pruned-bert`. Raises ValueError if unsupported."""
    return find_family(config.model_type)


def find_family(model_type: str) -> str:
    family = model_type.removeprefix(PRUNED)
    if family not in NAMES:
        raise ValueError(f"model type {model_type!r} is not supported; supported are {', '.join(NAMES)}")
    return family


def first_position(config: PreTrainedConfig) -> int:
    """Return the row of the position embeddings that a sentence's first piece gets."""
    return int(config.pad_token_id) + 1 if stock_type(config) in COUNTED else 0


def layer_names(config: PreTrainedConfig) -> LayerNames:
    return NAMES[stock_type(config)]


def find_layers(model: PreTrainedModel) -> list[nn.Module]:
    return list(model.get_submodule(layer_names(model.config).layers).children())


def find_linear(layer: nn.Module, path: str) -> nn.Linear:
    return cast(nn.Linear, layer.get_submodule(path))


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


def head_size(config: PreTrainedConfig) -> int:
    """Return the channels of one head; a cut changes how many heads there are, never their size."""
    return int(config.hidden_size // config.num_attention_heads)


def count_heads(model: PreTrainedModel) -> list[int]:
    """Return the number of heads of each layer, read from the weights."""
    query = layer_names(model.config).query
    size = head_size(model.config)
    return [find_linear(layer, query).out_features // size for layer in find_layers(model)]


def count_neurons(model: PreTrainedModel) -> list[int]:
    """Return the number of FFN neurons of each layer, read from the weights."""
    expand = layer_names(model.config).expand
    return [find_linear(layer, expand).out_features for layer in find_layers(model)]


class LowRankEmbedding(nn.Embedding):
    """Word embeddings [pieces, rank] that one matrix [hidden, rank] widens (Lan et al. 2020, section 3.1)."""

    def __init__(self, pieces: int, rank: int, hidden: int, padding_idx: int | None):
        super().__init__(pieces, rank, padding_idx=padding_idx)
        self.widen = nn.Linear(rank, hidden, bias=False)

    def forward(self, input: Tensor) -> Tensor:
        return cast(Tensor, self.widen(super().forward(input)))


def fit_to_config(model: PreTrainedModel) -> None:
    """Give a freshly made model the head counts, neuron counts and embedding rank of its config."""
    config = model.config
    names = layer_names(config)
    channels = [heads * head_size(config) for heads in config.heads_per_layer]
    for layer, width, neurons in zip(find_layers(model), channels, config.neurons_per_layer, strict=True):
        for name in (names.query, names.key, names.value):
            resize(find_linear(layer, name), config, rows=width)
        resize(find_linear(layer, names.attention_output), config, columns=width)
        resize(find_linear(layer, names.expand), config, rows=neurons)
        resize(find_linear(layer, names.contract), config, columns=neurons)
        if not width:
            attend_eagerly(layer.get_submodule(names.query.rpartition(".")[0]))
    if config.embedding_rank is not None:
        words = cast(nn.Embedding, model.get_input_embeddings())
        low = LowRankEmbedding(config.vocab_size, config.embedding_rank, config.hidden_size, words.padding_idx)
        model.set_input_embeddings(low)


def attend_eagerly(attention: Any) -> None:
    """Keep the attention of a layer without heads away from fused kernels: torch 2.11's end the process there, as
    they divide by the number of heads (pytorch/pytorch#191325)."""
    attention.config = copy(attention.config)
    attention.config._attn_implementation = "eager"


def resize(linear: nn.Linear, config: PreTrainedConfig, *, rows: int | None = None, columns: int | None = None) -> None:
    """Draw a matrix anew with other rows or columns, biases zero; what is there needs no drawing anew."""
    shape = (linear.out_features if rows is None else rows, linear.in_features if columns is None else columns)
    if shape == linear.weight.shape:
        return
    linear.weight = nn.Parameter(linear.weight.new_empty(shape).normal_(0.0, config.initializer_range))
    if linear.bias is not None:
        linear.bias = nn.Parameter(linear.bias.new_zeros(shape[0]))
    linear.out_features, linear.in_features = shape


class PrunedBertConfig(BertConfig):
    """BertConfig; `num_attention_heads` still says the heads' size, `heads_per_layer` how many there are."""

    model_type = "pruned-bert"
    heads_per_layer: list[int] | None = None
    neurons_per_layer: list[int] | None = None
    has_pooler: bool = False
    embedding_rank: int | None = None


class PrunedCamembertConfig(CamembertConfig):
    model_type = "pruned-camembert"
    heads_per_layer: list[int] | None = None
    neurons_per_layer: list[int] | None = None
    has_pooler: bool = False
    embedding_rank: int | None = None


class PrunedDistilBertConfig(DistilBertConfig):
    model_type = "pruned-distilbert"
    heads_per_layer: list[int] | None = None
    neurons_per_layer: list[int] | None = None
    has_pooler: bool = False
    embedding_rank: int | None = None


class PrunedRobertaConfig(RobertaConfig):
    model_type = "pruned-roberta"
    heads_per_layer: list[int] | None = None
    neurons_per_layer: list[int] | None = None
    has_pooler: bool = False
    embedding_rank: int | None = None


class PrunedXLMRobertaConfig(XLMRobertaConfig):
    model_type = "pruned-xlm-roberta"
    heads_per_layer: list[int] | None = None
    neurons_per_layer: list[int] | None = None
    has_pooler: bool = False
    embedding_rank: int | None = None


class PrunedBertModel(BertModel):
    config_class = PrunedBertConfig

    def __init__(self, config: PrunedBertConfig, **_: object):
        super().__init__(config, add_pooling_layer=config.has_pooler)
        fit_to_config(self)


class PrunedCamembertModel(CamembertModel):
    config_class = PrunedCamembertConfig

    def __init__(self, config: PrunedCamembertConfig, **_: object):
        super().__init__(config, add_pooling_layer=config.has_pooler)
        fit_to_config(self)


class PrunedDistilBertModel(DistilBertModel):
    config_class = PrunedDistilBertConfig

    def __init__(self, config: PrunedDistilBertConfig, **_: object):
        super().__init__(config)
        fit_to_config(self)


class PrunedRobertaModel(RobertaModel):
    config_class = PrunedRobertaConfig

    def __init__(self, config: PrunedRobertaConfig, **_: object):
        super().__init__(config, add_pooling_layer=config.has_pooler)
        fit_to_config(self)


class PrunedXLMRobertaModel(XLMRobertaModel):
    config_class = PrunedXLMRobertaConfig

    def __init__(self, config: PrunedXLMRobertaConfig, **_: object):
        super().__init__(config, add_pooling_layer=config.has_pooler)
        fit_to_config(self)


STOCK: dict[str, type[PreTrainedModel]] = {
    "bert": BertModel,
    "camembert": CamembertModel,
    "distilbert": DistilBertModel,
    "roberta": RobertaModel,
    "xlm-roberta": XLMRobertaModel,
}
RAGGED: dict[str, type[PreTrainedModel]] = {
    "bert": PrunedBertModel,
    "camembert": PrunedCamembertModel,
    "distilbert": PrunedDistilBertModel,
    "roberta": PrunedRobertaModel,
    "xlm-roberta": PrunedXLMRobertaModel,
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


def config_class(model: type[PreTrainedModel]) -> type[PreTrainedConfig]:
    return cast(type[PreTrainedConfig], model.config_class)


SIZES = ("heads_per_layer", "neurons_per_layer", "embedding_rank", "has_pooler")  # fields of our configs
OURS = ("model_type", "architectures", "auto_map", *SIZES)


for ragged in RAGGED.values():
    AutoConfig.register(config_class(ragged).model_type, config_class(ragged), exist_ok=True)
    AutoModel.register(config_class(ragged), ragged, exist_ok=True)

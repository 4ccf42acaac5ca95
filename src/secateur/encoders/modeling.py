"""Encoders whose layers each have their own number of heads and neurons, in the transformers library's own terms.

The head counts and neuron counts of every layer stand in the config, so a saved folder reloads in stock
`AutoModel` and `SentenceTransformer`. Folders carry a copy of this file, for use without secateur
(`trust_remote_code=True`): it imports torch and transformers only.

It works because the attention of these encoders reads the number of heads from its query tensor
(transformers >= 5): fewer rows in query, key and value are fewer heads, down to none. The hidden width stays a
multiple of the head size, which is how the config says that size; a layer may have more heads than go into it.
Word embeddings may be of low rank, [tokens, rank] times [rank, hidden].
"""

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
    """Return the row of the position embeddings that a sentence's first token gets."""
    return int(config.pad_token_id) + 1 if stock_type(config) in COUNTED else 0


def count_positions(model: PreTrainedModel) -> int:
    """Return how many tokens the position embeddings reach; the RoBERTa family's begin behind the padding's."""
    return int(model.config.max_position_embeddings) - first_position(model.config)


def layer_names(config: PreTrainedConfig) -> LayerNames:
    return NAMES[stock_type(config)]


def find_layers(model: PreTrainedModel) -> list[nn.Module]:
    return list(model.get_submodule(layer_names(model.config).layers).children())


def find_linear(layer: nn.Module, path: str) -> nn.Linear:
    return cast(nn.Linear, layer.get_submodule(path))


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
    """Word embeddings [tokens, rank] that one matrix [hidden, rank] widens (Lan et al. 2020, section 3.1)."""

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
    _auto_class = "AutoModel"  # transformers itself copies this file into whatever folder it saves

    def __init__(self, config: PrunedBertConfig, **_: object):
        super().__init__(config, add_pooling_layer=config.has_pooler)
        fit_to_config(self)


class PrunedCamembertModel(CamembertModel):
    config_class = PrunedCamembertConfig
    _auto_class = "AutoModel"  # transformers itself copies this file into whatever folder it saves

    def __init__(self, config: PrunedCamembertConfig, **_: object):
        super().__init__(config, add_pooling_layer=config.has_pooler)
        fit_to_config(self)


class PrunedDistilBertModel(DistilBertModel):
    config_class = PrunedDistilBertConfig
    _auto_class = "AutoModel"  # transformers itself copies this file into whatever folder it saves

    def __init__(self, config: PrunedDistilBertConfig, **_: object):
        super().__init__(config)
        fit_to_config(self)


class PrunedRobertaModel(RobertaModel):
    config_class = PrunedRobertaConfig
    _auto_class = "AutoModel"  # transformers itself copies this file into whatever folder it saves

    def __init__(self, config: PrunedRobertaConfig, **_: object):
        super().__init__(config, add_pooling_layer=config.has_pooler)
        fit_to_config(self)


class PrunedXLMRobertaModel(XLMRobertaModel):
    config_class = PrunedXLMRobertaConfig
    _auto_class = "AutoModel"  # transformers itself copies this file into whatever folder it saves

    def __init__(self, config: PrunedXLMRobertaConfig, **_: object):
        super().__init__(config, add_pooling_layer=config.has_pooler)
        fit_to_config(self)


RAGGED: dict[str, type[PreTrainedModel]] = {
    "bert": PrunedBertModel,
    "camembert": PrunedCamembertModel,
    "distilbert": PrunedDistilBertModel,
    "roberta": PrunedRobertaModel,
    "xlm-roberta": PrunedXLMRobertaModel,
}


def config_class(model: type[PreTrainedModel]) -> type[PreTrainedConfig]:
    return cast(type[PreTrainedConfig], model.config_class)


for ragged in RAGGED.values():
    AutoConfig.register(config_class(ragged).model_type, config_class(ragged), exist_ok=True)
    AutoModel.register(config_class(ragged), ragged, exist_ok=True)

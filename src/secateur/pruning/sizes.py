"""The sizes of an encoder on the five axes, and its parameters, counted exactly."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

import numpy as np
import torch
from sentence_transformers.base.modules import Dense
from torch import nn

from secateur.encoders.encoder import TorchEncoder
from secateur.encoders.modeling import count_heads, count_neurons, find_layers, head_size

BYTES = 4  # of a parameter, in float32


@dataclass(frozen=True)
class Sizes:
    """The sizes of an encoder; heads and neurons over all its layers together."""

    layers: int
    heads: int
    neurons: int
    hidden: int
    pieces: int
    rank: int | None  # of the word embeddings; none: full


@dataclass(frozen=True)
class EncoderShape:
    """What no axis changes: the teacher's own sizes and what else it is made of."""

    whole: Sizes
    head_size: int
    positions: int
    types: int  # token types
    output: int  # rows of the pooler, or of the `Dense` that a narrower student has behind its pooling
    has_pooler: bool
    entering: int = 1  # how many times the hidden width enters that `Dense`
    behind: int = 0  # parameters of the modules behind the pooling, at the whole width
    beyond: int = 0  # of these, what stays as it is at every width
    tokens: int | None = None  # of the tokenizer, where the word embeddings have more rows than that
    bytes_each: float = BYTES  # of a parameter, as the student is saved


def describe(encoder: TorchEncoder) -> EncoderShape:
    """Return an encoder's sizes and what no axis changes, read from its weights."""
    transformer = encoder.transformer
    settings = transformer.config
    weights = transformer.state_dict()
    types = weights.get("embeddings.token_type_embeddings.weight")
    whole = Sizes(
        layers=len(find_layers(transformer)),
        heads=sum(count_heads(transformer)),
        neurons=sum(count_neurons(transformer)),
        hidden=settings.hidden_size,
        pieces=settings.vocab_size,
        rank=getattr(settings, "embedding_rank", None),
    )
    modules = list(encoder.model)[1:]
    behind = count(modules)
    first = modules[1] if len(modules) > 1 and not encoder.uses_pooler else None
    pooled = getattr(modules[0], "pooling_output_dimension", encoder.dimension) if modules else encoder.dimension
    output, beyond = pooled, behind
    if encoder.uses_pooler:
        output = settings.hidden_size
    elif isinstance(first, Dense):  # one matrix with what puts a narrower student's channels in their places
        output, beyond = first.linear.out_features, behind - count([first])
    tokens = len(encoder.tokenizer)
    return EncoderShape(
        whole,
        head_size=head_size(settings),
        positions=len(weights["embeddings.position_embeddings.weight"]),
        types=0 if types is None else len(types),
        output=output,
        has_pooler=encoder.uses_pooler,
        entering=1 if encoder.uses_pooler else max(1, pooled // whole.hidden),
        behind=behind,
        beyond=beyond,
        tokens=tokens if tokens < whole.pieces else None,
        bytes_each=count_bytes_each(encoder.dtype),
    )


def count(modules: Iterable[nn.Module]) -> int:
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def count_bytes_each(dtype: str) -> int:
    """Return the bytes that a parameter takes in a number format."""
    return cast(torch.dtype, getattr(torch, dtype)).itemsize


def count_parameters(sizes: Sizes, shape: EncoderShape) -> int:
    """Return exactly the parameters of a student of these sizes, those of its `Dense` included."""
    return int(parameters(columns([sizes]), shape)[0])


class Columns(NamedTuple):
    """Many sizes at once: integer arrays that broadcast; full rank as 0."""

    layers: np.ndarray
    heads: np.ndarray
    neurons: np.ndarray
    hidden: np.ndarray
    pieces: np.ndarray
    rank: np.ndarray


def columns(sizes: Sequence[Sizes]) -> Columns:
    rows = [(s.layers, s.heads, s.neurons, s.hidden, s.pieces, s.rank or 0) for s in sizes]
    return Columns(*np.array(rows, np.int64).T)


def parameters(sizes: Columns, shape: EncoderShape) -> np.ndarray:
    layers, heads, neurons, hidden, pieces, rank = sizes
    channels = heads * shape.head_size
    words = np.where(rank == 0, pieces * hidden, rank * (pieces + hidden))
    embeddings = words + (shape.positions + shape.types + 2) * hidden
    attention = 4 * channels * hidden + 3 * channels  # query, key, value and their biases, output projection
    ffn = 2 * neurons * hidden + neurons
    each_layer = 6 * hidden  # two biases, two LayerNorms
    whole = shape.behind + shape.has_pooler * shape.output * (hidden + 1)
    narrow = shape.beyond + shape.output * (shape.entering * hidden + 1)  # a Dense, also in the place of a pooler
    head = np.where(hidden < shape.whole.hidden, narrow, whole)
    total: np.ndarray = embeddings + attention + ffn + layers * each_layer + head
    return total


def kept_fractions(sizes: Sizes, shape: EncoderShape) -> dict[str, float]:
    """Return what is kept of each axis: heads and neurons of those in the kept layers, rank of the hidden width."""
    whole = shape.whole
    layers = sizes.layers / whole.layers
    return {
        "layers": layers,
        "heads": sizes.heads / (whole.heads * layers),
        "neurons": sizes.neurons / (whole.neurons * layers),
        "hidden": sizes.hidden / whole.hidden,
        "pieces": sizes.pieces / whole.pieces,
        "rank": 1.0 if sizes.rank is None else min(1.0, sizes.rank / sizes.hidden),
    }

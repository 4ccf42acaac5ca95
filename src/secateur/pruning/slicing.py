"""Teacher + Kept -> student: the same encoder without the heads, neurons, layers and channels that were cut.

What it computes is what the teacher computes with the cut heads' contexts and the cut neurons' activations set to
zero, and with the cut layers left out. Cut channels of the hidden width are gone from every matrix and LayerNorm;
behind the pooling a `Dense` puts what is left back in its place, so that the sentence vector keeps the teacher's
dimension. The teacher is not touched.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from secateur.encoders.encoder import TorchEncoder
from secateur.encoders.modeling import find_layers, head_size, layer_names
from secateur.encoders.surgery import fill_model, narrow_encoder, renumber_layers, replace_transformer, resize_config
from secateur.pruning.selection import Kept


def slice_encoder(teacher: TorchEncoder, kept: Kept) -> TorchEncoder:
    """Return a student with the kept layers, heads, neurons and channels, weights copied, biases included.

    Raises ValueError: the number of kept channels is no multiple of the head size.
    """
    source = teacher.transformer
    has_pooler = teacher.uses_pooler and kept.hidden is None
    shape = resize_config(
        source.config,
        [len(layer) for layer in kept.heads],
        [len(layer) for layer in kept.neurons],
        has_pooler=has_pooler,
        hidden=None if kept.hidden is None else len(kept.hidden),
    )
    transformer = fill_model(shape, slice_weights(teacher, kept), has_pooler=has_pooler, like=source)
    if kept.hidden is None:
        return replace_transformer(teacher, transformer)
    return narrow_encoder(teacher, transformer, kept.hidden)


# Which axis the rows and the columns of each matrix of a layer run along; a bias and a LayerNorm run along the rows.
AXES = {
    "query": ("heads", "hidden"),
    "key": ("heads", "hidden"),
    "value": ("heads", "hidden"),
    "attention_output": ("hidden", "heads"),
    "attention_norm": ("hidden",),
    "expand": ("neurons", "hidden"),
    "contract": ("hidden", "neurons"),
    "output_norm": ("hidden",),
}


def slice_weights(teacher: TorchEncoder, kept: Kept) -> dict[str, Tensor]:
    """Return the teacher's weights with everything of AXES, and the embeddings, cut to what is kept."""
    transformer = teacher.transformer
    names = layer_names(transformer.config)
    layers = range(len(find_layers(transformer))) if kept.layers is None else kept.layers
    weights = {name: value.detach().clone() for name, value in renumber_layers(transformer, layers).items()}
    hidden = None if kept.hidden is None else torch.tensor(kept.hidden, dtype=torch.long)
    for number in range(len(layers)):
        channels = {
            "heads": head_channels(kept.heads[number], head_size(transformer.config)),
            "neurons": torch.tensor(kept.neurons[number], dtype=torch.long),
            "hidden": hidden,
        }
        for part, axes in AXES.items():
            prefix = f"{names.layers}.{number}.{getattr(names, part)}"
            for name in (f"{prefix}.weight", f"{prefix}.bias"):
                if name in weights:
                    weights[name] = take(weights[name], [channels[axis] for axis in axes])
    if hidden is not None:
        weights = {name: narrow_embeddings(name, value, hidden) for name, value in weights.items()}
    return weights


def narrow_embeddings(name: str, value: Tensor, hidden: Tensor) -> Tensor:
    """Return a weight of the embeddings with the kept channels; any other weight, and low-rank vectors, as they are."""
    if name.endswith("word_embeddings.widen.weight"):
        return take(value, [hidden])
    if not name.startswith("embeddings."):
        return value
    return take(value, [hidden]) if value.ndim == 1 else take(value, [None, hidden])


def take(values: Tensor, indices: Sequence[Tensor | None]) -> Tensor:
    """Return the entries of the given indices along each dimension, all where there are none; a bias has rows alone."""
    for dimension, index in enumerate(indices[: values.ndim]):
        if index is not None:
            values = values.index_select(dimension, index.to(values.device))
    return values


def head_channels(heads: Sequence[int], size: int) -> Tensor:
    """Return the channels of these heads: head h owns h * size to (h + 1) * size - 1."""
    return (torch.tensor(heads, dtype=torch.long)[:, None] * size + torch.arange(size)).flatten()

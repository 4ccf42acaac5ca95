"""Teacher + Kept -> student: the same encoder without the heads and neurons that were cut.

What it computes is what the teacher computes with the cut heads' contexts and the cut neurons' activations
set to zero. The teacher is not touched.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from secateur.encoder import Encoder, replace_transformer
from secateur.modeling import build_model, find_layers, head_size, layer_names, resize_config
from secateur.selection import Kept


def slice_encoder(teacher: Encoder, kept: Kept) -> Encoder:
    """Return a student with the kept heads and neurons of each layer, weights copied, biases included."""
    source = teacher.transformer
    heads = [len(layer) for layer in kept.heads]
    neurons = [len(layer) for layer in kept.neurons]
    shape = resize_config(source.config, heads, neurons, has_pooler=teacher.uses_pooler)
    transformer = build_model(shape, has_pooler=teacher.uses_pooler)
    transformer.load_state_dict(slice_weights(teacher, kept))
    transformer.config._attn_implementation = source.config._attn_implementation
    return replace_transformer(teacher, transformer)


# Which axis the rows and the columns of each matrix of a layer run along; a bias runs along the rows.
AXES = {
    "query": ("heads", "hidden"),
    "key": ("heads", "hidden"),
    "value": ("heads", "hidden"),
    "attention_output": ("hidden", "heads"),
    "expand": ("neurons", "hidden"),
    "contract": ("hidden", "neurons"),
}


def slice_weights(teacher: Encoder, kept: Kept) -> dict[str, Tensor]:
    """Return the teacher's weights with every matrix of AXES cut to its kept rows and columns."""
    transformer = teacher.transformer
    names = layer_names(transformer.config)
    weights = {name: value.detach().clone() for name, value in transformer.state_dict().items()}
    for number in range(len(find_layers(transformer))):
        channels = {
            "heads": head_channels(kept.heads[number], head_size(transformer.config)),
            "neurons": torch.tensor(kept.neurons[number], dtype=torch.long),
        }
        for matrix, (rows, columns) in AXES.items():
            prefix = f"{names.layers}.{number}.{getattr(names, matrix)}"
            for kind in ("weight", "bias"):
                name = f"{prefix}.{kind}"
                if name in weights and rows in channels:
                    weights[name] = take_rows(weights[name], channels[rows])
                if name in weights and columns in channels and kind == "weight":
                    weights[name] = take_columns(weights[name], channels[columns])
    return weights


def head_channels(heads: Sequence[int], size: int) -> Tensor:
    """Return the channels of these heads: head h owns h * size to (h + 1) * size - 1."""
    return (torch.tensor(heads, dtype=torch.long)[:, None] * size + torch.arange(size)).flatten()


def take_rows(matrix: Tensor, rows: Tensor, *, starts: Sequence[int] = (0,)) -> Tensor:
    """Return the given rows of each block of a matrix or bias; `starts` says where the blocks begin.

    A fused query-key-value matrix [3 * hidden, hidden] has its blocks at (0, hidden, 2 * hidden).
    """
    return torch.cat([matrix.index_select(0, start + rows.to(matrix.device)) for start in starts])


def take_columns(matrix: Tensor, columns: Tensor) -> Tensor:
    return matrix.index_select(1, columns.to(matrix.device))

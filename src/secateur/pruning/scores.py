"""Saliency: one score per head, neuron and hidden channel; added up, saved, loaded."""

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from secateur.data.files import whole_file


@dataclass(frozen=True)
class Saliency:
    """One float64 score per head and neuron, a tensor for each layer, and per hidden channel; higher matters more."""

    heads: tuple[Tensor, ...]
    neurons: tuple[Tensor, ...]
    hidden: Tensor  # [H]


def add_up(first: Saliency, second: Saliency) -> Saliency:
    """Return the sum of two measures of the same parts, each scaled to sum 1 on each axis."""
    return Saliency(
        heads=add_shares(first.heads, second.heads),
        neurons=add_shares(first.neurons, second.neurons),
        hidden=add_shares((first.hidden,), (second.hidden,))[0],
    )


def add_shares(first: tuple[Tensor, ...], second: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    one, two = torch.cat(first).sum(), torch.cat(second).sum()
    return tuple(a / one + b / two for a, b in zip(first, second, strict=True))


def list_tensors(saliency: Saliency) -> dict[str, Tensor]:
    """Return the scores by name: `heads.0`, `neurons.0`, ..., `hidden`."""
    tensors = {
        f"{axis}.{layer}": scores.contiguous()
        for axis, layers in (("heads", saliency.heads), ("neurons", saliency.neurons))
        for layer, scores in enumerate(layers)
    }
    return {**tensors, "hidden": saliency.hidden.contiguous()}


def save_saliency(saliency: Saliency, path: Path, *, digest: str = "") -> None:
    """Write the scores as safetensors, with a digest of them if there is one. A new budget needs no second pass."""
    with whole_file(path) as temporary:
        save_file(list_tensors(saliency), temporary, {"sha256": digest} if digest else None)


def load_saliency(path: Path) -> Saliency:
    """Read what `save_saliency` wrote."""
    tensors = load_file(path)
    layers = sum(key.startswith("heads.") for key in tensors)
    return Saliency(
        heads=tuple(tensors[f"heads.{layer}"] for layer in range(layers)),
        neurons=tuple(tensors[f"neurons.{layer}"] for layer in range(layers)),
        hidden=tensors["hidden"],
    )

"""Saliency and a budget -> Kept: the heads and neurons of each layer that survive."""

import logging
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from secateur import config
from secateur.config import InputError
from secateur.saliency import Saliency

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Kept:
    """What survives: indices into the teacher, ascending; heads and neurons for each kept layer."""

    heads: tuple[tuple[int, ...], ...]
    neurons: tuple[tuple[int, ...], ...]
    layers: tuple[int, ...] | None = None  # none: all
    hidden: tuple[int, ...] | None = None  # channels of the hidden width, a multiple of the head size; none: all


def choose_kept(saliency: Saliency, budget: config.Budget) -> Kept:
    """Keep the most salient fraction of heads and of neurons, over all layers or within each.

    Raises InputError if an axis would be left empty. A layer that loses all its heads is reported.
    """
    scale = NORMALIZATIONS[budget.normalization]
    heads = choose_axis(scale(saliency.heads), budget.heads, budget.ranking, axis="heads")
    neurons = choose_axis(scale(saliency.neurons), budget.neurons, budget.ranking, axis="neurons")
    neurons = round_up(neurons, saliency.neurons, multiple=budget.multiple)
    for axis, layers in (("heads", heads), ("neurons", neurons)):
        for number, kept in enumerate(layers):
            if not kept:
                log.warning("layer %d loses all its %s", number, axis)
    return Kept(heads=heads, neurons=neurons)


def choose_axis(layers: tuple[Tensor, ...], fraction: float, ranking: str, *, axis: str) -> tuple[tuple[int, ...], ...]:
    choose = {"global": choose_globally, "layer": choose_by_layer}[ranking]
    kept = choose(layers, fraction)
    if not any(kept):
        total = sum(len(scores) for scores in layers)
        raise InputError(f"budget.{axis}: {fraction} of {total} {axis} leaves none")
    return kept


def normalise_by_root(layers: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Return each layer's scores over the square root of their L2 norm.

    Scores as they are compare across layers in principle (each is a derivative by a gate of 1) but empty the lower
    layers, whose loss a repair mends worst; unit norm (Molchanov et al. 2017) treats every layer alike and cuts
    worse. The root is the geometric middle: held-out cosine of the embedded teacher at half, cut .734 and repaired
    .946, against .739 and .940 as they are, .643 and .938 at unit norm (experiments/LOG.md).
    """
    return tuple(scores / scores.norm().sqrt().clamp(min=torch.finfo(scores.dtype).tiny) for scores in layers)


def leave_as_they_are(layers: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return layers


NORMALIZATIONS = {"root": normalise_by_root, "none": leave_as_they_are}


def choose_globally(layers: tuple[Tensor, ...], fraction: float) -> tuple[tuple[int, ...], ...]:
    """Rank all layers together by the scores given."""
    scores = torch.cat(layers)
    best = best_indices(scores, round(fraction * len(scores)))
    kept, first = [], 0
    for layer in layers:
        kept.append(tuple(index - first for index in best if first <= index < first + len(layer)))
        first += len(layer)
    return tuple(kept)


def choose_by_layer(layers: tuple[Tensor, ...], fraction: float) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(best_indices(scores, round(fraction * len(scores)))) for scores in layers)


def round_up(
    kept: tuple[tuple[int, ...], ...], layers: tuple[Tensor, ...], *, multiple: int
) -> tuple[tuple[int, ...], ...]:
    """Fill each layer's count up to a multiple with its next best neurons, as far as it has any."""
    counts = [
        min(math.ceil(len(layer) / multiple) * multiple, len(scores))
        for layer, scores in zip(kept, layers, strict=True)
    ]
    return tuple(tuple(best_indices(scores, count)) for scores, count in zip(layers, counts, strict=True))


def best_indices(scores: Tensor, count: int) -> list[int]:
    """Return the indices of the `count` largest scores, ascending; of equal scores the first."""
    return sorted(torch.sort(scores, descending=True, stable=True).indices[:count].tolist())

"""Saliency and sizes -> Kept: the layers, their heads and neurons, and the channels that survive."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from secateur.config.errors import InputError
from secateur.config.pruning import BudgetSettings
from secateur.pruning.scores import Saliency
from secateur.pruning.sizes import Sizes


@dataclass(frozen=True)
class Kept:
    """What survives: indices into the teacher, ascending; heads and neurons for each kept layer."""

    heads: tuple[tuple[int, ...], ...]
    neurons: tuple[tuple[int, ...], ...]
    layers: tuple[int, ...] | None = None  # none: all
    hidden: tuple[int, ...] | None = None  # channels of the hidden width, a multiple of the head size; none: all


def choose_kept(
    saliency: Saliency, sizes: Sizes, layers: Sequence[int], budget: BudgetSettings, *, like: Kept | None = None
) -> Kept:
    """Keep the most salient heads and neurons of the kept layers, over all of them or within each, and channels.

    `sizes` says how many; where `like` is given, each layer keeps as many as there, if it has them. Raises InputError
    if an axis would be left empty.
    """
    scale = LAYER_SCALINGS[budget.layer_scaling]
    in_heads, in_neurons = ([scores[layer] for layer in layers] for scores in (saliency.heads, saliency.neurons))
    if like is None:
        heads = choose_axis(scale(in_heads), sizes.heads, budget.ranking, axis="heads")
        neurons = choose_axis(scale(in_neurons), sizes.neurons, budget.ranking, axis="neurons")
        neurons = round_counts(neurons, in_neurons, multiple=budget.round_neurons_to)
    else:
        heads, neurons = choose_as_many(in_heads, like.heads), choose_as_many(in_neurons, like.neurons)
    hidden = None if sizes.hidden == len(saliency.hidden) else tuple(best_indices(saliency.hidden, sizes.hidden))
    return Kept(heads, neurons, None if len(layers) == len(saliency.heads) else tuple(layers), hidden)


def say_kept(kept: Kept, *, whole: int) -> list[str]:
    """Return a cut of a teacher with `whole` layers in words: each layer's counts, then the layers left with none."""
    layers = range(whole) if kept.layers is None else kept.layers
    lines = []
    for axis, counts in (("heads", kept.heads), ("neurons", kept.neurons)):
        lines.append(f"{axis} kept in each layer, the lowest first: {' '.join(str(len(layer)) for layer in counts)}")
        empty = [str(number) for number, layer in zip(layers, counts, strict=True) if not layer]
        if empty:
            lines.append(f"layers that keep none of their {axis}: {', '.join(empty)}")
    return lines


def choose_axis(layers: Sequence[Tensor], count: int, ranking: str, *, axis: str) -> tuple[tuple[int, ...], ...]:
    total = sum(len(scores) for scores in layers)
    kept = choose_globally(layers, count) if ranking == "global" else choose_by_layer(layers, count)
    if not any(kept):
        raise InputError(f"budget.{axis}: {count} of {total} {axis} leaves none")
    return kept


def spread_layers(whole: int, count: int) -> tuple[int, ...]:
    """Return `count` of `whole` layers, evenly spaced, the first and the last among them (Sanh et al. 2019)."""
    return tuple(dict.fromkeys(round(place) for place in np.linspace(0, whole - 1, count).tolist()))


def compose(first: Kept, second: Kept) -> Kept:
    """Return the cut of a teacher that is `first` and then, of what that left, `second`."""
    layers = range(len(second.heads)) if second.layers is None else second.layers
    chosen = range(len(first.heads)) if first.layers is None else first.layers
    heads = (pick(first.heads[layer], kept) for layer, kept in zip(layers, second.heads, strict=True))
    neurons = (pick(first.neurons[layer], kept) for layer, kept in zip(layers, second.neurons, strict=True))
    whole = first.layers is None and second.layers is None
    hidden = second.hidden if first.hidden is None else first.hidden
    if first.hidden is not None and second.hidden is not None:
        hidden = pick(first.hidden, second.hidden)
    return Kept(tuple(heads), tuple(neurons), None if whole else tuple(chosen[layer] for layer in layers), hidden)


def restrict(saliency: Saliency, kept: Kept) -> Saliency:
    """Return the scores of what a cut has left, in its places."""
    layers = range(len(saliency.heads)) if kept.layers is None else kept.layers
    return Saliency(
        heads=tuple(saliency.heads[layer][list(left)] for layer, left in zip(layers, kept.heads, strict=True)),
        neurons=tuple(saliency.neurons[layer][list(left)] for layer, left in zip(layers, kept.neurons, strict=True)),
        hidden=saliency.hidden if kept.hidden is None else saliency.hidden[list(kept.hidden)],
    )


def pick(indices: Sequence[int], places: Sequence[int]) -> tuple[int, ...]:
    return tuple(indices[place] for place in places)


def scale_by_root(layers: Sequence[Tensor]) -> Sequence[Tensor]:
    """Return each layer's scores over the square root of their L2 norm.

    Scores as they are compare across layers in principle (each is a derivative by a gate of 1) but empty the lower
    layers, whose loss a repair mends worst; unit norm (Molchanov et al. 2017) treats every layer alike and cuts
    worse. The root is the geometric middle: held-out cosine of the embedded teacher at half, cut .734 and repaired
    .946, against .739 and .940 as they are, .643 and .938 at unit norm (experiments/LOG.md).
    """
    return tuple(scores / scores.norm().sqrt().clamp(min=torch.finfo(scores.dtype).tiny) for scores in layers)


def leave_as_they_are(layers: Sequence[Tensor]) -> Sequence[Tensor]:
    return layers


LAYER_SCALINGS = {"root": scale_by_root, "none": leave_as_they_are}


def choose_globally(layers: Sequence[Tensor], count: int) -> tuple[tuple[int, ...], ...]:
    """Rank all layers together by the scores given."""
    best = best_indices(torch.cat(list(layers)), count)
    kept, first = [], 0
    for layer in layers:
        kept.append(tuple(index - first for index in best if first <= index < first + len(layer)))
        first += len(layer)
    return tuple(kept)


def choose_as_many(layers: Sequence[Tensor], like: Sequence[Sequence[int]]) -> tuple[tuple[int, ...], ...]:
    """Return the best of each layer, as many as `like` has there; what a layer lacks the best of the others make up."""
    top = max((float(scores.max()) for scores in layers if len(scores)), default=0.0) or 1.0
    lifted = [scores / (2 * top) for scores in layers]  # at most 1/2
    for scores, kept in zip(lifted, like, strict=True):
        scores[best_indices(scores, len(kept))] += 1
    return choose_globally(lifted, sum(map(len, like)))


def choose_by_layer(layers: Sequence[Tensor], count: int) -> tuple[tuple[int, ...], ...]:
    """Keep the same share of each layer, `count` in all: rounded down, what is left over goes to the layers that lack
    most, of equal ones to the lowest, whose loss a repair mends worst."""
    total = max(1, sum(len(scores) for scores in layers))
    count = min(count, total)
    counts = [count * len(scores) // total for scores in layers]
    lacking = [count * len(scores) % total for scores in layers]
    for layer in sorted(range(len(layers)), key=lambda layer: -lacking[layer])[: count - sum(counts)]:
        counts[layer] += 1
    return tuple(tuple(best_indices(scores, kept)) for scores, kept in zip(layers, counts, strict=True))


def round_counts(
    kept: tuple[tuple[int, ...], ...], layers: Sequence[Tensor], *, multiple: int
) -> tuple[tuple[int, ...], ...]:
    """Move neurons between layers until each count is a multiple; the total stays or falls.

    Counts are rounded down, then layers of the largest remainders get one multiple more while the total lasts. A layer
    that is kept whole or is smaller than the multiple stays as it is; so do all where rounding would leave none.
    """
    whole = [len(scores) for scores in layers]
    counts = [
        len(chosen) if len(chosen) == size or size < multiple else len(chosen) // multiple * multiple
        for chosen, size in zip(kept, whole, strict=True)
    ]
    remainders = [len(chosen) - count for chosen, count in zip(kept, counts, strict=True)]
    spare = sum(remainders)
    for layer in sorted(range(len(kept)), key=lambda layer: -remainders[layer]):
        if remainders[layer] and multiple <= min(spare, whole[layer] - counts[layer]):
            counts[layer] += multiple
            spare -= multiple
    if not any(counts):
        return kept
    return tuple(tuple(best_indices(scores, count)) for scores, count in zip(layers, counts, strict=True))


def best_indices(scores: Tensor, count: int) -> list[int]:
    """Return the indices of the `count` largest scores, ascending; of equal scores the first."""
    return sorted(torch.sort(scores, descending=True, stable=True).indices[:count].tolist())

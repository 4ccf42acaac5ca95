"""What each axis loses: trial cuts at a few sizes, every other axis whole, repaired."""

import logging
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from secateur.config.pruning import BudgetSettings
from secateur.data.progress import progress_bar
from secateur.encoders.encoder import embed
from secateur.pruning.cutting import cut_and_repair
from secateur.pruning.inputs import PlanningInputs, count_trial_sentences
from secateur.pruning.layers import vector_loss
from secateur.pruning.predictions import Losses
from secateur.pruning.sizes import EncoderShape, Sizes, kept_fractions

log = logging.getLogger(__name__)

TRIED = {  # kept fractions at which an axis is measured
    "layers": (0.75, 0.5, 0.34),
    "heads": (0.7, 0.4, 0.15),
    "neurons": (0.7, 0.4, 0.15),
    "hidden": (0.75, 0.5, 0.25),
    "pieces": (0.5, 0.25, 0.1),
    "rank": (0.5, 0.25, 0.125),
}

NAMES = {"hidden": "hidden width", "pieces": "vocabulary", "rank": "rank of the word embeddings"}


def measure_losses(inputs: PlanningInputs, shape: EncoderShape, least: int, progress: str) -> Losses:
    """Return 1 - cosine of each axis at the sizes of TRIED, one axis cut at a time, repaired."""
    expected = embed(inputs.teacher, inputs.judged, precision="auto")
    measured: dict[str, dict[float, float]] = {}
    variants = list(single_cuts(shape, inputs.budget, least))
    sentences = count_trial_sentences(inputs.teacher)
    for axis, sizes in progress_bar(progress, variants, unit="trial cuts"):
        loss = try_cut(inputs, sizes, expected, sentences)
        fraction = kept_fractions(sizes, shape)[axis]
        measured.setdefault(axis, {})[fraction] = loss
        log.info("trial cut: %.0f%% of the %s kept, loss %.4f", 100 * fraction, NAMES.get(axis, axis), loss)
    return Losses(measured)


def try_cut(inputs: PlanningInputs, sizes: Sizes, expected: np.ndarray, sentences: int) -> float:
    """Return 1 - cosine to the teacher's vectors of the judged sentences, repaired on so many sentences."""
    student = cut_and_repair(inputs, sizes, rounds=1, sentences=sentences).repaired
    return vector_loss(student, inputs.judged, expected, precision="auto")


def single_cuts(shape: EncoderShape, budget: BudgetSettings, least: int) -> Iterator[tuple[str, Sizes]]:
    """Yield each axis with whole sizes but for its own; axes that the budget holds are left out."""
    whole = shape.whole
    held = {"layers": budget.layers, "heads": budget.heads, "neurons": budget.neurons, "hidden": budget.hidden}
    held |= {"pieces": budget.vocabulary, "rank": budget.rank}
    seen = set()
    for axis, fractions in TRIED.items():
        for fraction in fractions:
            sizes = cut_one(whole, axis, fraction, shape, least)
            if held[axis] is None and sizes != whole and sizes not in seen:
                seen.add(sizes)
                yield axis, sizes


def cut_one(whole: Sizes, axis: str, fraction: float, shape: EncoderShape, least: int) -> Sizes:
    if axis == "layers":
        layers = max(1, round(fraction * whole.layers))
        share = layers / whole.layers
        return replace(whole, layers=layers, heads=round(whole.heads * share), neurons=round(whole.neurons * share))
    if axis == "hidden":
        return replace(whole, hidden=max(1, round(fraction * whole.hidden / shape.head_size)) * shape.head_size)
    if axis == "pieces":
        return replace(whole, pieces=min(whole.pieces, max(least, round(fraction * whole.pieces))))
    if axis == "rank":
        return whole if whole.rank is not None else replace(whole, rank=round(fraction * whole.hidden))
    return replace(whole, **{axis: max(1, round(fraction * getattr(whole, axis)))})

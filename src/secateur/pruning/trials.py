"""What each axis loses: trial cuts at a few sizes, every other axis whole, repaired.

They are cut from the teacher without the tokens that none of the texts has: on these it gives the same vectors bit for
bit, and of a vocabulary for a hundred languages a tenth is left. A vocabulary of all tokens that the texts have loses
nothing.
"""

import json
import logging
from collections.abc import Iterator
from dataclasses import asdict, replace

import numpy as np

from secateur.config.errors import InputError
from secateur.config.pruning import BudgetSettings
from secateur.data.progress import progress_bar
from secateur.encoders.encoder import embed
from secateur.encoders.fingerprint import fingerprint
from secateur.pruning.budget import settle_pieces
from secateur.pruning.cache import hash_saliency, hash_texts, keep_losses, recall_losses
from secateur.pruning.cutting import cut_and_repair
from secateur.pruning.inputs import PlanningInputs, count_trial_sentences
from secateur.pruning.layers import vector_loss
from secateur.pruning.predictions import Losses
from secateur.pruning.sizes import EncoderShape, Sizes, describe, kept_fractions
from secateur.pruning.trimming import drop_unread

log = logging.getLogger(__name__)

TRIED = {  # kept fractions at which an axis is measured
    "layers": (0.75, 0.5, 0.34),
    "heads": (0.7, 0.4, 0.15),
    "neurons": (0.7, 0.4, 0.15),
    "hidden": (0.75, 0.5, 0.25),
    "pieces": (0.5, 0.25, 0.1),
    "rank": (0.5, 0.25, 0.125),
}

NAMES = {"hidden": "hidden width", "rank": "rank of the word embeddings"}


def measure_losses(inputs: PlanningInputs, shape: EncoderShape, least: int, progress: str) -> Losses:
    """Return 1 - cosine of each axis at the sizes of TRIED, one axis cut at a time, repaired.

    What was tried before of the same inputs is not tried again. Raises InputError: the vectors of a cut are not finite.
    """
    measured: dict[str, dict[float, float]] = {}
    inputs = drop_what_is_unread(inputs, shape, least)
    read = describe(inputs.teacher)
    if read.whole.pieces < shape.whole.pieces:
        measured["pieces"] = {read.whole.pieces / shape.whole.pieces: 0.0}
    variants = list(single_cuts(read, inputs.budget, least))
    content = list_content(inputs) if inputs.cache is not None and variants else []
    known = recall_losses(inputs.cache, content) if inputs.cache is not None and variants else {}
    untried = [sizes for _, sizes in variants if name_sizes(sizes) not in known]
    expected = embed(inputs.teacher, inputs.judged, precision="auto") if untried else np.empty(0)
    sentences = count_trial_sentences(inputs.teacher)
    for axis, sizes in progress_bar(progress, variants, unit="trial cuts"):
        fraction = kept_fractions(sizes, shape)[axis]
        part = f"{100 * fraction:.0f}% of the {NAMES.get(axis, axis)}"
        said = f"{sizes.pieces:,} tokens kept" if axis == "pieces" else f"{part} kept"
        if name_sizes(sizes) not in known:
            loss = try_cut(inputs, sizes, expected, sentences)
            if not np.isfinite(loss):
                raise InputError(f"trial cut, {said}: the vectors are not finite")
            known[name_sizes(sizes)] = loss
            if inputs.cache is not None:
                keep_losses(inputs.cache, content, known)
        measured.setdefault(axis, {})[fraction] = known[name_sizes(sizes)]
        log.info("trial cut: %s, loss %.4f", said, known[name_sizes(sizes)])
    return Losses(measured)


def drop_what_is_unread(inputs: PlanningInputs, shape: EncoderShape, least: int) -> PlanningInputs:
    """Return inputs whose teacher has those tokens alone that the texts of the plan have; all of one that cannot be
    trimmed. Its students keep their prompts: what a change of these costs is no axis's loss."""
    inputs = replace(inputs, recipe=replace(inputs.recipe, prompts="keep"))
    if least >= (shape.tokens or shape.whole.pieces):
        return inputs
    teacher = drop_unread(inputs.teacher, [*inputs.judged, *inputs.calibration], inputs.weights)
    return inputs if teacher is inputs.teacher else replace(inputs, teacher=teacher)


def name_sizes(sizes: Sizes) -> str:
    return json.dumps(asdict(sizes))


def list_content(inputs: PlanningInputs) -> list[object]:
    """Return what the losses of trial cuts depend on but for their sizes, as plain content."""
    budget = inputs.budget
    return [
        fingerprint(inputs.teacher), inputs.teacher.device.type, hash_saliency(inputs.saliency),
        *map(hash_texts, (inputs.judged, inputs.calibration, *inputs.texts.values())), asdict(inputs.recipe.repair),
        [budget.ranking, budget.layer_scaling, budget.layer_choice, budget.round_neurons_to],
    ]  # fmt: skip


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
        pieces = min(whole.pieces, max(least, round(fraction * whole.pieces)))
        return replace(whole, pieces=settle_pieces(pieces, shape))
    if axis == "rank":
        return whole if whole.rank is not None else replace(whole, rank=round(fraction * whole.hidden))
    return replace(whole, **{axis: max(1, round(fraction * getattr(whole, axis)))})

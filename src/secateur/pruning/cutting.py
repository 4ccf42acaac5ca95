"""Cut a teacher to the sizes of a plan and repair it: at once, in rounds, or as a nested family."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from secateur.config.errors import InputError
from secateur.encoders.encoder import TorchEncoder, embed
from secateur.encoders.machine import free_memory
from secateur.encoders.modeling import find_layers
from secateur.encoders.prompts import change_prompts
from secateur.encoders.saving import round_weights
from secateur.encoders.students import draw_weights
from secateur.pruning.inputs import PlanningInputs, measure_on_corpus, rank_layers
from secateur.pruning.limits import check_limits, set_limits
from secateur.pruning.lowrank import factorise_words
from secateur.pruning.predictions import Limits
from secateur.pruning.repair import repair
from secateur.pruning.scores import add_up
from secateur.pruning.selection import Kept, choose_kept, compose, restrict, spread_layers
from secateur.pruning.sizes import EncoderShape, Sizes, describe
from secateur.pruning.slicing import slice_encoder
from secateur.pruning.trimming import trim_vocabulary

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CutResult:
    """A teacher cut to the sizes of a plan."""

    kept: Kept
    base: TorchEncoder  # the teacher with the plan's vocabulary
    pruned: TorchEncoder
    repaired: TorchEncoder  # what goes on: `pruned` itself where the repair lost
    rejected: TorchEncoder | None = None  # a repaired student that lost to the pruned one


def cut_and_repair(
    inputs: PlanningInputs, sizes: Sizes, *, rounds: int | None = None, sentences: int | None = None, progress: str = ""
) -> CutResult:
    """Cut the teacher to these sizes and repair it, in its budget's rounds and on its recipe's sentences where no
    others are given: then it is a student that stays, whose weights are rounded to its number format, whose repair is
    kept only if it wins, and which is held against the budget's limits.

    Each round cuts the same share of what is left of every axis and repairs; the next one measures saliency anew, on
    the repaired student, and adds it to the teacher's. Words are cut at once, their rank in the last round. Raises
    QualityError: a student that stays costs more than was allowed.
    """
    stays = sentences is None
    rounds = rounds or inputs.budget.rounds
    settings = inputs.recipe.repair
    settings = settings if sentences is None else replace(settings, sentences=min(sentences, settings.sentences))
    base = cut_words(inputs, sizes)
    whole = describe(base)
    kept, student = None, base
    for number in range(1, rounds + 1):
        free_memory()  # of the round before, or of another cut
        part = sizes if number == rounds else interpolate_geometrically(whole, sizes, number / rounds)
        _, kept = cut_on(student, kept, part, inputs)
        pruned = cut_to(base, kept, part, inputs)
        student = repair(pruned, base, kept, inputs.calibration, settings, progress=progress)
    assert kept is not None, "there is at least one round"
    cut_result = CutResult(kept, base, pruned, student)
    return finish(cut_result, inputs, set_limits(inputs.budget, inputs.teacher)) if stays else cut_result


def finish(cut_result: CutResult, inputs: PlanningInputs, limits: Limits) -> CutResult:
    """Return a cut as it stays: weights rounded to the number format, the repair only if it wins, within limits."""
    for encoder in (cut_result.pruned, cut_result.repaired):
        round_weights(encoder)
    better = keep_better(inputs, cut_result.pruned, cut_result.repaired)
    check_limits(better, limits, inputs.budget.runtime)
    rejected = None if better is cut_result.repaired else cut_result.repaired
    return replace(cut_result, repaired=better, rejected=rejected)


def keep_better(inputs: PlanningInputs, pruned: TorchEncoder, repaired: TorchEncoder) -> TorchEncoder:
    """Return the repaired student, or the pruned one where the repair lost on held-out sentences, which is said.

    Raises InputError: the vectors of one are not finite.
    """
    if repaired is pruned or not inputs.judged:
        return repaired
    cosines = [(embed(each, inputs.judged) * inputs.expected).sum(axis=1) for each in (pruned, repaired)]
    for what, values in zip(("cut", "repaired"), cosines, strict=True):
        if not np.isfinite(values).all():
            raise InputError(f"repair: the vectors of the {what} student are not finite")
    gain = cosines[1] - cosines[0]
    if gain.mean() >= 0:
        return repaired
    error = gain.std(ddof=1) / len(gain) ** 0.5 if len(gain) > 1 else float("inf")
    log.warning(
        "the repair is not kept: on %d held-out sentences the cosine to the teacher is %.4f after it, %.4f before it "
        "(standard error of the difference %.4f); more pairs to fit on, or fewer cuts, help",
        len(gain), cosines[1].mean(), cosines[0].mean(), error,
    )  # fmt: skip
    return pruned


def draw_random_weights(cut_result: CutResult, *, seed: int) -> CutResult:
    """Return what a budget of random weights asks for: the same sizes with nothing of the teacher in them."""
    drawn = draw_weights(cut_result.pruned, seed=seed)
    round_weights(drawn)
    return replace(cut_result, pruned=drawn, repaired=drawn)


def cut_nested_family(inputs: PlanningInputs, sizes: Sequence[Sizes], *, progress: str = "") -> Iterator[CutResult]:
    """Yield students of falling sizes, each cut out of what the one before kept, from one measure of saliency.

    Each is cut from the teacher's own weights and repaired against it: nothing of one student's repair is in the next.
    """
    base, kept = inputs.teacher, None
    whole = len(inputs.saliency.heads)
    order = inputs.layer_order if any(part.layers < whole for part in sizes) else ()
    for part in sizes:
        if part.pieces < describe(base).whole.pieces:
            base = trim_vocabulary(base, inputs.texts, part.pieces, weights=inputs.weigh(base)).encoder
        left = inputs.saliency if kept is None else restrict(inputs.saliency, kept)
        there = range(len(inputs.saliency.heads)) if kept is None or kept.layers is None else kept.layers
        best = sorted(there, key=order.index)[: part.layers] if order else there
        layers = [place for place, layer in enumerate(there) if layer in set(best)]
        chosen = choose_kept(left, part, layers, inputs.budget)
        kept = chosen if kept is None else compose(kept, chosen)
        pruned = cut_to(base, kept, part, inputs)
        repaired = repair(pruned, base, kept, inputs.calibration, inputs.recipe.repair, progress=progress)
        yield finish(CutResult(kept, base, pruned, repaired), inputs, Limits())


def cut_again(inputs: PlanningInputs, sizes: Sizes, kept: Kept, repaired: TorchEncoder) -> CutResult:
    """Return what `shrink` gave, from what it chose and its repaired student."""
    base = cut_words(inputs, sizes)
    return CutResult(kept, base, cut_to(base, kept, sizes, inputs), repaired)


def interpolate_geometrically(shape: EncoderShape, sizes: Sizes, share: float) -> Sizes:
    """Return sizes on the way from the whole to those of a plan: an axis that keeps k of all keeps k ** share."""

    def on_the_way(axis: str) -> int:
        start, end = int(getattr(shape.whole, axis)), int(getattr(sizes, axis))
        return max(end, round(start * float(end / start) ** share)) if start else 0

    return fill_sizes(sizes, shape, on_the_way)


def interpolate_cubically(shape: EncoderShape, sizes: Sizes, share: float) -> Sizes:
    """Return sizes on the way as gradual pruning goes: of an axis is cut s = s_f - s_f (1 - share)^3, s_f in the end
    (Zhu & Gupta 2017, equation 1, from nothing cut)."""

    def on_the_way(axis: str) -> int:
        start, end = int(getattr(shape.whole, axis)), int(getattr(sizes, axis))
        return max(end, round(end + (start - end) * (1 - share) ** 3))

    return fill_sizes(sizes, shape, on_the_way)


def fill_sizes(sizes: Sizes, shape: EncoderShape, on_the_way: Callable[[str], int]) -> Sizes:
    """Return `sizes` with axes on the way, hidden a multiple of the head size; the rank comes last."""
    hidden = -(-on_the_way("hidden") // shape.head_size) * shape.head_size
    axes = {axis: on_the_way(axis) for axis in ("layers", "heads", "neurons")}
    return replace(sizes, **axes, hidden=hidden, rank=None)


def cut_on(
    student: TorchEncoder, kept: Kept | None, sizes: Sizes, inputs: PlanningInputs, *, trained: bool = False
) -> tuple[Kept, Kept]:
    """Return what a student, cut by `kept` before, keeps at `sizes`: of itself, and of the teacher.

    A layer of a student that was repaired keeps as many heads and neurons as one shot would leave there: those with
    the largest sum of the teacher's scores and the student's. One that was `trained` since goes by its own alone.
    """
    budget = inputs.budget
    layers = choose_layers(student, sizes.layers, inputs, first=kept is None)
    if kept is None:
        chosen = choose_kept(inputs.saliency, sizes, layers, budget)
        return chosen, chosen
    saliency = measure_on_corpus(student, inputs.pairs, inputs.recipe)
    if trained:
        chosen = choose_kept(saliency, sizes, layers, budget)
    else:
        places = layers if kept.layers is None else [kept.layers[layer] for layer in layers]
        like = choose_kept(inputs.saliency, sizes, places, budget)
        chosen = choose_kept(add_up(restrict(inputs.saliency, kept), saliency), sizes, layers, budget, like=like)
    return chosen, compose(kept, chosen)


def choose_layers(student: TorchEncoder, count: int, inputs: PlanningInputs, *, first: bool) -> tuple[int, ...]:
    """Return which `count` layers of a student are kept; in the first round it is the teacher but for its words."""
    whole = len(find_layers(student.transformer))
    if count == whole:
        return tuple(range(whole))
    if inputs.budget.layer_choice == "even":
        return spread_layers(whole, count)
    order = inputs.layer_order if first else rank_layers(student, inputs.judged)
    return tuple(sorted(order[:count]))


def cut_words(inputs: PlanningInputs, sizes: Sizes) -> TorchEncoder:
    """Return the teacher with the vocabulary of a plan; the teacher itself where it is whole."""
    if sizes.pieces == describe(inputs.teacher).whole.pieces:
        return inputs.teacher
    return trim_vocabulary(inputs.teacher, inputs.texts, sizes.pieces, weights=inputs.weights).encoder


def cut_to(base: TorchEncoder, kept: Kept, sizes: Sizes, inputs: PlanningInputs) -> TorchEncoder:
    """Return `base`, the teacher with its words cut, without what is not kept, with its words' vectors at rank and its
    prompts as the recipe says."""
    reading = change_prompts(base, inputs.recipe.prompts)
    pruned = slice_encoder(reading, kept)
    there = describe(pruned).whole
    if sizes.rank is None or sizes.rank >= there.hidden or sizes.rank == there.rank:
        return pruned
    return factorise_words(pruned, sizes.rank, inputs.weigh(reading))

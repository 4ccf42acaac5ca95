"""What a budget comes to for this teacher, on this corpus and this machine: measured, predicted, chosen.

Losses and milliseconds are measured by cutting for real: each axis at a few sizes with the others whole, repaired,
against held-out vectors. From there on the solver of `budget` works on numbers alone.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import zip_longest

import numpy as np
import torch
from tqdm import tqdm

from secateur import config
from secateur.budget import (
    Frame,
    Grid,
    Limits,
    Losses,
    Plan,
    Sizes,
    Times,
    cap_grid,
    describe,
    fit_times,
    hold_axes,
    kept_fractions,
    make_grid,
    name_sizes,
    predict,
    solve,
)
from secateur.config import Experiment, InputError
from secateur.corpus import Pairs
from secateur.cost import count_parameters, time_encoders
from secateur.encoder import Encoder, embed
from secateur.lowrank import factorise_words
from secateur.machine import free_memory
from secateur.modeling import find_layers
from secateur.repair import repair
from secateur.saliency import Saliency, add_up, measure_saliency, score_layers, vector_loss
from secateur.selection import Kept, choose_kept, compose, restrict, spread_layers
from secateur.slicing import slice_encoder
from secateur.students import draw_weights
from secateur.trimming import fast_tokenizer, least_size, trim_vocabulary, weigh_pieces

log = logging.getLogger(__name__)

Texts = Mapping[str, Sequence[str]]  # sentences by language

TRIED = {  # kept fractions at which an axis is measured
    "layers": (0.75, 0.5, 0.34),
    "heads": (0.7, 0.4, 0.15),
    "neurons": (0.7, 0.4, 0.15),
    "hidden": (0.75, 0.5, 0.25),
    "pieces": (0.5, 0.25, 0.1),
    "rank": (0.5, 0.25, 0.125),
}
TRIMMED_SENTENCES = 50_000  # of each language
TRIAL_SENTENCES = (100, 500)  # at least and at most that a trial cut is repaired on: its loss is only compared
TRIAL_WORK = 5.3e9  # such sentences times the parameters of layers: those of 500 at six layers 384 wide
LAYER_SHARE = 0.4  # of as many sentences, that layers are scored on
TIMED_SENTENCES = 200
TIMED_PASSES = 3  # over them, where a cut's milliseconds are held against a limit
MARGIN = 0.08  # of a limit in milliseconds that is left free for the clock's scatter
AGREEMENT = 0.05  # of a cut's milliseconds, that its prediction may be off
ATTEMPTS = 5  # to keep a limit in milliseconds


@dataclass(frozen=True)
class Grounds:
    """What plans are made from."""

    teacher: Encoder
    saliency: Saliency
    pairs: Pairs
    judged: Sequence[str]  # held-out sentences that losses are measured on
    experiment: Experiment

    @property
    def budget(self) -> config.Budget:
        return self.experiment.budget

    @cached_property
    def texts(self) -> Texts:
        """What a vocabulary is trimmed for: rows as often as distillation draws them."""
        pairs = self.pairs.draw(TRIMMED_SENTENCES, self.experiment.distillation.source_weights)
        return {"en": pairs.en, "ru": pairs.ru}

    @cached_property
    def weights(self) -> np.ndarray:
        """How often those texts have each word piece of the teacher, float64 [pieces]."""
        return weigh_pieces(fast_tokenizer(self.teacher), self.texts)

    @cached_property
    def calibration(self) -> list[str]:
        """What repair is fitted on."""
        return calibration_sentences(self.pairs, self.experiment.repair.sentences)

    def weigh(self, encoder: Encoder) -> np.ndarray:
        """Return how often those texts have each word piece of an encoder, float64 [pieces]."""
        if encoder.tokenizer is self.teacher.tokenizer:
            return self.weights
        return weigh_pieces(fast_tokenizer(encoder), self.texts)

    @cached_property
    def layer_order(self) -> tuple[int, ...]:
        """The teacher's layers, those that matter most first."""
        return rank_layers(self.teacher, self.judged)


def measure(encoder: Encoder, pairs: Pairs, experiment: Experiment) -> Saliency:
    """Return saliency on translations, each source's as often as distillation draws it."""
    chosen = pairs.translations.draw(experiment.saliency.pairs, experiment.distillation.source_weights)
    return measure_saliency(encoder, chosen, experiment.saliency, seed=experiment.seed, progress="saliency")


def calibration_sentences(pairs: Pairs, count: int) -> list[str]:
    """Return both sides of pairs taken from each source in turn, so that a large source does not outweigh the rest."""
    rows: dict[str, list[int]] = {}
    for row, source in enumerate(pairs.source):
        rows.setdefault(source, []).append(row)
    turns = [row for turn in zip_longest(*(rows[source] for source in sorted(rows))) for row in turn if row is not None]
    return [sentence for row in turns for sentence in (pairs.en[row], pairs.ru[row])][:count]


def make_plan(grounds: Grounds, *, progress: str = "") -> Plan:
    """Return the sizes that a budget names or, under a limit, those of least predicted loss that fit.

    Raises InputError: the budget names more than there is, or nothing fits it.
    """
    budget = grounds.budget
    if not budget.is_limited:
        frame = describe(grounds.teacher)
        return predict(name_sizes(budget, frame), frame, Losses({}), None)
    limits = set_limits(budget, grounds.teacher)
    outlook = look_ahead(grounds, [limits], progress=progress)
    return keep_time(grounds, outlook, limits)


def set_limits(budget: config.Budget, teacher: Encoder) -> Limits:
    """Return what a budget lets a student of this teacher cost."""
    share = None if budget.share is None else int(budget.share * count_parameters(teacher))
    params = min((count for count in (share, budget.params) if count is not None), default=None)
    return Limits(params, budget.mb, budget.ms, free=MARGIN)


@dataclass(frozen=True)
class Outlook:
    """What the solver works with: what can be chosen, and what it is predicted to cost and to lose."""

    frame: Frame
    grid: Grid
    losses: Losses
    times: Times | None

    def solve(self, limits: Limits, *, within: Sizes | None = None) -> Plan:
        """Return the plan of least predicted loss that fits, on every axis no larger than `within`."""
        grid = self.grid if within is None else cap_grid(self.grid, within, self.frame)
        return solve(grid, self.frame, limits, self.losses, self.times)


def look_ahead(grounds: Grounds, limits: Sequence[Limits], *, progress: str = "") -> Outlook:
    """Measure what plans need; limits that nothing can reach are refused before that."""
    frame = describe(grounds.teacher)
    least = least_size(grounds.teacher, grounds.texts)
    grid = hold_axes(make_grid(frame, least_pieces=least), grounds.budget, frame)
    for each in limits:
        solve(grid, frame, replace(each, ms=None), Losses({}), None)
    times = measure_times(grounds, frame) if any(each.ms is not None for each in limits) else None
    for each in limits if times else ():  # trial cuts take minutes
        solve(grid, frame, each, Losses({}), times)
    return Outlook(frame, grid, measure_losses(grounds, frame, least, progress), times)


def keep_time(grounds: Grounds, outlook: Outlook, limits: Limits) -> Plan:
    """Return the plan of least predicted loss whose sizes, cut and timed, keep the limit in milliseconds.

    By what a cut takes more or less than predicted, the next plan is predicted to take more or less too, until both
    agree. Where they do not in ATTEMPTS, the best plan that kept the limit is returned with what it took. Raises
    InputError: no plan tried keeps it.
    """
    allowed = limits.allowed_ms
    if allowed is None or outlook.times is None:
        return outlook.solve(limits)
    whole = outlook.times.predict(outlook.frame.whole, outlook.frame)
    off = 1.0  # what sizes near the limit take, of what the table says they do
    timed: dict[Sizes, float] = {}
    kept = []
    for _ in range(ATTEMPTS):
        times = outlook.times.scale(off)
        plan = replace(outlook, times=times).solve(limits)
        predicted = times.predict(plan.sizes, outlook.frame)
        if plan.sizes not in timed:
            student = shrink(grounds, plan.sizes, rounds=1, sentences=0).repaired
            teacher, spent = time_cut(grounds, [grounds.teacher, student], passes=TIMED_PASSES)
            timed[plan.sizes] = spent * whole / teacher  # a drift of the machine's speed
        spent = timed[plan.sizes]
        fits = spent <= allowed
        if fits and abs(spent - predicted) <= AGREEMENT * spent:
            return plan
        log.info("%.3f ms predicted, %.3f measured, %.3f allowed", predicted, spent, allowed)
        if fits:
            kept.append(replace(plan, ms=spent))
        off *= spent / predicted if fits else max(spent / predicted, 1.02)
    if not kept:
        raise InputError(f"budget: {limits} is not kept by any plan tried: the last took {spent:.2f} ms a sentence")
    return min(kept, key=lambda plan: plan.loss)


@dataclass(frozen=True)
class Shrunk:
    """A teacher cut to the sizes of a plan."""

    kept: Kept
    base: Encoder  # the teacher with the plan's vocabulary
    pruned: Encoder
    repaired: Encoder


def shrink(
    grounds: Grounds, sizes: Sizes, *, rounds: int | None = None, sentences: int | None = None, progress: str = ""
) -> Shrunk:
    """Cut the teacher to these sizes and repair it, in its budget's rounds and on its recipe's sentences where no
    others are given.

    Each round cuts the same share of what is left of every axis and repairs; the next one measures saliency anew, on
    the repaired student, and adds it to the teacher's. Words are cut at once, their rank in the last round.
    """
    rounds = rounds or grounds.budget.rounds
    settings = grounds.experiment.repair
    settings = settings if sentences is None else replace(settings, sentences=min(sentences, settings.sentences))
    base = cut_words(grounds, sizes)
    whole = describe(base)
    kept, student = None, base
    for number in range(1, rounds + 1):
        free_memory()  # of the round before, or of another cut
        part = sizes if number == rounds else between(whole, sizes, number / rounds)
        _, kept = cut_on(student, kept, part, grounds)
        pruned = cut_to(base, kept, part, grounds)
        student = repair(pruned, base, kept, grounds.calibration, settings, progress=progress)
    assert kept is not None, "there is at least one round"
    return Shrunk(kept, base, pruned, student)


def draw_anew(shrunk: Shrunk, *, seed: int) -> Shrunk:
    """Return what a budget of random weights asks for: the same sizes with nothing of the teacher in them."""
    drawn = draw_weights(shrunk.pruned, seed=seed)
    return replace(shrunk, pruned=drawn, repaired=drawn)


def shrink_nested(grounds: Grounds, sizes: Sequence[Sizes], *, progress: str = "") -> Iterator[Shrunk]:
    """Yield students of falling sizes, each cut out of what the one before kept, from one measure of saliency.

    Each is cut from the teacher's own weights and repaired against it: nothing of one student's repair is in the next.
    """
    base, kept = grounds.teacher, None
    whole = len(grounds.saliency.heads)
    order = grounds.layer_order if any(part.layers < whole for part in sizes) else ()
    for part in sizes:
        if part.pieces < describe(base).whole.pieces:
            base = trim_vocabulary(base, grounds.texts, part.pieces, weights=grounds.weigh(base)).encoder
        left = grounds.saliency if kept is None else restrict(grounds.saliency, kept)
        there = range(len(grounds.saliency.heads)) if kept is None or kept.layers is None else kept.layers
        best = sorted(there, key=order.index)[: part.layers] if order else there
        layers = [place for place, layer in enumerate(there) if layer in set(best)]
        chosen = choose_kept(left, part, layers, grounds.budget)
        kept = chosen if kept is None else compose(kept, chosen)
        pruned = cut_to(base, kept, part, grounds)
        repaired = repair(pruned, base, kept, grounds.calibration, grounds.experiment.repair, progress=progress)
        yield Shrunk(kept, base, pruned, repaired)


def cut_again(grounds: Grounds, sizes: Sizes, kept: Kept, repaired: Encoder) -> Shrunk:
    """Return what `shrink` gave, from what it chose and its repaired student."""
    base = cut_words(grounds, sizes)
    return Shrunk(kept, base, cut_to(base, kept, sizes, grounds), repaired)


def between(frame: Frame, sizes: Sizes, share: float) -> Sizes:
    """Return sizes on the way from the whole to those of a plan: an axis that keeps k of all keeps k ** share."""

    def on_the_way(axis: str) -> int:
        start, end = int(getattr(frame.whole, axis)), int(getattr(sizes, axis))
        return max(end, round(start * float(end / start) ** share)) if start else 0

    return fill_sizes(sizes, frame, on_the_way)


def approach(frame: Frame, sizes: Sizes, share: float) -> Sizes:
    """Return sizes on the way as gradual pruning goes: of an axis is cut s = s_f - s_f (1 - share)^3, s_f in the end
    (Zhu & Gupta 2017, equation 1, from nothing cut)."""

    def on_the_way(axis: str) -> int:
        start, end = int(getattr(frame.whole, axis)), int(getattr(sizes, axis))
        return max(end, round(end + (start - end) * (1 - share) ** 3))

    return fill_sizes(sizes, frame, on_the_way)


def fill_sizes(sizes: Sizes, frame: Frame, on_the_way: Callable[[str], int]) -> Sizes:
    """Return `sizes` with axes on the way, hidden a multiple of the head size; the rank comes last."""
    hidden = -(-on_the_way("hidden") // frame.head_size) * frame.head_size
    axes = {axis: on_the_way(axis) for axis in ("layers", "heads", "neurons")}
    return replace(sizes, **axes, hidden=hidden, rank=None)


def cut_on(
    student: Encoder, kept: Kept | None, sizes: Sizes, grounds: Grounds, *, trained: bool = False
) -> tuple[Kept, Kept]:
    """Return what a student, cut by `kept` before, keeps at `sizes`: of itself, and of the teacher.

    A layer of a student that was repaired keeps as many heads and neurons as one shot would leave there: those with
    the largest sum of the teacher's scores and the student's. One that was `trained` since goes by its own alone.
    """
    budget = grounds.budget
    layers = choose_layers(student, sizes.layers, grounds, first=kept is None)
    if kept is None:
        chosen = choose_kept(grounds.saliency, sizes, layers, budget)
        return chosen, chosen
    saliency = measure(student, grounds.pairs, grounds.experiment)
    if trained:
        chosen = choose_kept(saliency, sizes, layers, budget)
    else:
        places = layers if kept.layers is None else [kept.layers[layer] for layer in layers]
        like = choose_kept(grounds.saliency, sizes, places, budget)
        chosen = choose_kept(add_up(restrict(grounds.saliency, kept), saliency), sizes, layers, budget, like=like)
    return chosen, compose(kept, chosen)


def choose_layers(student: Encoder, count: int, grounds: Grounds, *, first: bool) -> tuple[int, ...]:
    """Return which `count` layers of a student are kept; in the first round it is the teacher but for its words."""
    whole = len(find_layers(student.transformer))
    if count == whole:
        return tuple(range(whole))
    if grounds.budget.layer_choice == "even":
        return spread_layers(whole, count)
    order = grounds.layer_order if first else rank_layers(student, grounds.judged)
    return tuple(sorted(order[:count]))


def rank_layers(encoder: Encoder, judged: Sequence[str]) -> tuple[int, ...]:
    count = int(LAYER_SHARE * count_trial_sentences(encoder))
    scores = score_layers(encoder, judged[:count], precision="auto")
    return tuple(torch.argsort(scores, descending=True).tolist())


def cut_words(grounds: Grounds, sizes: Sizes) -> Encoder:
    """Return the teacher with the vocabulary of a plan; the teacher itself where it is whole."""
    if sizes.pieces == describe(grounds.teacher).whole.pieces:
        return grounds.teacher
    return trim_vocabulary(grounds.teacher, grounds.texts, sizes.pieces, weights=grounds.weights).encoder


def cut_to(base: Encoder, kept: Kept, sizes: Sizes, grounds: Grounds) -> Encoder:
    """Return `base`, the teacher with its words cut, without what is not kept and with its words' vectors at rank."""
    pruned = slice_encoder(base, kept)
    if sizes.rank is None or sizes.rank >= pruned.transformer.config.hidden_size:
        return pruned
    return factorise_words(pruned, sizes.rank, grounds.weigh(base))


def measure_losses(grounds: Grounds, frame: Frame, least: int, progress: str) -> Losses:
    """Return 1 - cosine of each axis at the sizes of TRIED, one axis cut at a time, repaired."""
    expected = embed(grounds.teacher, grounds.judged, precision="auto")
    measured: dict[str, dict[float, float]] = {}
    variants = list(single_cuts(frame, grounds.budget, least))
    sentences = count_trial_sentences(grounds.teacher)
    for axis, sizes in tqdm(variants, desc=progress, unit=" cuts", disable=not progress):
        loss = try_cut(grounds, sizes, expected, sentences)
        fraction = kept_fractions(sizes, frame)[axis]
        measured.setdefault(axis, {})[fraction] = loss
        log.info("%s kept %.2f: loss %.4f", axis, fraction, loss)
    return Losses(measured)


def try_cut(grounds: Grounds, sizes: Sizes, expected: np.ndarray, sentences: int) -> float:
    """Return 1 - cosine to the teacher's vectors of the judged sentences, repaired on so many sentences."""
    student = shrink(grounds, sizes, rounds=1, sentences=sentences).repaired
    return vector_loss(student, grounds.judged, expected, precision="auto")


def count_trial_sentences(encoder: Encoder) -> int:
    """Return how many sentences a trial cut is repaired on: fewer of a larger encoder, which takes longer for each."""
    parameters = sum(weight.numel() for layer in find_layers(encoder.transformer) for weight in layer.parameters())
    least, most = TRIAL_SENTENCES
    return int(np.clip(TRIAL_WORK / parameters, least, most))


def single_cuts(frame: Frame, budget: config.Budget, least: int) -> Iterator[tuple[str, Sizes]]:
    """Yield each axis with whole sizes but for its own; axes that the budget holds are left out."""
    whole = frame.whole
    held = {"layers": budget.layers, "heads": budget.heads, "neurons": budget.neurons, "hidden": budget.hidden}
    held |= {"pieces": budget.vocabulary, "rank": budget.rank}
    seen = set()
    for axis, fractions in TRIED.items():
        for fraction in fractions:
            sizes = cut_one(whole, axis, fraction, frame, least)
            if held[axis] is None and sizes != whole and sizes not in seen:
                seen.add(sizes)
                yield axis, sizes


def cut_one(whole: Sizes, axis: str, fraction: float, frame: Frame, least: int) -> Sizes:
    if axis == "layers":
        layers = max(1, round(fraction * whole.layers))
        share = layers / whole.layers
        return replace(whole, layers=layers, heads=round(whole.heads * share), neurons=round(whole.neurons * share))
    if axis == "hidden":
        return replace(whole, hidden=max(1, round(fraction * whole.hidden / frame.head_size)) * frame.head_size)
    if axis == "pieces":
        return replace(whole, pieces=min(whole.pieces, max(least, round(fraction * whole.pieces))))
    if axis == "rank":
        return whole if whole.rank is not None else replace(whole, rank=round(fraction * whole.hidden))
    return replace(whole, **{axis: max(1, round(fraction * getattr(whole, axis)))})


def measure_times(grounds: Grounds, frame: Frame) -> Times:
    """Return what milliseconds are made of on this machine, from students cut to many shapes, timed in turn."""
    whole = frame.whole
    shapes = [whole]
    for axis in ("layers", "heads", "neurons", "hidden"):
        shapes += [cut_one(whole, axis, fraction, frame, 1) for fraction in (0.5, 0.17)]
    for fraction in (0.5, 0.34, 0.17):  # small on several axes, as tight limits want them
        small = cut_one(cut_one(whole, "layers", fraction, frame, 1), "hidden", fraction, frame, 1)
        shapes += [small, cut_one(cut_one(small, "heads", fraction, frame, 1), "neurons", fraction, frame, 1)]
    return fit_times(dict(zip(shapes, time_shapes(grounds, shapes, frame), strict=True)), frame)


def time_shapes(grounds: Grounds, shapes: Sequence[Sizes], frame: Frame) -> list[float]:
    """Return the milliseconds a sentence of students of these sizes, timed in turn."""
    return time_cut(grounds, [cut_blindly(grounds.teacher, sizes, frame) for sizes in shapes])


def time_cut(grounds: Grounds, encoders: Sequence[Encoder], *, passes: int = 1) -> list[float]:
    sentences = [*grounds.judged[:TIMED_SENTENCES]] * passes
    return time_encoders(encoders, sentences, runtime=grounds.budget.runtime)


def cut_blindly(teacher: Encoder, sizes: Sizes, frame: Frame) -> Encoder:
    """Return an encoder of these sizes, whatever it computes: what it costs does not depend on which parts are kept."""
    layers = tuple(range(sizes.layers))
    heads, neurons = (deal(total, sizes.layers) for total in (sizes.heads, sizes.neurons))
    hidden = None if sizes.hidden == frame.whole.hidden else tuple(range(sizes.hidden))
    return slice_encoder(teacher, Kept(heads, neurons, layers, hidden))


def deal(total: int, layers: int) -> tuple[tuple[int, ...], ...]:
    """Return `total` indices dealt out evenly over layers."""
    counts = np.full(layers, total // layers)
    counts[: total % layers] += 1
    return tuple(tuple(range(count)) for count in counts.tolist())

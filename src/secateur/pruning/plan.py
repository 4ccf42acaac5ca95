"""What a budget comes to for this teacher, on this corpus and this machine: measured, predicted, chosen.

Losses and milliseconds are measured by cutting for real: each axis at a few sizes with the others whole, repaired,
against held-out vectors. From there on the solver of `budget` works on numbers alone.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace

from secateur.config.errors import InputError, require
from secateur.config.pruning import BudgetSettings
from secateur.encoders.encoder import TorchEncoder
from secateur.pruning.budget import Grid, Solver, hold_axes, make_grid, name_sizes, solve
from secateur.pruning.inputs import PlanningInputs, Texts
from secateur.pruning.latency import cut_blindly, measure_times, plan_within_latency
from secateur.pruning.limits import set_limits, weigh
from secateur.pruning.predictions import Limits, Losses, Plan, Times, predict
from secateur.pruning.sizes import EncoderShape, Sizes, describe
from secateur.pruning.trials import measure_losses
from secateur.pruning.trimming import least_size

log = logging.getLogger(__name__)

LEAST_BYTES = {"torch": None, "onnx": 4.0, "openvino": 4.0, "onnx-int8": 1.0, "openvino-int8": 1.0}  # of a parameter


def make_plan(inputs: PlanningInputs, *, progress: str = "") -> Plan:
    """Return the sizes that a budget names or, under a limit, those of least predicted loss that fit.

    Raises InputError: the budget names more than there is, or nothing fits it.
    """
    budget = inputs.budget
    if not budget.is_limited:
        shape = describe(inputs.teacher)
        return predict(name_sizes(budget, shape), shape, Losses({}), None)
    limits = set_limits(budget, inputs.teacher)
    solver = prepare_solver(inputs, [limits], progress=progress)
    return plan_within_latency(inputs, solver, limits)


def check_budget(
    teacher: TorchEncoder,
    texts: Texts,
    sentences: Sequence[str],
    budget: BudgetSettings,
    limits: Sequence[Limits] | None = None,
) -> Times | None:
    """Refuse, before anything that takes minutes, a budget that this teacher and this corpus cannot meet.

    `texts` is what a vocabulary is trimmed for; on `sentences` milliseconds are measured, if they are limited, and
    returned. `limits` are the budget's own where no others are given. Raises InputError: what cannot be met, and what
    can.
    """
    name_sizes(budget, describe(teacher))
    if budget.vocabulary is None and not budget.is_limited:
        return None
    least = find_least(teacher, texts, budget)
    if budget.vocabulary is not None and budget.vocabulary < least:
        raise InputError(
            f"budget.vocabulary: {budget.vocabulary} asked for, but special tokens and the letters of "
            f"{', '.join(texts)} alone are {least}"
        )
    if not budget.is_limited:
        return None
    limits = [set_limits(budget, teacher)] if limits is None else limits
    shape, grid = frame(teacher, least, budget)
    if budget.runtime != "torch" and (budget.mb or budget.ms):
        check_runtime(teacher, budget.runtime, shape)
    check_reach(grid, shape, [replace(each, ms=None) for each in limits], None)
    times = measure_times(teacher, sentences, budget.runtime) if budget.ms is not None else None
    check_reach(grid, shape, limits if times else (), times)
    return times


def find_least(teacher: TorchEncoder, texts: Texts, budget: BudgetSettings) -> int:
    """Return the smallest vocabulary that can be planned; one that cannot be trimmed stays whole unless it is named.

    Raises InputError: the budget names a vocabulary of a tokenizer that cannot be trimmed.
    """
    try:
        return least_size(teacher, texts)
    except InputError as error:
        if budget.vocabulary is not None:
            raise
        log.info("the vocabulary stays whole: %s", error)
        return describe(teacher).whole.pieces


def frame(teacher: TorchEncoder, least: int, budget: BudgetSettings) -> tuple[EncoderShape, Grid]:
    """Return a teacher's shape, its bytes those of the file that the budget weighs, and what can be chosen."""
    shape = describe(teacher)
    grid = hold_axes(make_grid(shape, least_pieces=least), budget, shape)
    each = LEAST_BYTES[budget.runtime] if budget.mb is not None else None
    return (shape if each is None else replace(shape, bytes_each=each)), grid


def check_runtime(teacher: TorchEncoder, runtime: str, shape: EncoderShape) -> None:
    """Raise InputError if a runtime is not installed, or this teacher's kind has no form for it."""
    engine = runtime.removesuffix("-int8")
    require({"onnx": "onnxruntime"}.get(engine, engine), extra="train", by=f"budget.runtime: {runtime}")
    whole = shape.whole
    weigh(cut_blindly(teacher, Sizes(1, 1, 1, shape.head_size, whole.pieces, whole.rank), shape), runtime)


def check_reach(grid: Grid, shape: EncoderShape, limits: Sequence[Limits], times: Times | None) -> None:
    for each in limits:
        solve(grid, shape, each, Losses({}), times)


def prepare_solver(inputs: PlanningInputs, limits: Sequence[Limits], *, progress: str = "") -> Solver:
    """Measure what plans need; limits that nothing can reach are refused before that."""
    least = find_least(inputs.teacher, inputs.texts, inputs.budget)
    shape, grid = frame(inputs.teacher, least, inputs.budget)
    check_reach(grid, shape, [replace(each, ms=None) for each in limits], None)
    times = inputs.times
    if times is None and any(each.ms is not None for each in limits):
        times = measure_times(inputs.teacher, inputs.judged, inputs.budget.runtime)
    check_reach(grid, shape, limits if times else (), times)
    return Solver(shape, grid, measure_losses(inputs, shape, least, progress), times)

"""What a budget comes to for this teacher, on this corpus and this machine: measured, predicted, chosen.

Losses and milliseconds are measured by cutting for real: each axis at a few sizes with the others whole, repaired,
against held-out vectors. From there on the solver of `budget` works on numbers alone.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace

from secateur.config.pruning import BudgetSettings
from secateur.encoders.cost import count_parameters
from secateur.encoders.encoder import TorchEncoder
from secateur.pruning.budget import Solver, hold_axes, make_grid, name_sizes, solve
from secateur.pruning.inputs import PlanningInputs
from secateur.pruning.latency import MARGIN, measure_times, plan_within_latency
from secateur.pruning.predictions import Limits, Losses, Plan, predict
from secateur.pruning.sizes import describe
from secateur.pruning.trials import measure_losses
from secateur.pruning.trimming import least_size

log = logging.getLogger(__name__)


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


def set_limits(budget: BudgetSettings, teacher: TorchEncoder) -> Limits:
    """Return what a budget lets a student of this teacher cost."""
    share = None if budget.share is None else int(budget.share * count_parameters(teacher))
    params = min((count for count in (share, budget.params) if count is not None), default=None)
    return Limits(params, budget.mb, budget.ms, free=MARGIN)


def prepare_solver(inputs: PlanningInputs, limits: Sequence[Limits], *, progress: str = "") -> Solver:
    """Measure what plans need; limits that nothing can reach are refused before that."""
    shape = describe(inputs.teacher)
    least = least_size(inputs.teacher, inputs.texts)
    grid = hold_axes(make_grid(shape, least_pieces=least), inputs.budget, shape)
    for each in limits:
        solve(grid, shape, replace(each, ms=None), Losses({}), None)
    times = measure_times(inputs, shape) if any(each.ms is not None for each in limits) else None
    for each in limits if times else ():  # trial cuts take minutes
        solve(grid, shape, each, Losses({}), times)
    return Solver(shape, grid, measure_losses(inputs, shape, least, progress), times)

"""Plans held to a limit in megabytes by weighing the file that they come to."""

import logging
from dataclasses import replace

from secateur.config.errors import InputError
from secateur.pruning.budget import Solver
from secateur.pruning.cutting import cut_and_repair
from secateur.pruning.inputs import PlanningInputs
from secateur.pruning.limits import weigh
from secateur.pruning.predictions import Limits, Plan
from secateur.pruning.sizes import Sizes

log = logging.getLogger(__name__)

ATTEMPTS = 8  # to keep a limit in megabytes
AGREEMENT = 0.01  # of a file's bytes, that its prediction may be over
LATER_ROUNDS = 0.01  # of the limit that is left free where the final cut may deal its parts out otherwise


def plan_within_megabytes(
    inputs: PlanningInputs, solver: Solver, limits: Limits, weighed: dict[Sizes, int] | None = None
) -> Plan:
    """Return the plan of least predicted loss whose sizes, cut and weighed, keep the limit in megabytes.

    A parameter is taken to cost what those of the last cut did on average, headers and scales included. `weighed`
    keeps the bytes of sizes that were cut before. Raises InputError: no plan tried keeps the limit.
    """
    if limits.mb is None:
        return solver.solve(limits)
    weighed = {} if weighed is None else weighed
    runtime = inputs.budget.runtime
    allowed = 1e6 * limits.mb * (1 - (LATER_ROUNDS if inputs.budget.rounds > 1 else 0))
    each = solver.shape.bytes_each
    kept: list[Plan] = []
    for attempt in range(ATTEMPTS):
        try:
            plan = replace(solver, shape=replace(solver.shape, bytes_each=each)).solve(limits)
        except InputError:
            if kept:
                break
            raise
        if plan.sizes not in weighed:
            weighed[plan.sizes] = weigh(cut_and_repair(inputs, plan.sizes, rounds=1, sentences=0).repaired, runtime)
        found, predicted = weighed[plan.sizes], each * plan.params
        plan = replace(plan, mb=found / 1e6)
        log.info("a plan was predicted to take %.3f MB, takes %.3f, may take %.3f", predicted / 1e6, plan.mb, limits.mb)
        if found <= allowed:
            kept.append(plan)
            if attempt == 0 or predicted <= (1 + AGREEMENT) * found:
                return plan
        each = found / plan.params if found <= allowed else max(found / plan.params, 1.005 * each)
    if not kept:
        raise InputError(f"budget: {limits} is not kept by any plan tried: the last takes {plan.mb:.3f} MB")
    return min(kept, key=lambda plan: plan.loss)

"""Milliseconds: shapes timed for the cost table, plans held to a limit by timing what they come to."""

import logging
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from secateur.config.errors import InputError
from secateur.encoders.cost import time_encoders
from secateur.encoders.encoder import TorchEncoder
from secateur.pruning.budget import Solver
from secateur.pruning.cutting import cut_and_repair
from secateur.pruning.inputs import PlanningInputs
from secateur.pruning.megabytes import plan_within_megabytes
from secateur.pruning.predictions import Limits, Plan, Times, fit_times
from secateur.pruning.selection import Kept
from secateur.pruning.sizes import EncoderShape, Sizes, describe
from secateur.pruning.slicing import slice_encoder
from secateur.pruning.trials import cut_one

log = logging.getLogger(__name__)

TIMED_SENTENCES = 200
TIMED_PASSES = 3  # over them, where a cut's milliseconds are held against a limit
AGREEMENT = 0.05  # of a cut's milliseconds, that its prediction may be off
ATTEMPTS = 5  # to keep a limit in milliseconds


def plan_within_latency(inputs: PlanningInputs, solver: Solver, limits: Limits) -> Plan:
    """Return the plan of least predicted loss whose sizes, cut and timed, keep the limit in milliseconds.

    By what a cut takes more or less than predicted, the next plan is predicted to take more or less too, until both
    agree. Where they do not in ATTEMPTS, the best plan that kept the limit is returned with what it took. A limit in
    megabytes is kept beside. Raises InputError: no plan tried keeps it.
    """
    allowed = limits.allowed_ms
    weighed: dict[Sizes, int] = {}
    if allowed is None or solver.times is None:
        return plan_within_megabytes(inputs, solver, limits, weighed)
    whole = solver.times.predict(solver.shape.whole, solver.shape)
    off = 1.0  # what sizes near the limit take, of what the table says they do
    timed: dict[Sizes, float] = {}
    kept: list[Plan] = []
    for _ in range(ATTEMPTS):
        times = solver.times.scale(off)
        try:
            plan = plan_within_megabytes(inputs, replace(solver, times=times), limits, weighed)
        except InputError:
            if kept or timed:
                break
            raise
        predicted = times.predict(plan.sizes, solver.shape)
        if plan.sizes not in timed:
            student = cut_and_repair(inputs, plan.sizes, rounds=1, sentences=0).repaired
            encoders = [inputs.teacher, student]
            teacher, spent = time_cuts(encoders, inputs.judged, inputs.budget.runtime, passes=TIMED_PASSES)
            timed[plan.sizes] = spent * whole / teacher  # a drift of the machine's speed
        spent = timed[plan.sizes]
        fits = spent <= allowed
        if fits and abs(spent - predicted) <= AGREEMENT * spent:
            return plan
        log.info("a plan was predicted to take %.3f ms, took %.3f, may take %.3f", predicted, spent, allowed)
        if fits:
            kept.append(replace(plan, ms=spent))
        off *= spent / predicted if fits else max(spent / predicted, 1.02)
    if not kept:
        raise InputError(
            f"budget: {limits} is not kept by any plan tried: the fastest took {min(timed.values()):.2f} ms a "
            f"sentence, the teacher itself takes {whole:.2f} ms"
        )
    return min(kept, key=lambda plan: plan.loss)


def measure_times(teacher: TorchEncoder, sentences: Sequence[str], runtime: str) -> Times:
    """Return what milliseconds are made of on this machine, from students cut to many shapes, timed in turn."""
    shape = describe(teacher)
    whole = shape.whole
    shapes = [whole]
    for axis in ("layers", "heads", "neurons", "hidden"):
        shapes += [cut_one(whole, axis, fraction, shape, 1) for fraction in (0.5, 0.17)]
    for fraction in (0.5, 0.34, 0.17):  # small on several axes, as tight limits want them
        small = cut_one(cut_one(whole, "layers", fraction, shape, 1), "hidden", fraction, shape, 1)
        shapes += [small, cut_one(cut_one(small, "heads", fraction, shape, 1), "neurons", fraction, shape, 1)]
    milliseconds = time_cuts([cut_blindly(teacher, sizes, shape) for sizes in shapes], sentences, runtime)
    return replace(fit_times(dict(zip(shapes, milliseconds, strict=True)), shape), teacher=milliseconds[0])


def time_cuts(
    encoders: Sequence[TorchEncoder], sentences: Sequence[str], runtime: str, *, passes: int = 1
) -> list[float]:
    """Return the milliseconds a sentence of these encoders, timed in turn on the first sentences."""
    return time_encoders(encoders, [*sentences[:TIMED_SENTENCES]] * passes, runtime=runtime)


def cut_blindly(teacher: TorchEncoder, sizes: Sizes, shape: EncoderShape) -> TorchEncoder:
    """Return an encoder of these sizes, whatever it computes: what it costs does not depend on which parts are kept."""
    layers = tuple(range(sizes.layers))
    heads, neurons = (deal(total, sizes.layers) for total in (sizes.heads, sizes.neurons))
    hidden = None if sizes.hidden == shape.whole.hidden else tuple(range(sizes.hidden))
    return slice_encoder(teacher, Kept(heads, neurons, layers, hidden))


def deal(total: int, layers: int) -> tuple[tuple[int, ...], ...]:
    """Return `total` indices dealt out evenly over layers."""
    counts = np.full(layers, total // layers)
    counts[: total % layers] += 1
    return tuple(tuple(range(count)) for count in counts.tolist())

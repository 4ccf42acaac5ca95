"""One budget over five axes: exact costs, predicted losses, and the sizes that lose least of all that fit.

The axes are layers, heads, neurons, hidden width and word embeddings (tokens and their rank). What an encoder of given
sizes costs in parameters and bytes is counted exactly; milliseconds come from a cost table measured on the machine at
hand (`fit_times`). What an axis loses is measured at a few sizes, every other axis whole, and interpolated in between;
the losses of several axes are added. The solver looks at every combination of a grid: no heuristic stands between the
predictions and the answer.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from secateur.config.errors import InputError
from secateur.config.pruning import BudgetSettings
from secateur.pruning.predictions import Limits, Losses, Plan, Times, predict, work
from secateur.pruning.sizes import Columns, EncoderShape, Sizes, kept_fractions, parameters


@dataclass(frozen=True)
class Grid:
    """The choices that the solver tries on each axis; fractions of heads and neurons, sizes of the others."""

    layers: tuple[int, ...]
    heads: tuple[float, ...]
    neurons: tuple[float, ...]
    hidden: tuple[int, ...]
    pieces: tuple[int, ...]
    ranks: tuple[float, ...]  # of the hidden width; 1: full
    rank: int | None = None  # the only one, at every width that exceeds it

    @property
    def choices(self) -> tuple[tuple[float, ...], ...]:
        """In the order of AXES."""
        return self.layers, self.heads, self.neurons, self.hidden, self.pieces, self.ranks


def name_sizes(budget: BudgetSettings, shape: EncoderShape) -> Sizes:
    """Return the sizes that a budget names, every other axis whole.

    Raises InputError: more than there is, a rank that is not below the width, no layer, no head or no neuron at all.
    """
    whole = shape.whole
    if budget.is_static:
        raise InputError("budget.layers: 0 leaves no transformer; `secateur prune --layers 0` fits such a student")
    if budget.rank is not None and whole.rank is not None:
        raise InputError(f"budget.rank: the word embeddings have rank {whole.rank} already, which cannot be lowered")
    channels = whole.hidden if budget.hidden is None else round(budget.hidden * whole.hidden / shape.head_size)
    hidden = whole.hidden if budget.hidden is None else max(1, channels) * shape.head_size
    for key, asked, there in (
        ("layers", budget.layers, whole.layers),
        ("vocabulary", budget.vocabulary, whole.pieces),
        ("rank", budget.rank, hidden - 1),
    ):
        if asked is not None and asked > there:
            raise InputError(f"budget.{key}: {asked} asked for, at most {there} can be kept")
    share = (budget.layers or whole.layers) / whole.layers
    counts = {"heads": whole.heads, "neurons": whole.neurons}
    for axis, there in counts.items():
        kept = getattr(budget, axis)
        counts[axis] = round((1 if kept is None else kept) * there * share)
        if kept is not None and not counts[axis]:
            raise InputError(f"budget.{axis}: 0 of {round(there * share)} {axis} leaves none")
    return Sizes(
        budget.layers or whole.layers,
        counts["heads"],
        counts["neurons"],
        hidden,
        settle_pieces(budget.vocabulary or whole.pieces, shape),
        budget.rank or whole.rank,
    )


def hold_axes(grid: Grid, budget: BudgetSettings, shape: EncoderShape) -> Grid:
    """Return a grid with a single choice on each axis that the budget names."""
    named = name_sizes(budget, shape)
    held: dict[str, tuple[Any, ...]] = {
        "layers": (named.layers,) if budget.layers else grid.layers,
        "heads": (budget.heads,) if budget.heads is not None else grid.heads,
        "neurons": (budget.neurons,) if budget.neurons is not None else grid.neurons,
        "hidden": (named.hidden,) if budget.hidden is not None else grid.hidden,
        "pieces": (named.pieces,) if budget.vocabulary else grid.pieces,
        "ranks": (1.0,) if budget.rank else grid.ranks,
    }
    return replace(grid, **held, rank=budget.rank)


def make_grid(shape: EncoderShape, *, least_pieces: int, steps: int = 16) -> Grid:
    """Return every number of layers and of channels, and `steps` fractions of the other axes."""
    whole = shape.whole
    fractions = tuple((number + 1) / steps for number in range(steps))
    pieces = np.geomspace(min(least_pieces, whole.pieces), whole.pieces, steps).round().astype(int)
    return Grid(
        layers=tuple(range(1, whole.layers + 1)),
        heads=fractions,
        neurons=fractions,
        hidden=tuple(range(shape.head_size, whole.hidden + 1, shape.head_size)),
        pieces=tuple(dict.fromkeys(settle_pieces(each, shape) for each in pieces.tolist())),
        ranks=(0.125, 0.1875, 0.25, 0.375, 0.5, 1.0) if whole.rank is None else (1.0,),
    )


def settle_pieces(pieces: int, shape: EncoderShape) -> int:
    """Return the size that a vocabulary trimmed to `pieces` has: rows that stand for no token go first."""
    return pieces if shape.tokens is None or pieces >= shape.whole.pieces else min(pieces, shape.tokens)


def cap_grid(grid: Grid, sizes: Sizes, shape: EncoderShape) -> Grid:
    """Return the choices that are on no axis larger than `sizes`."""
    kept = kept_fractions(sizes, shape)
    slack = 1e-9
    return Grid(
        layers=tuple(each for each in grid.layers if each <= sizes.layers),
        heads=tuple(each for each in grid.heads if each <= kept["heads"] + slack) or grid.heads[:1],
        neurons=tuple(each for each in grid.neurons if each <= kept["neurons"] + slack) or grid.neurons[:1],
        hidden=tuple(each for each in grid.hidden if each <= sizes.hidden),
        pieces=tuple(each for each in grid.pieces if each <= sizes.pieces),
        ranks=grid.ranks,
        rank=grid.rank,
    )


def solve(grid: Grid, shape: EncoderShape, limits: Limits, losses: Losses, times: Times | None) -> Plan:
    """Return the plan of least predicted loss on the grid that fits; of equal ones the one of fewest parameters.

    Raises InputError: nothing on the grid fits; the smallest student that can be reached is named, under a limit in
    milliseconds also the fastest, and what the teacher itself takes.
    """
    if limits.ms is not None and times is None:
        raise ValueError("milliseconds are limited, but no times were measured")
    sizes = spread(grid, shape)
    params = parameters(sizes, shape)
    feasible = np.ones(params.shape, bool)
    if limits.params is not None:
        feasible &= params <= limits.params
    if limits.mb is not None:
        feasible &= params * shape.bytes_each <= limits.mb * 1e6
    milliseconds = None if times is None else work(sizes, shape) @ np.array(times.shares)
    if limits.allowed_ms is not None and milliseconds is not None:
        feasible &= milliseconds <= limits.allowed_ms
    if not feasible.any():
        raise InputError(f"budget: {limits} cannot be reached; {name_reach(params, milliseconds, shape, times)}")
    whole = shape.whole
    scales = (whole.layers, 1, 1, whole.hidden, whole.pieces, 1)
    curves = [
        np.array([losses.predict(axis, value / scale) for value in values])
        for axis, values, scale in zip(AXES, grid.choices, scales, strict=True)
    ]
    lost = sum(np.meshgrid(*curves, indexing="ij", sparse=True))
    order = np.lexsort((params[feasible], np.broadcast_to(lost, params.shape)[feasible]))
    best = tuple(place[order[0]] for place in np.nonzero(feasible))
    layers, heads, neurons, hidden, pieces, rank = (int(np.broadcast_to(size, params.shape)[best]) for size in sizes)
    return predict(Sizes(layers, heads, neurons, hidden, pieces, rank or None), shape, losses, times)


def spread(grid: Grid, shape: EncoderShape) -> Columns:
    """Return every combination of a grid's choices, one dimension an axis."""
    axes = [np.array(each) for each in grid.choices]
    layers, heads, neurons, hidden, pieces, ranks = np.meshgrid(*axes, indexing="ij", sparse=True)
    whole = shape.whole
    full = whole.rank or 0
    if grid.rank is None:
        rank = np.where(ranks == 1, full, np.maximum(1, (ranks * hidden).astype(int)))
    else:
        rank = np.where(hidden > grid.rank, grid.rank, full)
    return Columns(
        layers,
        np.maximum(1, (heads * layers * (whole.heads / whole.layers)).astype(int)),
        np.maximum(1, (neurons * layers * (whole.neurons / whole.layers)).astype(int)),
        hidden,
        pieces,
        rank,
    )


AXES = ("layers", "heads", "neurons", "hidden", "pieces", "rank")


def name_reach(params: np.ndarray, milliseconds: np.ndarray | None, shape: EncoderShape, times: Times | None) -> str:
    least = int(params.min())
    reach = f"the smallest student has {least:,} parameters, {shape.bytes_each * least / 1e6:.2f} MB"
    if milliseconds is None or times is None:
        return reach
    teacher = times.predict(shape.whole, shape) if times.teacher is None else times.teacher
    fastest = f"the fastest takes {milliseconds.min():.2f} ms a sentence"
    return f"{reach}; {fastest}, the teacher itself {teacher:.2f} ms"


@dataclass(frozen=True)
class Solver:
    """What the solver works with: what can be chosen, and what it is predicted to cost and to lose."""

    shape: EncoderShape
    grid: Grid
    losses: Losses
    times: Times | None

    def solve(self, limits: Limits, *, within: Sizes | None = None) -> Plan:
        """Return the plan of least predicted loss that fits, on every axis no larger than `within`."""
        grid = self.grid if within is None else cap_grid(self.grid, within, self.shape)
        return solve(grid, self.shape, limits, self.losses, self.times)

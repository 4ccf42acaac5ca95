"""One budget over five axes: exact costs, predicted losses, and the sizes that lose least of all that fit.

The axes are layers, heads, neurons, hidden width and word embeddings (pieces and their rank). What an encoder of given
sizes costs in parameters and bytes is counted exactly; milliseconds come from a cost table measured on the machine at
hand (`fit_times`). What an axis loses is measured at a few sizes, every other axis whole, and interpolated in between;
the losses of several axes are added. The solver looks at every combination of a grid: no heuristic stands between the
predictions and the answer.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from scipy.interpolate import PchipInterpolator
from scipy.optimize import nnls

from secateur import config
from secateur.config import InputError
from secateur.encoder import Encoder
from secateur.modeling import count_heads, count_neurons, find_layers, head_size

BYTES = 4  # of a parameter, in float32


@dataclass(frozen=True)
class Sizes:
    """The sizes of an encoder; heads and neurons over all its layers together."""

    layers: int
    heads: int
    neurons: int
    hidden: int
    pieces: int
    rank: int | None  # of the word embeddings; none: full


@dataclass(frozen=True)
class Frame:
    """What no axis changes: the teacher's own sizes and what else it is made of."""

    whole: Sizes
    head_size: int
    positions: int
    types: int  # token types
    output: int  # the length of a sentence vector
    has_pooler: bool


def describe(encoder: Encoder) -> Frame:
    """Return an encoder's sizes and frame, read from its weights."""
    transformer = encoder.transformer
    shape = transformer.config
    weights = transformer.state_dict()
    types = weights.get("embeddings.token_type_embeddings.weight")
    whole = Sizes(
        layers=len(find_layers(transformer)),
        heads=sum(count_heads(transformer)),
        neurons=sum(count_neurons(transformer)),
        hidden=shape.hidden_size,
        pieces=shape.vocab_size,
        rank=getattr(shape, "embedding_rank", None),
    )
    return Frame(
        whole,
        head_size=head_size(shape),
        positions=len(weights["embeddings.position_embeddings.weight"]),
        types=0 if types is None else len(types),
        output=encoder.dimension,
        has_pooler=encoder.uses_pooler,
    )


def count_parameters(sizes: Sizes, frame: Frame) -> int:
    """Return exactly the parameters of a student of these sizes, those of its `Dense` included."""
    return int(parameters(columns([sizes]), frame)[0])


class Columns(NamedTuple):
    """Many sizes at once: integer arrays that broadcast; full rank as 0."""

    layers: np.ndarray
    heads: np.ndarray
    neurons: np.ndarray
    hidden: np.ndarray
    pieces: np.ndarray
    rank: np.ndarray


def columns(sizes: Sequence[Sizes]) -> Columns:
    rows = [(s.layers, s.heads, s.neurons, s.hidden, s.pieces, s.rank or 0) for s in sizes]
    return Columns(*np.array(rows, np.int64).T)


def parameters(sizes: Columns, frame: Frame) -> np.ndarray:
    layers, heads, neurons, hidden, pieces, rank = sizes
    channels = heads * frame.head_size
    words = np.where(rank == 0, pieces * hidden, rank * (pieces + hidden))
    embeddings = words + (frame.positions + frame.types + 2) * hidden
    attention = 4 * channels * hidden + 3 * channels  # query, key, value and their biases, output projection
    ffn = 2 * neurons * hidden + neurons
    each_layer = 6 * hidden  # two biases, two LayerNorms
    narrow = hidden < frame.whole.hidden
    head = np.where(narrow | frame.has_pooler, frame.output * (hidden + 1), 0)  # a Dense, or the pooler
    total: np.ndarray = embeddings + attention + ffn + layers * each_layer + head
    return total


@dataclass(frozen=True)
class Times:
    """Milliseconds a sentence as a sum of non-negative shares of `work`."""

    shares: tuple[float, ...]

    def scale(self, factor: float) -> "Times":
        return Times(tuple(factor * share for share in self.shares))

    def predict(self, sizes: Sizes, frame: Frame) -> float:
        return float(np.dot(work(columns([sizes]), frame)[0], self.shares))


def work(sizes: Columns, frame: Frame) -> np.ndarray:
    """Return what time is spent on [..., 8]: once, by layer, in attention's projections and products, in the FFN's two
    matrices and its activation, in sums and norms, in low-rank embeddings. A large vocabulary costs no time."""
    layers, heads, neurons, hidden, _, rank = sizes
    channels = heads * frame.head_size
    spent = (
        np.ones_like(layers), layers, channels * hidden / 1e6, channels / 1e3, neurons * hidden / 1e6, neurons / 1e3,
        layers * hidden / 1e3, rank * hidden / 1e6,
    )  # fmt: skip
    return np.stack(np.broadcast_arrays(*spent), axis=-1)


def fit_times(measured: Mapping[Sizes, float], frame: Frame) -> Times:
    """Return the shares that explain measured milliseconds with the least squared relative error, none below zero."""
    times = np.array(list(measured.values()))
    shares, _ = nnls(work(columns(list(measured)), frame) / times[:, None], np.ones(len(times)))
    return Times(tuple(float(share) for share in shares))


@dataclass(frozen=True)
class Losses:
    """For each axis, what its sizes lose: 1 - cosine to the teacher, measured at some sizes, 0 at the whole."""

    measured: Mapping[str, Mapping[float, float]]  # axis: kept fraction: loss

    def predict(self, axis: str, fraction: float) -> float:
        """Return the loss of an axis at a kept fraction: a monotone curve through what was measured (Fritsch & Carlson
        1980), in the logarithm of the fraction."""
        if fraction >= 1:
            return 0.0
        points = {1.0: 0.0, **self.measured.get(axis, {})}
        if len(points) < 2:
            return 0.0
        found = sorted((math.log(kept), loss) for kept, loss in points.items())
        places = [place for place, _ in found]
        losses = np.maximum.accumulate([loss for _, loss in found][::-1])[::-1]  # fewer never lose less
        where = math.log(max(fraction, 1e-9))
        if where < places[0]:  # below what was measured: on along the last slope
            slope = (losses[1] - losses[0]) / (places[1] - places[0])
            return float(losses[0] + slope * (where - places[0]))
        return float(PchipInterpolator(places, losses)(where))


@dataclass(frozen=True)
class Limits:
    """What a student may cost at the most; none: no limit. A share of the milliseconds is left free, for what a clock
    scatters."""

    params: int | None = None
    mb: float | None = None
    ms: float | None = None
    free: float = 0.0

    @property
    def allowed_ms(self) -> float | None:
        return self.ms and self.ms * (1 - self.free)

    def __str__(self) -> str:
        named = {"parameters": self.params, "MB": self.mb, "ms": self.ms}
        said = ", ".join(f"{value:,} {name}" for name, value in named.items() if value is not None)
        return f"{said} ({self.free:.0%} of it left free)" if self.ms is not None and self.free else said


@dataclass(frozen=True)
class Plan:
    """Sizes with what they are predicted to cost and to lose."""

    sizes: Sizes
    params: int
    mb: float
    ms: float | None
    losses: Mapping[str, float]  # by axis

    @property
    def loss(self) -> float:
        return sum(self.losses.values())


def predict(sizes: Sizes, frame: Frame, losses: Losses, times: Times | None) -> Plan:
    """Return sizes with their predictions."""
    params = count_parameters(sizes, frame)
    lost = {axis: losses.predict(axis, kept) for axis, kept in kept_fractions(sizes, frame).items()}
    return Plan(sizes, params, BYTES * params / 1e6, times.predict(sizes, frame) if times else None, lost)


def kept_fractions(sizes: Sizes, frame: Frame) -> dict[str, float]:
    """Return what is kept of each axis: heads and neurons of those in the kept layers, rank of the hidden width."""
    whole = frame.whole
    layers = sizes.layers / whole.layers
    return {
        "layers": layers,
        "heads": sizes.heads / (whole.heads * layers),
        "neurons": sizes.neurons / (whole.neurons * layers),
        "hidden": sizes.hidden / whole.hidden,
        "pieces": sizes.pieces / whole.pieces,
        "rank": 1.0 if sizes.rank is None else min(1.0, sizes.rank / sizes.hidden),
    }


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


def name_sizes(budget: config.Budget, frame: Frame) -> Sizes:
    """Return the sizes that a budget names, every other axis whole. Raises InputError: more than there is."""
    whole = frame.whole
    for key, asked, there in (
        ("layers", budget.layers, whole.layers),
        ("vocabulary", budget.vocabulary, whole.pieces),
        ("rank", budget.rank, (whole.rank or whole.hidden) - 1),
    ):
        if asked is not None and asked > there:
            raise InputError(f"budget.{key}: {asked} asked for, at most {there} can be kept")
    layers = budget.layers or whole.layers
    share = layers / whole.layers
    channels = whole.hidden if budget.hidden is None else round(budget.hidden * whole.hidden / frame.head_size)
    return Sizes(
        layers,
        round((1 if budget.heads is None else budget.heads) * whole.heads * share),
        round((1 if budget.neurons is None else budget.neurons) * whole.neurons * share),
        whole.hidden if budget.hidden is None else max(1, channels) * frame.head_size,
        budget.vocabulary or whole.pieces,
        budget.rank or whole.rank,
    )


def hold_axes(grid: Grid, budget: config.Budget, frame: Frame) -> Grid:
    """Return a grid with a single choice on each axis that the budget names."""
    named = name_sizes(budget, frame)
    held: dict[str, tuple[Any, ...]] = {
        "layers": (named.layers,) if budget.layers else grid.layers,
        "heads": (budget.heads,) if budget.heads is not None else grid.heads,
        "neurons": (budget.neurons,) if budget.neurons is not None else grid.neurons,
        "hidden": (named.hidden,) if budget.hidden is not None else grid.hidden,
        "pieces": (named.pieces,) if budget.vocabulary else grid.pieces,
        "ranks": (1.0,) if budget.rank else grid.ranks,
    }
    return replace(grid, **held, rank=budget.rank)


def make_grid(frame: Frame, *, least_pieces: int, steps: int = 16) -> Grid:
    """Return every number of layers and of channels, and `steps` fractions of the other axes."""
    whole = frame.whole
    fractions = tuple((number + 1) / steps for number in range(steps))
    pieces = np.geomspace(min(least_pieces, whole.pieces), whole.pieces, steps).round().astype(int)
    return Grid(
        layers=tuple(range(1, whole.layers + 1)),
        heads=fractions,
        neurons=fractions,
        hidden=tuple(range(frame.head_size, whole.hidden + 1, frame.head_size)),
        pieces=tuple(dict.fromkeys(pieces.tolist())),
        ranks=(0.125, 0.1875, 0.25, 0.375, 0.5, 1.0) if whole.rank is None else (1.0,),
    )


def cap_grid(grid: Grid, sizes: Sizes, frame: Frame) -> Grid:
    """Return the choices that are on no axis larger than `sizes`."""
    kept = kept_fractions(sizes, frame)
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


def solve(grid: Grid, frame: Frame, limits: Limits, losses: Losses, times: Times | None) -> Plan:
    """Return the plan of least predicted loss on the grid that fits; of equal ones the one of fewest parameters.

    Raises InputError: nothing on the grid fits; the smallest student that can be reached is named.
    """
    if limits.ms is not None and times is None:
        raise ValueError("milliseconds are limited, but no times were measured")
    sizes = spread(grid, frame)
    params = parameters(sizes, frame)
    feasible = np.ones(params.shape, bool)
    if limits.params is not None:
        feasible &= params <= limits.params
    if limits.mb is not None:
        feasible &= params * BYTES <= limits.mb * 1e6
    milliseconds = None if times is None else work(sizes, frame) @ np.array(times.shares)
    if limits.allowed_ms is not None and milliseconds is not None:
        feasible &= milliseconds <= limits.allowed_ms
    if not feasible.any():
        raise InputError(f"budget: {limits} cannot be reached; {name_smallest(params, milliseconds)}")
    whole = frame.whole
    scales = (whole.layers, 1, 1, whole.hidden, whole.pieces, 1)
    curves = [
        np.array([losses.predict(axis, value / scale) for value in values])
        for axis, values, scale in zip(AXES, grid.choices, scales, strict=True)
    ]
    lost = sum(np.meshgrid(*curves, indexing="ij", sparse=True))
    order = np.lexsort((params[feasible], np.broadcast_to(lost, params.shape)[feasible]))
    best = tuple(place[order[0]] for place in np.nonzero(feasible))
    layers, heads, neurons, hidden, pieces, rank = (int(np.broadcast_to(size, params.shape)[best]) for size in sizes)
    return predict(Sizes(layers, heads, neurons, hidden, pieces, rank or None), frame, losses, times)


def spread(grid: Grid, frame: Frame) -> Columns:
    """Return every combination of a grid's choices, one dimension an axis."""
    axes = [np.array(each) for each in grid.choices]
    layers, heads, neurons, hidden, pieces, ranks = np.meshgrid(*axes, indexing="ij", sparse=True)
    whole = frame.whole
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


def name_smallest(params: np.ndarray, milliseconds: np.ndarray | None) -> str:
    least = int(params.min())
    reach = f"the smallest student has {least:,} parameters, {BYTES * least / 1e6:.1f} MB"
    return reach if milliseconds is None else f"{reach}; the fastest takes {milliseconds.min():.2f} ms a sentence"

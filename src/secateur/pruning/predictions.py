"""What sizes are predicted to cost in milliseconds and to lose in quality, from measurements at a few sizes."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from scipy.interpolate import PchipInterpolator
from scipy.optimize import nnls

from secateur.pruning.sizes import Columns, EncoderShape, Sizes, columns, count_parameters, kept_fractions


@dataclass(frozen=True)
class Times:
    """Milliseconds a sentence as a sum of non-negative shares of `work`; and what the teacher itself took."""

    shares: tuple[float, ...]
    teacher: float | None = None

    def scale(self, factor: float) -> "Times":
        return replace(self, shares=tuple(factor * share for share in self.shares))

    def predict(self, sizes: Sizes, shape: EncoderShape) -> float:
        return float(np.dot(work(columns([sizes]), shape)[0], self.shares))


def work(sizes: Columns, shape: EncoderShape) -> np.ndarray:
    """Return what time is spent on [..., 8]: once, by layer, in attention's projections and products, in the FFN's two
    matrices and its activation, in sums and norms, in low-rank embeddings. A large vocabulary costs no time."""
    layers, heads, neurons, hidden, _, rank = sizes
    channels = heads * shape.head_size
    spent = (
        np.ones_like(layers), layers, channels * hidden / 1e6, channels / 1e3, neurons * hidden / 1e6, neurons / 1e3,
        layers * hidden / 1e3, rank * hidden / 1e6,
    )  # fmt: skip
    return np.stack(np.broadcast_arrays(*spent), axis=-1)


def fit_times(measured: Mapping[Sizes, float], shape: EncoderShape) -> Times:
    """Return the shares that explain measured milliseconds with the least squared relative error, none below zero."""
    times = np.array(list(measured.values()))
    shares, _ = nnls(work(columns(list(measured)), shape) / times[:, None], np.ones(len(times)))
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


def predict(sizes: Sizes, shape: EncoderShape, losses: Losses, times: Times | None) -> Plan:
    """Return sizes with their predictions."""
    params = count_parameters(sizes, shape)
    lost = {axis: losses.predict(axis, kept) for axis, kept in kept_fractions(sizes, shape).items()}
    return Plan(sizes, params, shape.bytes_each * params / 1e6, times.predict(sizes, shape) if times else None, lost)

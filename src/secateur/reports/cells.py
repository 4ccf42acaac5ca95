"""Cells, tables and the other blocks that a report's page is made of."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from secateur.evaluation.drift import Mean


@dataclass(frozen=True)
class Cell:
    """What a table shows, `detail` small below it; `value` is what it is sorted by, `tone` good, bad or nothing."""

    text: str
    value: float | str
    tone: str = ""
    detail: str = ""


@dataclass(frozen=True)
class Table:
    """Rows under a header; the first column names the row, `words` are columns of text."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    words: Sequence[int] = (0,)
    note: str = ""
    half: bool = False  # of the page's width, where it is wide: beside a picture
    stacked: bool = False  # on a phone: a row's cells below each other


@dataclass(frozen=True)
class Picture:
    """An SVG element and what it shows."""

    svg: str
    title: str
    note: str = ""


@dataclass(frozen=True)
class Note:
    """A sentence on its own: what is missing, and why."""

    text: str


@dataclass(frozen=True)
class Folded:
    """Blocks behind a line that unfolds them."""

    title: str
    blocks: Sequence["Block"]


Block = Table | Picture | Note | Folded


@dataclass(frozen=True)
class Section:
    """A part of the page, with a heading to jump to."""

    id: str
    title: str
    lead: str
    blocks: list[Block] = field(default_factory=list)


def words(text: str, detail: str = "") -> Cell:
    return Cell(text, text.lower(), detail=detail)


def number(value: float | None, form: str = "{:.4f}") -> Cell:
    """Return a number; a dash for one that is not known or not finite, sorted below all others."""
    if value is None or not math.isfinite(value):
        return Cell("–", float("-inf"))
    return Cell(form.format(value), value)


def difference(value: float, low: float | None = None, high: float | None = None, *, digits: int = 3) -> Cell:
    """Return a signed difference; good or bad only where its interval, if it has one, leaves zero out."""
    if value == low == high == 0:
        return Cell("0", 0.0)
    text = f"{value:+.{digits}f}".replace("-", "−")
    if low is None or high is None:
        return Cell(text, value)
    tone = "good" if low > 0 else "bad" if high < 0 else ""
    return Cell(f"{text} [{low:+.{digits}f}, {high:+.{digits}f}]".replace("-", "−"), value, tone)


def interval(mean: Mean, *, digits: int = 4) -> Cell:
    return spread(mean.value, mean.high - mean.value, digits)


def spread(value: float, margin: float, digits: int) -> Cell:
    """Return a value and what it may be off by; the teacher's own cosine is off by nothing."""
    text = f"{value:.{digits}f}"
    return Cell(text if margin < 0.5 * 10**-digits else f"{text} ± {margin:.{digits}f}", value)


def bound(draws: np.ndarray) -> tuple[float, float] | tuple[None, None]:
    """Return the 95% interval of what was drawn; none where hardly a draw has a score."""
    known = draws[np.isfinite(draws)]
    if len(known) < len(draws) / 2:
        return None, None
    low, high = np.quantile(known, [0.025, 0.975])
    return float(low), float(high)

"""Curves of training."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from secateur.reports.figures.drawing import (
    DIRECTIONS,
    FADED,
    GRID,
    MUTED,
    POINTS,
    SERIES,
    TIP,
    WIDE,
    Place,
    Style,
    make_figure,
)
from secateur.reports.figures.saliency import LEGEND
from secateur.reports.record import Record


@dataclass(frozen=True)
class Curve:
    """One metric of one run over the steps; `part` is empty, or the round of cuts that it was trained in."""

    run: str
    part: str
    steps: np.ndarray
    values: np.ndarray


def find_curves(records: Sequence[Record], name: str) -> Iterator[Curve]:
    """Yield a metric's curves, a round's own for each round between cuts; values that are not finite are left out."""
    pattern = re.compile(rf"(?:(round-\d+)/)?{re.escape(name)}")
    for record in records:
        parts: dict[str, list[tuple[int, float]]] = {}
        for line in record.metrics:
            for key, value in line.items():
                found = pattern.fullmatch(key)
                if found and value is not None:
                    parts.setdefault(found[1] or "", []).append((line["step"], value))
        for part, points in parts.items():
            steps, values = zip(*points, strict=True)
            yield Curve(record.name, part.replace("-", " "), np.array(steps), np.array(values))


def draw_curves(records: Sequence[Record], names: Mapping[str, str], *, styles: Sequence[Style] = ("-",)) -> Figure:
    """Draw metrics over the steps; of several runs each has a colour, of several metrics each a line style."""
    figure, axes = make_figure(2.7 if len(records) == 1 else 2.7 + 0.2 * len(records))
    runs = [record.name for record in records]
    key: dict[str, Artist] = {}
    metrics: dict[str, Artist] = {}
    for number, (name, words) in enumerate(names.items()):
        for curve in find_curves(records, name):
            colour = SERIES[(runs.index(curve.run) if len(runs) > 1 else number) % len(SERIES)]
            draw_curve(axes, curve, name_curve(curve, words, runs), colour=colour, style=styles[number])
            if len(runs) > 1:
                key.setdefault(curve.run, Line2D([], [], color=colour))
            if curve.part:
                key["rounds of cuts, faded"] = Line2D([], [], color=MUTED, alpha=FADED)
        if len(names) > 1:
            metrics[words] = Line2D([], [], color=MUTED if len(runs) > 1 else colour, linestyle=styles[number])
    axes.set_xlabel("step")
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 5, 10]))
    axes.ticklabel_format(axis="y", scilimits=(-3, 4), useOffset=False)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.spines[:].set_visible(False)
    axes.margins(x=0.02)
    add_key(figure, key)
    add_key(figure, metrics, loc="outside lower left" if key else "outside upper left")
    return figure


def name_curve(curve: Curve, words: str, runs: Sequence[str]) -> str:
    return ", ".join([*([curve.run] if len(runs) > 1 else []), *([curve.part] if curve.part else []), words])


def draw_curve(axes: Axes, curve: Curve, label: str, *, colour: str, style: Style) -> None:
    rows = np.unique(np.linspace(0, len(curve.steps) - 1, min(POINTS, len(curve.steps))).round().astype(int))
    steps, values = curve.steps[rows], curve.values[rows]
    alpha = FADED if curve.part else 1
    axes.plot(steps, values, style, color=colour, linewidth=1.8, alpha=alpha)
    for row in np.unique(np.linspace(0, len(rows) - 1, min(30, len(rows))).round().astype(int)):
        tip = f"{TIP}{label}, step {steps[row]}: {values[row]:.4g}"
        axes.plot(steps[row], values[row], "o", color=colour, markersize=3.4, alpha=alpha, gid=tip)


def add_key(figure: Figure, key: Mapping[str, Artist], *, loc: Place = "outside upper left") -> None:
    """Write above or below a figure what its colours and marks stand for, in a row where the words are short."""
    if key:
        columns = max(WIDE // max(map(len, key)), 1)
        figure.legend(key.values(), key.keys(), loc=loc, ncols=columns, **LEGEND)


def draw_retrieval(records: Sequence[Record]) -> Figure:
    """Draw retrieval accuracy@1 over the steps, both directions."""
    names = {f"validation/{key}": words for key, words in DIRECTIONS.items()}
    return draw_curves(records, names, styles=("-", "--"))

"""Quality against cost, and the Pareto front of a family."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from secateur.evaluation.leaderboard import Scores, mean_s
from secateur.reports.figures.curves import add_key
from secateur.reports.figures.drawing import (
    COSTS,
    GRID,
    INK,
    MARKS,
    MUTED,
    SERIES,
    STAGES,
    TIP,
    WIDTH,
    make_figure,
    make_panels,
)
from secateur.reports.figures.saliency import LEGEND
from secateur.reports.record import Record


@dataclass(frozen=True)
class Point:
    """An encoder of a run: what it costs, and its quality."""

    run: str
    stage: str
    cost: float
    quality: float


QUALITIES = {"cosine": "cosine to the teacher", "mean": "mean of the tasks"}


def cosine_points(records: Sequence[Record], cost: str) -> list[Point]:
    """Return every stage's held-out cosine; what has no known cost is left out."""
    return [
        Point(record.name, row["stage"], row[cost], row["cosine"])
        for record in records
        for row in record.stages
        if cost in row and "cosine" in row
    ]


def mean_points(records: Sequence[Record], cost: str) -> list[Point]:
    """Return the benchmark's mean of every stage that was scored on it, if all runs were scored on the same one."""
    if len({each.benchmark for record in records for each in (record.scores or {}).values()}) != 1:
        return []
    points = []
    for record in records:
        for row in record.stages:
            mean = mean_of((record.scores or {}).get(row["stage"]))
            if mean is not None and cost in row:
                points.append(Point(record.name, row["stage"], row[cost], mean))
    return points


def mean_of(scores: Scores | None) -> float | None:
    return None if scores is None else mean_s(scores.own)


def draw_cost(points: Sequence[Point], cost: str, quality: str) -> Figure:
    """Draw quality against cost; a line, the Pareto front, joins what nothing beats in both.

    Of one run each stage has a colour and its name beside it; of several each run has a colour, each stage a mark.
    """
    runs = list(dict.fromkeys(point.run for point in points))
    figure, axes = make_figure(3.1 if len(runs) == 1 else 3.4 + 0.2 * len(runs))
    plot_front(axes, points, cost, quality)
    if len(runs) == 1:
        for point in points:
            plot_point(axes, point, point.stage, cost, colour=STAGES.get(point.stage, INK))
        label_points(axes, points)
        return figure
    colours = {run: SERIES[place % len(SERIES)] for place, run in enumerate(runs)}
    for point in points:
        words = f"{point.run}, {point.stage}"
        plot_point(axes, point, words, cost, colour=colours[point.run], marker=MARKS.get(point.stage, "o"))
    stages = [stage for stage in MARKS if any(point.stage == stage for point in points)]
    add_key(figure, {run: Line2D([], [], color=colour, linewidth=4) for run, colour in colours.items()})
    marks = {stage: Line2D([], [], color=MUTED, marker=MARKS[stage], linestyle="", markersize=6) for stage in stages}
    add_key(figure, marks, loc="outside lower left")
    return figure


def draw_family(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw a family's cosine against parameters and against milliseconds; `rows` are those of a stage table."""
    costs = {"millions of parameters": ("parameters", 1e6), COSTS["ms"]: ("ms", 1)}
    figure, panels = make_panels(2, 2 * WIDTH, 3.6)
    for axes, (cost, (key, unit)) in zip(panels, costs.items(), strict=True):
        points = [Point("", row["stage"], row[key] / unit, row["cosine"]) for row in rows]
        plot_front(axes, points, cost, QUALITIES["cosine"])
        for point in points:
            plot_point(axes, point, point.stage, cost, colour=SERIES[0])
        label_points(axes, points)
    return figure


def plot_front(axes: Axes, points: Sequence[Point], cost: str, quality: str) -> None:
    """Draw the front and the axes, with room for labels."""
    best = pareto_front([(point.cost, point.quality) for point in points])
    axes.plot(*zip(*best, strict=True), color=MUTED, linewidth=1.4, label="Pareto front", zorder=1)
    low, high = min(point.quality for point in points), max(point.quality for point in points)
    room = max(high - low, 1e-3)
    axes.set(xlim=(0, 1.18 * max(point.cost for point in points)), ylim=(low - 0.14 * room, high + 0.12 * room))
    axes.set(xlabel=cost, ylabel=quality)
    axes.grid(color=GRID, linewidth=0.8)
    axes.spines[:].set_visible(False)
    axes.legend(loc="lower left", **LEGEND)


def plot_point(axes: Axes, point: Point, words: str, cost: str, *, colour: str, marker: str = "o") -> None:
    tip = f"{TIP}{words}: {point.quality:.4f} at {point.cost:.4g} {cost}"
    axes.plot(point.cost, point.quality, marker, color=colour, markersize=7, gid=tip, zorder=3)


def pareto_front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the (cost, quality) points that no other beats in both, by cost."""
    front: list[tuple[float, float]] = []
    for cost, quality in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or quality > front[-1][1]:
            front.append((cost, quality))
    return front


def label_points(axes: Axes, points: Sequence[Point]) -> None:
    """Write each point's stage on the side with more room, moved down where it would cover the one above it."""
    middle = axes.get_xlim()[1] / 2
    room = float(np.ptp(axes.get_ylim())) / 1.26
    taken: dict[str, list[tuple[float, float]]] = {"left": [], "right": []}
    for point in sorted(points, key=lambda point: -point.quality):
        side = "right" if point.cost < middle else "left"
        height = point.quality
        while any(abs(height - y) < 0.075 * room and abs(point.cost - x) < middle / 2 for x, y in taken[side]):
            height -= 0.01 * room
        taken[side].append((point.cost, height))
        shift = 0.02 * middle * (1 if side == "right" else -1)
        axes.text(
            point.cost + 2.6 * shift, height, point.stage, color=INK, fontsize=10, va="center",
            ha="left" if side == "right" else "right",
        )  # fmt: skip

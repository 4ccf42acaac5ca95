"""A run's pictures: saliency, what was cut, losses, validation, quality against cost, drift.

The page and ClearML show the same ones. What a pointer should be told about a shape is its gid, behind TIP.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from secateur.drift import Drift, name_lengths, split_by_length
from secateur.leaderboard import Scores, mean_s
from secateur.record import Record
from secateur.saliency import Saliency
from secateur.selection import Kept

matplotlib.use("Agg")

Style = Literal["-", "--"]
Place = Literal["outside upper left", "outside lower left"]

TIP = "tip:"
INK, MUTED, GRID, FAINT = "#1b2420", "#5d6963", "#dde4df", "#e9efeb"
SERIES = ("#2c7a4b", "#c9701a", "#3468ad", "#8f4896", "#b03a3a", "#6a7a1f")
STAGES = {"teacher": MUTED, "pruned": "#b03a3a", "repaired": "#c9701a", "distilled": "#2c7a4b", "student": "#2c7a4b"}
MARKS = {"teacher": "s", "pruned": "X", "repaired": "^", "distilled": "o", "student": "o"}
FADED = 0.45  # how opaque what was trained between rounds of cuts is
MAP = "viridis"
WIDTH = 4.7  # inches
STRIPS = 48  # that a layer's sorted neurons are drawn as
POINTS = 240  # of a curve that are drawn
WIDE = 48  # letters of labels that a row has room for

TRAINING = {  # metrics and the titles of their curves
    "train/loss": "Loss, all terms weighed",
    "train/similarity": "Similarity: Russian against English",
    "train/output": "Output: student against teacher",
    "train/learning_rate": "Learning rate",
    "validation/cosine": "Validation: cosine to the teacher",
}
COSTS = {"ms": "milliseconds a sentence", "mb": "megabytes of weights"}
DIRECTIONS = {"en_ru": "English to Russian", "ru_en": "Russian to English"}


@dataclass(frozen=True)
class Drawing:
    """A picture, of one run or of all side by side; `section` is where the page shows it."""

    section: str
    title: str
    figure: Figure
    record: Record | None = None  # none: of all
    note: str = ""


def draw_figures(records: Sequence[Record]) -> list[Drawing]:
    """Return every picture that the records have the numbers for."""
    return [
        *(drawing for record in records for drawing in list_saliency(record)),
        *list_training(records),
        *list_costs(records),
        *(drawing for record in records for drawing in list_drift(record)),
    ]


def list_saliency(record: Record) -> Iterator[Drawing]:
    saliency, kept = record.saliency, record.kept
    if saliency is None:
        return
    yield Drawing("heads", "Heads, by layer", draw_heads(saliency, kept), record)
    yield Drawing("neurons", "Neurons, by layer", draw_neurons(saliency, kept), record)
    if kept is not None:
        yield Drawing("cuts", "Heads and neurons kept, by layer", draw_cut(saliency, kept), record)


def list_training(records: Sequence[Record]) -> Iterator[Drawing]:
    for name, title in TRAINING.items():
        if any(find_curves(records, name)):
            yield Drawing("training", title, draw_curves(records, {name: title}))
    if any(find_curves(records, "validation/en_ru")):
        yield Drawing("training", "Validation: translations found", draw_retrieval(records))


def list_costs(records: Sequence[Record]) -> Iterator[Drawing]:
    for quality, points_of in {"cosine": cosine_points, "mean": mean_points}.items():
        for cost, label in COSTS.items():
            points = points_of(records, cost)
            if len(points) > 1:
                title = f"{'Cosine' if quality == 'cosine' else 'Mean score'} against {label}"
                yield Drawing("cost", title, draw_cost(points, label, QUALITIES[quality]))


def list_drift(record: Record) -> Iterator[Drawing]:
    if record.drift is not None:
        yield Drawing("drift", "By language", draw_languages(record.drift), record)
        yield Drawing("drift", "By length", draw_lengths(record.drift), record, note="Bars: 95% intervals.")


def make_figure(height: float) -> tuple[Figure, Axes]:
    figure, (axes,) = make_panels(1, WIDTH, height)
    return figure, axes


def make_panels(count: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """Return a figure with axes beside each other, and those."""
    style: Any = {"axes.edgecolor": GRID, "axes.labelcolor": MUTED, "xtick.color": MUTED, "ytick.color": MUTED,
             "text.color": INK, "font.size": 10, "axes.spines.top": False, "axes.spines.right": False}  # fmt: skip
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(width, height), layout="constrained")
        panels = list(figure.subplots(1, count, squeeze=False)[0])
    for axes in panels:
        axes.tick_params(length=0)
        axes.set_axisbelow(True)
    return figure, panels


def draw_heads(saliency: Saliency, kept: Kept | None) -> Figure:
    """Draw head saliency, layers x heads; cut heads are crossed."""
    layers = [layer.numpy() for layer in saliency.heads]
    width = max(map(len, layers))
    figure, axes = make_figure(0.9 + 0.27 * len(layers))
    scale = scale_logarithmically(np.concatenate(layers))
    left = None if kept is None else keep_by_layer(kept, "heads", len(layers))
    for number, layer in enumerate(layers):
        for head, value in enumerate(layer):
            is_cut = left is not None and head not in left[number]
            fate = "" if left is None else ", cut" if is_cut else ", kept"
            draw_cell(axes, head, number, 1, value, scale, f"layer {number}, head {head}: {value:.3g}{fate}")
            if is_cut:
                outline = [withStroke(linewidth=3.2, foreground="#00000088")]
                axes.plot(head + 0.5, number + 0.5, "x", color="#ffffff", markersize=7, mew=1.6, path_effects=outline)
    finish_map(figure, axes, scale, width, len(layers))
    axes.set_xticks(np.arange(width) + 0.5, [str(head) for head in range(width)])
    axes.set_xlabel("head")
    return figure


def draw_neurons(saliency: Saliency, kept: Kept | None) -> Figure:
    """Draw each layer's neurons, the most salient to the left, in strips; a line stands where the cut fell."""
    layers = [np.sort(layer.numpy())[::-1] for layer in saliency.neurons]
    figure, axes = make_figure(0.9 + 0.27 * len(layers))
    rows = [[float(part.mean()) for part in np.array_split(layer, min(STRIPS, len(layer)))] for layer in layers]
    scale = scale_logarithmically(np.concatenate([*map(np.array, rows)]))
    left = None if kept is None else keep_by_layer(kept, "neurons", len(layers))
    for number, (layer, row) in enumerate(zip(layers, rows, strict=True)):
        for place, value in enumerate(row):
            share = 100 / len(row)
            tip = f"layer {number}, neurons {place * share:.0f}% to {(place + 1) * share:.0f}% by rank: {value:.3g}"
            draw_cell(axes, place * share, number, share, value, scale, tip)
        if left is not None:
            share = 100 * len(left[number]) / max(len(layer), 1)
            outline = [withStroke(linewidth=4, foreground="#00000088")]
            axes.plot([share] * 2, [number + 0.06, number + 0.94], color="#ffffff", lw=2, path_effects=outline)
    finish_map(figure, axes, scale, 100, len(layers))
    axes.set_xticks([0, 25, 50, 75, 100], ["0%", "25%", "50%", "75%", "100%"])
    axes.set_xlabel("neurons of the layer, most salient first")
    return figure


def scale_logarithmically(values: np.ndarray) -> Normalize:
    """Return a scale over the positive values; its lowest thousandth is all one colour."""
    positive = values[np.isfinite(values) & (values > 0)]
    if not len(positive) or positive.min() == positive.max():
        return Normalize(0, max(float(values.max(initial=0)), 1e-12))
    return LogNorm(max(float(positive.min()), float(positive.max()) / 1000), float(positive.max()), clip=True)


def draw_cell(axes: Axes, x: float, y: float, width: float, value: float, scale: Normalize, tip: str) -> None:
    colour = matplotlib.colormaps[MAP](float(scale(value if value > 0 else scale.vmin or 0)))
    gap = 0.05 if width == 1 else 0
    seam = 0 if width == 1 else 0.15 * width  # strips overlap, or the card shines through between them
    cell = Rectangle((x + gap, y + 0.06), width - 2 * gap + seam, 0.88, facecolor=colour, linewidth=0, gid=TIP + tip)
    axes.add_patch(cell)


def finish_map(figure: Figure, axes: Axes, scale: Normalize, width: float, height: int) -> None:
    axes.set(xlim=(0, width), ylim=(height, 0), ylabel="layer")
    axes.set_yticks(np.arange(height) + 0.5, [str(layer) for layer in range(height)])
    axes.spines[:].set_visible(False)
    low, high = scale.vmin or 0.0, scale.vmax or 1.0
    values = np.geomspace(low, high, 33) if isinstance(scale, LogNorm) else np.linspace(low, high, 33)
    key = axes.inset_axes((0.5, 1.04, 0.5, 0.12 / max(0.27 * height, 0.3)))
    for place, value in enumerate(values[:-1]):
        colour = matplotlib.colormaps[MAP](float(scale(value)))
        key.add_patch(Rectangle((place, 0), min(1.5, 32 - place), 1, facecolor=colour, linewidth=0))
    key.set(xlim=(-4, 39), ylim=(0, 1), yticks=[], xticks=[])
    key.spines[:].set_visible(False)
    for place, words, side in ((-1, f"{low:.1g}", "right"), (33, f"{high:.1g}", "left")):
        key.text(place, 0.45, words, ha=side, va="center", color=MUTED, fontsize=9.5)


def keep_by_layer(kept: Kept, axis: str, layers: int) -> list[tuple[int, ...]]:
    """Return what each of the teacher's layers keeps of an axis; a layer that was cut keeps nothing."""
    chosen = range(layers) if kept.layers is None else kept.layers
    places = dict(zip(chosen, getattr(kept, axis), strict=True))
    return [places.get(layer, ()) for layer in range(layers)]


def draw_cut(saliency: Saliency, kept: Kept) -> Figure:
    """Draw the share of heads and of neurons that each layer keeps."""
    layers = len(saliency.heads)
    figure, axes = make_figure(0.8 + 0.36 * layers)
    for axis, colour, shift in (("heads", SERIES[0], -0.2), ("neurons", SERIES[2], 0.2)):
        left = keep_by_layer(kept, axis, layers)
        for number, whole in enumerate(getattr(saliency, axis)):
            share = 100 * len(left[number]) / max(len(whole), 1)
            tip = f"{TIP}layer {number}: {len(left[number]):,} of {len(whole):,} {axis} kept"
            axes.barh(number + shift, 100, height=0.34, color=FAINT, gid=tip)
            axes.barh(number + shift, share, height=0.34, color=colour, gid=tip, label="" if number else f"{axis} kept")
    axes.set(xlim=(0, 100), ylim=(layers - 0.4, -0.6), ylabel="layer")
    axes.set_yticks(range(layers), [str(layer) for layer in range(layers)])
    axes.set_xticks([0, 25, 50, 75, 100], ["0%", "25%", "50%", "75%", "100%"])
    axes.spines[:].set_visible(False)
    handles = [Rectangle((0, 0), 1, 1, color=colour) for colour in (SERIES[0], SERIES[2])]
    figure.legend(handles, ["heads kept", "neurons kept"], loc="outside upper left", ncols=2, **LEGEND)
    return figure


LEGEND: dict[str, Any] = {"frameon": False, "labelcolor": INK, "handlelength": 1.4, "columnspacing": 1.2}


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
    """Draw both directions of translation retrieval over the steps."""
    names = {f"validation/{key}": words for key, words in DIRECTIONS.items()}
    return draw_curves(records, names, styles=("-", "--"))


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
        if cost in row
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
            plot_point(axes, point, f"{point.stage}: {{}}", cost, colour=STAGES.get(point.stage, INK))
        label_points(axes, points)
        return figure
    colours = {run: SERIES[place % len(SERIES)] for place, run in enumerate(runs)}
    for point in points:
        words = f"{point.run}, {point.stage}: {{}}"
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
            plot_point(axes, point, f"{point.stage}: {{}}", cost, colour=SERIES[0])
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
    tip = TIP + words.format(f"{point.quality:.4f} at {point.cost:.4g} {cost}")
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


def draw_languages(drift: Drift) -> Figure:
    """Draw how the student's cosines to the teacher are spread in each language."""
    of = list(drift.stages.values())[-1]
    figure, axes = make_figure(2.7)
    low = float(np.quantile(np.concatenate([of.cosine_en, of.cosine_ru]), 0.002))
    edges = np.linspace(min(low, 0.999), 1, 33)
    for language, cosines, colour in (("English", of.cosine_en, SERIES[2]), ("Russian", of.cosine_ru, SERIES[1])):
        counts, _ = np.histogram(np.clip(cosines, edges[0], edges[-1]), edges)
        shares = 100 * counts / len(cosines)
        axes.stairs(shares, edges, color=colour, linewidth=1.8, label=language)
        axes.stairs(shares, edges, color=colour, fill=True, alpha=0.18)
        tip = f"{TIP}{language}: mean {cosines.mean():.4f}"
        axes.axvline(cosines.mean(), color=colour, linewidth=1.4, linestyle=":", gid=tip)
    axes.set(xlabel="cosine to the teacher (dotted: the mean)", ylabel="% of sentences")
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.spines[:].set_visible(False)
    axes.legend(loc="upper left", **LEGEND)
    return figure


def draw_lengths(drift: Drift) -> Figure:
    """Draw the student's mean cosine by the sentence's length, with 95% intervals."""
    means = split_by_length(drift, list(drift.stages)[-1])
    names = [name for name in name_lengths() if any(name in by_name for by_name in means.values())]
    figure, axes = make_figure(2.7)
    for (language, by_name), colour, shift in zip(means.items(), (SERIES[2], SERIES[1]), (-0.08, 0.08), strict=True):
        places = [number for number, name in enumerate(names) if name in by_name]
        found = [by_name[names[place]] for place in places]
        axes.plot(np.array(places) + shift, [mean.value for mean in found], color=colour, lw=1.4, label=language)
        for place, mean in zip(places, found, strict=True):
            tip = f"{TIP}{language}, {names[place]} words: {mean.value:.4f}, {mean.count:,} sentences"
            axes.plot([place + shift] * 2, [mean.low, mean.high], color=colour, linewidth=1.6)
            axes.plot(place + shift, mean.value, "o", color=colour, markersize=5, gid=tip)
    axes.set(xlabel="words in the sentence", ylabel="cosine to the teacher")
    axes.set_xticks(range(len(names)), names)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.spines[:].set_visible(False)
    figure.legend(loc="outside upper left", ncols=2, **LEGEND)
    return figure

"""Maps of saliency by layer, and what was cut."""

from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke

from secateur.pruning.scores import Saliency
from secateur.pruning.selection import Kept
from secateur.reports.figures.drawing import FAINT, INK, MAP, MUTED, SERIES, STRIPS, TIP, make_figure


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

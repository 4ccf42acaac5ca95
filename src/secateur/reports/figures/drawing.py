"""What every picture shares: colours, sizes, figures and panels."""

from dataclasses import dataclass
from typing import Any, Literal

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from secateur.reports.record import Record

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


def note_start(figure: Figure, axis: Literal["vertical", "horizontal"] = "vertical") -> str:
    """Return where an axis starts, in words, if that is above zero: differences then look larger than they are."""
    axes = figure.axes[0]
    low = min(axes.get_ylim() if axis == "vertical" else axes.get_xlim())
    return f"The {axis} axis starts at {low:.3g}, not at zero." if low > 0 else ""


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

"""Draw quality against size: `python docs/sizes.py` writes docs/sizes.svg from experiments/sizes.csv.

A row there is a model: its parameters, Mean S by the best pooling, as the public leaderboard counts, and by its own
vector where that was measured; its kind is published, teacher, secateur or a rival, `label` where its name stands.
"""

import csv
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

ROOT = Path(__file__).parents[1]
KINDS = {  # colour, marker, name in the legend
    "published": ("#7d8791", "o", "published rows"),
    "teacher": ("#1e4fa3", "D", "the teacher, as measured here"),
    "secateur": ("#0f6b64", "*", "secateur's students of it"),
    "rival": ("#9a4b0c", "s", "other ways from the same teacher"),
}

PLACES: dict[str, dict] = {  # where a model's name stands
    "above": {"xytext": (0, 8), "ha": "center"},
    "left": {"xytext": (-9, -3), "ha": "right"},
    "right": {"xytext": (9, -3), "ha": "left"},
}


def read_rows(path: Path) -> list[dict[str, str]]:
    """Return the models of a table."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def draw_sizes(rows: list[dict[str, str]]) -> Figure:
    """Return the picture: parameters on a logarithmic axis, Mean S by the best pooling; below it a bar to the own."""
    figure = Figure(figsize=(8, 4.6), layout="constrained")
    axes = figure.subplots()
    for kind, (colour, marker, name) in KINDS.items():
        chosen = [row for row in rows if row["kind"] == kind]
        if not chosen:
            continue
        sizes, best = ([float(row[key]) for row in chosen] for key in ("parameters", "best"))
        axes.scatter(sizes, best, s=150 if marker == "*" else 50, c=colour, marker=marker, label=name, zorder=3)
        for row, size, value in zip(chosen, sizes, best, strict=True):
            axes.annotate(
                f"{row['model']} {value:.3f}".replace(" 0.", " ."), (size, value), fontsize=8, color=colour,
                textcoords="offset points", **PLACES[row["label"]],
            )  # fmt: skip
            if row["own"]:
                axes.plot([size, size], [float(row["own"]), value], color=colour, lw=1, zorder=2)
    axes.set_xscale("log")
    axes.set_xlabel("parameters")
    axes.set_ylabel("encodechka, Mean S (the bar: down to the own vector's)")
    ticks = (1e6, 3e6, 1e7, 3e7, 1e8)
    axes.set_xticks(ticks, [f"{tick / 1e6:g}M" for tick in ticks])
    axes.minorticks_off()
    axes.margins(x=0.2, y=0.15)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right", fontsize=8)
    return figure


def main() -> None:
    """Write the picture; the same table gives the same file."""
    matplotlib.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "sizes"}
    figure = draw_sizes(read_rows(ROOT / "experiments" / "sizes.csv"))
    figure.savefig(ROOT / "docs" / "sizes.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()

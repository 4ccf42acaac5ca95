"""Where vectors left the teacher's: by language and by length."""

import numpy as np
from matplotlib.figure import Figure

from secateur.evaluation.drift import Drift, name_lengths, split_by_length
from secateur.reports.figures.drawing import GRID, SERIES, TIP, make_figure
from secateur.reports.figures.saliency import LEGEND


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

"""How far the similarities between sentences moved when their vectors took another form."""

from dataclasses import dataclass

import numpy as np
from scipy.stats import spearmanr

from secateur.evaluation.search import choose_highest

NEIGHBOURS = 10


@dataclass(frozen=True)
class Shift:
    """Over all pairs of sentences, before against after: difference, the mean of |after - before|, None where the two
    are not on one scale; spearman, their rank correlation. neighbours: the share of a sentence's ten nearest that are
    among its ten nearest after."""

    difference: float | None
    spearman: float
    neighbours: float


def measure_shift(before: np.ndarray, after: np.ndarray, *, on_one_scale: bool = True) -> Shift:
    """Compare the products of rows before [n, D] and after [n, d]; n is at least 3."""
    old, new = before @ before.T, after @ after.T  # [n, n]
    pairs = np.triu_indices(len(before), 1)
    difference = float(np.abs(new[pairs] - old[pairs]).mean()) if on_one_scale else None
    return Shift(difference, float(spearmanr(old[pairs], new[pairs]).statistic), share_neighbours(old, new))


def share_neighbours(old: np.ndarray, new: np.ndarray) -> float:
    """Return the share of each row's nearest others by `old` that are so by `new` too; similarities [n, n]."""
    count = min(NEIGHBOURS, len(old) - 2)  # with all others taken, the share would be 1
    found = [find_nearest(each, count) for each in (old, new)]
    return float(np.mean([np.isin(*rows).mean() for rows in zip(*found, strict=True)]))


def find_nearest(similarities: np.ndarray, count: int) -> np.ndarray:
    """Return each row's `count` most similar others [n, count]; of equally similar ones the first."""
    others = similarities.astype(np.float64)
    np.fill_diagonal(others, -np.inf)
    return choose_highest(others, count)

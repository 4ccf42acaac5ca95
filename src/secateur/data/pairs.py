"""Parallel sentences in columns.

A row is a pair of translations or, if not `paired`, two sentences too short to be compared with each other:
output matching, which needs no pairs, uses every row; everything else uses paired rows only.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from secateur.data.sources import FREQUENT


@dataclass(frozen=True)
class Pairs:
    """Rows as columns. `paired` is False where the two sides serve as two sentences, not as a pair."""

    en: list[str]
    ru: list[str]
    source: list[str]
    paired: list[bool]

    def __len__(self) -> int:
        return len(self.en)

    @property
    def texts(self) -> "Pairs":
        """The rows that somebody wrote: all but lists of frequent words."""
        return self.take([row for row, source in enumerate(self.source) if source != FREQUENT])

    @property
    def translations(self) -> "Pairs":
        return self.take(np.flatnonzero(self.paired).tolist())

    def take(self, rows: Sequence[int]) -> "Pairs":
        return Pairs(
            [self.en[row] for row in rows],
            [self.ru[row] for row in rows],
            [self.source[row] for row in rows],
            [self.paired[row] for row in rows],
        )

    def weigh(self, source_weights: Mapping[str, float]) -> np.ndarray:
        """Return each row's weight, float64 [rows]: its source's, or 1."""
        return np.array([source_weights.get(source, 1.0) for source in self.source], np.float64)

    def draw(self, count: int, source_weights: Mapping[str, float]) -> "Pairs":
        """Return `count` rows, or as many as weigh something, each as often as its source's weight says: systematic
        sampling (Madow 1944). Without weights they are the first."""
        if not source_weights:
            return self.take(range(min(count, len(self))))
        weights = self.weigh(source_weights)
        count = min(count, int(np.count_nonzero(weights)))
        points = (np.arange(count) + 0.5) * (weights.sum() / max(count, 1))
        return self.take(np.searchsorted(np.cumsum(weights), points).tolist())


@dataclass(frozen=True)
class ParallelCorpus:
    """What stages train on and are judged by: no sentence is on both sides, and held-out rows are all paired."""

    train: Pairs
    held_out: Pairs
    missing: tuple[str, ...] = ()  # wheels that could not be had, as "name version"

"""Several encoders on encodechka and on the probe: does the probe rank them as encodechka does?

Both means are of the encoders' own vectors over the eight sentence tasks. A pair that the two benchmarks order
differently is shown with the 95% interval of its difference on each of them, from a paired bootstrap over the items of
every task (Efron & Tibshirani 1993, chapter 13): a swap whose interval holds zero is one that the items at hand cannot
decide.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr
from sklearn.feature_extraction.text import HashingVectorizer, TfidfVectorizer

from secateur.encoders.vectors import VectorSource
from secateur.evaluation import encodechka
from secateur.evaluation.benchmark_data import SENTENCE_PARTS, Examples, read_examples
from secateur.evaluation.encodechka import SentenceEncoder, bootstrap_mean, score_examples
from secateur.evaluation.leaderboard import SENTENCE_TASKS
from secateur.evaluation.probe import FOLDER, read_parts

log = logging.getLogger(__name__)

BENCHMARKS = ("encodechka", "probe")
TFIDF_TERMS = 2_000  # the most frequent character n-grams


@dataclass(frozen=True)
class Standing:
    """One encoder's mean on each benchmark, and that mean over resampled items, the same items for every encoder."""

    name: str
    neural: bool
    means: Mapping[str, float]
    draws: Mapping[str, np.ndarray]  # [repeats]

    @property
    def is_known(self) -> bool:
        """Whether it has a mean on both: a task whose pairs are all equally similar to it leaves it none."""
        return all(math.isfinite(mean) for mean in self.means.values())


@dataclass(frozen=True)
class Swap:
    """Two encoders that the benchmarks order differently: their difference and its 95% interval on each."""

    better: str  # on encodechka
    worse: str
    differences: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]]

    @property
    def is_undecided(self) -> bool:
        """Zero lies within the interval of a benchmark: its items do not tell the two encoders apart."""
        return any(low <= 0 <= high for low, high in self.intervals.values())


@dataclass(frozen=True)
class Ranking:
    standings: tuple[Standing, ...]  # the best on encodechka first
    swaps: tuple[Swap, ...]

    def agreement(self, *, neural: bool = False) -> float:
        """Return Spearman's rank correlation of the two means, over all encoders or the neural ones.

        NaN, not defined, of fewer than two that are ranked, and where all have the same mean.
        """
        chosen = [each for each in self.standings if (each.neural or not neural) and each.is_known]
        means = [[each.means[name] for each in chosen] for name in BENCHMARKS]
        if len(chosen) < 2 or any(min(side) == max(side) for side in means):
            return math.nan
        return float(spearmanr(*means).statistic)


def read_benchmarks(data: Path, probe: Path = FOLDER) -> dict[str, dict[str, list[Examples]]]:
    """Return the examples of both benchmarks by task. Raises InputError: a file is missing or damaged."""
    return {
        "encodechka": {task: [read_examples(data, part) for part in SENTENCE_PARTS[task]] for task in SENTENCE_TASKS},
        "probe": {task: read_parts(probe, task) for task in SENTENCE_TASKS},
    }


def measure_standing(
    encoder: SentenceEncoder | VectorSource,
    name: str,
    benchmarks: Mapping[str, Mapping[str, Sequence[Examples]]],
    *,
    neural: bool = True,
    progress: str = "",
) -> Standing:
    """Score an encoder's own vector on each benchmark."""
    means, draws = {}, {}
    for benchmark, parts in benchmarks.items():
        outcomes = score_examples(encoder, parts, own_only=True, progress=progress and f"{progress} {benchmark}")
        means[benchmark] = float(np.mean([vectors["own"].score for vectors in outcomes.values()]))
        draws[benchmark] = bootstrap_mean(outcomes)
    log.info("%s: %s", name, ", ".join(f"{benchmark} {mean:.4f}" for benchmark, mean in means.items()))
    return Standing(name, neural, means, draws)


def rank(standings: Sequence[Standing]) -> Ranking:
    """Return the encoders by their encodechka mean, and every pair that the probe orders the other way."""
    ordered = sorted(standings, key=lambda each: -each.means["encodechka"] if each.is_known else math.inf)
    swaps = []
    for better, worse in combinations(filter(lambda each: each.is_known, ordered), 2):
        differences = {name: better.means[name] - worse.means[name] for name in BENCHMARKS}
        if differences["probe"] < 0:
            bounds = {name: np.quantile(better.draws[name] - worse.draws[name], [0.025, 0.975]) for name in BENCHMARKS}
            intervals = {name: (float(low), float(high)) for name, (low, high) in bounds.items()}
            swaps.append(Swap(better.name, worse.name, differences, intervals))
    return Ranking(tuple(ordered), tuple(swaps))


@dataclass(frozen=True)
class TermVectors:
    """A vector that counts terms: what an encoder has to beat. It has no training but for the weights of TF-IDF."""

    name: str
    dimension: int
    vectorizer: HashingVectorizer | TfidfVectorizer

    @property
    def fingerprint(self) -> str:
        return self.name

    def encode(self, sentences: Sequence[str]) -> np.ndarray:
        """Return float32 [sentences, dimension]; a sentence without a known term gets equal numbers everywhere."""
        vectors: np.ndarray = self.vectorizer.transform(sentences).toarray().astype(np.float32)
        vectors[~vectors.any(axis=1)] = 1.0
        return vectors


def term_baselines(sentences: Sequence[str]) -> list[TermVectors]:
    """Return hashed words in 300 and in 1,000 dimensions, and TF-IDF of character n-grams, weighted on `sentences`."""
    hashed = [
        TermVectors(f"hashing_{size}", size, HashingVectorizer(n_features=size, alternate_sign=False))
        for size in (300, 1_000)
    ]
    letters = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), max_features=TFIDF_TERMS, sublinear_tf=True)
    letters.fit(sentences)
    return [*hashed, TermVectors("char TF-IDF", len(letters.vocabulary_), letters)]


def list_sentences(benchmarks: Mapping[str, Mapping[str, Sequence[Examples]]]) -> list[str]:
    """Return every distinct sentence of the benchmarks."""
    return list(dict.fromkeys(text for parts in benchmarks.values() for text in encodechka.list_sentences(parts)))

"""What encodechka's scores are worth: one model's scores, their mean, and the published rows beside them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

SENTENCE_TASKS = ("STS", "PI", "NLI", "SA", "TI", "IA", "IC", "ICX")  # Mean S is their mean
WORD_TASKS = ("NE1", "NE2")

# The leaderboard in the README of github.com/avidale/encodechka (August 2023): best pooling of each task.
PUBLISHED = {
    "cointegrated/LaBSE-en-ru": {
        "STS": 0.79, "PI": 0.66, "NLI": 0.43, "SA": 0.76, "TI": 0.95, "IA": 0.77, "IC": 0.79, "ICX": 0.77,
        "NE1": 0.35, "NE2": 0.42, "Mean S": 0.739,
    },
    "sentence-transformers/LaBSE": {
        "STS": 0.79, "PI": 0.66, "NLI": 0.43, "SA": 0.76, "TI": 0.95, "IA": 0.77, "IC": 0.79, "ICX": 0.76,
        "NE1": 0.35, "NE2": 0.41, "Mean S": 0.739,
    },
    "cointegrated/rubert-tiny2": {
        "STS": 0.75, "PI": 0.65, "NLI": 0.42, "SA": 0.74, "TI": 0.94, "IA": 0.75, "IC": 0.76, "ICX": 0.64,
        "NE1": 0.36, "NE2": 0.39, "Mean S": 0.704,
    },
}  # fmt: skip


@dataclass(frozen=True)
class Scores:
    """One model's scores: by task, then by vector ("own" first, then cls, cls_norm, ...). Word tasks have only "own".

    A task whose score is undefined (every pair equally similar) holds NaN.
    """

    tasks: dict[str, dict[str, float]]
    benchmark: str = "encodechka"  # or probe
    interval: tuple[float, float] | None = None  # 95%, of the mean of the own vector's sentence tasks
    # of the own vector by task, the items drawn anew, the same for every encoder; not part of what is dumped
    draws: dict[str, np.ndarray] = field(default_factory=dict, compare=False, repr=False)

    @property
    def own(self) -> dict[str, float]:
        return {task: vectors["own"] for task, vectors in self.tasks.items()}

    @property
    def best(self) -> dict[str, float]:
        return {task: self.tasks[task][vector] for task, vector in self.best_vector.items()}

    @property
    def best_vector(self) -> dict[str, str]:
        """Which vector scored highest on each task; the first of equals, so "own" if it is among them."""
        return {
            task: max(vectors, key=lambda name: -math.inf if math.isnan(vectors[name]) else vectors[name])
            for task, vectors in self.tasks.items()
        }


def mean_s(scores: Mapping[str, float]) -> float | None:
    """Return the mean of the eight sentence tasks, or None if one is missing or undefined."""
    values = [scores.get(task, math.nan) for task in SENTENCE_TASKS]
    return None if any(map(math.isnan, values)) else sum(values) / len(values)


def mean_draws(draws: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the mean over the sentence tasks of each draw [draws]."""
    means: np.ndarray = np.mean([draws[task] for task in SENTENCE_TASKS if task in draws], axis=0)
    return means


def dump_scores(scores: Scores) -> dict[str, Any]:
    """Return the scores as plain JSON types, undefined ones as None; `load_scores` reads them back."""
    tasks = {
        task: {vector: None if math.isnan(score) else score for vector, score in vectors.items()}
        for task, vectors in scores.tasks.items()
    }
    means = {"own": mean_s(scores.own), "best": mean_s(scores.best)}
    plain = {"benchmark": scores.benchmark, "mean_s": means, "tasks": tasks, "best_vector": scores.best_vector}
    return plain if scores.interval is None else {**plain, "interval": list(scores.interval)}


def load_scores(plain: dict[str, Any]) -> Scores:
    interval = plain.get("interval")
    return Scores(
        {
            task: {vector: math.nan if score is None else score for vector, score in vectors.items()}
            for task, vectors in plain["tasks"].items()
        },
        benchmark=plain.get("benchmark", "encodechka"),
        interval=None if interval is None else (interval[0], interval[1]),
    )


def say_passed(mean: float | None) -> str:
    """Return one line that says which published models a Mean S (of the best poolings, as theirs) passes."""
    if mean is None:
        return "Mean S needs all eight sentence tasks"
    rows = {f"{name} ({row['Mean S']:.3f})": mean > row["Mean S"] for name, row in PUBLISHED.items()}
    passed = ", ".join(name for name, is_passed in rows.items() if is_passed) or "none"
    ahead = ", ".join(name for name, is_passed in rows.items() if not is_passed) or "none"
    return f"Mean S {mean:.3f}: passed: {passed}; still ahead: {ahead}"

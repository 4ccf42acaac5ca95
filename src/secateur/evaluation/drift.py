"""Where a student's vectors left its teacher's: held-out sentences one by one, kept in a run's record."""

import json
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from secateur.data.files import write_json
from secateur.evaluation.validation import Comparison

DIGITS = 5  # of a cosine that is kept
LENGTHS = (4, 8, 12, 16, 24, 32)  # words: up to 4, 5 to 8, ...


@dataclass(frozen=True)
class Drift:
    """Held-out pairs, and what each stage's encoder makes of them; the student is the last."""

    en: list[str]
    ru: list[str]
    stages: dict[str, Comparison]


@dataclass(frozen=True)
class Sentence:
    """A held-out sentence, its translation, and its cosine to the teacher."""

    text: str
    translation: str
    language: str
    cosine: float


@dataclass(frozen=True)
class Mean:
    """A mean over sentences or pairs and its 95% interval, 1.96 standard errors each way."""

    count: int
    value: float
    low: float
    high: float


def average(values: np.ndarray) -> Mean:
    """Return the mean of values that are independent of each other, and its interval."""
    value = float(np.mean(values))
    margin = 1.96 * float(np.std(values, ddof=1)) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return Mean(len(values), value, value - margin, value + margin)


def find_worst(drift: Drift, stage: str, count: int) -> list[Sentence]:
    """Return the `count` sentences whose vectors lie farthest from the teacher's, the farthest first."""
    of = drift.stages[stage]
    sentences = [
        *map(Sentence, drift.en, drift.ru, ["English"] * len(drift.en), of.cosine_en.tolist()),
        *map(Sentence, drift.ru, drift.en, ["Russian"] * len(drift.ru), of.cosine_ru.tolist()),
    ]
    return sorted(sentences, key=lambda sentence: sentence.cosine)[:count]


def split_by_length(drift: Drift, stage: str) -> dict[str, dict[str, Mean]]:
    """Return the mean cosine by language, then by the sentence's length in words; what has no sentence is left out."""
    of = drift.stages[stage]
    sides = {"English": (drift.en, of.cosine_en), "Russian": (drift.ru, of.cosine_ru)}
    return {language: by_length(texts, cosines) for language, (texts, cosines) in sides.items()}


def by_length(texts: list[str], cosines: np.ndarray) -> dict[str, Mean]:
    places = np.searchsorted(LENGTHS, [len(text.split()) for text in texts])
    return {
        name: average(cosines[places == place]) for place, name in enumerate(name_lengths()) if (places == place).any()
    }


def name_lengths() -> list[str]:
    """Return the names of the classes of length, shortest first."""
    middle = [f"{low + 1}-{high}" for low, high in pairwise(LENGTHS)]
    return [f"1-{LENGTHS[0]}", *middle, f"over {LENGTHS[-1]}"]


def save_drift(drift: Drift, path: Path) -> None:
    """Write a drift as JSON; `load_drift` reads it back, cosines to five digits."""
    stages = {
        name: {
            "cosine_en": np.round(of.cosine_en.astype(float), DIGITS).tolist(),
            "cosine_ru": np.round(of.cosine_ru.astype(float), DIGITS).tolist(),
            "en_ru": of.en_ru.astype(int).tolist(),
            "ru_en": of.ru_en.astype(int).tolist(),
        }
        for name, of in drift.stages.items()
    }
    write_json(path, {"en": drift.en, "ru": drift.ru, "stages": stages}, indent=None)


def load_drift(path: Path) -> Drift:
    """Read what `save_drift` wrote. Raises ValueError, KeyError or TypeError: it is anything else."""
    plain: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    en, ru = plain["en"], plain["ru"]
    if not all(isinstance(side, list) and all(isinstance(text, str) for text in side) for side in (en, ru)):
        raise TypeError("en, ru: not lists of sentences")
    stages = {}
    for name, of in plain["stages"].items():
        columns = [np.asarray(of[key], np.float64) for key in ("cosine_en", "cosine_ru", "en_ru", "ru_en")]
        if not all(each.shape == (len(en),) and np.isfinite(each).all() for each in columns):
            raise ValueError(f"{name}: not a number for each pair")
        stages[name] = Comparison(columns[0], columns[1], columns[2].astype(bool), columns[3].astype(bool))
    if not stages or not en or len(en) != len(ru):
        raise ValueError("no stages, or no pairs")
    return Drift(en, ru, stages)

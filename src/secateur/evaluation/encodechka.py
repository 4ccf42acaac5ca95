"""The encodechka benchmark: eight sentence tasks and two word tasks, scored as the original package does.

STS, PI   pairs: Spearman correlation of the label with the dot product of the two vectors
NLI       pairs: accuracy of logistic regression on that dot product alone, 3-fold cross-validation
SA IC ICX accuracy, the better of logistic regression and 3 nearest neighbours (ICX learns on English, is tested
          on Russian)
TI, IA    area under the ROC curve of logistic regression
NE1, NE2  macro F1 of a linear classifier on word vectors, over the entity labels

The original reports each task's best pooling. Here comes first the model's own sentence vector, which is what
users get. Source: github.com/avidale/encodechka.
"""

import logging
import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from razdel import tokenize
from scipy.stats import spearmanr
from sklearn.linear_model import LogisticRegression, SGDClassifier
from sklearn.metrics import f1_score, roc_auc_score
from sklearn.model_selection import KFold, cross_val_predict, train_test_split
from sklearn.neighbors import KNeighborsClassifier

from secateur.config.errors import InputError
from secateur.data.progress import progress_bar
from secateur.encoders.forms import scale_rows
from secateur.encoders.vectors import VectorSource, encode_units
from secateur.evaluation.benchmark_data import (
    SENTENCE_PARTS,
    WORD_FILES,
    Entities,
    Examples,
    read_entities,
    read_examples,
)
from secateur.evaluation.leaderboard import SENTENCE_TASKS, WORD_TASKS, Scores, mean_draws

log = logging.getLogger(__name__)

NORM = "_norm"
ROUNDING = 1e-6  # of float32 dot products, relative: the order of what differs by less is that of rounding


@runtime_checkable
class SentenceEncoder(Protocol):
    """What is scored. `poolings` gives [sentences, D] arrays: "own", the model's own sentence vector, and
    where it has them the raw "cls", "mean" and "pooler"."""

    def poolings(self, sentences: Sequence[str], *, batch_size: int, progress: str) -> dict[str, np.ndarray]: ...


@runtime_checkable
class WordEncoder(Protocol):
    """An encoder of texts already split into words: one [words, D] array a text.

    A word's vector is the mean of its tokens' last hidden states, the whole text encoded at once; a word
    behind the model's length limit is zeros. No prompt stands before the text: its words would be no words of it.
    """

    def word_vectors(self, texts: Sequence[Sequence[str]], *, batch_size: int, progress: str) -> list[np.ndarray]: ...


def score_encodechka(
    encoder: SentenceEncoder | VectorSource,
    data: Path,
    *,
    tasks: Sequence[str] = SENTENCE_TASKS + WORD_TASKS,
    own_only: bool = False,
    batch_size: int = 64,
    progress: str = "",
) -> Scores:
    """Score an encoder on the benchmark's files in `data`.

    What is scored is the model's own vector and, unless `own_only`, its cls, mean and pooler, raw and normalised; of
    a source of vectors, those at unit length. Every distinct sentence is embedded once. An encoder that gives no word
    vectors has no NE1 and NE2. Raises InputError: files missing or damaged, too few examples, vectors that are not
    finite.
    """
    started = time.monotonic()
    parts = {
        task: [read_examples(data, part) for part in SENTENCE_PARTS[task]] for task in tasks if task in SENTENCE_PARTS
    }
    outcomes = score_examples(encoder, parts, own_only=own_only, batch_size=batch_size, progress=progress)
    scores = take_scores(outcomes)
    for task in tasks:
        if task in WORD_FILES and isinstance(encoder, WordEncoder):
            entities = read_entities(data / WORD_FILES[task])
            scores[task] = {"own": score_words(encoder, entities, batch_size, progress and f"{progress} {task}")}
    log.info("encodechka: %d tasks in %.0f s", len(scores), time.monotonic() - started)
    ordered = {task: scores[task] for task in tasks if task in scores}
    return Scores(ordered, draws={} if own_only else bootstrap(outcomes))


@dataclass(frozen=True)
class Outcome:
    """What a task came to, item by item, and the statistic of it that is the score."""

    columns: tuple[np.ndarray, ...]  # one value an item: label and dot product, hit or miss, label and probability
    statistic: Callable[..., float]

    @property
    def score(self) -> float:
        return self.statistic(*self.columns)

    def resample(self, rows: np.ndarray) -> float:
        """Return the score of some items, each as often as it is named."""
        return self.statistic(*(column[rows] for column in self.columns))


Outcomes = dict[str, dict[str, Outcome]]  # by task, then by vector


def take_scores(outcomes: Outcomes) -> dict[str, dict[str, float]]:
    return {task: {name: each.score for name, each in vectors.items()} for task, vectors in outcomes.items()}


def bootstrap(outcomes: Outcomes, *, repeats: int = 500, seed: int = 0) -> dict[str, np.ndarray]:
    """Return each task's score of the own vector, `repeats` times, the items drawn anew.

    The same seed draws the same items for every encoder, so that two encoders' differences can be taken draw by draw
    (Efron & Tibshirani 1993, chapter 13).
    """
    generator = np.random.default_rng(seed)
    draws: dict[str, np.ndarray] = {}
    for task, vectors in outcomes.items():
        own = vectors["own"]
        count = len(own.columns[0])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of few items a draw may be all of one label: its score is NaN
            draws[task] = np.array([own.resample(generator.integers(count, size=count)) for _ in range(repeats)])
    return draws


def bootstrap_mean(outcomes: Outcomes, *, repeats: int = 500, seed: int = 0) -> np.ndarray:
    """Return the mean over tasks of what `bootstrap` draws [repeats]."""
    return mean_draws(bootstrap(outcomes, repeats=repeats, seed=seed))


@dataclass(frozen=True)
class Embedded:
    """A part with its vectors [N, D], one array a text column."""

    vectors: tuple[np.ndarray, ...]
    labels: np.ndarray


def score_examples(
    encoder: SentenceEncoder | VectorSource,
    parts: Mapping[str, Sequence[Examples]],
    *,
    own_only: bool = False,
    batch_size: int = 64,
    progress: str = "",
) -> Outcomes:
    """Return each task's outcome by vector; `parts` holds the examples of each of STS, PI, NLI, SA, TI, IA, IC, ICX."""
    if not parts:
        return {}
    rows = {sentence: row for row, sentence in enumerate(list_sentences(parts))}
    pooled = pool(encoder, list(rows), batch_size, progress)
    check_finite(pooled, list(rows))
    others = [] if own_only else name_others(pooled)
    twins = [name for name in others if is_close(pick(pooled, name), pooled["own"])]  # own under another name
    outcomes: Outcomes = {}
    for task, examples in progress_bar(progress and f"{progress} tasks", parts.items(), total=len(parts), unit="tasks"):
        scored = {
            name: measure(task, [look_up(part, rows, pooled, name) for part in examples])
            for name in ("own", *others)
            if name not in twins
        }
        outcomes[task] = {name: scored.get(name, scored["own"]) for name in ("own", *others)}
    return outcomes


def measure(task: str, parts: Sequence[Embedded]) -> Outcome:
    """Return a task's outcome. Raises InputError: its examples are too few, or of too few or too many labels."""
    try:
        return MEASURES[task](*parts)
    except ValueError as error:  # of the classifiers: fewer examples than folds or neighbours, a part of one label
        examples = " and ".join(f"{len(part.labels):,}" for part in parts)
        raise InputError(f"{task}: {examples} examples cannot be scored: {str(error).splitlines()[0]}") from None


def list_sentences(parts: Mapping[str, Sequence[Examples]]) -> list[str]:
    """Return every distinct sentence of the tasks, in order."""
    texts = (text for examples in parts.values() for part in examples for column in part.texts for text in column)
    return list(dict.fromkeys(texts))


def pool(
    encoder: SentenceEncoder | VectorSource, sentences: list[str], batch_size: int, progress: str
) -> dict[str, np.ndarray]:
    if isinstance(encoder, SentenceEncoder):
        return encoder.poolings(sentences, batch_size=batch_size, progress=progress)
    return {"own": encode_units(encoder, sentences, progress=progress)}


def check_finite(pooled: dict[str, np.ndarray], sentences: Sequence[str]) -> None:
    """Raise InputError for a vector that is not finite; the first of its sentences is named."""
    for name, vectors in pooled.items():
        flawed = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
        if len(flawed):
            raise InputError(
                f"the encoder cannot be scored: {len(flawed):,} of its {len(vectors):,} {name} vectors are not finite, "
                f"the first is that of {sentences[flawed[0]][:60]!r}"
            )


def name_others(pooled: dict[str, np.ndarray]) -> list[str]:
    """Return every pooling but own, raw and normalised."""
    return [name + form for name in pooled if name != "own" for form in ("", NORM)]


def pick(pooled: dict[str, np.ndarray], name: str, where: Any = slice(None)) -> np.ndarray:
    vectors: np.ndarray = pooled[name.removesuffix(NORM)][where]  # [N, D]
    return scale_rows(vectors) if name.endswith(NORM) else vectors


def is_close(one: np.ndarray, other: np.ndarray) -> bool:
    return one.shape == other.shape and np.allclose(one, other, rtol=0, atol=1e-5)


def look_up(part: Examples, rows: dict[str, int], pooled: dict[str, np.ndarray], name: str) -> Embedded:
    vectors = (pick(pooled, name, [rows[sentence] for sentence in column]) for column in part.texts)
    return Embedded(tuple(vectors), np.asarray(part.labels))


def correlate(pairs: Embedded) -> Outcome:
    return Outcome((pairs.labels, dot_products(pairs)), rank_correlation)


def rank_correlation(labels: np.ndarray, products: np.ndarray) -> float:
    """Return Spearman's correlation; NaN, undefined, where all labels or, but for rounding, all products are equal."""
    if np.ptp(labels) == 0 or np.ptp(products) <= ROUNDING * np.abs(products).max():
        return math.nan
    return float(spearmanr(labels, products).statistic)


def accuracy(hits: np.ndarray) -> float:
    return float(np.mean(hits))


def dot_products(pairs: Embedded) -> np.ndarray:
    one, other = pairs.vectors
    products: np.ndarray = (one * other).sum(axis=1)  # [N]
    return products


def cross_validate(pairs: Embedded) -> Outcome:
    folds = KFold(n_splits=3, shuffle=True, random_state=1)
    predicted = cross_val_predict(regression(), dot_products(pairs)[:, np.newaxis], pairs.labels, cv=folds)
    return Outcome((predicted == pairs.labels,), accuracy)


def regression() -> LogisticRegression:
    return LogisticRegression(max_iter=10_000)


def classify(train: Embedded, test: Embedded) -> Outcome:
    """Return the better of logistic regression and 3 nearest neighbours."""
    (known,), (asked,) = train.vectors, test.vectors
    # float64: in float32 the solver stops elsewhere (SA of a 6-layer model: 0.7033 against 0.7040)
    regressed = regression().fit(known.astype(np.float64), train.labels).predict(asked.astype(np.float64))
    neighbours = KNeighborsClassifier(n_neighbors=3, weights="distance").fit(known, train.labels).predict(asked)
    both = [Outcome((predicted == test.labels,), accuracy) for predicted in (regressed, neighbours)]
    return max(both, key=lambda outcome: outcome.score)


def separate(train: Embedded, test: Embedded) -> Outcome:
    """Return the area under the ROC curve of logistic regression's probability of label 1."""
    labels = {*train.labels.tolist(), *test.labels.tolist()}
    if len(labels) != 2:
        raise ValueError(f"{len(labels)} different labels, not two")
    (known,), (asked,) = train.vectors, test.vectors
    model = regression().fit(known.astype(np.float64), train.labels)
    return Outcome((test.labels, model.predict_proba(asked.astype(np.float64))[:, 1]), area_under_curve)


def area_under_curve(labels: np.ndarray, probabilities: np.ndarray) -> float:
    return float(roc_auc_score(labels, probabilities))


MEASURES: dict[str, Callable[..., Outcome]] = {
    "STS": correlate,
    "PI": correlate,
    "NLI": cross_validate,
    "SA": classify,
    "TI": separate,
    "IA": separate,
    "IC": classify,
    "ICX": classify,
}


def score_words(encoder: WordEncoder, data: Entities, batch_size: int, progress: str) -> float:
    """Return macro F1 over the entity labels: half of the texts train a linear classifier, the rest test it."""
    split = [label_words(*text) for text in zip(data.texts, data.entities, strict=True)]
    vectors = encoder.word_vectors([words for words, _ in split], batch_size=batch_size, progress=progress)
    if not all(np.isfinite(of_text).all() for of_text in vectors):
        raise InputError("the encoder cannot be scored: word vectors of it are not finite")
    labels = [np.array(row, dtype=object) for _, row in split]
    known, asked, answers, truth = map(np.concatenate, train_test_split(vectors, labels, test_size=0.5, random_state=1))
    entities = sorted(set(truth) - {"O"})
    if not entities or len(set(answers)) < 2:
        raise InputError(f"NE1, NE2: {len(split):,} texts have too few entities to learn from and to be tested on")
    # n_jobs: one binary classifier a label, each the same whichever thread fits it
    model = SGDClassifier(loss="log_loss", random_state=1, tol=1e-4, n_jobs=-1).fit(known, answers.astype(str))
    return float(f1_score(truth.astype(str), model.predict(asked), labels=entities, average="macro", zero_division=0))


def label_words(text: str, entities: Sequence[tuple[str, int, int]]) -> tuple[list[str], list[str]]:
    """Split a text into words and mark each B-type (begins an entity), I-type (goes on with it) or O.

    A word that two entities share goes to the first. The first word of a text is always O: the original's
    test of a word's number takes 0 for none, and its published scores have that in them.
    """
    tokens = list(tokenize(text))
    labels = ["O"] * len(tokens)
    for kind, start, end in entities:
        inside = [n for n, token in enumerate(tokens) if token.start < end and token.stop > start and n > 0]
        free = [n for n in inside if labels[n] == "O"]
        for n in free:
            labels[n] = ("B-" if n == free[0] else "I-") + kind
    return [token.text for token in tokens], labels

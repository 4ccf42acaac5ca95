"""Exact search by cosine, and how well it finds the relevant documents: nDCG@10, accuracy@1, recall@10, MRR@10.

The measures are those of trec_eval, which BEIR and MTEB report, computed for each query and then averaged. What an
average may be off by comes from drawing the queries anew (Efron & Tibshirani 1993, chapter 13): the same ones for
every model, so that the difference of two models has an interval of its own, narrower than those of its sides.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

DEPTH = 10  # documents of a ranking that are looked at
ROWS = 1_024  # queries compared with a part of the documents at a time


@dataclass(frozen=True)
class Nearest:
    """The documents found for each query, the most similar first.

    places: int64 [queries, found], a document's place among all; similarities: float32 [queries, found].
    """

    places: np.ndarray
    similarities: np.ndarray


def search(queries: np.ndarray, parts: Iterable[np.ndarray], *, count: int = DEPTH) -> Nearest:
    """Return for each query the `count` documents of the highest dot product, or all where there are fewer.

    `queries`: float32 [Q, D]; `parts`: the documents, float32 [n, D] at a time, so that neither their vectors nor
    the [Q, documents] similarities need fit in memory. Of equally similar documents the earlier one comes first.
    """
    best = Nearest(np.empty((len(queries), 0), np.int64), np.empty((len(queries), 0), np.float32))
    start = 0
    for part in parts:
        found = [search_part(queries[row : row + ROWS], part, start, count) for row in range(0, len(queries), ROWS)]
        best = merge(best, found, count)
        start += len(part)
    return best


def search_part(queries: np.ndarray, part: np.ndarray, start: int, count: int) -> Nearest:
    """Return the ranking of a part of the documents, the first of which has place `start` among all."""
    similarities = queries @ part.T  # [q, n]
    columns = choose_highest(similarities, count)
    return Nearest(start + columns, np.take_along_axis(similarities, columns, axis=1))


def choose_highest(values: np.ndarray, count: int) -> np.ndarray:
    """Return for each row the columns of its highest values, the highest first; of equal ones the first come first.

    int64 [rows, min(count, columns)].
    """
    if values.shape[1] <= count:
        return np.argsort(-values, axis=1, kind="stable")
    chosen = np.sort(np.argpartition(-values, count - 1, axis=1)[:, :count], axis=1)
    lowest = np.take_along_axis(values, chosen, axis=1).min(axis=1, keepdims=True)
    # a partition takes any of the values equal to the lowest; such rows are few and sorted whole
    for row in np.flatnonzero((values >= lowest).sum(axis=1) > count):
        chosen[row] = np.sort(np.argsort(-values[row], kind="stable")[:count])
    order = np.argsort(-np.take_along_axis(values, chosen, axis=1), axis=1, kind="stable")
    return np.take_along_axis(chosen, order, axis=1)


def merge(best: Nearest, found: Sequence[Nearest], count: int) -> Nearest:
    """Return the best of what was found before and of what a later part of the documents, by rows, has."""
    if not found:
        return best
    places = np.concatenate([best.places, np.concatenate([each.places for each in found])], axis=1)
    similarities = np.concatenate([best.similarities, np.concatenate([each.similarities for each in found])], axis=1)
    columns = choose_highest(similarities, count)
    return Nearest(np.take_along_axis(places, columns, axis=1), np.take_along_axis(similarities, columns, axis=1))


MEASURES = {"ndcg": "nDCG@10", "accuracy": "accuracy@1", "recall": "recall@10", "mrr": "MRR@10"}


def measure(gains: np.ndarray, relevant: Sequence[Sequence[float]]) -> dict[str, np.ndarray]:
    """Return each measure for each query, float64 [queries].

    `gains` [queries, found]: the relevance g_r of the document found at rank r, 0 where it is not relevant, at most
    DEPTH of them; `relevant`: the relevances, all above 0, of each query's relevant documents, found or not.

    ndcg: DCG of the ranking over DCG of the best one possible, DCG = sum over r of g_r / log2(r + 1) (Järvelin &
    Kekäläinen 2002, with the gain and the discount of trec_eval). accuracy: whether the first is relevant. recall: the
    share of the relevant documents that is found. mrr: 1 / the rank of the first relevant one, 0 where none is found.
    """
    ideal = np.zeros((len(relevant), DEPTH))
    for row, values in enumerate(relevant):
        highest = sorted(values, reverse=True)[:DEPTH]
        ideal[row, : len(highest)] = highest
    hits = gains > 0
    ranks = np.arange(1, gains.shape[1] + 1)
    return {
        "ndcg": discount(gains) / discount(ideal),
        "accuracy": hits[:, 0].astype(np.float64),
        "recall": hits.sum(axis=1) / np.array([len(values) for values in relevant]),
        "mrr": (hits / ranks).max(axis=1),
    }


def discount(gains: np.ndarray) -> np.ndarray:
    """Return the DCG of rows of gains in the order of their ranks."""
    ranks = np.arange(1, gains.shape[1] + 1)
    total: np.ndarray = (gains / np.log2(ranks + 1)).sum(axis=1)
    return total


def find_gains(ranking: Nearest, documents: Sequence[str], relevance: Sequence[Mapping[str, float]]) -> np.ndarray:
    """Return the relevance of each document of a ranking to its query, float64 [queries, found].

    `documents`: the ids in the order of the search; `relevance`: by query, that of the relevant ones by id.
    """
    rows = zip(ranking.places.tolist(), relevance, strict=True)
    return np.array([[of.get(documents[place], 0.0) for place in places] for places, of in rows], np.float64)

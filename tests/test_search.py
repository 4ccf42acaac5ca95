"""Exact search and its measures: against a dense reference, by hand, against scikit-learn; what a mean is off by."""

import numpy as np
import pytest
from sklearn.metrics import ndcg_score

from secateur.evaluation.intervals import bootstrap_interval, mean_error
from secateur.evaluation.search import DEPTH, find_gains, measure, search


def draw(rows: int, *, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, 8)).astype(np.float32)


@pytest.mark.parametrize("sizes", [(97,), (1, 3, 93), (50, 47), (9,), ()], ids=str)
def test_search_in_parts_finds_what_a_dense_one_does(sizes: tuple[int, ...]) -> None:
    queries, documents = draw(30, seed=0), draw(sum(sizes), seed=1)
    parts = np.split(documents, np.cumsum(sizes)[:-1]) if sizes else []
    nearest = search(queries, parts)
    similarities = queries @ documents.T
    expected = np.argsort(-similarities, axis=1, kind="stable")[:, :DEPTH]
    np.testing.assert_array_equal(nearest.places, expected)
    np.testing.assert_allclose(
        nearest.similarities, np.take_along_axis(similarities, expected, axis=1), rtol=1e-5, atol=1e-6
    )


def test_more_queries_than_are_compared_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    queries, documents = draw(30, seed=2), draw(50, seed=3)
    whole = search(queries, [documents])
    monkeypatch.setattr("secateur.evaluation.search.ROWS", 7)
    np.testing.assert_array_equal(search(queries, [documents]).places, whole.places)


@pytest.mark.parametrize("cut", [1, 5, 12, 29])
def test_of_equally_similar_documents_the_first_come_first(cut: int) -> None:
    query = np.array([[1.0, 0.0]], np.float32)
    # whole numbers: their products are exact, so that equal ones are equal in any part
    documents = np.array([[value, 1] for value in [3, 1, 2, 2, 1, 3, 2, 1, 1, 2] * 3], np.float32)
    nearest = search(query, [documents[:cut], documents[cut:]])
    assert nearest.places[0].tolist() == [0, 5, 10, 15, 20, 25, 2, 3, 6, 9]


def test_measures_by_hand() -> None:
    # found: relevance 0, 2, 1; relevant but not found: 3
    values = measure(np.array([[0.0, 2.0, 1.0]]), [[1, 2, 3]])
    best = 3 + 2 / np.log2(3) + 1 / 2
    assert values["ndcg"][0] == pytest.approx((2 / np.log2(3) + 1 / 2) / best)
    assert values["accuracy"][0] == 0
    assert values["recall"][0] == pytest.approx(2 / 3)
    assert values["mrr"][0] == pytest.approx(1 / 2)


def test_finding_all_in_the_best_order_is_worth_one_and_finding_nothing_nothing() -> None:
    values = measure(np.array([[3.0, 1.0], [0.0, 0.0]]), [[1, 3], [2]])
    assert {name: column.tolist() for name, column in values.items()} == {
        name: [1.0, 0.0] for name in ("ndcg", "accuracy", "recall", "mrr")
    }


def test_of_more_relevant_documents_than_are_looked_at_ten_are_the_best_possible() -> None:
    values = measure(np.ones((1, DEPTH)), [[1] * 25])
    assert values["ndcg"][0] == pytest.approx(1)
    assert values["recall"][0] == pytest.approx(10 / 25)


def test_ndcg_is_that_of_scikit_learn() -> None:
    generator = np.random.default_rng(4)
    queries, documents = draw(40, seed=5), draw(60, seed=6)
    relevance = generator.choice([0, 0, 0, 0, 1, 2, 3], size=(40, 60))
    relevance[:, 0] = 1  # of every query something is relevant
    names = [f"d{place}" for place in range(60)]
    judged = [{names[place]: float(row[place]) for place in np.flatnonzero(row)} for row in relevance]
    gains = find_gains(search(queries, np.array_split(documents, 4)), names, judged)
    values = measure(gains, [list(of.values()) for of in judged])
    for row, similarities in enumerate(queries @ documents.T):
        assert values["ndcg"][row] == pytest.approx(ndcg_score([relevance[row]], [similarities], k=DEPTH))


def test_a_relevant_document_that_is_not_searched_is_never_found() -> None:
    nearest = search(np.eye(2, dtype=np.float32), [np.eye(2, dtype=np.float32)])
    relevance = [{"a": 1.0, "elsewhere": 1.0}, {"elsewhere": 1.0}]
    values = measure(find_gains(nearest, ["a", "b"], relevance), [list(of.values()) for of in relevance])
    assert values["recall"].tolist() == [0.5, 0]
    assert values["ndcg"][0] == pytest.approx(1 / (1 + 1 / np.log2(3)))


def test_the_interval_of_many_values_is_that_of_their_normal_mean() -> None:
    values = np.random.default_rng(7).uniform(size=2_000)
    low, high = bootstrap_interval(values)
    half = mean_error(values)
    assert half is not None
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.15 * half)


def test_equal_values_leave_no_doubt() -> None:
    assert bootstrap_interval(np.full(20, 0.5)) == (0.5, 0.5)

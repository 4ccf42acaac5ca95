"""What is not defined is said in words or is one line of an error; no table shows nan."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import MakeEncoder

from secateur.config.errors import InputError, QualityError
from secateur.evaluation.benchmark_data import Entities, Examples
from secateur.evaluation.encodechka import rank_correlation, score_examples, score_words
from secateur.evaluation.leaderboard import SENTENCE_TASKS, Scores
from secateur.evaluation.probe import score_probe
from secateur.evaluation.ranking import Standing, rank
from secateur.evaluation.scores import HeldOut, compare_stages
from secateur.reports.display import Evaluation
from secateur.reports.text import format_benchmark, format_ranking


class Spoiled:
    """An encoder whose vectors are all the same, or those of sentences with a word in it not finite."""

    def __init__(self, value: float, word: str = "") -> None:
        self.value, self.word = value, word

    def poolings(self, sentences: Sequence[str], *, batch_size: int, progress: str) -> dict[str, np.ndarray]:
        vectors = np.ones((len(sentences), 4), np.float32) / 2
        vectors[[self.word in sentence for sentence in sentences]] = self.value
        return {"own": vectors}


def test_an_encoder_that_sees_no_difference_has_dashes_and_a_word_on_why() -> None:
    scores = score_probe(Spoiled(0.5))
    assert math.isnan(scores.own["STS"])
    assert scores.interval is None
    for table in (
        format_benchmark({"flat": scores}),
        str(Evaluation("flat", scores)),
        Evaluation("flat", scores)._repr_html_(),
    ):
        assert "nan" not in table
    assert "flat: STS, PI not defined: to its own vector every pair is equally similar" in format_benchmark(
        {"flat": scores}
    )
    full = Scores(scores.tasks)
    assert "nan" not in format_benchmark({"flat": full})


def test_rounding_is_no_order() -> None:
    labels = np.arange(100.0)
    noise = 1 - np.random.default_rng(0).integers(0, 2, 100) * np.float32(6e-8)
    assert math.isnan(rank_correlation(labels, noise))
    assert rank_correlation(labels, labels * 1e-3) == pytest.approx(1)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_vector_that_is_not_finite_is_one_line_that_names_its_sentence(value: float) -> None:
    examples = Examples((["one", "two", "bad three"], ["a", "b", "c"]), [1.0, 2.0, 3.0])
    with pytest.raises(InputError, match="1 of its 6 own vectors are not finite, the first is that of 'bad three'"):
        score_examples(Spoiled(value, "bad"), {"STS": [examples]}, own_only=True)


PAIRS = (["a", "b"], ["c", "d"])
FEW: list[tuple[str, list[Examples]]] = [
    ("NLI", [Examples(PAIRS, ["x", "y"])]),  # fewer than folds
    ("SA", [Examples((["a", "b"],), ["x", "y"]), Examples((["c"],), ["x"])]),  # fewer than neighbours
    ("TI", [Examples((["a", "b", "c"],), [0, 1, 2]), Examples((["d", "e"],), [0, 2])]),  # three labels
    ("IA", [Examples((["a", "b"],), [1, 1]), Examples((["d", "e"],), [0, 1])]),  # one label to learn from
]


@pytest.mark.parametrize(("task", "parts"), FEW)
def test_too_few_examples_are_one_line(task: str, parts: list[Examples]) -> None:
    with pytest.raises(InputError, match=f"^{task}: .* examples cannot be scored: "):
        score_examples(Spoiled(0.1, "a"), {task: parts}, own_only=True)


class Words:
    def __init__(self, value: float) -> None:
        self.value = value

    def word_vectors(self, texts: Sequence[Sequence[str]], *, batch_size: int, progress: str) -> list[np.ndarray]:
        return [np.full((len(words), 3), self.value) for words in texts]


@pytest.mark.parametrize(
    ("value", "entities", "words"),
    [(math.nan, [("drug", 4, 8)], "word vectors of it are not finite"), (1.0, [], "too few entities")],
)
def test_word_tasks_without_a_score_are_one_line(value: float, entities: Any, words: str) -> None:
    data = Entities(["one drug helps"] * 4, [entities] * 4)
    with pytest.raises(InputError, match=words):
        score_words(Words(value), data, 8, "")


def test_an_encoder_without_a_mean_is_ranked_last_and_counts_for_no_agreement() -> None:
    draws = {name: np.zeros(5) for name in ("encodechka", "probe")}
    means = {"a": (0.5, 0.6), "b": (0.7, 0.8), "flat": (math.nan, 0.9)}
    standings = [
        Standing(name, True, {"encodechka": one, "probe": other}, draws) for name, (one, other) in means.items()
    ]
    ranking = rank(standings[::-1])
    assert [each.name for each in ranking.standings] == ["b", "a", "flat"]
    assert ranking.agreement() == pytest.approx(1)
    text = format_ranking(ranking)
    assert "nan" not in text
    assert "flat: not ranked" in text
    alone = format_ranking(rank(standings[2:]))
    assert "not defined over all" in alone
    same = rank([Standing(name, True, dict.fromkeys(draws, 0.5), draws) for name in "ab"])
    assert math.isnan(same.agreement())


def test_a_stage_whose_vectors_are_not_finite_is_one_line(make_encoder: MakeEncoder) -> None:
    encoder = make_encoder(seed=3)
    units = np.eye(2, encoder.dimension, dtype=np.float32)
    held_out = HeldOut(["one", "two"], ["раз", "два"], units, units)
    with torch.no_grad():
        next(encoder.transformer.parameters()).fill_(math.nan)
    with pytest.raises(QualityError, match=r"^pruned: its vectors of held-out sentences are not finite"):
        compare_stages({"pruned": encoder}, held_out)


def test_every_task_of_the_probe_is_scored_where_vectors_differ() -> None:
    class Lengths(Spoiled):
        def poolings(self, sentences: Sequence[str], *, batch_size: int, progress: str) -> dict[str, np.ndarray]:
            rows = [[len(text), text.count(" "), text.count("о"), 1] for text in sentences]
            return {"own": np.array(rows, np.float32)}

    own = score_probe(Lengths(0.0)).own
    assert own.keys() == set(SENTENCE_TASKS)
    assert all(map(math.isfinite, own.values()))


def test_a_record_without_files_is_no_run(tmp_path: Path) -> None:
    from secateur.reports.record import find_run

    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no such run"):
        find_run("empty", tmp_path)

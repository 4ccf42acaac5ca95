"""Ranks on two benchmarks: agreement, swaps and what a paired bootstrap says of them."""

import math
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT

from secateur.cli import main
from secateur.evaluation.benchmark_data import Examples
from secateur.evaluation.ranking import Standing, TermVectors, measure_standing, rank, term_baselines
from secateur.reports.text import format_ranking

ENCODECHKA = ROOT / "../shared/data/encodechka"


def stand(name: str, encodechka: float, probe: float, *, spread: float, seed: int, neural: bool = True) -> Standing:
    noise = np.random.default_rng(seed).normal(0, spread, 500)
    draws = {"encodechka": encodechka + noise, "probe": probe + noise}
    return Standing(name, neural, {"encodechka": encodechka, "probe": probe}, draws)


def test_equal_orders_agree_and_swap_nothing() -> None:
    ranking = rank([stand("b", 0.5, 0.6, spread=0.01, seed=0), stand("a", 0.7, 0.8, spread=0.01, seed=1)])
    assert [each.name for each in ranking.standings] == ["a", "b"]
    assert ranking.agreement() == pytest.approx(1)
    assert ranking.swaps == ()
    assert "no pair changes places" in format_ranking(ranking)


def test_spearman_of_one_neighbouring_swap_among_four_is_four_fifths() -> None:
    means = {"a": (0.9, 0.8), "b": (0.8, 0.9), "c": (0.7, 0.7), "d": (0.6, 0.6)}
    ranking = rank([stand(name, *both, spread=0.01, seed=0) for name, both in means.items()])
    assert ranking.agreement() == pytest.approx(1 - 6 * 2 / (4 * 15))
    (swap,) = ranking.swaps
    assert (swap.better, swap.worse) == ("a", "b")
    assert swap.differences == pytest.approx({"encodechka": 0.1, "probe": -0.1})


def test_the_same_draws_for_both_leave_no_doubt_and_independent_wide_ones_do() -> None:
    """A paired bootstrap: what moves both encoders alike cancels."""
    paired = rank([stand("a", 0.7, 0.6, spread=0.5, seed=0), stand("b", 0.6, 0.7, spread=0.5, seed=0)])
    assert paired.swaps[0].intervals["probe"] == pytest.approx((-0.1, -0.1))
    assert not paired.swaps[0].is_undecided
    apart = rank([stand("a", 0.7, 0.6, spread=0.5, seed=0), stand("b", 0.6, 0.7, spread=0.5, seed=1)])
    low, high = apart.swaps[0].intervals["probe"]
    assert low == pytest.approx(-0.1 - 1.96 * 0.5 * math.sqrt(2), abs=0.2)
    assert high == pytest.approx(-0.1 + 1.96 * 0.5 * math.sqrt(2), abs=0.2)
    assert apart.swaps[0].is_undecided
    assert "not told apart" in format_ranking(apart)


def test_agreement_of_the_neural_ones_leaves_the_others_out() -> None:
    ranking = rank(
        [
            stand("a", 0.9, 0.9, spread=0.01, seed=0),
            stand("b", 0.8, 0.8, spread=0.01, seed=0),
            stand("letters", 0.1, 1.0, spread=0.01, seed=0, neural=False),
        ]
    )
    assert ranking.agreement(neural=True) == pytest.approx(1)
    assert ranking.agreement() < 0


def test_term_vectors_are_alike_for_the_same_words_and_finite_for_none() -> None:
    sentences = ["кошка спит на окне", "на окне спит кошка", "поезд ушёл", "…"]
    for source in term_baselines(sentences):
        assert isinstance(source, TermVectors)
        vectors = source.encode(sentences)
        assert vectors.shape == (4, source.dimension)
        units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        assert units[0] @ units[1] > 0.9 > units[0] @ units[2] + 0.4
        assert np.isfinite(units).all()


def test_a_standing_is_the_mean_over_tasks_and_its_draws_scatter_around_it() -> None:
    words = ["мама", "мыла", "раму", "пока", "папа", "читал", "газету", "у", "окна"]
    sentences = [" ".join(words[: 2 + number % 7]) for number in range(30)]
    examples = Examples(([" ".join(words)] * 30, sentences), [float(number % 5) for number in range(30)])
    source = term_baselines(sentences)[1]
    standing = measure_standing(source, "words", {"probe": {"STS": [examples], "PI": [examples]}})
    alone = measure_standing(source, "words", {"probe": {"STS": [examples]}})
    assert standing.means["probe"] == pytest.approx(alone.means["probe"])
    assert standing.draws["probe"].shape == (500,)


@pytest.mark.skipif(not ENCODECHKA.is_dir(), reason="encodechka's data are not here")
def test_one_encoder_cannot_be_ranked(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rank", "models/one", "--data", str(ENCODECHKA)]) == 2
    assert "name two models or more" in capsys.readouterr().err


def test_without_the_data_nothing_is_ranked(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["rank", "--baselines", "--data", str(tmp_path / "nowhere")]) == 2
    assert "nowhere: no such folder" in capsys.readouterr().err

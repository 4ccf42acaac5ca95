"""Drift on cases solved by hand."""

from pathlib import Path

import numpy as np
import pytest

from secateur.evaluation.drift import Drift, average, find_worst, load_drift, name_lengths, save_drift, split_by_length
from secateur.evaluation.validation import Comparison, compare

EN, RU = ["one two", "a b c d e", "x"], ["раз", "два три", "э ю я"]
OF = Comparison(
    np.array([0.9, 0.5, 0.7]), np.array([0.8, 0.2, 0.6]), np.array([True, False, True]), np.array([True, True, False])
)


def test_the_worst_of_both_languages_come_first() -> None:
    worst = find_worst(Drift(EN, RU, {"student": OF}), "student", 3)
    assert [(each.text, each.language, each.cosine) for each in worst] == [
        ("два три", "Russian", 0.2), ("a b c d e", "English", 0.5), ("э ю я", "Russian", 0.6),
    ]  # fmt: skip
    assert worst[0].translation == "a b c d e"


def test_sentences_are_sorted_by_their_words() -> None:
    by_length = split_by_length(Drift(EN, RU, {"student": OF}), "student")
    assert name_lengths() == ["1-4", "5-8", "9-12", "13-16", "17-24", "25-32", "over 32"]
    assert {name: (mean.count, round(mean.value, 6)) for name, mean in by_length["English"].items()} == {
        "1-4": (2, 0.8), "5-8": (1, 0.5),
    }  # fmt: skip
    assert by_length["Russian"].keys() == {"1-4"}


def test_an_interval_is_two_standard_errors_each_way() -> None:
    mean = average(np.array([1.0, 2.0, 3.0, 4.0]))
    assert mean.high - mean.value == pytest.approx(1.96 * np.sqrt(5 / 3) / 2)
    assert average(np.array([0.5])).low == 0.5


def test_a_drift_reads_back_as_it_was(tmp_path: Path) -> None:
    drift = Drift(EN, RU, {"teacher": OF, "student": OF})
    save_drift(drift, tmp_path / "drift.json")
    back = load_drift(tmp_path / "drift.json")
    assert (back.en, back.ru, list(back.stages)) == (EN, RU, ["teacher", "student"])
    for name in ("cosine_en", "cosine_ru", "en_ru", "ru_en"):
        assert np.array_equal(getattr(back.stages["student"], name), getattr(OF, name))


def test_a_vector_compared_with_itself_has_not_drifted() -> None:
    units = np.eye(3, dtype=np.float32)
    same = compare(units, units, units, units)
    assert same.means.cosine == 1
    assert same.en_ru.all()
    turned = compare(units, units[[1, 0, 2]], units, units)
    assert turned.en_ru.tolist() == [False, False, True]
    assert turned.means.cosine == pytest.approx((1 + 1 / 3) / 2)

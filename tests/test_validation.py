"""Held-out scores on cases solved by hand."""

import numpy as np
import pytest
from conftest import MakeEncoder

from secateur.data.pairs import Pairs
from secateur.encoders.encoder import TorchEncoder, embed
from secateur.evaluation.validation import retrieval, validate


def test_retrieval_is_the_share_of_rows_that_find_their_own() -> None:
    queries = np.array([[1.0, 0], [0, 1], [0.8, 0.6]])
    pool = np.array([[1.0, 0], [0.6, 0.8], [0, 1]])
    assert retrieval(queries, pool) == pytest.approx(1 / 3)  # row 1 finds pool row 2, row 2 finds pool row 1
    assert retrieval(pool, queries) == pytest.approx(1 / 3)  # both finds are mutual
    assert retrieval(queries, queries) == 1


def test_of_equally_similar_rows_the_first_is_found() -> None:
    twice = np.array([[1.0, 0], [1, 0], [0, 1]])
    assert retrieval(twice, twice) == pytest.approx(2 / 3)


def test_retrieval_does_not_depend_on_how_the_queries_are_cut_up() -> None:
    generator = np.random.default_rng(0)
    pool = generator.normal(size=(2500, 8)).astype(np.float32)
    queries = pool + generator.normal(size=pool.shape, scale=0.3).astype(np.float32)
    expected = ((queries @ pool.T).argmax(axis=1) == np.arange(2500)).mean()
    assert retrieval(queries, pool) == pytest.approx(expected)


def test_a_perfect_student_has_cosine_one(teacher: TorchEncoder, pairs: Pairs) -> None:
    en, ru = embed(teacher, pairs.en), embed(teacher, pairs.ru)
    result = validate(teacher, pairs.en, pairs.ru, en, ru, batch_size=8)
    assert result.cosine == pytest.approx(1, abs=1e-6)
    assert result.score == result.cosine
    assert (result.en_ru, result.ru_en) == (retrieval(en, ru), retrieval(ru, en))


def test_cosine_is_the_mean_over_both_languages(make_encoder: MakeEncoder, pairs: Pairs) -> None:
    student, teacher = make_encoder(seed=1), make_encoder(seed=0)
    en, ru = embed(teacher, pairs.en), embed(teacher, pairs.ru)
    own_en, own_ru = embed(student, pairs.en), embed(student, pairs.ru)
    expected = np.mean([(own_en * en).sum(axis=1), (own_ru * ru).sum(axis=1)])
    assert validate(student, pairs.en, pairs.ru, en, ru, batch_size=64).cosine == pytest.approx(expected, abs=1e-6)


def test_the_embedded_teacher_finds_translations(embedded: TorchEncoder, pairs: Pairs) -> None:
    en, ru = embed(embedded, pairs.en), embed(embedded, pairs.ru)
    assert retrieval(en, ru) > 0.9
    assert retrieval(ru, en) > 0.9

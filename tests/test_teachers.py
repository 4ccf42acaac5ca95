"""Teachers of vectors: what their join keeps, what the rotation loses, what is computed once, what is refused."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import MakeEncoder, WriteVectors

from secateur.config.errors import InputError
from secateur.config.teacher import EncoderTeacher, VectorFile
from secateur.distillation import targets
from secateur.distillation.targets import combine_sources, embed_corpus
from secateur.distillation.teachers import (
    EncoderSource,
    EnglishSource,
    JoinedSources,
    ModelSource,
    fingerprint,
    join_sources,
    load_sources,
)
from secateur.distillation.vector_files import StoredVectors, load_vectors
from secateur.encoders.encoder import TorchEncoder, embed
from secateur.encoders.rotation import find_axes
from secateur.encoders.saving import save_encoder
from secateur.encoders.vectors import VectorSource, encode_units
from secateur.pruning.selection import Kept
from secateur.pruning.slicing import slice_encoder


class Drawn:
    """A source whose vector of a sentence is drawn by the sentence's hash; it remembers what it was asked for."""

    def __init__(self, name: str, dimension: int, *, fail_at: int | None = None) -> None:
        self.name, self.dimension, self.fingerprint, self.fail_at = name, dimension, name, fail_at
        self.calls: list[list[str]] = []

    def encode(self, sentences: Sequence[str]) -> np.ndarray:
        self.calls.append(list(sentences))
        if len(self.calls) == self.fail_at:
            raise KeyboardInterrupt
        return np.array([self.draw(sentence) for sentence in sentences])

    def draw(self, sentence: str) -> np.ndarray:
        seed = hashlib.blake2b(f"{self.name} {sentence}".encode(), digest_size=8).digest()
        return 1 + 2 * np.random.default_rng(int.from_bytes(seed, "big")).normal(size=self.dimension)

    @property
    def asked(self) -> list[str]:
        return [sentence for call in self.calls for sentence in call]


class Giving:
    """A model that gives what it was made with, whatever the sentences."""

    def __init__(self, given: Any) -> None:
        self.given = given

    def encode(self, sentences: list[str]) -> Any:
        return self.given


@pytest.fixture
def parts() -> list[Drawn]:
    return [Drawn("aa", 24), Drawn("bb", 16)]


def cosines(vectors: np.ndarray) -> np.ndarray:
    return vectors @ vectors.T


def join(parts: Sequence[VectorSource], weights: Sequence[float], sentences: list[str], dimension: int) -> Any:
    samples = [encode_units(part, sentences) for part in parts]
    return join_sources(parts, weights, samples, dimension=dimension)


def test_the_cosine_of_joined_sources_is_the_weighted_mean_of_their_cosines(
    parts: list[Drawn], sentences: list[str]
) -> None:
    joined = encode_units(join(parts, [3.0, 1.0], sentences, 40), sentences)
    one, other = (encode_units(part, sentences) for part in parts)
    np.testing.assert_allclose(cosines(joined), 0.75 * cosines(one) + 0.25 * cosines(other), atol=1e-6)


def test_padding_keeps_every_cosine(parts: list[Drawn], sentences: list[str]) -> None:
    padded = encode_units(join(parts[:1], [2.0], sentences, 30), sentences)
    assert padded.shape == (len(sentences), 30)
    np.testing.assert_allclose(cosines(padded), cosines(encode_units(parts[0], sentences)), atol=1e-6)


def test_a_full_rotation_keeps_every_cosine(parts: list[Drawn], sentences: list[str]) -> None:
    vectors = encode_units(parts[0], sentences)
    axes, kept = find_axes(vectors, 24)
    assert kept == pytest.approx(1)
    np.testing.assert_allclose(cosines(vectors @ axes), cosines(vectors), atol=1e-5)


@pytest.mark.parametrize("count", [1, 5, 12])
def test_the_axes_are_the_best_projection_of_uncentred_vectors(count: int) -> None:
    vectors = np.random.default_rng(0).normal(size=(200, 12)) * np.linspace(2, 0.1, 12) + 1
    axes, kept = find_axes(vectors, count)
    _, singular, right = np.linalg.svd(vectors, full_matrices=False)
    np.testing.assert_allclose(axes @ axes.T, right[:count].T @ right[:count], atol=1e-5)
    lost = np.linalg.norm(vectors - vectors @ axes @ axes.T)
    assert lost == pytest.approx(np.sqrt((singular[count:] ** 2).sum()), abs=1e-3)
    assert kept == pytest.approx((singular[:count] ** 2).sum() / (singular**2).sum())


def test_the_rotation_keeps_vectors_near_and_does_not_depend_on_the_order_of_the_sample(
    parts: list[Drawn], sentences: list[str]
) -> None:
    joined = join(parts, [1.0, 1.0], sentences, 30)
    again = join(parts, [1.0, 1.0], sentences[::-1], 30)
    np.testing.assert_allclose(joined.rotation, again.rotation, atol=1e-5)
    vectors = encode_units(joined, sentences)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    full = encode_units(join(parts, [1.0, 1.0], sentences, 40), sentences)
    assert np.corrcoef(cosines(vectors).ravel(), cosines(full).ravel())[0, 1] > 0.95


def test_a_joined_source_is_filed_under_its_parts_weights_and_rotation(
    parts: list[Drawn], sentences: list[str]
) -> None:
    joined = join(parts, [1.0, 1.0], sentences, 20)
    assert join(parts, [2.0, 2.0], sentences, 20).fingerprint == joined.fingerprint
    others = [
        join(parts, [1.0, 2.0], sentences, 20),
        join(parts, [1.0, 1.0], sentences, 19),
        join(parts, [1.0, 1.0], sentences[:40], 20),
        JoinedSources((parts[0], Drawn("cc", 16)), joined.weights, joined.rotation),
    ]
    assert len({joined.fingerprint, *(other.fingerprint for other in others)}) == 5


def test_targets_of_joined_sources_are_their_vectors_and_other_weights_embed_nothing_anew(
    parts: list[Drawn], sentences: list[str], tmp_path: Path
) -> None:
    joined = combine_sources(parts, [1.0, 2.0], sentences, tmp_path, dimension=32)
    asked = [*sentences[:7], sentences[3]]
    made = embed_corpus(joined, asked, tmp_path)
    np.testing.assert_allclose(made[range(8)], encode_units(joined, asked), atol=2e-3)
    embed_corpus(joined, sentences, tmp_path)
    for part in parts:
        part.calls.clear()
    heavier = combine_sources(parts, [5.0, 1.0], sentences, tmp_path, dimension=32)
    assert not np.allclose(embed_corpus(heavier, asked, tmp_path)[range(8)], made[range(8)], atol=1e-2)
    assert not [part.calls for part in parts if part.calls]


def test_an_interrupted_join_embeds_no_sentence_twice(
    sentences: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(targets, "SHARD", 8)
    parts = [Drawn("aa", 24), Drawn("bb", 16, fail_at=3)]
    with pytest.raises(KeyboardInterrupt):
        combine_sources(parts, [1.0, 1.0], sentences, tmp_path, dimension=32)
    parts[1].calls.pop()  # the call that failed
    parts[1].fail_at = None
    joined = combine_sources(parts, [1.0, 1.0], sentences, tmp_path, dimension=32)
    made = embed_corpus(joined, sentences, tmp_path)
    assert [sorted(part.asked) for part in parts] == [sorted(sentences)] * 2
    np.testing.assert_allclose(made[range(64)], encode_units(joined, sentences), atol=2e-3)


def test_the_rotation_is_fitted_on_sentences_from_the_whole_corpus(
    parts: list[Drawn], sentences: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(targets, "SAMPLE", 40)
    combine_sources(parts, [1.0, 1.0], sentences, tmp_path, dimension=32)
    assert len(parts[0].asked) == 40
    assert {sentences[0], sentences[-1]} < set(parts[0].asked)


def test_one_source_of_the_dimension_is_itself_and_a_weight_of_zero_leaves_a_source_out(
    parts: list[Drawn], sentences: list[str], tmp_path: Path
) -> None:
    assert combine_sources(parts, [2.0, 0.0], sentences, tmp_path, dimension=24) is parts[0]
    narrower = combine_sources(parts, [2.0, 0.0], sentences, tmp_path, dimension=20)
    assert narrower.dimension == 20
    assert not parts[1].calls
    with pytest.raises(InputError, match="weight of every teacher is 0"):
        combine_sources(parts, [0.0, 0.0], sentences, tmp_path, dimension=24)


def test_an_encoder_is_a_source(teacher: TorchEncoder, sentences: list[str]) -> None:
    source = EncoderSource(teacher)
    assert source.dimension == 32
    assert source.fingerprint == f"{fingerprint(teacher)}-float32"
    np.testing.assert_allclose(encode_units(source, sentences), embed(teacher, sentences), atol=1e-6)


def test_any_object_that_encodes_is_a_source() -> None:
    for given in ([[3.0, 4.0], [0.0, 2.0]], torch.tensor([[3.0, 4.0], [0.0, 2.0]]), np.array([[3e30, 4e30], [0, 2]])):
        source = ModelSource(Giving(given), name="service 1", dimension=2)
        np.testing.assert_allclose(encode_units(source, ["one", "two"]), [[0.6, 0.8], [0, 1]], atol=1e-7)
    assert source.fingerprint != ModelSource(Giving(None), name="service 2", dimension=2).fingerprint


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        (np.ones((1, 2)), "service: gave 1 x 2 numbers for 2 sentences"),
        (np.ones(2), "service: gave 2 numbers for 2 sentences"),
        (np.ones((2, 3)), "service: gave vectors of 3 dimensions, not 2"),
        (np.array([[1, 1], [1, np.nan]]), "service: vector 1 of 2 is not finite; it is that of 'two'"),
        (np.array([[np.inf, 1], [1, 1]]), "service: vector 0 of 2 is not finite; it is that of 'one'"),
        (np.array([[1, 1], [0, 0]]), "service: vector 1 of 2 is all zeros; it is that of 'two'"),
    ],
)
def test_vectors_without_a_direction_are_refused_and_not_kept(
    given: np.ndarray, complaint: str, tmp_path: Path
) -> None:
    source = ModelSource(Giving(given), name="service", dimension=2)
    with pytest.raises(InputError, match=complaint):
        encode_units(source, ["one", "two"])
    with pytest.raises(InputError, match=complaint):
        embed_corpus(source, ["one", "two"], tmp_path)
    assert not list(tmp_path.rglob("*.bin"))


def test_sentences_without_a_vector_are_counted_before_any_work(
    write_vectors: WriteVectors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(targets, "SHARD", 1)
    source = load_vectors(*write_vectors(np.eye(3)))
    asked = ["one", "four", "two", "five"]
    complaint = r"v\.npy: has no vector for 2 of 4 sentences, the first is 'four'"
    with pytest.raises(InputError, match=complaint):
        encode_units(source, asked)
    slow = Drawn("aa", 8)
    joined = JoinedSources((slow, source), (0.5, 0.5), np.eye(11, dtype=np.float32))
    with pytest.raises(InputError, match=complaint):
        embed_corpus(joined, asked, tmp_path / "cache")
    assert not slow.calls


def test_a_teacher_of_english_gives_a_russian_sentence_the_vector_of_its_translation(
    parts: list[Drawn], sentences: list[str], tmp_path: Path
) -> None:
    english = dict(zip(sentences[32:], sentences[:32], strict=True))
    source = EnglishSource(parts[0], english)
    np.testing.assert_array_equal(encode_units(source, sentences[32:]), encode_units(source, sentences[:32]))
    parts[0].calls.clear()
    made = embed_corpus(source, sentences, tmp_path)[range(64)]
    np.testing.assert_array_equal(made[:32], made[32:])
    assert sorted(parts[0].asked) == sorted(set(sentences[:32]))  # nothing is filed under Russian
    joined = combine_sources([source, parts[1]], [1.0, 1.0], sentences, tmp_path, dimension=40)
    both = embed_corpus(joined, sentences, tmp_path)[range(64)]
    own = encode_units(parts[1], sentences)
    expected = 0.5 + 0.5 * (own[:32] * own[32:]).sum(axis=1)
    np.testing.assert_allclose((both[:32] * both[32:]).sum(axis=1), expected, atol=2e-3)
    others = [EnglishSource(parts[0], {}), EnglishSource(parts[1], english)]
    assert len({source.fingerprint, parts[0].fingerprint, *(other.fingerprint for other in others)}) == 4


def test_a_recipe_names_its_teachers(teacher: TorchEncoder, write_vectors: WriteVectors, tmp_path: Path) -> None:
    vectors, sentences = map(str, write_vectors(np.eye(3)))
    save_encoder(teacher, tmp_path / "teacher")
    file = VectorFile(vectors=vectors, sentences=sentences, dimension=3)
    encoder = EncoderTeacher(model=str(tmp_path / "teacher"), max_length=64, dimension=32)
    loaded = load_sources([file, encoder], tmp_path, precision="bf16")
    assert isinstance(loaded[0], StoredVectors)
    assert loaded[1].fingerprint == f"{fingerprint(teacher)}-bf16"
    assert loaded[1].name == str(tmp_path / "teacher")
    wrong = VectorFile(vectors=vectors, sentences=sentences, dimension=4)
    with pytest.raises(InputError, match=r"^teacher\.dimension: 4, but .*v\.npy gives 3$"):
        load_sources([wrong], tmp_path)
    with pytest.raises(InputError, match=r"^teacher\.1\.dimension: 4, but .*v\.npy gives 3$"):
        load_sources([file, wrong], tmp_path)


def test_the_key_is_the_teachers_content(make_encoder: MakeEncoder, ragged: Kept) -> None:
    key = fingerprint(make_encoder())
    used = make_encoder()  # another folder, the same content
    embed(used, ["The cat sleeps."])
    assert fingerprint(used) == key
    others = [
        make_encoder(seed=1),
        make_encoder(pooling="cls"),
        make_encoder(pooling="pooler"),
        make_encoder(heads=2),  # the same weights, read as fewer and wider heads
        slice_encoder(make_encoder(), ragged),
    ]
    shorter = make_encoder()
    shorter.model[0].max_seq_length = 8
    assert len({key, *map(fingerprint, [*others, shorter])}) == 7

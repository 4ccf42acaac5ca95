"""The teacher's vectors on disk: equal to embedding afresh, made once, resumed, and filed under their content."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from secateur.config.errors import InputError
from secateur.distillation import store, targets, teachers
from secateur.distillation.targets import embed_corpus
from secateur.distillation.teachers import EncoderSource
from secateur.encoders.encoder import TorchEncoder, embed


class CountingEmbed:
    """Stands in for `embed`: remembers what it was asked for, and can fail at its n-th call."""

    def __init__(self, fail_at: int | None = None):
        self.calls: list[list[str]] = []
        self.fail_at = fail_at

    def __call__(self, encoder: TorchEncoder, sentences: Sequence[str], **keys: Any) -> np.ndarray:
        self.calls.append(list(sentences))
        if len(self.calls) == self.fail_at:
            raise KeyboardInterrupt
        return embed(encoder, sentences, **keys)

    @property
    def asked(self) -> list[str]:
        return [sentence for call in self.calls for sentence in call]


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> CountingEmbed:
    stand_in = CountingEmbed()
    monkeypatch.setattr(teachers, "embed", stand_in)
    return stand_in


def leftovers(cache: Path) -> list[Path]:
    return [path for path in cache.rglob("*") if path.name.startswith(".")]


def test_targets_are_the_embedded_vectors_up_to_half_precision(
    teacher: TorchEncoder, sentences: list[str], tmp_path: Path
) -> None:
    made = embed_corpus(EncoderSource(teacher), sentences, tmp_path)
    assert len(made) == len(sentences)
    rows = made[range(len(sentences))]
    assert rows.dtype == np.float32
    np.testing.assert_allclose(rows, embed(teacher, sentences), atol=2**-11)
    assert isinstance(made.vectors, np.memmap)


def test_rows_follow_the_order_asked_for_and_duplicates_are_embedded_once(
    teacher: TorchEncoder, sentences: list[str], tmp_path: Path, counting: CountingEmbed
) -> None:
    asked = [sentences[2], sentences[0], sentences[2], sentences[1]]
    made = embed_corpus(EncoderSource(teacher), asked, tmp_path)
    assert sorted(counting.asked) == sorted(set(asked))
    expected = embed(teacher, asked)
    np.testing.assert_allclose(made[[3, 0, 0, 2]], expected[[3, 0, 0, 2]], atol=2**-11)
    np.testing.assert_allclose(made[np.array([1])], expected[[1]], atol=2**-11)


def test_a_second_call_embeds_nothing_and_an_overlapping_corpus_only_what_is_new(
    teacher: TorchEncoder, sentences: list[str], tmp_path: Path, counting: CountingEmbed
) -> None:
    first = embed_corpus(EncoderSource(teacher), sentences[:20], tmp_path)
    again = embed_corpus(EncoderSource(teacher), sentences[:20], tmp_path)
    assert counting.asked == sentences[:20]
    assert np.array_equal(first[range(20)], again[range(20)])
    wider = embed_corpus(EncoderSource(teacher), sentences[10:30], tmp_path)
    assert counting.asked[20:] == sentences[20:30]
    np.testing.assert_allclose(wider[range(20)], embed(teacher, sentences[10:30]), atol=2**-11)


def test_an_interrupted_call_keeps_its_finished_shards_and_goes_on(
    teacher: TorchEncoder, sentences: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(targets, "SHARD", 8)
    monkeypatch.setattr(teachers, "embed", CountingEmbed(fail_at=3))
    with pytest.raises(KeyboardInterrupt):
        embed_corpus(EncoderSource(teacher), sentences[:32], tmp_path)
    (folder,) = tmp_path.iterdir()
    assert (folder / "vectors.bin").stat().st_size == 2 * 8 * teacher.dimension * 2
    assert not leftovers(tmp_path)
    resumed = CountingEmbed()
    monkeypatch.setattr(teachers, "embed", resumed)
    made = embed_corpus(EncoderSource(teacher), sentences[:32], tmp_path)
    assert resumed.asked == sentences[16:32]
    np.testing.assert_allclose(made[range(32)], embed(teacher, sentences[:32]), atol=2**-11)


def test_a_shard_that_cannot_be_written_leaves_the_store_as_it_was(
    teacher: TorchEncoder, sentences: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = embed_corpus(EncoderSource(teacher), sentences[:4], tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    written = store.append

    def fail(path: Path, content: bytes, size: int) -> None:
        written(path, bytes(content)[:10], size)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store, "append", fail)
    with pytest.raises(InputError, match=r"the teacher's vectors cannot be written there: No space left on device"):
        embed_corpus(EncoderSource(teacher), sentences, tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    monkeypatch.undo()
    again = embed_corpus(EncoderSource(teacher), sentences[:4], tmp_path)
    assert np.array_equal(first[range(4)], again[range(4)])


def test_no_sentences_are_no_targets(teacher: TorchEncoder, tmp_path: Path) -> None:
    assert len(embed_corpus(EncoderSource(teacher), [], tmp_path)) == 0

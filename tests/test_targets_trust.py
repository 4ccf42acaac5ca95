"""The teacher's vectors on disk under attack and accident: each sentence has its own teacher's vector, or one line."""

import logging
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import MakeEncoder

from secateur.config.errors import InputError
from secateur.distillation import targets
from secateur.distillation.targets import embed_corpus
from secateur.distillation.teachers import EncoderSource, EnglishSource, ModelSource, join_sources, limit_source
from secateur.encoders.encoder import TorchEncoder, embed
from secateur.encoders.vectors import encode_units

DRAWN = """
import hashlib
import numpy as np

class Drawn:
    name, dimension, fingerprint = "drawn", 8, "drawn"

    def encode(self, sentences):
        seeds = [hashlib.blake2b(text.encode(), digest_size=8).digest() for text in sentences]
        return np.array([np.random.default_rng(int.from_bytes(seed, "big")).normal(size=8) for seed in seeds])
"""
SPACE: dict[str, Any] = {}
exec(DRAWN, SPACE)
Drawn: Any = SPACE["Drawn"]
TEXTS = [f"sentence {number}" for number in range(96)]


class Counting(Drawn):
    """Remembers what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def encode(self, sentences: Sequence[str]) -> Any:
        self.asked += sentences
        return super().encode(sentences)


def check_right(texts: list[str], cache: Path, source: Any = None) -> None:
    made = embed_corpus(source or Drawn(), texts, cache)[range(len(texts))]
    np.testing.assert_allclose(made, encode_units(Drawn(), texts), atol=2**-11)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(targets, "SHARD", 8)


@pytest.fixture
def filed(small: None, tmp_path: Path) -> Path:
    """A store of 96 vectors."""
    embed_corpus(Drawn(), TEXTS, tmp_path)
    return tmp_path / "drawn"


@pytest.mark.usefixtures("small")
def test_writers_of_one_cache_at_once_each_get_their_own_sentences_vectors(tmp_path: Path) -> None:
    corpora = [[f"{number // 2} {row}" for row in range(0, 640, 1 + number % 2)] for number in range(4)]
    with ThreadPoolExecutor(4) as threads:  # a lock is of an open file, so threads lock as processes do
        made = list(threads.map(lambda texts: embed_corpus(Drawn(), texts, tmp_path)[range(len(texts))], corpora))
    for texts, vectors in zip(corpora, made, strict=True):
        np.testing.assert_allclose(vectors, encode_units(Drawn(), texts), atol=2**-11)
    for texts in corpora:
        check_right(texts, tmp_path)


@pytest.mark.usefixtures("small")
def test_what_another_run_files_in_between_moves_no_vector(tmp_path: Path) -> None:
    class Interrupted(Drawn):
        def encode(self, sentences: Sequence[str]) -> Any:
            embed_corpus(Drawn(), [f"{sentences[0]} of another run", *sentences[:3]], tmp_path)
            return super().encode(sentences)

    check_right(TEXTS, tmp_path, Interrupted())
    opened = embed_corpus(Drawn(), TEXTS, tmp_path)
    embed_corpus(Drawn(), [f"later {number}" for number in range(50)], tmp_path)
    np.testing.assert_allclose(opened[range(96)], encode_units(Drawn(), TEXTS), atol=2**-11)


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 0x40
    path.write_bytes(content)


def swap(path: Path, size: int) -> None:
    content = path.read_bytes()
    path.write_bytes(content[size : 2 * size] + content[:size] + content[2 * size :])


DAMAGES: dict[str, tuple[Callable[[Path], None], int]] = {  # what is done to a store, and how many vectors it costs
    "a bit of a vector": (lambda folder: flip(folder / "vectors.bin", 16 * 5 + 3), 1),
    "a bit of a key": (lambda folder: flip(folder / "keys.bin", 20 * 5 + 3), 1),
    "a bit of the head": (lambda folder: flip(folder / "keys.bin", 3), 96),
    "two vectors swapped": (lambda folder: swap(folder / "vectors.bin", 16), 2),
    "vectors cut off": (lambda folder: os.truncate(folder / "vectors.bin", 16 * 90 + 5), 6),
    "keys cut off": (lambda folder: os.truncate(folder / "keys.bin", 20 * 71 - 5), 27),
    "a block of zeros": (lambda folder: (folder / "vectors.bin").write_bytes(bytes(16 * 96)), 96),
    "no vectors": (lambda folder: (folder / "vectors.bin").unlink(), 96),
    "no keys": (lambda folder: (folder / "keys.bin").unlink(), 96),
    "half a shard more": (lambda folder: (folder / "vectors.bin").open("ab").write(b"x" * 39) and None, 0),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_damaged_is_computed_anew_and_nothing_else(filed: Path, damage: str) -> None:
    act, cost = DAMAGES[damage]
    act(filed)
    source = Counting()
    check_right(TEXTS, filed.parent, source)
    assert len(source.asked) == cost
    again = Counting()
    check_right([*TEXTS, "one more"], filed.parent, again)
    assert again.asked == ["one more"]


def test_damage_is_said(filed: Path, caplog: pytest.LogCaptureFixture) -> None:
    flip(filed / "vectors.bin", 40)
    with caplog.at_level(logging.WARNING):
        check_right(TEXTS, filed.parent)
    assert "drawn: 1 vectors are damaged and are computed anew" in caplog.text


def test_vectors_of_an_earlier_release_are_computed_anew_with_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shard = tmp_path / "drawn" / ("0" * 24)
    shard.mkdir(parents=True)
    np.save(shard / "keys.npy", np.zeros((3, 16), np.uint8))
    np.save(shard / "vectors.npy", np.zeros((3, 8), np.float16))
    with caplog.at_level(logging.INFO):
        check_right(TEXTS[:3], tmp_path)
    assert caplog.text.count("drawn: vectors of an earlier release are not read and may be deleted") == 1


def test_a_store_of_another_dimension_is_refused_and_stays(filed: Path) -> None:
    before = {path: path.read_bytes() for path in filed.iterdir()}
    wider = ModelSource(None, name="wider", dimension=12)  # type: ignore[arg-type]
    source = replace(wider)
    (filed.parent / source.fingerprint).symlink_to(filed)
    with pytest.raises(InputError, match="holds vectors of 8 dimensions, not 12"):
        embed_corpus(source, ["a"], filed.parent)
    assert {path: path.read_bytes() for path in filed.iterdir()} == before


def test_any_number_of_shards_needs_few_descriptors(tmp_path: Path) -> None:
    code = DRAWN + (
        "import os, resource, sys\n"
        "from pathlib import Path\n"
        "from secateur.distillation import targets\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))\n"
        "targets.SHARD = 1\n"
        "os.fsync = lambda descriptor: None\n"
        "texts = [str(number) for number in range(150)]\n"
        "for start in range(0, 150, 50):\n"
        "    targets.embed_corpus(Drawn(), texts[: start + 50], Path(sys.argv[1]))\n"
        "made = [targets.embed_corpus(Drawn(), texts, Path(sys.argv[1])) for _ in range(10)]\n"
        "raw = Drawn().encode(texts)\n"
        "units = raw / np.linalg.norm(raw, axis=1)[:, None]\n"
        "assert all(np.allclose(each[range(150)], units, atol=2**-11) for each in made)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, timeout=120)


def test_a_cache_that_cannot_be_written_is_said_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    source = Counting()
    with pytest.raises(InputError, match=r"file/drawn: the teacher's vectors cannot be .* there: Not a directory"):
        embed_corpus(source, TEXTS, tmp_path / "file")
    assert not source.asked


def test_files_of_the_cache_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        embed_corpus(Drawn(), TEXTS[:2], tmp_path)
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.rglob("*") if path.is_file()} == {0o644}


def test_a_fingerprint_that_leads_out_of_the_cache_is_refused(tmp_path: Path) -> None:
    source = Drawn()
    for source.fingerprint in ("../elsewhere", "/tmp/elsewhere", "", "..", "a/b", "a\0"):
        with pytest.raises(InputError, match="is not the name of a folder"):
            embed_corpus(source, ["a"], tmp_path / "cache")
    assert not list(tmp_path.iterdir())


def test_half_of_a_surrogate_pair_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="half of a surrogate pair"):
        embed_corpus(Drawn(), ["whole", "half \ud83d"], tmp_path)


class Turned:
    """A model whose vectors are those drawn, turned by so many places."""

    def __init__(self, places: int) -> None:
        self.places = places

    def encode(self, sentences: list[str]) -> Any:
        return np.roll(Drawn().encode(sentences), self.places, axis=1)


def test_another_model_of_the_same_name_gets_none_of_its_vectors(tmp_path: Path) -> None:
    first, other = (ModelSource(Turned(places), name="service", dimension=8) for places in (0, 1))
    embed_corpus(first, TEXTS, tmp_path)
    embed_corpus(first, [*TEXTS, "new"], tmp_path)
    refused = "service: gives other vectors than those filed under its name, cosine .*; another model needs another"
    with pytest.raises(InputError, match=refused):
        embed_corpus(other, ["newer", *TEXTS[:3]], tmp_path)
    with pytest.raises(InputError, match=refused):
        embed_corpus(EnglishSource(other, {}), TEXTS, tmp_path)
    joined = [join_sources([part], [1.0], [encode_units(first, TEXTS)], dimension=10) for part in (first, other)]
    embed_corpus(joined[0], TEXTS, tmp_path)
    with pytest.raises(InputError, match="gives other vectors than those filed"):
        embed_corpus(joined[1], TEXTS, tmp_path)


def test_whatever_changes_a_vector_changes_where_it_is_filed(make_encoder: MakeEncoder) -> None:
    def prompted(encoder: TorchEncoder, prompt: str) -> TorchEncoder:
        encoder.model.prompts["query"], encoder.model.default_prompt_name = prompt, "query"
        return encoder

    def changed(encoder: TorchEncoder) -> TorchEncoder:
        with torch.no_grad():
            next(encoder.transformer.parameters())[7, 3] += 1e-3
        return encoder

    same = [EncoderSource(make_encoder()), EncoderSource(replace(make_encoder(), dtype="float16"))]
    others = [
        EncoderSource(make_encoder(), precision="bf16"),
        EncoderSource(make_encoder().limited(9)),
        EncoderSource(make_encoder(pooling="cls")),
        EncoderSource(changed(make_encoder())),
        EncoderSource(prompted(make_encoder(), "query: ")),
        EncoderSource(prompted(make_encoder(), "passage: ")),
    ]
    assert len({source.fingerprint for source in same}) == 1
    assert len({source.fingerprint for source in [*same, *others]}) == 1 + len(others)


def test_weights_that_change_in_place_are_another_teacher(
    make_encoder: MakeEncoder, sentences: list[str], tmp_path: Path
) -> None:
    source = EncoderSource(make_encoder())
    embed_corpus(source, sentences, tmp_path)
    with torch.no_grad():
        for weight in source.encoder.transformer.parameters():
            weight *= 1.5
    made = embed_corpus(source, sentences, tmp_path)
    np.testing.assert_allclose(made[range(64)], embed(source.encoder, sentences), atol=2**-11)


def test_a_limited_source_reads_as_its_encoder_limited(teacher: TorchEncoder, sentences: list[str]) -> None:
    source = EncoderSource(teacher)
    joined = join_sources([source], [1.0], [encode_units(source, sentences)], dimension=40)
    limited = limit_source(EnglishSource(joined, {}), 5)
    wanted = embed(teacher.limited(5), sentences)
    np.testing.assert_allclose(encode_units(limited, sentences)[:, :32], wanted, atol=1e-6)
    assert not np.allclose(wanted, embed(teacher, sentences), atol=1e-2)
    assert limit_source(source, 1000).encoder.max_length == teacher.max_length

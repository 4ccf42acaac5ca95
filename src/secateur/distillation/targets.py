"""The teacher's vector of every sentence, computed once: float16 shards on disk, memory-mapped.

A vector is filed under the content of its teacher (weights, tokenizer, what follows the transformer) and of its
sentence, so corpora that share sentences share the work, and a run that was stopped goes on where it was. Of several
teachers each one's vectors are filed for themselves, and their join again: other weights need no second embedding.
"""

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from secateur.config.errors import InputError
from secateur.data.files import whole_folder
from secateur.data.progress import progress_bar
from secateur.distillation.teachers import EnglishSource, JoinedSources, join_sources
from secateur.encoders.vectors import VectorSource, check_known, scale_to_units

log = logging.getLogger(__name__)

SHARD = 4_096  # sentences; 3 MiB of vectors at 384 dimensions
SAMPLE = 20_000  # sentences that a rotation is fitted on: over 20 for each of 900 joined dimensions


@dataclass(frozen=True)
class Targets:
    """One teacher vector per sentence, in the order asked for; rows are read from disk as they are needed."""

    shards: tuple[np.ndarray, ...]  # memory-mapped float16 [n, D]
    places: np.ndarray  # [sentences, 2]: shard, row

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return float32 vectors [len(rows), D] of unit length up to the rounding of float16."""
        return np.stack([self.shards[shard][row] for shard, row in self.places[rows]]).astype(np.float32)


def embed_corpus(source: VectorSource, sentences: Sequence[str], cache: Path, *, progress: str = "") -> Targets:
    """Return a teacher's unit vectors of these sentences, computing only those the cache lacks.

    Each finished shard is written whole; an interrupted call loses at most one shard of work. `progress` names a
    progress bar; empty: none. Raises InputError: vectors that are not to be had, or not what the source promises.
    """
    if isinstance(source, EnglishSource):
        return embed_corpus(source.source, source.translate(sentences), cache, progress=progress)
    folder = cache / source.fingerprint
    keys = sentence_keys(sentences)
    known = read_keys(folder)
    missing = {key: sentence for key, sentence in zip(keys, sentences, strict=True) if key not in known}
    if missing:
        log.info(
            "teacher's vectors: %d of %d sentences are to be computed, into %s", len(missing), len(sentences), folder
        )
        write_vectors(source, missing, folder, cache, progress)
    return open_targets(folder, keys)


def write_vectors(source: VectorSource, sentences: dict[bytes, str], folder: Path, cache: Path, progress: str) -> None:
    keys, texts = list(sentences.keys()), list(sentences.values())
    compute = make_computer(source, texts, cache, progress)
    with progress_bar(progress, total=len(keys), unit="sentences") as bar:
        for start in range(0, len(keys), SHARD):
            rows = np.arange(start, min(start + SHARD, len(keys)))
            units = scale_to_units(compute(rows), source, texts[start : start + SHARD])
            write_shard(folder, keys[start : start + SHARD], units)
            bar.update(len(rows))


def make_computer(
    source: VectorSource, sentences: list[str], cache: Path, progress: str
) -> Callable[[np.ndarray], Any]:
    """Return what gives the vectors of some rows of `sentences`; joined sources take them from their parts' files."""
    check_known(source, sentences)
    if not isinstance(source, JoinedSources):
        return lambda rows: source.encode([sentences[row] for row in rows])
    parts = [embed_corpus(part, sentences, cache, progress=progress and part.name) for part in source.parts]
    return lambda rows: source.join([part[rows] for part in parts])


def combine_sources(
    sources: Sequence[VectorSource],
    weights: Sequence[float],
    sentences: Sequence[str],
    cache: Path,
    *,
    dimension: int,
    progress: str = "",
) -> VectorSource:
    """Return weighted sources as one of `dimension`: rotated or padded to it, as `join_sources` says.

    The rotation is fitted on sentences taken evenly from those given, whose vectors are computed here and filed. A
    source of weight 0 is left out; one that alone has the dimension already is returned as it is. Raises InputError:
    no weight is positive, or vectors as in `embed_corpus`.
    """
    weighted = [(source, weight) for source, weight in zip(sources, weights, strict=True) if weight > 0]
    if not weighted:
        raise InputError("teacher: the weight of every teacher is 0")
    if len(weighted) == 1 and weighted[0][0].dimension == dimension:
        return weighted[0][0]
    rows = np.linspace(0, len(sentences) - 1, min(len(sentences), SAMPLE)).astype(np.int64)
    sample = [sentences[row] for row in rows]
    parts = [source for source, _ in weighted]
    targets = [embed_corpus(part, sample, cache, progress=progress and part.name) for part in parts]
    vectors = [part[np.arange(len(sample))] for part in targets]
    return join_sources(parts, [weight for _, weight in weighted], vectors, dimension=dimension)


def sentence_keys(sentences: Sequence[str]) -> list[bytes]:
    return [hashlib.blake2b(sentence.encode(), digest_size=16).digest() for sentence in sentences]


def read_keys(folder: Path) -> dict[bytes, tuple[int, int]]:
    """Return, for each sentence key on disk, its shard (in order of name) and its row."""
    places: dict[bytes, tuple[int, int]] = {}
    for number, shard in enumerate(shard_folders(folder)):
        for row, key in enumerate(np.load(shard / "keys.npy")):
            places[key.tobytes()] = (number, row)
    return places


def shard_folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("[0-9a-f]*") if (path / "keys.npy").is_file())


def write_shard(folder: Path, keys: list[bytes], vectors: np.ndarray) -> None:
    name = hashlib.blake2b(b"".join(keys), digest_size=12).hexdigest()
    with whole_folder(folder / name) as temporary:
        np.save(temporary / "vectors.npy", vectors.astype(np.float16))
        np.save(temporary / "keys.npy", np.frombuffer(b"".join(keys), np.uint8).reshape(len(keys), 16))


def open_targets(folder: Path, keys: list[bytes]) -> Targets:
    known = read_keys(folder)
    shards = tuple(np.load(shard / "vectors.npy", mmap_mode="r") for shard in shard_folders(folder))
    return Targets(shards=shards, places=np.array([known[key] for key in keys], np.int64).reshape(-1, 2))

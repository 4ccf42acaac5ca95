"""The teacher's vector of every sentence, computed once and kept on disk as float16, memory-mapped.

A vector is filed under the content of its teacher (weights, tokenizer, what follows the transformer, the length and the
precision it reads at) and of its sentence, so corpora that share sentences share the work, and a run that was stopped
goes on where it was. Of several teachers each one's vectors are filed for themselves, and their join again: other
weights need no second embedding.
"""

import hashlib
import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from secateur.config.errors import InputError
from secateur.data.progress import progress_bar
from secateur.distillation.store import KEY, VectorStore
from secateur.distillation.teachers import EnglishSource, JoinedSources, is_known_by_name, join_sources
from secateur.encoders.vectors import VectorSource, check_known, encode_units, scale_to_units

log = logging.getLogger(__name__)

SHARD = 4_096  # sentences that are computed and written at a time; 3 MiB of vectors at 384 dimensions
SAMPLE = 20_000  # sentences that a rotation is fitted on: over 20 for each of 900 joined dimensions
PROBES = 8  # sentences by which a model that is known by its name alone is recognised
ALIKE = 0.99  # the least cosine of a probe to the vector on disk


@dataclass(frozen=True)
class Targets:
    """One teacher vector per sentence, in the order asked for; rows are read from disk as they are needed."""

    vectors: np.ndarray  # memory-mapped float16 [n, D]
    places: np.ndarray  # int64 [sentences]: rows of `vectors`

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return float32 vectors [len(rows), D] of unit length up to the rounding of float16."""
        return np.asarray(self.vectors[self.places[rows]]).astype(np.float32)


@dataclass(frozen=True)
class SortedTargets(Targets):
    """Targets of several readings, one after the other: sentence i has row places[i] of them all laid end to end."""

    parts: tuple[Targets, ...] = ()

    def __getitem__(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return float32 vectors [len(rows), D] of unit length up to the rounding of float16."""
        places = self.places[rows]
        found = np.empty((len(places), self.vectors.shape[1]), np.float32)
        start = 0
        for part in self.parts:
            inside = (start <= places) & (places < start + len(part))
            found[inside] = part[places[inside] - start]
            start += len(part)
        return found


def sort_targets(parts: Sequence[Targets], groups: Sequence[Sequence[int]]) -> Targets:
    """Return as one what several groups of sentences, by their numbers, were embedded to."""
    if len(parts) == 1:
        return parts[0]
    order = np.concatenate([np.asarray(group, np.int64) for group in groups])
    places = np.empty(len(order), np.int64)
    places[order] = np.arange(len(order))
    return SortedTargets(parts[0].vectors, places, tuple(parts))


def embed_corpus(source: VectorSource, sentences: Sequence[str], cache: Path, *, progress: str = "") -> Targets:
    """Return a teacher's unit vectors of these sentences, computing only those the cache lacks.

    They are written by shards; an interrupted call loses at most one shard of work. `progress` names a progress bar;
    empty: none. Raises InputError: vectors that are not to be had, or not what the source promises; a cache that
    cannot be read or written; a source known by its name that gives other vectors than those filed under it.
    """
    if isinstance(source, EnglishSource):
        return embed_corpus(source.source, source.translate(sentences), cache, progress=progress)
    store = open_store(source, cache)
    keys = sentence_keys(sentences)
    vectors, places = store.read(keys)
    known = np.flatnonzero(places >= 0)
    if len(known) and is_known_by_name(source):
        check_same(source, sentences, Targets(vectors, places), known)
    missing = find_missing(keys, places)
    if len(missing):
        log.info("teacher's vectors: %d of %d sentences are to be computed, into %s", len(missing), len(sentences),
                 store.folder)  # fmt: skip
        write_vectors(source, [sentences[row] for row in missing], keys[missing], store, cache, progress)
        vectors, places = store.read(keys)
        if (places < 0).any():
            raise InputError(f"{store.folder}: vectors that were just written cannot be read back")
    return Targets(vectors, places)


def open_store(source: VectorSource, cache: Path) -> VectorStore:
    name = source.fingerprint
    if not re.fullmatch(r"[\w-][\w.-]*", name):
        raise InputError(f"{source.name}: its fingerprint {name!r} is not the name of a folder")
    folder = cache / name
    if next(folder.glob("*/keys.npy"), None):
        log.info("%s: vectors of an earlier release are not read and may be deleted", folder)
    return VectorStore(folder, source.dimension)


def sentence_keys(sentences: Sequence[str]) -> np.ndarray:
    """Return the key of every sentence, 16 bytes each [sentences]. Raises InputError: a text that is no Unicode."""
    try:
        digests = [hashlib.blake2b(sentence.encode(), digest_size=16).digest() for sentence in sentences]
    except UnicodeEncodeError as error:
        raise InputError(f"a sentence holds half of a surrogate pair, which is no text: {error.object!r}") from None
    return np.frombuffer(b"".join(digests), KEY)


def find_missing(keys: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Return the rows of sentences without a vector, each sentence once, in order."""
    lacking = np.flatnonzero(places < 0)
    return lacking[np.sort(np.unique(keys[lacking], return_index=True)[1])]


def check_same(source: VectorSource, sentences: Sequence[str], targets: Targets, known: np.ndarray) -> None:
    """Raise InputError where a source gives other vectors than those on disk for a few of the sentences known."""
    rows = known[np.linspace(0, len(known) - 1, min(len(known), PROBES)).astype(np.int64)]
    given = encode_units(source, [sentences[row] for row in rows])
    cosines = (given * targets[rows]).sum(axis=1)
    if cosines.min() < ALIKE:
        raise InputError(
            f"{source.name}: gives other vectors than those filed under its name, cosine {cosines.min():.3f} for "
            f"{sentences[rows[cosines.argmin()]]!r}; another model needs another name"
        )


def write_vectors(
    source: VectorSource, sentences: list[str], keys: np.ndarray, store: VectorStore, cache: Path, progress: str
) -> None:
    with store.writing():
        pass  # what cannot be written is said before the work
    compute = make_computer(source, sentences, cache, progress)
    with progress_bar(progress, total=len(keys), unit="sentences") as bar:
        for start in range(0, len(keys), SHARD):
            rows = np.arange(start, min(start + SHARD, len(keys)))
            store.add(keys[rows], scale_to_units(compute(rows), source, sentences[start : start + SHARD]))
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

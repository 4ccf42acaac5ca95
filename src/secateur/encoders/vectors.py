"""What a source of sentence vectors is, and its vectors checked and scaled to unit length."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from secateur.config.errors import InputError
from secateur.data.progress import progress_bar

STEP = 4_096  # sentences given to a source at a time


class VectorSource(Protocol):
    """Anything that turns sentences into vectors."""

    @property
    def name(self) -> str:
        """What messages call it."""

    @property
    def dimension(self) -> int:
        """D, the length of a vector."""

    @property
    def fingerprint(self) -> str:
        """What its vectors are filed under; a folder name that changes when the vectors would."""

    def encode(self, sentences: list[str]) -> Any:
        """Return an array [len(sentences), D] of finite rows that are not zero."""


def encode_units(source: VectorSource, sentences: Sequence[str], *, progress: str = "") -> np.ndarray:
    """Return the unit vectors of sentences from any source, float32 [sentences, D].

    `progress` names a progress bar; empty: none. Raises InputError: the source gives another number of vectors, or
    another dimension, than it should; a vector that is zero or not finite; it lacks a sentence.
    """
    check_known(source, sentences)
    units = np.empty((len(sentences), source.dimension), np.float32)
    with progress_bar(progress, total=len(sentences), unit="sentences") as bar:
        for start in range(0, len(sentences), STEP):
            some = list(sentences[start : start + STEP])
            units[start : start + len(some)] = scale_to_units(source.encode(some), source, some)
            bar.update(len(some))
    return units


def scale_to_units(given: Any, source: VectorSource, sentences: Sequence[str]) -> np.ndarray:
    """Return what a source gave for these sentences as float32 rows of unit length; raise InputError for a flaw."""
    vectors = np.asarray(given)
    if vectors.ndim != 2 or len(vectors) != len(sentences):
        shape = " x ".join(map(str, vectors.shape))
        raise InputError(f"{source.name}: gave {shape} numbers for {len(sentences)} sentences, not a vector for each")
    if vectors.shape[1] != source.dimension:
        raise InputError(f"{source.name}: gave vectors of {vectors.shape[1]} dimensions, not {source.dimension}")
    flaw = find_flaw(vectors)
    if flaw:
        row, what = flaw
        raise InputError(f"{source.name}: vector {row} of {len(vectors)} is {what}; it is that of {sentences[row]!r}")
    units: np.ndarray = vectors / measure_lengths(vectors)[:, np.newaxis]
    return units.astype(np.float32)


def check_known(source: VectorSource, sentences: Sequence[str]) -> None:
    """Let a source that knows only some sentences say so before any work: one with a `check` method has it called.

    Raises InputError: it lacks one of these sentences.
    """
    check = getattr(source, "check", None)
    if check is not None:
        check(sentences)


def find_flaw(vectors: np.ndarray) -> tuple[int, str] | None:
    """Return the first row, from 0, that has no direction, and why."""
    lengths = measure_lengths(vectors)
    flawed = np.flatnonzero(~(np.isfinite(lengths) & (lengths > 0)))
    if not len(flawed):
        return None
    return int(flawed[0]), "all zeros" if lengths[flawed[0]] == 0 else "not finite"


def measure_lengths(vectors: np.ndarray) -> np.ndarray:
    lengths: np.ndarray = np.linalg.norm(vectors.astype(np.float64), axis=1)  # [n]; float32 squares would overflow
    return lengths

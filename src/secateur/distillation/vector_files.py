"""Vectors computed elsewhere: a .npy array, and the text whose lines they belong to; looked up by sentence."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from secateur.config.errors import InputError
from secateur.data.sources import read_lines
from secateur.encoders.vectors import find_flaw

SCANNED = 8_192  # rows read at a time


@dataclass(frozen=True, eq=False)
class StoredVectors:
    """Vectors computed elsewhere, looked up by their sentence; white space is all alike."""

    name: str
    vectors: np.ndarray  # memory-mapped [n, D]
    rows: dict[str, int]  # of a sentence, its words one space apart
    fingerprint: str

    @property
    def dimension(self) -> int:
        return int(self.vectors.shape[1])

    def encode(self, sentences: Sequence[str]) -> np.ndarray:
        """Return [sentences, D] as the file has them. Raises InputError: it lacks some, how many and the first."""
        rows = self.find(sentences)
        return np.asarray(self.vectors[rows])

    def check(self, sentences: Sequence[str]) -> None:
        """Raise InputError if a sentence has no vector."""
        self.find(sentences)

    def find(self, sentences: Sequence[str]) -> list[int]:
        rows = [self.rows.get(space_words(sentence), -1) for sentence in sentences]
        if -1 in rows:
            raise InputError(
                f"{self.name}: has no vector for {rows.count(-1)} of {len(rows)} sentences, "
                f"the first is {sentences[rows.index(-1)]!r}"
            )
        return rows


def space_words(sentence: str) -> str:
    return " ".join(sentence.split())


def load_vectors(vectors: Path, sentences: Path) -> StoredVectors:
    """Open a .npy array [n, D] of floating-point numbers and the UTF-8 text whose n-th line is the n-th sentence.

    A sentence given twice has its first vector. Every row is read once, to check it and to name the content. Raises
    InputError: a file is missing or not of its kind; n differs; a row is all zeros or not finite.
    """
    lines = read_lines(sentences)
    array = open_array(vectors)
    if len(array) != len(lines):
        raise InputError(f"{vectors}: {len(array)} vectors, but {sentences} has {len(lines)} sentences")
    digest = hashlib.sha256("\n".join(lines).encode())
    digest.update(f"{array.dtype}{array.shape}".encode())
    for start in range(0, len(array), SCANNED):
        block = np.ascontiguousarray(array[start : start + SCANNED])
        digest.update(block.data)
        flaw = find_flaw(block)
        if flaw:
            row = start + flaw[0]
            raise InputError(f"{vectors}: row {row}, counted from 0, is {flaw[1]}; line {row + 1} of {sentences}")
    rows = {space_words(line): row for row, line in reversed(list(enumerate(lines)))}
    return StoredVectors(name=str(vectors), vectors=array, rows=rows, fingerprint=digest.hexdigest()[:32])


def open_array(path: Path) -> np.ndarray:
    """Return a memory-mapped matrix of floating-point numbers; nothing in the file is unpickled."""
    try:
        array: np.ndarray = np.lib.format.open_memmap(path, mode="r")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except ValueError as error:
        raise InputError(f"{path}: not a whole .npy file of numbers: {error}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    if array.ndim != 2 or not array.size:
        raise InputError(f"{path}: an array of shape {array.shape}, not [sentences, dimension]")
    if not np.issubdtype(array.dtype, np.floating):
        raise InputError(f"{path}: an array of {array.dtype}, not of floating-point numbers")
    return array

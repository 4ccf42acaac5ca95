"""Vectors computed elsewhere: a .npy array, and the text whose lines they belong to; looked up by sentence."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISDIR, S_ISREG

import numpy as np

from secateur.config.errors import InputError, say_error
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
    for path in (vectors, sentences):
        check_file(path)
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
        with np.errstate(over="ignore"):  # a shape beyond all measure is refused
            array: np.ndarray = np.lib.format.open_memmap(path, mode="r")
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
    except Exception as error:  # numpy reads the head as Python's literals, and fails as these do
        raise InputError(f"{path}: not a whole .npy file of numbers: {say_error(error, 200)}") from None
    if array.ndim != 2 or not array.size:
        raise InputError(f"{path}: an array of shape {array.shape}, not [sentences, dimension]")
    if not np.issubdtype(array.dtype, np.floating):
        raise InputError(f"{path}: an array of {str(array.dtype)[:80]}, not of floating-point numbers")
    return array


def check_file(path: Path) -> None:
    """Raise InputError for what is no file: a pipe would be waited for, and a device never ends."""
    try:
        found = path.stat()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if not S_ISREG(found.st_mode):
        raise InputError(f"{path}: {'Is a directory' if S_ISDIR(found.st_mode) else 'is not a file'}")

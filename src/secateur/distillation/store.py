"""A teacher's vectors on disk, each filed under its sentence's key, in two files that only grow.

`vectors.bin` holds rows of float16; `keys.bin` a head that says their dimension, then for each row its sentence's key
and a checksum of key and vector. Rows are added under a lock, vectors before keys, and neither move nor change, so
readers need two descriptors whatever the number of rows, and other writers do not disturb them. A row whose checksum
is wrong counts as missing; what a stopped writer left half-written is cut off by the next.
"""

import logging
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from secateur.config.errors import InputError
from secateur.data.locks import wait_for

log = logging.getLogger(__name__)

KEY = np.dtype("S16")
RECORD = np.dtype([("key", KEY), ("check", "<u4")])
MARK = b"secateur targets"  # the key of the head, whose check is the dimension


@dataclass(frozen=True)
class VectorStore:
    """The vectors [n, dimension] of one teacher in a folder of their own."""

    folder: Path
    dimension: int

    @property
    def keys(self) -> Path:
        return self.folder / "keys.bin"

    @property
    def vectors(self) -> Path:
        return self.folder / "vectors.bin"

    @property
    def width(self) -> int:
        """Bytes of a row."""
        return 2 * self.dimension

    def read(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return all vectors, memory-mapped float16 [n, D], and where those of `keys` are, int64 [keys]; -1: missing.

        Raises InputError: the folder cannot be read, or holds vectors of another dimension.
        """
        with refusing(self.folder, "read"), self.locked(writing=False):
            count = self.count_rows()
            if not count:
                return np.empty((0, self.dimension), np.float16), np.full(len(keys), -1, np.int64)
            records = np.fromfile(self.keys, RECORD, count, offset=RECORD.itemsize)
            vectors = np.memmap(self.vectors, np.float16, "r", shape=(count, self.dimension))
        wanted, back = np.unique(keys, return_inverse=True)
        rows = find_last(records["key"], wanted)
        found = np.flatnonzero(rows >= 0)
        sound = np.fromiter(self.check_rows(vectors, records, rows[found]), bool, len(found))
        if not sound.all():
            log.warning("%s: %d vectors are damaged and are computed anew", self.folder, np.count_nonzero(~sound))
            rows[found[~sound]] = -1
        return vectors, rows[back]

    def check_rows(self, vectors: np.ndarray, records: np.ndarray, rows: np.ndarray) -> Iterator[bool]:
        """Yield for each of these rows whether its checksum is that of its key and its vector."""
        content = vectors.data.cast("B")
        for row, key, check in zip(rows.tolist(), records["key"][rows], records["check"][rows].tolist(), strict=True):
            yield checksum(key, content[row * self.width : (row + 1) * self.width]) == check

    def add(self, keys: np.ndarray, vectors: np.ndarray) -> None:
        """File vectors [n, D] under keys [n], whole or not at all. Raises InputError: they cannot be written."""
        rows = np.ascontiguousarray(vectors, np.float16)
        records = np.empty(len(keys), RECORD)
        records["key"] = keys
        records["check"] = [checksum(key, row.data.cast("B")) for key, row in zip(keys, rows, strict=True)]
        with self.writing():
            count = self.count_rows()
            if not count:
                for path in (self.keys, self.vectors):
                    path.unlink(missing_ok=True)  # damaged; who reads it still keeps it
                head = np.array([(MARK, self.dimension)], RECORD)
                append(self.keys, head.tobytes(), 0)
            sizes = {self.vectors: count * self.width, self.keys: (count + 1) * RECORD.itemsize}
            try:
                append(self.vectors, rows.data, sizes[self.vectors])
                append(self.keys, records.tobytes(), sizes[self.keys])
            except BaseException:
                for path, size in sizes.items():
                    with suppress(OSError):
                        os.truncate(path, size)
                raise

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the right to write. Raises InputError: it is not to be had, or the block cannot write."""
        with refusing(self.folder, "written"):
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / "lock").touch()
            with self.locked(writing=True):
                yield

    @contextmanager
    def locked(self, *, writing: bool) -> Iterator[None]:
        """Wait for the folder's lock and hold it; where there is no lock, nobody has written yet."""
        try:
            descriptor = os.open(self.folder / "lock", os.O_RDONLY)
        except FileNotFoundError:
            yield
            return
        try:
            wait_for(descriptor, alone=writing)
            yield
        finally:
            os.close(descriptor)

    def count_rows(self) -> int:
        """Return how many rows both files hold whole. Raises InputError: they are of another dimension."""
        if not self.keys.exists():
            return 0
        head = np.fromfile(self.keys, RECORD, 1)
        if not len(head) or head["key"][0] != MARK:
            log.warning("%s: is damaged; its vectors are computed anew", self.keys)
            return 0
        dimension = int(head["check"][0])
        if dimension != self.dimension:
            raise InputError(f"{self.folder}: holds vectors of {dimension} dimensions, not {self.dimension}")
        rows = self.vectors.stat().st_size // self.width if self.vectors.exists() else 0
        return min(self.keys.stat().st_size // RECORD.itemsize - 1, rows)


def find_last(keys: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return where each wanted key stands last in `keys`, int64 [wanted]; -1: nowhere. Quick where they are sorted."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    places = np.searchsorted(ordered, wanted, side="right") - 1
    rows = order[places]
    rows[(places < 0) | (ordered[places] != wanted)] = -1
    return rows


def checksum(key: bytes, vector: memoryview) -> int:
    return zlib.crc32(vector, zlib.crc32(key))


def append(path: Path, content: bytes | memoryview, size: int) -> None:
    """Write `content` behind the first `size` bytes of a file, in the place of what follows them."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    with os.fdopen(descriptor, "r+b") as file:
        file.truncate(size)
        file.seek(size)
        file.write(content)
        file.flush()
        os.fsync(descriptor)


@contextmanager
def refusing(folder: Path, done: str) -> Iterator[None]:
    """Turn what the system refuses into one line."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"{folder}: the teacher's vectors cannot be {done} there: {reason}") from error

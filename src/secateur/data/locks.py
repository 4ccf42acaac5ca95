"""Locks between processes: the kernel releases them when a process ends, killed or not."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from secateur.config.errors import InputError

try:
    import fcntl
except ImportError:  # where there is none, nothing is locked
    fcntl = None  # type: ignore[assignment]


@dataclass(frozen=True)
class Lock:
    """A file or folder that this process has locked; not `is_known`: the file system cannot lock."""

    file: int | None
    is_known: bool

    def release(self) -> None:
        if self.file is not None:
            os.close(self.file)


def take_lock(path: Path) -> Lock | None:
    """Lock a file or folder that is there; None: another process has it, or it is gone by now."""
    try:
        file = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    except OSError:
        return Lock(None, is_known=False)  # a folder on Windows, or somebody else's
    try:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        return None
    except OSError:
        return Lock(file, is_known=False)
    return Lock(file, is_known=fcntl is not None)


def wait_for(descriptor: int, *, alone: bool) -> None:
    """Wait for the lock of an open file, alone or beside other readers; where nothing can be locked, do nothing."""
    if fcntl is not None:
        with suppress(OSError):  # a file system that cannot lock
            fcntl.flock(descriptor, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)


@contextmanager
def hold(path: Path) -> Iterator[None]:
    """Keep `path`, there or not yet, for this process while the block runs, by `.NAME.lock` beside it.

    Raises InputError: another process holds it; OSError: nothing can be written there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.with_name(f".{path.name}.lock")
    while True:
        file.touch()
        lock = take_lock(file)
        if lock is None and file.exists():
            raise InputError(f"{path}: process {read_owner(file)} is at work on it; wait for its end")
        if lock is not None and is_same(lock, file):
            break
        if lock is not None:
            lock.release()  # of one that another process removed in the meantime
    try:
        file.write_text(str(os.getpid()), encoding="utf-8")
        yield
    finally:
        file.unlink(missing_ok=True)
        lock.release()


def read_owner(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8") or "another"
    except OSError:
        return "another"


def is_same(lock: Lock, file: Path) -> bool:
    """Return whether a locked file is still the one of its name."""
    try:
        return lock.file is None or os.path.samestat(os.fstat(lock.file), file.stat())
    except FileNotFoundError:
        return False

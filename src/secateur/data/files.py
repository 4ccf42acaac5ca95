"""Files and folders that appear whole or not at all: written in a folder beside them, then put in place in one step.

That folder, `.NAME.HEX.partial`, is locked while its process lives; whoever writes next to one whose process was killed
removes it, and puts back what had been moved out of the way.
"""

import ctypes
import errno
import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex

from secateur.config.errors import InputError
from secateur.data.locks import Lock, take_lock

log = logging.getLogger(__name__)

PARTIAL = re.compile(r"\.(.+)\.[0-9a-f]{16}\.partial")
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)  # the errors of a disk that takes no more
REFUSALS = (*FULL, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG)  # of any place


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path; put that file in the place of `path` if the block ends well, else delete it.

    Raises OSError, naming `path`: it cannot be written there; InputError: there is something that is not a file.
    """
    path = path.resolve() if path.is_symlink() else path
    if path.exists() and not path.is_file():
        raise InputError(f"{path} is there already and is not a file")
    with workplace(path) as place:
        yield place / path.name
        allow_readers(place / path.name, place)
        os.replace(place / path.name, path)


def write_text(path: Path, text: str) -> None:
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, data: object, *, indent: int | None = 2) -> None:
    write_text(path, json.dumps(data, ensure_ascii=False, indent=indent))


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder; put it in the place of `path` if the block ends well, else delete it.

    Raises OSError, naming `path`: it cannot be written there; InputError: there is something that is not a folder.
    """
    path = path.resolve() if path.is_symlink() else path
    if path.exists() and not path.is_dir():
        raise InputError(f"{path} is there already and is not a folder")
    with workplace(path) as place:
        new = place / path.name
        new.mkdir()
        yield new
        for file in filter(Path.is_file, new.rglob("*")):
            allow_readers(file, place)
        put_in_place(new, path)


@contextmanager
def workplace(path: Path) -> Iterator[Path]:
    """Yield an empty folder beside `path`, locked, and remove it in the end."""
    with naming(path, path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        recover(path.parent)
        place, lock = make_workplace(path)
    try:
        with naming(path, place):
            yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)
        lock.release()


def make_workplace(path: Path) -> tuple[Path, Lock]:
    while True:
        place = path.with_name(f".{path.name}.{token_hex(8)}.partial")
        place.mkdir()
        lock = take_lock(place)
        if lock is not None and place.is_dir():
            return place, lock
        if lock is not None:  # another process took it for a dead one's before it was locked
            lock.release()


@contextmanager
def naming(path: Path, place: Path) -> Iterator[None]:
    """Have an error of writing something in `place` name `path`, which was to be written, and no temporary file."""
    try:
        yield
    except shutil.Error as error:  # of a folder that is copied: a list, of which the first says enough
        source, _, words = error.args[0][0]
        number = read_code(words) or errno.EIO
        raise OSError(number, os.strerror(number), str(path) if number in FULL else str(source)) from error
    except Exception as error:
        code = error.errno if isinstance(error, OSError) else read_code(str(error))
        named = getattr(error, "filename2", None) or getattr(error, "filename", None)  # of a copy, where to
        if code not in REFUSALS or (named is not None and not Path(os.fsdecode(named)).is_relative_to(place)):
            raise
        raise OSError(code, os.strerror(code), str(path)) from error


def read_code(words: str) -> int | None:
    """Return the number of a system error that Python, or a library in Rust such as safetensors, tells in words."""
    found = re.search(r"(?:\[Errno |\(os error )(\d+)", words)
    return int(found[1]) if found else None


def allow_readers(file: Path, place: Path) -> None:
    """Give a file the mode that the process's umask asks for: safetensors writes some that their owner alone reads."""
    file.chmod(place.stat().st_mode & 0o666)


def put_in_place(new: Path, path: Path) -> None:
    """Rename a folder to `path`; a folder that is there lies beside `new` afterwards, whatever happens in between."""
    if not path.exists():
        try:
            os.rename(new, path)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):  # another process was faster
                raise
    if exchange(new, path):
        return
    old = new.with_name(f"{new.name}.old")
    os.rename(path, old)
    try:
        os.rename(new, path)
    except BaseException:
        os.rename(old, path)
        raise


RENAME_EXCHANGE = 2  # linux/fs.h
AT_FDCWD = -100  # linux/fcntl.h: a path is relative to the working directory


def exchange(one: Path, other: Path) -> bool:
    """Give two paths each other's content in one step, as Linux's renameat2 does; return False where it cannot."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if os.name == "posix" else None
    if renameat2 is None:
        return False
    return bool(renameat2(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE) == 0)


def recover(folder: Path) -> None:
    """Remove what killed processes left half-written in a folder; what they had moved out of the way is put back."""
    found = [(each, PARTIAL.fullmatch(each.name)) for each in folder.iterdir()] if folder.is_dir() else []
    for place, match in found:
        lock = take_lock(place) if match and place.is_dir() and not place.is_symlink() else None
        if match is None or lock is None or not lock.is_known:
            continue
        name = match[1]
        if (place / f"{name}.old").exists() and not (folder / name).exists():
            os.rename(place / f"{name}.old", folder / name)
        shutil.rmtree(place, ignore_errors=True)
        lock.release()


def hide_partial(text: str) -> str:
    """Return a path, or a text with paths, as it reads once what is being written is in its place."""
    return re.sub(PARTIAL.pattern.replace(".+", r"[^/\n]+") + "/", "", text)


def hash_file(path: Path) -> str:
    """Return the sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


OF_A_MODEL = re.compile(  # what a model folder has at its top
    r".*\.(json|safetensors|model)|README\.md|modeling\.py|(vocab|merges)\.txt|\.gitattributes|\d+_\w+|onnx|openvino"
)


def check_out(folder: Path) -> None:
    """Raise InputError if a model cannot be saved in this folder, or would take the place of anything but a model.

    What a killed process had moved out of this folder's way is put back first.
    """
    check_writable(folder)
    if folder.exists() or folder.is_symlink():
        check_replaceable(folder)
        if any(folder.iterdir()):
            log.info("%s is there already: the new model will take its place", folder)


def check_writable(path: Path) -> None:
    """Raise InputError if a file or folder of this name cannot be written: its place is tried.

    What killed processes left there is removed.
    """
    try:
        above = next((each for each in path.absolute().parents if each.exists()), path)
        if above == path.absolute().parent:
            recover(above)
        place, lock = make_workplace(above / path.name)  # a name too long, or no right to write there, is said here
        place.rmdir()
        lock.release()
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be written: {getattr(error, 'strerror', None) or error}") from None


def check_replaceable(folder: Path) -> None:
    """Raise InputError if there is anything but a model; what killed processes left half-written in it is removed."""
    recover(folder)
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    if not folder.is_dir() or (names and "modules.json" not in names):
        raise InputError(f"{folder} is there already and is not a model folder")
    others = [name for name in names if not OF_A_MODEL.fullmatch(name)]
    if others and PARTIAL.fullmatch(others[0]):
        raise InputError(f"{folder}: another process is writing in it; wait for its end")
    if others:
        raise InputError(f"{folder} is there already and holds {others[0]}, which is no file of a model")


def check_space(folder: Path, needed: float, what: str) -> None:
    """Raise InputError if the disk of a folder, there or not yet, has fewer bytes free than `what` needs."""
    above = next(each for each in (folder.absolute(), *folder.absolute().parents) if each.exists())
    free = shutil.disk_usage(above).free
    if needed > free:
        raise InputError(f"{folder}: {what} needs {needed / 1e9:.1f} GB; {free / 1e9:.1f} GB are free there")

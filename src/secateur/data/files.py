"""Files and folders that appear whole or not at all: written under a temporary name, then renamed."""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile

from secateur.config.errors import InputError


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` if the block ends well, else delete it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, data: object, *, indent: int | None = 2) -> None:
    write_text(path, json.dumps(data, ensure_ascii=False, indent=indent))


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; put it in the place of `path` if the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    old = path.with_name(f".{path.name}.{os.getpid()}.old")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        for file in filter(Path.is_file, temporary.rglob("*")):
            file.chmod(temporary.stat().st_mode & 0o666)  # safetensors writes files that their owner alone may read
        if path.exists():
            os.replace(path, old)
        os.replace(temporary, path)
    finally:
        if old.exists() and not path.exists():
            os.replace(old, path)
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def hash_file(path: Path) -> str:
    """Return the sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


OF_A_MODEL = re.compile(  # what a model folder has at its top
    r".*\.(json|safetensors|model)|README\.md|modeling\.py|(vocab|merges)\.txt|\.gitattributes|\d+_\w+|onnx|openvino"
)


def check_out(folder: Path) -> None:
    """Raise InputError if a model cannot be saved in this folder, or would take the place of anything but a model."""
    try:
        if folder.exists() or folder.is_symlink():
            check_replaceable(folder)
        above = next(each for each in folder.absolute().parents if each.exists())
        with TemporaryFile(dir=above):  # a file above it, or no right to write there, is said here
            pass
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{folder}: cannot be written: {getattr(error, 'strerror', None) or error}") from None


def check_replaceable(folder: Path) -> None:
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    if not folder.is_dir() or (names and "modules.json" not in names):
        raise InputError(f"{folder} is there already and is not a model folder")
    others = [name for name in names if not OF_A_MODEL.fullmatch(name)]
    if others:
        raise InputError(f"{folder} is there already and holds {others[0]}, which is no file of a model")

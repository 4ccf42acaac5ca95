"""Where things are kept where nothing else is said."""

import os
from pathlib import Path

from secateur.config.errors import InputError


def check_named_folder(model: str) -> None:
    """Raise InputError if a model's name can only be a path, as `./mine` or `/data/models/mine`, and nothing is there.

    A name such as OWNER/NAME may be the hub's, which is asked elsewhere.
    """
    is_path = model.startswith(("/", ".", "~")) or model.count("/") > 1 or "\\" in model
    if is_path and not exists(model):
        raise InputError(f"{model}: no such folder")


def exists(name: str) -> bool:
    try:
        return os.path.lexists(name)
    except (OSError, ValueError):  # a zero byte
        return False


def find_real(path: Path) -> Path:
    """Return what a path with `..` and links means; links in a circle mean themselves."""
    return Path(os.path.realpath(path))


def name_place(path: Path) -> Path:
    """Return a path by which what is written there has a name of its own: of a link what it leads to, of `..` and `.`
    what they mean, any other as it is."""
    return find_real(path) if path.name in ("", "..") or os.path.islink(path) else path


def default_cache() -> Path:
    """Return $XDG_CACHE_HOME/secateur, or ~/.cache/secateur."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "secateur"

"""What users did wrong, in one line."""

from importlib.machinery import ModuleSpec
from importlib.util import find_spec


class InputError(ValueError):
    """Something the user gave is wrong; the message is one line that names what and where."""


class QualityError(Exception):
    """What was made falls short of what was asked of it, and is not kept; the message is one line with the numbers."""


def require(package: str, *, extra: str, by: str) -> ModuleSpec:
    """Return where an optional package is, without importing it.

    Raises InputError where it is not; the remedy is the same in a clone and where secateur was installed without one.
    """
    spec = find_spec(package)
    if spec is None:
        raise InputError(f"{by} needs {package}, which is not installed: pip install 'secateur[{extra}]'")
    return spec


def name_missing(error: ModuleNotFoundError, *, by: str) -> str:
    """Return in one line which package is not installed and how to get it; a missing module of ours is raised again."""
    if error.name is None or error.name.partition(".")[0] == "secateur":
        raise error
    return f"{by} needs {error.name}, which is not installed: pip install 'secateur[train]'"

"""What users did wrong, in one line."""

import errno
from importlib.machinery import ModuleSpec
from importlib.util import find_spec


class InputError(ValueError):
    """Something the user gave is wrong; the message is one line that names what and where."""


class QualityError(Exception):
    """What was made falls short of what was asked of it, and is not kept; the message is one line with the numbers."""


LONGEST = 400  # characters of an error


def one_line(message: str) -> str:
    """Return a message as one line of a sane length, in which no character moves the cursor."""
    line = " ".join(message.split())
    if len(line) > LONGEST:
        line = f"{line[: LONGEST // 2]} ... {line[-LONGEST // 2 :]}"
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in line)


def say_error(error: Exception, most: int = 300) -> str:
    """Return what a library says of its error, in one line of at most so many characters; else the error's type."""
    return " ".join(str(error).split())[:most] or type(error).__name__


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


def say_system_error(error: OSError) -> str:
    """Return in a few words what the system refused, with the file where there is one."""
    named = [str(name) for name in (error.filename, error.filename2) if name is not None]
    reason = REASONS.get(error.errno or 0) or error.strerror or str(error) or type(error).__name__
    return ": ".join([" -> ".join(named), reason]) if named else reason


REASONS = {
    errno.ENOSPC: "the disk is full; what was being written is not kept",
    errno.EDQUOT: "the disk quota is used up; what was being written is not kept",
    errno.EFBIG: "larger than a file may be here; what was being written is not kept",
    errno.EROFS: "the disk is read-only",
    errno.EACCES: "no permission",
    errno.EPERM: "no permission",
    errno.ENAMETOOLONG: "a name too long for a file",
    errno.EMFILE: "too many files are open; `ulimit -n` says how many may be",
    errno.ENOENT: "no such file or folder",
}

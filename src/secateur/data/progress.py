"""Progress bars where somebody sees them: in a terminal or a notebook, not in a log file."""

import sys
from collections.abc import Iterable
from typing import Any

from tqdm.auto import tqdm


def progress_bar(name: str, over: Iterable[Any] | None = None, *, total: float | None = None, unit: str) -> "tqdm[Any]":
    """Return a bar of `total` units, or over an iterable; none is shown where `name` is empty or nobody watches."""
    hidden: dict[str, Any] = {} if name and is_watched() else {"disable": True}  # shown ones obey TQDM_DISABLE
    return tqdm(over, total=total, desc=name, unit=f" {unit}", **hidden)


def is_watched() -> bool:
    """Return whether a bar would be seen: standard error is a terminal, or this is a notebook."""
    return sys.stderr.isatty() or is_notebook()


def is_notebook() -> bool:
    """Return whether this process is a notebook's kernel; to have imported one, or to be started by one, is not."""
    shell = sys.modules.get("IPython")
    return shell is not None and hasattr(shell.get_ipython(), "kernel")

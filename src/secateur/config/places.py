"""Where things are kept where nothing else is said."""

import os
from pathlib import Path


def default_cache() -> Path:
    """Return $XDG_CACHE_HOME/secateur, or ~/.cache/secateur."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "secateur"

"""Which checkpoints of a training are whole, and the newest of them."""

import json
from pathlib import Path
from zipfile import is_zipfile

from safetensors import SafetensorError, safe_open


def find_checkpoint(folder: Path) -> str | None:
    """Return the newest checkpoint that was written to its end, or None."""
    numbers = [path.name.rpartition("-")[2] for path in folder.glob("checkpoint-*")]
    found = [folder / f"checkpoint-{number}" for number in sorted(filter(str.isdecimal, numbers), key=int)]
    whole = [path for path in found if is_whole(path)]
    return str(whole[-1]) if whole else None


def is_whole(checkpoint: Path) -> bool:
    """Return whether nothing of a checkpoint is cut off; trainer_state.json is written last."""
    try:
        json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
        with safe_open(checkpoint / "model.safetensors", "pt"):
            pass
    except (OSError, ValueError, SafetensorError):
        return False
    written = {*checkpoint.glob("*.pt*"), checkpoint / "optimizer.pt", checkpoint / "scheduler.pt"}
    return all(map(is_zipfile, written))

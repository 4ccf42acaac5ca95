"""The command line in a process of its own, as a user starts it."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from conftest import SENTENCES

from secateur.encoders.encoder import TorchEncoder
from secateur.encoders.saving import save_encoder

QUIET: dict[str, Any] = {"validation": {"pairs": 16}, "encodechka": {"tasks": []}, "tracking": {"to": "none"}}


def put_teacher_and_pairs(folder: Path, teacher: TorchEncoder) -> None:
    """Write what a toy recipe names: `teacher`, a model folder, and `pairs.tsv`."""
    save_encoder(teacher, folder / "teacher")
    rows = [f"{en}\t{ru}" for en, ru in SENTENCES]
    (folder / "pairs.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")


def command(*words: str, launcher: tuple[str, ...] = ("-m", "secateur.cli")) -> list[str]:
    return [sys.executable, *launcher, *words]


def run(folder: Path, words: list[str]) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(words, cwd=folder, env=quiet_environment(folder), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def quiet_environment(folder: Path) -> dict[str, str]:
    """Return an environment of the CPU alone: a CUDA device adds in any order, and one is too few for two processes."""
    return {
        **os.environ,
        "XDG_CACHE_HOME": str(folder / "cache"), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }  # fmt: skip


def read_curve(folder: Path, name: str) -> list[float]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line[name] for line in lines if name in line]


def wait_for(ready: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while not ready():
        assert process.poll() is None, "the run ended before it was killed"
        assert time.monotonic() < deadline
        time.sleep(0.002)

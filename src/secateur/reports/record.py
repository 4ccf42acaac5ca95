"""A run's record, read back from its folder: what is there of it, for a run that ended and for one that has not.

A record may be damaged: half-written, edited by hand, from another version. What can be read of it is shown; each
file that cannot is named in a line of warning and on the page.
"""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from secateur.config.errors import InputError
from secateur.evaluation.drift import Drift, load_drift
from secateur.evaluation.leaderboard import Scores
from secateur.pruning.predictions import Plan
from secateur.pruning.scores import Saliency
from secateur.pruning.selection import Kept
from secateur.pruning.sizes import Sizes
from secateur.reports.damage import (
    check_kept,
    clean_text,
    merge_steps,
    read_arrays,
    read_end,
    read_object,
    read_plan,
    read_saliency,
    read_sizes,
    reader,
    sound_line,
)

Read = TypeVar("Read")
log = logging.getLogger(__name__)

FILES = (
    "recipe.json", "metrics.jsonl", "saliency.safetensors", "whole.json", "plan.json", "kept.json", "drift.json",
    "scores.json", "draws.npz",
)  # fmt: skip


@dataclass(frozen=True)
class Record:
    """One run: its recipe, and of everything else what its stages have left so far."""

    name: str
    recipe: dict[str, Any]
    metrics: list[dict[str, Any]]  # the lines of metrics.jsonl, one for each step, in order of the steps
    changed: float  # when something was last written, seconds since 1970
    saliency: Saliency | None = None
    whole: Sizes | None = None  # the teacher's
    plan: Plan | None = None
    kept: Kept | None = None
    drift: Drift | None = None
    step: int | None = None  # of the checkpoint that was kept
    stages: tuple[dict[str, Any], ...] = ()  # rows of the stage table
    scores: Mapping[str, Scores] | None = None  # of the benchmark, by encoder
    flaws: Mapping[str, str] | None = None  # by file: why it, or a part of it, is not shown

    @property
    def has_ended(self) -> bool:
        """Whether the run has scored its student; a table of scores that is damaged was written all the same."""
        return bool(self.stages) or "scores.json" in (self.flaws or {})

    @property
    def is_empty(self) -> bool:
        """Whether nothing was measured yet, or nothing of it can be read."""
        parts = (self.saliency, self.whole, self.plan, self.kept, self.drift)
        return not (self.metrics or self.stages or any(part is not None for part in parts))

    @property
    def prunes(self) -> bool:
        """Whether the run cuts a teacher; otherwise it makes a new encoder."""
        return "student" not in self.recipe

    @property
    def steps(self) -> int:
        """How many steps of distillation the recipe asks for."""
        steps = self.distillation.get("steps", 0)
        return steps if isinstance(steps, int) else 0

    @property
    def distillation(self) -> Mapping[str, Any]:
        """The recipe's settings of distillation."""
        settings = self.recipe.get("distillation")
        return settings if isinstance(settings, dict) else {}

    @property
    def teacher(self) -> str:
        """The teacher's name, or the names of all."""
        teachers = self.recipe.get("teacher")
        listed = teachers if isinstance(teachers, list) else [teachers]
        named = [name_teacher(each) for each in listed if isinstance(each, dict)]
        return ", ".join(named) or "a teacher that is not known"


def name_teacher(settings: Mapping[str, Any]) -> str:
    wheel = settings.get("wheel")
    named = wheel.get("name") if isinstance(wheel, dict) else None
    name = settings.get("model") or named or settings.get("vectors") or "Universal Sentence Encoder"
    return clean_text(Path(str(name)).name)


def find_run(name: str, runs: Path) -> Path:
    """Return the folder of the run of that name, or at that path. Raises InputError: there is none."""
    for folder in (runs / name, Path(name)):
        if any((folder / file).is_file() for file in FILES):
            return folder
    there = ", ".join(sorted(path.parent.name for path in runs.glob("*/recipe.json"))) or "none"
    raise InputError(f"{name}: no such run in {runs}; there: {there}")


def read_record(folder: Path) -> Record:
    """Read what there is of a run's record; of each file that is damaged a line of warning says so."""
    flaws: dict[str, str] = {}

    def read(file: str, how: Callable[[Path], Read]) -> Read | None:
        """Return a file read, or None where it is not there or damaged."""
        path = folder / file
        try:
            return how(path) if path.is_file() else None
        except Exception as error:  # of a damaged file five libraries raise what they like, MemoryError too
            flaws[file] = f"it is damaged ({type(error).__name__}) and left out"
            return None

    recipe = read("recipe.json", read_object) or {}
    lines = read("metrics.jsonl", read_lines)
    metrics, dropped = lines or ([], 0)
    if dropped:
        flaws["metrics.jsonl"] = f"{dropped:,} of its lines are damaged and left out"
    files = (path for path in folder.iterdir() if path.is_file() and path.suffix != ".html")  # a page is not the run's
    saliency, kept = read("saliency.safetensors", read_saliency), read("kept.json", reader(Kept))
    record = Record(
        name=clean_text(str(recipe.get("name") or folder.resolve().name)),
        recipe=recipe,
        metrics=merge_steps(metrics),
        changed=max((path.stat().st_mtime for path in files), default=time.time()),
        saliency=saliency,
        whole=read("whole.json", read_sizes),
        plan=read("plan.json", read_plan),
        kept=read("kept.json", lambda _: kept and check_kept(kept, saliency)),
        drift=read("drift.json", load_drift),
    )
    ended = read("scores.json", read_end)
    if ended is not None:
        draws = read("draws.npz", read_arrays) or {}
        scores = {name: replace(of, draws=pick_draws(of, name, draws)) for name, of in ended.scores.items()}
        record = replace(record, step=ended.step, stages=ended.stages, scores=scores)
        if ended.dropped:
            flaws["scores.json"] = f"{ended.dropped}: no number that can be shown; left out"
    for file, flaw in flaws.items():
        log.warning("%s: %s", folder / file, flaw)
    return replace(record, flaws=flaws)


def pick_draws(scores: Scores, name: str, draws: Mapping[str, Any]) -> dict[str, Any]:
    return {task: draws[f"{name}/{task}"] for task in scores.tasks if f"{name}/{task}" in draws}


def read_metrics(path: Path, *, last_step: int | None = None) -> list[dict[str, Any]]:
    """Return the lines of a metrics.jsonl up to `last_step`; none where there is no such file.

    A last line that a killed run left unfinished is dropped, and so is what is no line of metrics.
    """
    if not path.exists():
        return []
    metrics, _ = read_lines(path)
    return [line for line in metrics if last_step is None or line["step"] <= last_step]


def read_lines(path: Path) -> tuple[list[dict[str, Any]], int]:
    """Return the sound lines of a metrics.jsonl, and how many others there are but for an unfinished last one."""
    *lines, _ = path.read_bytes().split(b"\n")
    found = [sound_line(line) for line in lines]
    sound = [line for line in found if line is not None]
    return sound, len(found) - len(sound)

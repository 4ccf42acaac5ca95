"""A run's record, read back from its folder: what is there of it, for a run that ended and for one that has not."""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from zipfile import BadZipFile

import numpy as np
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError

from secateur.config.errors import InputError
from secateur.evaluation.drift import Drift, load_drift
from secateur.evaluation.leaderboard import Scores, load_scores
from secateur.pruning.predictions import Plan
from secateur.pruning.scores import Saliency, load_saliency
from secateur.pruning.selection import Kept
from secateur.pruning.sizes import Sizes

Read = TypeVar("Read")


@dataclass(frozen=True)
class Record:
    """One run: its recipe, and of everything else what its stages have left so far."""

    name: str
    recipe: dict[str, Any]
    metrics: list[dict[str, Any]]  # the lines of metrics.jsonl
    changed: float  # when something was last written, seconds since 1970
    saliency: Saliency | None = None
    whole: Sizes | None = None  # the teacher's
    plan: Plan | None = None
    kept: Kept | None = None
    drift: Drift | None = None
    step: int | None = None  # of the checkpoint that was kept
    stages: tuple[dict[str, Any], ...] = ()  # rows of the stage table
    scores: Mapping[str, Scores] | None = None  # of the benchmark, by encoder

    @property
    def has_ended(self) -> bool:
        return bool(self.stages)

    @property
    def prunes(self) -> bool:
        """Whether the run cuts a teacher; otherwise it makes a new encoder."""
        return "student" not in self.recipe

    @property
    def steps(self) -> int:
        """How many steps of distillation the recipe asks for."""
        return int(self.recipe.get("distillation", {}).get("steps", 0))

    @property
    def teacher(self) -> str:
        """The teacher's name, or the names of all."""
        teachers = self.recipe.get("teacher", {})
        named = [teachers] if isinstance(teachers, dict) else teachers
        return ", ".join(name_teacher(each) for each in named)


def name_teacher(settings: Mapping[str, Any]) -> str:
    wheel = settings.get("wheel") or {}
    name = settings.get("model") or wheel.get("name") or settings.get("vectors") or "Universal Sentence Encoder"
    return Path(str(name)).name


def find_run(name: str, runs: Path) -> Path:
    """Return the folder of the run of that name, or at that path. Raises InputError: there is none."""
    for folder in (runs / name, Path(name)):
        if (folder / "recipe.json").is_file():
            return folder
    there = ", ".join(sorted(path.parent.name for path in runs.glob("*/recipe.json"))) or "none"
    raise InputError(f"{name}: no such run in {runs}; there: {there}")


def read_record(folder: Path) -> Record:
    """Read what there is of a run's record. Raises InputError: a file of it is damaged."""
    recipe = read(folder / "recipe.json", read_object)
    if recipe is None:
        raise InputError(f"{folder}: no recipe.json; that is no run's record")
    files = (path for path in folder.iterdir() if path.is_file() and path.suffix != ".html")  # a page is not the run's
    record = Record(
        name=str(recipe.get("name", folder.name)),
        recipe=recipe,
        metrics=read(folder / "metrics.jsonl", read_metrics) or [],
        changed=max((path.stat().st_mtime for path in files), default=time.time()),
        saliency=read(folder / "saliency.safetensors", load_saliency),
        whole=read(folder / "whole.json", reader(Sizes)),
        plan=read(folder / "plan.json", reader(Plan)),
        kept=read(folder / "kept.json", reader(Kept)),
        drift=read(folder / "drift.json", load_drift),
    )
    ended = read(folder / "scores.json", read_end)
    if ended is None:
        return record
    draws = read(folder / "draws.npz", read_arrays) or {}
    scores = {name: add_draws(of, name, draws) for name, of in ended.scores.items()}
    return replace(record, step=ended.step, stages=ended.stages, scores=scores)


def read(path: Path, how: Callable[[Path], Read]) -> Read | None:
    """Return a file read, or None where it is not there."""
    if not path.is_file():
        return None
    try:
        return how(path)
    except (ValueError, KeyError, TypeError, SafetensorError, BadZipFile, ValidationError) as error:
        raise InputError(f"{path}: damaged ({type(error).__name__})") from None


def read_object(path: Path) -> dict[str, Any]:
    plain = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(plain, dict):
        raise TypeError("not a mapping")
    return plain


class End(NamedTuple):
    """What scores.json holds."""

    step: int
    stages: tuple[dict[str, Any], ...]
    scores: dict[str, Scores]


def read_end(path: Path) -> End:
    plain = read_object(path)
    scores = {name: load_scores(each) for name, each in plain["benchmark"].items()}
    return End(int(plain["step"]), tuple(plain["stages"]), scores)


def reader(kind: type[Read]) -> Callable[[Path], Read]:
    return lambda path: TypeAdapter(kind).validate_json(path.read_bytes())


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)


def add_draws(scores: Scores, name: str, draws: Mapping[str, np.ndarray]) -> Scores:
    own = {task: draws[f"{name}/{task}"] for task in scores.tasks if f"{name}/{task}" in draws}
    return replace(scores, draws=own)


def read_metrics(path: Path, *, last_step: int | None = None) -> list[dict[str, Any]]:
    """Return the lines of a metrics.jsonl up to `last_step`; none where there is no such file.

    A last line that a killed run left unfinished is dropped.
    """
    if not path.exists():
        return []
    lines = [line for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]
    metrics: list[dict[str, Any]] = [json.loads(line) for line in lines]
    return [line for line in metrics if last_step is None or line["step"] <= last_step]

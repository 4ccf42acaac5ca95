"""What each file of a run's record must hold to be shown; whatever else it holds is damage.

Each reader returns what is sound, or raises: what it raises on rubbish is any exception, and its caller's to catch.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from pydantic import TypeAdapter

from secateur.evaluation.leaderboard import SENTENCE_TASKS, WORD_TASKS, Scores, load_scores
from secateur.pruning.predictions import Plan
from secateur.pruning.scores import Saliency, load_saliency
from secateur.pruning.selection import Kept
from secateur.pruning.sizes import Sizes

Read = TypeVar("Read")

LONGEST = 200  # characters of a name
STAGE_NUMBERS = ("parameters", "mb", "ms", "cosine", "en_ru", "ru_en", "pairs")  # that a page shows of a stage


def clean_text(text: str) -> str:
    """Return a name as one line of printable characters: a picture's file can hold no others."""
    return "".join(letter if letter.isprintable() else " " for letter in text)[:LONGEST].strip() or "no name"


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON object; NaN and infinities, which JSON has not, are None."""
    plain = json.loads(path.read_text(encoding="utf-8"), parse_constant=lambda _: None)
    if not isinstance(plain, dict):
        raise TypeError("not a mapping")
    return plain


def reader(kind: type[Read]) -> Callable[[Path], Read]:
    return lambda path: TypeAdapter(kind).validate_json(path.read_bytes())


def read_sizes(path: Path) -> Sizes:
    return check_sizes(reader(Sizes)(path))


def read_plan(path: Path) -> Plan:
    plan = reader(Plan)(path)
    check_sizes(plan.sizes)
    return plan


def check_sizes(sizes: Sizes) -> Sizes:
    """Return sizes; raise ValueError if one is no count that an encoder could have."""
    if not all(size is None or 0 <= size < 10**12 for size in asdict(sizes).values()):
        raise ValueError("no sizes of an encoder")
    return sizes


def sound_number(value: Any) -> float | None:
    """Return a finite number as it is; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if abs(value) < 1e300 else None  # NaN is not below it; nor is a whole number that no float can hold


def sound_line(line: bytes) -> dict[str, Any] | None:
    """Return a line of metrics without what is no number, None if it has no step. A null stays: it was not finite."""
    try:
        plain = json.loads(line, parse_constant=lambda _: None)
    except (ValueError, RecursionError):
        return None
    step = plain.get("step") if isinstance(plain, dict) else None
    if isinstance(step, bool) or not isinstance(step, int) or not 0 <= step < 10**12:
        return None
    return {key: value for key, value in plain.items() if value is None or sound_number(value) is not None}


def merge_steps(lines: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return one line for each step, in order of the steps; of a metric that was written twice the later value."""
    merged: dict[int, dict[str, Any]] = {}
    for line in lines:
        merged.setdefault(line["step"], {}).update(line)
    return [merged[step] for step in sorted(merged)]


class End(NamedTuple):
    """What scores.json holds."""

    step: int
    stages: tuple[dict[str, Any], ...]
    scores: dict[str, Scores]
    dropped: str  # names of what is no number


def read_end(path: Path) -> End:
    """Read the tables of a run that ended: rows with a name, their numbers where they are finite."""
    plain = read_object(path)
    rows = list(map(dict, plain["stages"]))
    if not rows or not all(isinstance(row["stage"], str) for row in rows):
        raise ValueError("no stages")
    stages, dropped = [], []
    for row in rows:
        numbers = {key: sound_number(row[key]) for key in STAGE_NUMBERS if key in row}
        stages.append({"stage": clean_text(row["stage"])} | {key: of for key, of in numbers.items() if of is not None})
        dropped += [key for key, of in numbers.items() if of is None]
    scores = {clean_text(name): check_scores(load_scores(each)) for name, each in plain["benchmark"].items()}
    return End(int(plain["step"]), tuple(stages), scores, ", ".join(dict.fromkeys(dropped)))


def check_scores(scores: Scores) -> Scores:
    """Return scores of known tasks, each a number or undefined; raise ValueError for others."""
    for task, vectors in scores.tasks.items():
        if task not in (*SENTENCE_TASKS, *WORD_TASKS) or "own" not in vectors:
            raise ValueError(f"no task with an own vector: {task}")
        if not all(math.isnan(score) or sound_number(score) is not None for score in vectors.values()):
            raise ValueError(f"no score: {task}")
    if not isinstance(scores.benchmark, str):
        raise TypeError("the benchmark has no name")
    return scores


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read the draws of a benchmark: arrays of numbers, all of one length. Pickled arrays are refused."""
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        drawn = {name: arrays[name].astype(np.float64, casting="safe") for name in arrays.files}
    if {each.ndim for each in drawn.values()} - {1} or len({len(each) for each in drawn.values()}) > 1:
        raise ValueError("draws of different lengths")
    return drawn


def read_saliency(path: Path) -> Saliency:
    """Read scores of heads and neurons: as many layers of each, a row of finite numbers a layer."""
    saliency = load_saliency(path)
    layers = (*saliency.heads, *saliency.neurons)
    if not saliency.heads or len(saliency.heads) != len(saliency.neurons):
        raise ValueError("no layers")
    if not all(each.dim() == 1 and len(each) and torch.isfinite(each).all() for each in layers):
        raise ValueError("a layer without scores")
    return Saliency(tuple(each.double() for each in saliency.heads), tuple(each.double() for each in saliency.neurons),
                    saliency.hidden.double())  # fmt: skip


def check_kept(kept: Kept, saliency: Saliency | None) -> Kept:
    """Return what was kept; raise ValueError if it cannot be of a teacher with these scores."""
    layers = range(len(kept.heads)) if kept.layers is None else kept.layers
    if not len(layers) == len(kept.heads) == len(kept.neurons) == len(set(layers)):
        raise ValueError("layers do not fit")
    for axis in ("heads", "neurons") if saliency is not None else ():
        whole = getattr(saliency, axis)
        if kept.layers is None and len(whole) != len(layers):
            raise ValueError("layers do not fit")
        for layer, indices in zip(layers, getattr(kept, axis), strict=True):
            if not all(0 <= index < len(whole[layer]) for index in indices) or layer < 0:
                raise ValueError(f"no such {axis} in layer {layer}")
    return kept

"""Toy records of runs, as train leaves them; nothing is trained."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from conftest import SENTENCES

from secateur.config.reading import build_recipe, dump_recipe
from secateur.data.files import write_json
from secateur.evaluation.drift import Drift, save_drift
from secateur.evaluation.leaderboard import SENTENCE_TASKS, Scores, dump_scores
from secateur.evaluation.validation import Comparison
from secateur.pruning.predictions import Plan
from secateur.pruning.scores import Saliency, save_saliency
from secateur.pruning.selection import Kept
from secateur.pruning.sizes import Sizes
from secateur.runs.bookkeeping import save_draws

RECIPE: dict[str, Any] = {
    "teacher": {"model": "models/great-teacher"},
    "corpus": {"files": ["pairs.tsv"]},
    "saliency": {"pairs": 8},
    "budget": {"heads": 0.5, "neurons": 0.5},
    "repair": {"sentences": 16},
    "distillation": {"steps": 40, "batch_size": 8, "learning_rate": 1e-3},
}
LAYERS, HEADS, NEURONS = 3, 4, 60
STAGES = {"teacher": 1.0, "pruned": 0.7, "repaired": 0.9, "distilled": 0.96}


def write_record(runs: Path, name: str, *, ended: bool = True, seed: int = 0, **changes: Any) -> Path:
    """Write the record of a run that has ended, or of one in the middle of distillation; return its folder."""
    folder = runs / name
    generator = np.random.default_rng(seed)
    write_json(folder / "recipe.json", dump_recipe(build_recipe(RECIPE | {"name": name} | changes, origin="toy")))
    write_start(folder, generator)
    lines: list[dict[str, Any]] = [
        {"step": 0, "validation/cosine": 0.9, "validation/en_ru": 0.8, "validation/ru_en": 0.8}
    ]
    for step in range(10, 41 if ended else 21, 10):
        terms = {"train/loss": 1 / step, "train/similarity": 2 / step, "train/output": None if step == 20 else 3 / step}
        lines.append({"step": step, "seconds": step, **terms})
        scores = {"cosine": 0.9 + step / 1000, "en_ru": 0.85, "ru_en": 0.86}
        lines.append({"step": step, **{f"validation/{key}": value for key, value in scores.items()}})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if ended:
        write_end(folder, generator)
    return folder


def write_start(folder: Path, generator: np.random.Generator) -> None:
    heads, neurons = (
        tuple(torch.tensor(generator.lognormal(size=count)) for _ in range(LAYERS)) for count in (HEADS, NEURONS)
    )
    save_saliency(Saliency(heads, neurons, torch.ones(8, dtype=torch.float64)), folder / "saliency.safetensors")
    whole = Sizes(LAYERS, LAYERS * HEADS, LAYERS * NEURONS, 32, 100, None)
    sizes = Sizes(2, 4, 60, 32, 100, None)
    losses = dict.fromkeys(asdict(whole), 0.0)
    write_json(folder / "whole.json", asdict(whole))
    write_json(folder / "plan.json", asdict(Plan(sizes, 1000, 0.004, None, losses)))
    kept = Kept(heads=((0, 2), (1, 3)), neurons=(tuple(range(40)), tuple(range(20))), layers=(0, 2))
    write_json(folder / "kept.json", asdict(kept))


def write_end(folder: Path, generator: np.random.Generator) -> None:
    en, ru = (list(side) for side in zip(*SENTENCES, strict=True))
    en[0] = "<script>alert(1)</script> & the worst of all"
    drift = Drift(en, ru, {name: draw_comparison(len(en), cosine, generator) for name, cosine in STAGES.items()})
    drift.stages["distilled"].cosine_en[0] = -0.25
    save_drift(drift, folder / "drift.json")
    scores = {
        name: Scores(
            {task: {"own": STAGES[name] * 0.7} for task in SENTENCE_TASKS},
            benchmark="probe",
            draws={task: STAGES[name] * 0.7 + generator.normal(size=50) / 100 for task in SENTENCE_TASKS},
        )
        for name in ("teacher", "distilled")
    }
    save_draws(scores, folder / "draws.npz")
    rows = [
        {"stage": name, "parameters": 2000 if name == "teacher" else 1000, "mb": 8.0 if name == "teacher" else 4.0,
         "ms": 2.0 if name == "teacher" else 1.1, **asdict(of.means)}
        for name, of in drift.stages.items()
    ]  # fmt: skip
    benchmark = {name: dump_scores(each) for name, each in scores.items()}
    write_json(folder / "scores.json", {"step": 40, "stages": rows, "benchmark": benchmark})


def draw_comparison(count: int, cosine: float, generator: np.random.Generator) -> Comparison:
    spread = 1 - cosine
    cosines = [np.clip(cosine + spread * generator.normal(size=count) / 2, -1, 1) for _ in range(2)]
    hits = [generator.random(count) < cosine for _ in range(2)]
    return Comparison(cosines[0], cosines[1], hits[0], hits[1])

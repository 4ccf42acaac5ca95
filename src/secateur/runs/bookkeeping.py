"""What every run does: its record on disk, a line for each stage, which rows it trains on."""

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from secateur.config.distillation import DistillationSettings
from secateur.data.files import whole_file, write_json, write_text
from secateur.data.pairs import Pairs
from secateur.distillation.checkpoints import find_checkpoint
from secateur.distillation.checks import check_distillation
from secateur.distillation.distillation import Distilled
from secateur.evaluation.drift import Drift, save_drift
from secateur.evaluation.leaderboard import Scores, dump_scores
from secateur.evaluation.scores import name_scores
from secateur.reports.display import StageTable
from secateur.reports.figures.drawing import Drawing
from secateur.reports.figures.drawings import draw_figures
from secateur.reports.page import write_page
from secateur.reports.record import read_record
from secateur.reports.text import format_benchmark
from secateur.runs.tracking import RunLog

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Places:
    """Where a run reads and writes."""

    run: Path  # experiments/NAME
    models: Path  # models
    cache: Path  # targets, downloads


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Say that a stage begins, and how long it took."""
    log.info("== %s", name)
    started = time.monotonic()
    yield
    log.info("== %s done in %.1f s", name, time.monotonic() - started)


def rows_to_train(pairs: Pairs, settings: DistillationSettings) -> Pairs:
    """Return the first rows of the corpus, no more than the steps will see; any prefix of it is a fair sample.

    Raises InputError: a weight for a source that is not there, or too few rows for a batch.
    """
    check_distillation(pairs, settings)
    if not settings.steps:
        return pairs.take([])
    weights = pairs.weigh(settings.source_weights)
    count = int(np.searchsorted(np.cumsum(weights), settings.steps * settings.batch_size)) + 1
    return pairs.take(range(min(count, len(pairs))))


def find_step(run: Path) -> int | None:
    checkpoint = find_checkpoint(run / "checkpoints")
    return int(checkpoint.rpartition("-")[2]) if checkpoint else None


def say_kept_step(result: Distilled, settings: DistillationSettings) -> str:
    """Return which student is kept, and why."""
    if not result.step:
        return "the student before distillation is kept" if settings.steps else "there was no distillation"
    if settings.keep == "last":
        return f"the student of the last step, {result.step:,}, is kept"
    return f"the student of step {result.step:,}, the best on held-out pairs, is kept"


def keep_results(
    rows: Sequence[Mapping[str, Any]],
    scores: Mapping[str, Scores],
    drift: Drift,
    places: Places,
    run_log: RunLog,
    *,
    student: Path,
    step: int,
) -> None:
    """Keep, report and print a run's tables, and make its page; `student` is its folder, the last row, the last scores
    and the last stage of `drift` are its own.
    """
    save_drift(drift, places.run / "drift.json")
    save_draws(scores, places.run / "draws.npz")
    record = {"step": step, "stages": rows, "benchmark": {name: dump_scores(of) for name, of in scores.items()}}
    write_json(places.run / "scores.json", record)
    text = str(StageTable(rows)) + ("\n\n" + format_benchmark(scores) if scores else "")
    write_text(places.run / "table.txt", text + "\n")
    run_log.metrics({f"held-out/{name}": rows[-1][name] for name in ("cosine", "en_ru", "ru_en")}, step)
    for name, of_encoder in scores.items():
        run_log.metrics(name_scores(f"{of_encoder.benchmark}, {name}", of_encoder), step)
    run_log.table("stages", rows)
    run_log.model(student)
    log.info("the student is in %s", student)
    print(f"\n{text}")
    keep_page(places.run, run_log)


def save_draws(scores: Mapping[str, Scores], path: Path) -> None:
    """Write what scores came to on items drawn anew, an array `encoder/task` each."""
    draws = {f"{name}/{task}": drawn for name, each in scores.items() for task, drawn in each.draws.items()}
    if draws:
        with whole_file(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **draws)


def keep_page(run: Path, run_log: RunLog) -> None:
    """Write report.html from the record and hand its pictures to the log."""
    records = [read_record(run)]
    drawings = draw_figures(records)
    log_figures(drawings, run_log)
    write_page(records, drawings, run / "report.html")
    log.info("the report is %s", run / "report.html")


def log_figures(drawings: Sequence[Drawing], run_log: RunLog) -> None:
    for drawing in drawings:
        run_log.figure(drawing.title, drawing.figure)

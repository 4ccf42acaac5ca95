"""What a run's encoders are worth: held-out pairs, milliseconds, the benchmark; for tables and for curves."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers import TrainerCallback

from secateur.config.errors import QualityError
from secateur.config.evaluation import EncodechkaSettings, ValidationSettings
from secateur.config.recipe import Recipe
from secateur.data.counting import say_count
from secateur.data.pairs import ParallelCorpus
from secateur.encoders.cost import count_bytes, count_parameters, time_encoders
from secateur.encoders.device import computing_in
from secateur.encoders.encoder import TorchEncoder, embed
from secateur.encoders.vectors import VectorSource
from secateur.evaluation.benchmark_data import DownloadError, find_data
from secateur.evaluation.drift import Drift
from secateur.evaluation.encodechka import score_encodechka
from secateur.evaluation.leaderboard import SENTENCE_TASKS, Scores, mean_s
from secateur.evaluation.probe import score_probe
from secateur.evaluation.validation import compare, validate

log = logging.getLogger(__name__)

TIMED_SENTENCES = 200

LogMetrics = Callable[[Mapping[str, float], int], None]  # named values, the step they belong to


@dataclass(frozen=True)
class HeldOut:
    """The pairs a run is judged by, and the teacher's vectors of them [pairs, D]."""

    en: list[str]
    ru: list[str]
    teacher_en: np.ndarray
    teacher_ru: np.ndarray

    def first(self, count: int) -> "HeldOut":
        return HeldOut(self.en[:count], self.ru[:count], self.teacher_en[:count], self.teacher_ru[:count])


def hold_out(
    corpus: ParallelCorpus, settings: ValidationSettings, embed_sentences: Callable[[list[str]], np.ndarray]
) -> HeldOut:
    """Return the first `settings.pairs` held-out pairs; `embed_sentences` gives the teacher's vectors of sentences."""
    en, ru = corpus.held_out.en[: settings.pairs], corpus.held_out.ru[: settings.pairs]
    if len(en) < settings.pairs:
        log.info("the scores rest on %s; more pairs make them steadier", say_count(len(en), "held-out pair"))
    vectors = embed_sentences([*en, *ru])
    return HeldOut(en, ru, vectors[: len(en)], vectors[len(en) :])


def embed_held_out(teacher: TorchEncoder, corpus: ParallelCorpus, settings: ValidationSettings) -> HeldOut:
    """Return the held-out pairs with an encoder's vectors of them."""
    return hold_out(
        corpus, settings, lambda texts: embed(teacher, texts, batch_size=settings.batch_size, progress="held-out pairs")
    )


def judge(held_out: HeldOut, batch_size: int) -> Callable[[TorchEncoder], dict[str, float]]:
    """Return what distillation validates with."""

    def score(encoder: TorchEncoder) -> dict[str, float]:
        return asdict(
            validate(encoder, held_out.en, held_out.ru, held_out.teacher_en, held_out.teacher_ru, batch_size=batch_size)
        )

    return score


def compare_stages(encoders: Mapping[str, TorchEncoder], held_out: HeldOut, *, batch_size: int = 64) -> Drift:
    """Return where each stage's vectors of the held-out sentences lie, beside the teacher's.

    Raises QualityError: they are not finite.
    """
    vectors = {"teacher": (held_out.teacher_en, held_out.teacher_ru)}
    for name, encoder in encoders.items():
        both = embed(encoder, [*held_out.en, *held_out.ru], batch_size=batch_size)
        if not np.isfinite(both).all():
            raise QualityError(f"{name}: its vectors of held-out sentences are not finite, so it cannot be judged")
        vectors[name] = (both[: len(held_out.en)], both[len(held_out.en) :])
    own = (held_out.teacher_en, held_out.teacher_ru)
    return Drift(held_out.en, held_out.ru, {name: compare(*each, *own) for name, each in vectors.items()})


def score_stages(
    encoders: Mapping[str, TorchEncoder], held_out: HeldOut, drift: Drift | None = None, *, runtime: str = "torch"
) -> list[dict[str, Any]]:
    """Return a row for each stage: parameters, MB, ms a sentence, held-out cosine and retrieval accuracy@1 both ways,
    over how many pairs.

    What `compare_stages` found is not measured again. `runtime`: whose milliseconds they are.
    """
    drift = drift or compare_stages(encoders, held_out)
    timed = held_out.ru[: TIMED_SENTENCES // 2] + held_out.en[: TIMED_SENTENCES // 2]
    milliseconds = time_encoders(list(encoders.values()), timed, runtime=runtime)
    return [
        {
            "stage": name,
            "parameters": count_parameters(encoder),
            "mb": count_bytes(encoder) / 1e6,
            "ms": ms,
            **drift.stages[name].row,
        }
        for (name, encoder), ms in zip(encoders.items(), milliseconds, strict=True)
    ]


@dataclass(frozen=True)
class Benchmark:
    """What encoders are scored on: encodechka's files or, where they cannot be had, the probe that ships with us."""

    settings: EncodechkaSettings
    data: Path | None  # the folder of encodechka's files; none: the probe

    @property
    def name(self) -> str:
        return "probe" if self.data is None else "encodechka"

    def score(self, encoder: TorchEncoder | VectorSource, *, name: str, own_only: bool = False) -> Scores:
        """Score an encoder, or a source of vectors, on the tasks of the settings; `name` stands beside the bar."""
        progress = f"{self.name}, {name}"
        if not isinstance(encoder, TorchEncoder):
            return self.score_source(encoder, progress)
        with computing_in(self.settings.precision, encoder.device):
            if self.data is None:
                return score_probe(encoder, tasks=self.settings.tasks, own_only=True, progress=progress)
            return score_encodechka(
                encoder, self.data, tasks=self.settings.tasks, own_only=own_only, batch_size=self.settings.batch_size,
                progress=progress,
            )  # fmt: skip

    def score_source(self, source: VectorSource, progress: str) -> Scores:
        tasks = [task for task in self.settings.tasks if task in SENTENCE_TASKS]
        if self.data is None:
            return score_probe(source, tasks=tasks, progress=progress)
        return score_encodechka(source, self.data, tasks=tasks, own_only=True, progress=progress)


def find_benchmark(settings: EncodechkaSettings, cache: Path) -> Benchmark | None:
    """Return what to score on; None where no task or stage is wanted. That the probe stands in is said."""
    if not settings.tasks or not settings.stages:
        return None
    try:
        return Benchmark(settings, find_data(settings, cache))
    except DownloadError as error:
        log.warning(
            "encodechka will not be scored: %s; encodechka.data=FOLDER names a copy of its files. The probe that comes "
            "with secateur is scored instead; its numbers are not encodechka's", error,
        )  # fmt: skip
        return Benchmark(settings, None)


def score_benchmark(encoders: dict[str, TorchEncoder], benchmark: Benchmark | None) -> dict[str, Scores]:
    if benchmark is None:
        return {}
    return {name: benchmark.score(encoders[name], name=name) for name in benchmark.settings.stages}


def benchmark_curve(
    benchmark: Benchmark | None, recipe: Recipe, log_metrics: LogMetrics
) -> tuple[TrainerCallback, ...]:
    """Return what reports the benchmark while training, if that is asked for. Nothing is chosen by it."""
    every = recipe.tracking.encodechka_every
    if not every or benchmark is None:
        return ()
    return (BenchmarkCurve(benchmark, every, log_metrics),)


class BenchmarkCurve(TrainerCallback):
    """Every so many steps: each task's score of the own vector, and Mean S, as metrics."""

    def __init__(self, benchmark: Benchmark, every: int, log_metrics: LogMetrics):
        self.benchmark, self.every, self.log_metrics = benchmark, every, log_metrics

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        if state.global_step % self.every or not state.is_world_process_zero:
            return
        training = model.training
        model.eval()
        scores = self.benchmark.score(model.encoder, name=f"step {state.global_step}", own_only=True)
        model.train(training)
        self.log_metrics(name_scores(self.benchmark.name, scores), state.global_step)


def name_scores(prefix: str, scores: Scores) -> dict[str, float]:
    """Return a metric for each task's own vector, and for their Mean S where there is one."""
    mean = mean_s(scores.own)
    named = {f"{prefix}/{task}": score for task, score in scores.own.items()}
    return named if mean is None else named | {f"{prefix}/Mean S": mean}

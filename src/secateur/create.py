"""One run that makes a new encoder: a body and a vocabulary, distilled from the vectors of other encoders.

What a run leaves: experiments/NAME/ (recipe.json, metrics.jsonl, checkpoints/, scores.json, drift.json, draws.npz,
table.txt, report.html) and models/NAME/. The teachers' vectors are kept in the cache.
"""

import logging
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState
from accelerate.utils import set_seed

from secateur.config import InputError, Making
from secateur.corpus import ParallelCorpus, load_corpus
from secateur.distillation import distill
from secateur.encoder import Encoder, pick_device, round_weights, save_encoder
from secateur.leaderboard import Scores
from secateur.report import write_making_card
from secateur.runs import Places, find_step, keep_results, open_run, rows_to_train, stage
from secateur.scores import (
    Benchmark,
    HeldOut,
    benchmark_curve,
    compare_stages,
    find_benchmark,
    hold_out,
    judge,
    score_stages,
)
from secateur.sources import FREQUENT
from secateur.students import make_student
from secateur.targets import combine_sources, embed_corpus
from secateur.teachers import EnglishSource, JoinedSources, VectorSource, load_sources
from secateur.tracking import RunLog, open_log
from secateur.validation import retrieval

log = logging.getLogger(__name__)


def create(making: Making, places: Places, *, resume: bool = False) -> None:
    """Run every stage of `making`, or with `resume` those that are not done yet, and print the result table."""
    if making.distillation.matching == "tokens":
        raise InputError("distillation.matching: tokens needs a teacher's hidden states; here embedding is to be had")
    vectors = places.cache / "targets"
    device = pick_device(making.device)
    state = PartialState(cpu=device == "cpu", timeout=timedelta(hours=12))
    with state.main_process_first():
        if state.is_main_process:
            open_run(making, places, resume=resume)
        set_seed(making.seed)
        benchmark = find_benchmark(making.encodechka, places.cache)
        with stage("corpus"):
            corpus = load_corpus(making.corpus, places.cache)
        rows = rows_to_train(corpus.train, making.distillation)
        with stage("student"):
            sentences = [*corpus.train.en, *corpus.train.ru]
            student = make_student(making.student, sentences, places.cache, seed=making.seed, device=device)
        with stage("targets"):
            sources = open_teachers(making, corpus, places.cache, device=device)
            teacher = join_teachers(sources, making, sentences, vectors, dimension=student.dimension)
            targets = embed_corpus(teacher, [*rows.en, *rows.ru], vectors, progress="vectors")
            held_out = hold_out(
                corpus, making.validation, lambda texts: embed_corpus(teacher, texts, vectors)[np.arange(len(texts))]
            )
    step = find_step(places.run) if resume else None
    with open_log(making, places.run, resume_step=step) as run_log:
        with stage("distillation"):
            result = distill(
                student, rows, targets, making.distillation, folder=places.run, seed=making.seed,
                validate=judge(held_out.first(making.validation.during), making.validation.batch_size),
                log_metrics=run_log.metrics, resume=step is not None,
                callbacks=benchmark_curve(benchmark, making, run_log),
            )  # fmt: skip
        log.info("the student of step %d is kept, held-out cosine %.4f", result.step, result.cosine)
        if state.is_main_process:
            finish(result.encoder, teacher, held_out, benchmark, making, places, run_log, step=result.step)


def open_teachers(making: Making, corpus: ParallelCorpus, cache: Path, *, device: str) -> list[VectorSource]:
    """Return the recipe's teachers; one for English alone is given English for Russian."""
    english = {
        ru: en
        for side in (corpus.train, corpus.held_out)
        for en, ru, source in zip(side.en, side.ru, side.source, strict=True)
        if source != FREQUENT
    }
    sources = load_sources(making.teacher, cache, device=device, precision=making.distillation.precision)
    return [
        EnglishSource(source, english) if settings.english_only else source
        for source, settings in zip(sources, making.teacher, strict=True)
    ]


def join_teachers(
    sources: list[VectorSource], making: Making, sentences: list[str], cache: Path, *, dimension: int
) -> VectorSource:
    """Return the recipe's teachers as one, of the student's dimension."""
    weights = [settings.weight for settings in making.teacher]
    return combine_sources(sources, weights, sentences, cache, dimension=dimension, progress="vectors")


def finish(
    student: Encoder,
    teacher: VectorSource,
    held_out: HeldOut,
    benchmark: Benchmark | None,
    making: Making,
    places: Places,
    run_log: RunLog,
    *,
    step: int,
) -> None:
    """Save the student, score it and its teacher, print and keep the tables."""
    half = making.student.saved_as == "float16"
    if half:
        round_weights(student)
    with stage("scores"):
        drift = compare_stages({"student": student}, held_out, making)
        rows = [judge_teacher(held_out), *score_stages({"student": student}, held_out, making, drift)]
        scores = score_both(student, teacher, benchmark)
    folder = places.models / making.name
    save_encoder(student, folder, card=write_making_card(making, teacher.name, rows, scores), half=half)
    keep_results(rows, scores, drift, places, run_log, student=folder, step=step)


def judge_teacher(held_out: HeldOut) -> dict[str, Any]:
    """Return the teacher's row of the stage table; what a black box weighs and takes is not known."""
    en, ru = held_out.teacher_en, held_out.teacher_ru
    return {"stage": "teacher", "cosine": 1.0, "en_ru": retrieval(en, ru), "ru_en": retrieval(ru, en)}


def score_both(student: Encoder, teacher: VectorSource, benchmark: Benchmark | None) -> dict[str, Scores]:
    """Score the student, and its teacher if all of it reads Russian."""
    if benchmark is None:
        return {}
    scores = {"student": benchmark.score(student, name="student")}
    if reads_english_alone(teacher):
        log.info("the teachers are not scored: one of them knows Russian sentences by their translations alone")
        return scores
    return {"teacher": benchmark.score(teacher, name="teacher"), **scores}


def reads_english_alone(teacher: VectorSource) -> bool:
    parts = teacher.parts if isinstance(teacher, JoinedSources) else (teacher,)
    return any(isinstance(part, EnglishSource) for part in parts)

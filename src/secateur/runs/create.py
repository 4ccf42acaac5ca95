"""One run that makes a new encoder: a body and a vocabulary, distilled from the vectors of other encoders.

What a run leaves: experiments/NAME/ (recipe.json, identity.json, models.json, metrics.jsonl, checkpoints/,
scores.json, drift.json, draws.npz, table.txt, report.html) and models/NAME/. The teachers' vectors are kept in the
cache.
"""

import logging
from contextlib import nullcontext
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState
from accelerate.utils import set_seed

from secateur.config.errors import InputError
from secateur.config.recipe import CreationRecipe
from secateur.data.corpus import load_corpus
from secateur.data.pairs import ParallelCorpus
from secateur.data.sources import FREQUENT
from secateur.distillation.checks import check_distillation
from secateur.distillation.distillation import distill
from secateur.distillation.targets import combine_sources, embed_corpus
from secateur.distillation.teachers import EnglishSource, JoinedSources, limit_source, load_sources
from secateur.encoders.cost import count_parameters
from secateur.encoders.device import pick_device
from secateur.encoders.encoder import TorchEncoder
from secateur.encoders.saving import round_weights
from secateur.encoders.students import make_student
from secateur.encoders.vectors import VectorSource, check_known
from secateur.evaluation.leaderboard import Scores
from secateur.evaluation.scores import (
    Benchmark,
    HeldOut,
    benchmark_curve,
    compare_stages,
    find_benchmark,
    hold_out,
    judge,
    score_stages,
)
from secateur.evaluation.validation import retrieval
from secateur.reports.cards import write_making_card
from secateur.runs.bookkeeping import Places, find_step, keep_results, rows_to_train, say_kept_step, stage
from secateur.runs.start import begin, check_disk, identify, open_run, save_model
from secateur.runs.tracking import RunLog, find_steps, open_log

log = logging.getLogger(__name__)


def create(recipe: CreationRecipe, places: Places, *, resume: bool = False) -> None:
    """Run every stage of `recipe`, or with `resume` those that are not done yet, and print the result table."""
    if recipe.distillation.matching == "tokens":
        raise InputError("distillation.matching: tokens needs a teacher's hidden states; here embedding is to be had")
    device = pick_device(recipe.device)
    state = PartialState(cpu=device == "cpu", timeout=timedelta(hours=12))
    with open_run(recipe, places, resume=resume) if state.is_main_process else nullcontext():
        run_stages(recipe, places, state, resume=resume, device=device)


def run_stages(recipe: CreationRecipe, places: Places, state: PartialState, *, resume: bool, device: str) -> None:
    vectors = places.cache / "targets"
    with state.main_process_first():
        set_seed(recipe.seed)
        benchmark = find_benchmark(recipe.encodechka, places.cache)
        with stage("corpus"):
            corpus = load_corpus(recipe.corpus, places.cache)
        check_distillation(corpus.train, recipe.distillation, processes=state.num_processes)
        rows = rows_to_train(corpus.train, recipe.distillation)
        with stage("student"):
            sentences = [*corpus.train.en, *corpus.train.ru]
            student = make_student(recipe.student, sentences, places.cache, seed=recipe.seed, device=device)
            check_distillation(corpus.train, recipe.distillation, student=student)
        with stage("teachers' vectors"):
            sources = open_teachers(recipe, corpus, places.cache, device=device)
            for source, settings in zip(sources, recipe.teacher, strict=True):
                if settings.weight:
                    check_known(source, [*sentences, *corpus.held_out.en, *corpus.held_out.ru])
            teacher = join_teachers(sources, recipe, sentences, vectors, dimension=student.dimension)
            if state.is_main_process:
                check_disk(count_parameters(student), recipe, places)
                begin(recipe, places, identify(corpus, [source.fingerprint for source in sources]), resume=resume)
            limited = limit_source(teacher, recipe.distillation.max_length)
            targets = embed_corpus(limited, [*rows.en, *rows.ru], vectors, progress="vectors")
            held_out = hold_out(
                corpus, recipe.validation, lambda texts: embed_corpus(teacher, texts, vectors)[np.arange(len(texts))]
            )
    step = find_step(places.run) if resume else None
    with open_log(recipe, places.run, resume_steps=find_steps(places.run) if resume else None) as run_log:
        with stage("distillation"):
            result = distill(
                student, rows, targets, recipe.distillation, folder=places.run, seed=recipe.seed,
                validate=judge(held_out.first(recipe.validation.during), recipe.validation.batch_size),
                log_metrics=run_log.metrics, resume=step is not None,
                callbacks=benchmark_curve(benchmark, recipe, run_log.metrics),
            )  # fmt: skip
        log.info("%s, held-out cosine %.4f", say_kept_step(result, recipe.distillation), result.cosine)
        if state.is_main_process:
            finish(result.encoder, teacher, held_out, benchmark, recipe, places, run_log, step=result.step)


def open_teachers(recipe: CreationRecipe, corpus: ParallelCorpus, cache: Path, *, device: str) -> list[VectorSource]:
    """Return the recipe's teachers; one for English alone is given English for Russian."""
    english = {
        ru: en
        for side in (corpus.train, corpus.held_out)
        for en, ru, source in zip(side.en, side.ru, side.source, strict=True)
        if source != FREQUENT
    }
    sources = load_sources(recipe.teacher, cache, device=device, precision=recipe.distillation.precision)
    return [
        EnglishSource(source, english) if settings.english_only else source
        for source, settings in zip(sources, recipe.teacher, strict=True)
    ]


def join_teachers(
    sources: list[VectorSource], recipe: CreationRecipe, sentences: list[str], cache: Path, *, dimension: int
) -> VectorSource:
    """Return the recipe's teachers as one, of the student's dimension."""
    weights = [settings.weight for settings in recipe.teacher]
    return combine_sources(sources, weights, sentences, cache, dimension=dimension, progress="vectors")


def finish(
    student: TorchEncoder,
    teacher: VectorSource,
    held_out: HeldOut,
    benchmark: Benchmark | None,
    recipe: CreationRecipe,
    places: Places,
    run_log: RunLog,
    *,
    step: int,
) -> None:
    """Save the student, score it and its teacher, print and keep the tables."""
    student = replace(student, dtype=recipe.student.saved_as)
    round_weights(student)
    with stage("scores"):
        drift = compare_stages({"student": student}, held_out, batch_size=recipe.validation.batch_size)
        rows = [judge_teacher(held_out), *score_stages({"student": student}, held_out, drift)]
        scores = score_both(student, teacher, benchmark)
    folder = places.models / recipe.name
    card = write_making_card(recipe, teacher.name, rows, scores, step=step)
    save_model(student, folder, places.run, card=card)
    keep_results(rows, scores, drift, places, run_log, student=folder, step=step)


def judge_teacher(held_out: HeldOut) -> dict[str, Any]:
    """Return the teacher's row of the stage table; what a black box weighs and takes is not known."""
    en, ru = held_out.teacher_en, held_out.teacher_ru
    return {"stage": "teacher", "cosine": 1.0, "en_ru": retrieval(en, ru), "ru_en": retrieval(ru, en), "pairs": len(en)}


def score_both(student: TorchEncoder, teacher: VectorSource, benchmark: Benchmark | None) -> dict[str, Scores]:
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

"""One run from recipe to saved student: the stages in order, each saying what it did and how long it took.

What a run leaves: experiments/NAME/ (recipe.json, saliency.safetensors, whole.json, plan.json, kept.json,
metrics.jsonl, checkpoints/, scores.json, drift.json, draws.npz, table.txt, report.html), models/NAME-pruned/ (cut and
repaired) and models/NAME/ (distilled).
"""

import logging
from dataclasses import asdict
from datetime import timedelta

from accelerate import PartialState
from accelerate.utils import set_seed
from pydantic import TypeAdapter

from secateur.config.recipe import PruningRecipe
from secateur.config.teacher import TeacherSettings
from secateur.data.corpus import load_corpus
from secateur.data.files import write_json
from secateur.data.pairs import ParallelCorpus
from secateur.encoders.device import pick_device
from secateur.encoders.encoder import TorchEncoder
from secateur.encoders.loading import load_encoder
from secateur.encoders.saving import save_encoder
from secateur.evaluation.scores import (
    Benchmark,
    HeldOut,
    benchmark_curve,
    compare_stages,
    embed_held_out,
    find_benchmark,
    score_benchmark,
    score_stages,
)
from secateur.pruning.cutting import CutResult, cut_again, cut_and_repair, draw_random_weights
from secateur.pruning.inputs import PlanningInputs, judged_sentences, measure_on_corpus
from secateur.pruning.plan import make_plan
from secateur.pruning.predictions import Plan
from secateur.pruning.scores import load_saliency, save_saliency
from secateur.pruning.selection import Kept, say_kept
from secateur.pruning.sizes import describe
from secateur.reports.cards import write_card
from secateur.reports.display import PlanTable
from secateur.reports.figures.drawings import draw_figures
from secateur.reports.record import read_record
from secateur.runs.bookkeeping import Places, find_step, keep_results, log_figures, open_run, rows_to_train, stage
from secateur.runs.gradual import cut_gradually
from secateur.runs.tracking import RunLog, open_log
from secateur.runs.training import Training, embed_targets

log = logging.getLogger(__name__)


def train(recipe: PruningRecipe, places: Places, *, resume: bool = False) -> None:
    """Run every stage of `recipe`, or with `resume` those that are not done yet, and print the result table."""
    device = pick_device(recipe.device)
    state = PartialState(cpu=device == "cpu", timeout=timedelta(hours=12))
    with state.main_process_first():
        if state.is_main_process:
            open_run(recipe, places, resume=resume)
        set_seed(recipe.seed)
        benchmark = find_benchmark(recipe.encodechka, places.cache)
        with stage("teacher"):
            teacher = load_encoder(recipe.teacher, device=device)
        with stage("corpus"):
            corpus = load_corpus(recipe.corpus, places.cache)
            rows = rows_to_train(corpus.train, recipe.distillation)
            held_out = embed_held_out(teacher, corpus, recipe.validation)
        made = resume or not state.is_main_process  # what the main process has made is read
        inputs = collect_inputs(teacher, corpus, recipe, places, resume=made)
        plan = load_or_make_plan(inputs, places, resume=made)
        targets = embed_targets(teacher, rows, recipe.distillation, places.cache)
    step = find_step(places.run) if resume else None
    with open_log(recipe, places.run, resume_step=step) as run_log:
        training = Training(rows, targets, held_out, teacher, recipe, run_log)
        if recipe.budget.gradual_steps:
            cut_result = cut_gradually(inputs, plan, training, places, resume=resume)
        else:
            with state.main_process_first():
                cut_result = cut(inputs, plan, places, resume=resume or not state.is_main_process)
        log_figures(draw_figures([read_record(places.run)]), run_log)
        with stage("distillation"):
            callbacks = benchmark_curve(benchmark, recipe, run_log.metrics)
            result = training.run(cut_result.repaired, places.run, resume=step is not None, callbacks=callbacks)
        log.info("the student of step %d is kept, held-out cosine %.4f", result.step, result.cosine)
        if state.is_main_process:
            encoders = {"teacher": teacher, "pruned": cut_result.pruned, "repaired": cut_result.repaired}
            encoders["distilled"] = result.encoder
            finish(encoders, held_out, benchmark, recipe, places, run_log, step=result.step)


def collect_inputs(
    teacher: TorchEncoder, corpus: ParallelCorpus, recipe: PruningRecipe, places: Places, *, resume: bool
) -> PlanningInputs:
    path = places.run / "saliency.safetensors"
    with stage("saliency"):
        if resume and path.exists():
            saliency = load_saliency(path)
        else:
            saliency = measure_on_corpus(teacher, corpus.train, recipe)
            save_saliency(saliency, path)
    return PlanningInputs(teacher, saliency, corpus.train.texts, judged_sentences(corpus, recipe), recipe)


def load_or_make_plan(inputs: PlanningInputs, places: Places, *, resume: bool) -> Plan:
    path = places.run / "plan.json"
    if resume and path.exists():
        return TypeAdapter(Plan).validate_json(path.read_bytes())
    with stage("plan"):
        plan = make_plan(inputs, progress="trial cuts")
    shape = describe(inputs.teacher)
    log.info("%s", PlanTable(plan, shape))
    write_json(places.run / "whole.json", asdict(shape.whole))
    write_json(path, asdict(plan))
    return plan


def cut(inputs: PlanningInputs, plan: Plan, places: Places, *, resume: bool) -> CutResult:
    recipe = inputs.recipe
    folder = places.models / f"{recipe.name}-pruned"
    path = places.run / "kept.json"
    if resume and (places.run / "repaired").exists():
        settings = TeacherSettings(model=str(folder), max_length=inputs.teacher.max_length)
        repaired = load_encoder(settings, device=str(inputs.teacher.device))
        return cut_again(inputs, plan.sizes, TypeAdapter(Kept).validate_json(path.read_bytes()), repaired)
    with stage("cut and repair"):
        if recipe.budget.initialization == "random":  # only sizes stay: neither rounds nor repair would be seen
            cut_result = draw_random_weights(
                cut_and_repair(inputs, plan.sizes, rounds=1, sentences=0), seed=recipe.seed
            )
        else:
            cut_result = cut_and_repair(inputs, plan.sizes, progress="repair")
    for line in say_kept(cut_result.kept, whole=len(inputs.saliency.heads)):
        log.info(line)
    write_json(path, asdict(cut_result.kept), indent=None)
    save_encoder(cut_result.repaired, folder)
    (places.run / "repaired").touch()
    return cut_result


def finish(
    encoders: dict[str, TorchEncoder],
    held_out: HeldOut,
    benchmark: Benchmark | None,
    recipe: PruningRecipe,
    places: Places,
    run_log: RunLog,
    *,
    step: int,
) -> None:
    """Save the student, score every stage, print and keep the tables."""
    with stage("scores"):
        drift = compare_stages(encoders, held_out, batch_size=recipe.validation.batch_size)
        rows = score_stages(encoders, held_out, drift, runtime=recipe.budget.runtime)
        scores = score_benchmark(encoders, benchmark)
    folder = places.models / recipe.name
    save_encoder(encoders["distilled"], folder, card=write_card(recipe, rows, scores, step=step))
    keep_results(rows, scores, drift, places, run_log, student=folder, step=step)

"""One run from recipe to saved student: the stages in order, each saying what it did and how long it took.

What a run leaves: experiments/NAME/ (recipe.json, identity.json, saliency.safetensors, whole.json, plan.json,
kept.json, repaired.safetensors, repaired.json, models.json, metrics.jsonl, checkpoints/, scores.json, drift.json,
draws.npz, table.txt, report.html), models/NAME-pruned/ (cut and repaired) and models/NAME/ (distilled).
"""

import json
import logging
from contextlib import nullcontext
from dataclasses import asdict, replace
from datetime import timedelta
from functools import partial
from pathlib import Path

from accelerate import PartialState
from accelerate.utils import set_seed
from pydantic import TypeAdapter

from secateur.config.recipe import PruningRecipe
from secateur.data.corpus import load_corpus
from secateur.data.files import write_json
from secateur.data.pairs import ParallelCorpus
from secateur.distillation.checks import check_distillation
from secateur.encoders.cost import count_parameters
from secateur.encoders.device import pick_device
from secateur.encoders.encoder import TorchEncoder
from secateur.encoders.fingerprint import fingerprint
from secateur.encoders.loading import load_encoder
from secateur.encoders.saving import round_weights
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
from secateur.pruning.budget import name_sizes
from secateur.pruning.cutting import CutResult, cut_and_repair, cut_to, cut_words, draw_random_weights
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
from secateur.runs.bookkeeping import Places, find_step, keep_results, log_figures, rows_to_train, say_kept_step, stage
from secateur.runs.evidence import check_start, check_teacher
from secateur.runs.fetch import fetch_missing
from secateur.runs.gradual import cut_gradually
from secateur.runs.prune import NOT_KEPT, adapt
from secateur.runs.start import begin, bound_parameters, check_disk, identify, load_part, open_run, save_model
from secateur.runs.tracking import RunLog, find_steps, open_log
from secateur.runs.training import Training, embed_targets, load_weights, save_weights

log = logging.getLogger(__name__)

WEIGHTS, REPAIRED = "repaired.safetensors", "repaired.json"  # of the student that distillation starts from


def train(recipe: PruningRecipe, places: Places, *, resume: bool = False) -> None:
    """Run every stage of `recipe`, or with `resume` those that are not done yet, and print the result table."""
    device = pick_device(recipe.device)
    state = PartialState(cpu=device == "cpu", timeout=timedelta(hours=12))
    with open_run(recipe, places, resume=resume) if state.is_main_process else nullcontext():
        run_stages(recipe, places, state, resume=resume, device=device)


def run_stages(recipe: PruningRecipe, places: Places, state: PartialState, *, resume: bool, device: str) -> None:
    with state.main_process_first():
        set_seed(recipe.seed)
        benchmark = find_benchmark(recipe.encodechka, places.cache)
        with stage("teacher"):
            fetch_missing(recipe.teacher, places.cache)
            teacher = load_encoder(replace(recipe.teacher, max_length=None), device=device)
            teacher, said = adapt(teacher, recipe.teacher)
            for line in said:
                log.info("%s", line)
            name_sizes(recipe.budget, describe(teacher))
        with stage("corpus"):
            corpus = load_corpus(recipe.corpus, places.cache)
            settings = replace(recipe.distillation, steps=max(recipe.distillation.steps, recipe.budget.gradual_steps))
            check_distillation(corpus.train, settings, student=teacher, teacher=teacher, processes=state.num_processes)
            rows = rows_to_train(corpus.train, settings)
            times = check_start(teacher, corpus, recipe)
        if state.is_main_process:
            check_disk(bound_parameters(recipe, count_parameters(teacher)), recipe, places)
            begin(recipe, places, identify(corpus, fingerprint(teacher)), resume=resume)
        held_out = embed_held_out(teacher, corpus, recipe.validation)
        check_teacher(held_out)
        made = resume or not state.is_main_process  # what the main process has made is read
        inputs = replace(collect_inputs(teacher, corpus, recipe, places, resume=made), times=times)
        plan = load_or_make_plan(inputs, places, resume=made)
        check_disk(plan.params, recipe, places)
        targets = embed_targets(teacher, rows, recipe.distillation, places.cache)
    step = find_step(places.run) if resume else None
    with open_log(recipe, places.run, resume_steps=find_steps(places.run) if resume else None) as run_log:
        training = Training(rows, targets, held_out, teacher, recipe, run_log)
        if recipe.budget.gradual_steps:
            cut_result = cut_gradually(inputs, plan, training, places, resume=resume)
        else:
            with state.main_process_first():
                cut_result = cut(inputs, plan, places, resume=made)
        log_figures(draw_figures([read_record(places.run)]), run_log)
        with stage("distillation"):
            callbacks = benchmark_curve(benchmark, recipe, run_log.metrics)
            result = training.run(cut_result.repaired, places.run, resume=step is not None, callbacks=callbacks)
        log.info("%s, held-out cosine %.4f", say_kept_step(result, recipe.distillation), result.cosine)
        if state.is_main_process:
            encoders = {"teacher": teacher}
            if cut_result.rejected is not None:
                encoders[NOT_KEPT] = cut_result.rejected
            encoders["pruned"] = cut_result.pruned
            if cut_result.repaired is not cut_result.pruned:
                encoders["repaired"] = cut_result.repaired
            if result.step:
                round_weights(result.encoder)
                encoders["distilled"] = result.encoder
            finish(encoders, held_out, benchmark, recipe, places, run_log, step=result.step)


def collect_inputs(
    teacher: TorchEncoder, corpus: ParallelCorpus, recipe: PruningRecipe, places: Places, *, resume: bool
) -> PlanningInputs:
    path = places.run / "saliency.safetensors"
    with stage("saliency"):
        if resume and path.exists():
            saliency = load_part(path, load_saliency)
        else:
            saliency = measure_on_corpus(teacher, corpus.train, recipe, cache=places.cache)
            save_saliency(saliency, path)
    judged = judged_sentences(corpus, recipe)
    return PlanningInputs(teacher, saliency, corpus.train.texts, judged, recipe, places.cache)


def load_or_make_plan(inputs: PlanningInputs, places: Places, *, resume: bool) -> Plan:
    path = places.run / "plan.json"
    if resume and path.exists():
        return load_part(path, lambda file: TypeAdapter(Plan).validate_json(file.read_bytes()))
    with stage("plan"):
        plan = make_plan(inputs, progress="trial cuts")
    shape = describe(inputs.teacher)
    log.info("%s", PlanTable(plan, shape))
    write_json(places.run / "whole.json", asdict(shape.whole))
    write_json(path, asdict(plan))
    return plan


def cut(inputs: PlanningInputs, plan: Plan, places: Places, *, resume: bool) -> CutResult:
    """Cut the teacher and repair what is left, where that brings it nearer to the teacher on held-out pairs."""
    recipe = inputs.recipe
    cut_result = cut_again(inputs, plan, places.run) if resume and (places.run / REPAIRED).exists() else None
    if cut_result is None:
        with stage("cut and repair"):
            if recipe.budget.initialization == "random":  # only sizes stay: neither rounds nor repair would be seen
                whole = cut_and_repair(inputs, plan.sizes, rounds=1, sentences=0)
                cut_result = draw_random_weights(whole, seed=recipe.seed)
            else:
                cut_result = cut_and_repair(inputs, plan.sizes, progress="repair")
        for line in say_kept(cut_result.kept, whole=len(inputs.saliency.heads)):
            log.info(line)
        write_json(places.run / "kept.json", asdict(cut_result.kept), indent=None)
        save_weights(cut_result.rejected or cut_result.repaired, places.run / WEIGHTS)
        repair = "none" if cut_result.repaired is cut_result.pruned else "kept"
        write_json(places.run / REPAIRED, {"repair": "rejected" if cut_result.rejected else repair})
    if PartialState().is_main_process:
        save_model(cut_result.repaired, places.models / f"{recipe.name}-pruned", places.run)
    return cut_result


def cut_again(inputs: PlanningInputs, plan: Plan, run: Path) -> CutResult:
    """Return what `cut` gave before the run was stopped: all but the repair is done anew, which takes little."""
    kept = load_part(run / "kept.json", lambda file: TypeAdapter(Kept).validate_json(file.read_bytes()))
    repair = load_part(run / REPAIRED, lambda file: str(json.loads(file.read_bytes())["repair"]))
    base = cut_words(inputs, plan.sizes)
    pruned = cut_to(base, kept, plan.sizes, inputs)
    round_weights(pruned)
    loaded = load_part(run / WEIGHTS, partial(load_weights, pruned))
    if repair == "none":  # random weights, too, are in no need of one
        return CutResult(kept, base, loaded, loaded)
    if repair == "rejected":
        return CutResult(kept, base, pruned, pruned, loaded)
    return CutResult(kept, base, pruned, loaded)


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
    """Save the student, the last of `encoders`, score every stage, print and keep the tables."""
    last = list(encoders)[-1]
    with stage("scores"):
        drift = compare_stages(encoders, held_out, batch_size=recipe.validation.batch_size)
        rows = score_stages(encoders, held_out, drift, runtime=recipe.budget.runtime)
        # a stage that nothing is left of is scored as the one whose student was kept in its place
        instead = dict.fromkeys(("pruned", "repaired", "distilled"), encoders[last])
        scores = score_benchmark(instead | encoders, benchmark)
        scores = {name if name in encoders else last: found for name, found in scores.items()}
    folder = places.models / recipe.name
    card = write_card(recipe, rows, scores, step=step)
    save_model(encoders[last], folder, places.run, card=card)
    keep_results(rows, scores, drift, places, run_log, student=folder, step=step)

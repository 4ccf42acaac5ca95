"""One run from recipe to saved student: the stages in order, each saying what it did and how long it took.

What a run leaves: experiments/NAME/ (recipe.json, saliency.safetensors, kept.json, metrics.jsonl, checkpoints/,
scores.json, table.txt), models/NAME-pruned/ (cut and repaired) and models/NAME/ (distilled).
"""

import logging
from dataclasses import asdict
from datetime import timedelta
from itertools import zip_longest
from pathlib import Path

from accelerate import PartialState
from accelerate.utils import set_seed

from secateur import config
from secateur.config import Experiment
from secateur.corpus import Pairs, ParallelCorpus, load_corpus
from secateur.distillation import distill
from secateur.encoder import Encoder, load_encoder, pick_device, pick_precision, save_encoder
from secateur.files import write_json
from secateur.repair import repair
from secateur.report import draw_saliency, format_stages, write_card
from secateur.runs import Places, find_step, keep_results, open_run, rows_to_train, stage
from secateur.saliency import Saliency, load_saliency, measure_saliency, save_saliency
from secateur.scores import (
    HeldOut,
    benchmark_curve,
    embed_held_out,
    find_benchmark,
    judge,
    score_benchmark,
    score_stages,
)
from secateur.selection import Kept, choose_kept
from secateur.slicing import slice_encoder
from secateur.targets import Targets, embed_corpus
from secateur.teachers import EncoderSource
from secateur.tracking import RunLog, open_log

log = logging.getLogger(__name__)


def train(experiment: Experiment, places: Places, *, resume: bool = False) -> None:
    """Run every stage of `experiment`, or with `resume` those that are not done yet, and print the result table."""
    device = pick_device(experiment.device)
    state = PartialState(cpu=device == "cpu", timeout=timedelta(hours=12))
    with state.main_process_first():
        if state.is_main_process:
            open_run(experiment, places, resume=resume)
        set_seed(experiment.seed)
        data = find_benchmark(experiment.encodechka, places.cache)
        with stage("corpus"):
            corpus = load_corpus(experiment.corpus, places.cache)
        with stage("teacher"):
            teacher = load_encoder(experiment.teacher, device=device)
            held_out = embed_held_out(teacher, corpus, experiment.validation)
        resume = resume or not state.is_main_process
        saliency, kept = cut(teacher, corpus, experiment, places, resume=resume)
        pruned = slice_encoder(teacher, kept)
        repaired = mend(pruned, teacher, kept, corpus, experiment, places, resume=resume)
        rows = rows_to_train(corpus.train, experiment.distillation)
        targets = embed_targets(teacher, rows, experiment, places.cache)
    step = find_step(places.run) if resume else None
    with open_log(experiment, places.run, resume_step=step) as run_log:
        run_log.figure("saliency", draw_saliency(saliency, kept))
        with stage("distillation"):
            result = distill(
                repaired, rows, targets, experiment.distillation, folder=places.run, seed=experiment.seed,
                validate=judge(held_out.first(experiment.validation.during), experiment.validation.batch_size),
                log_metrics=run_log.metrics, teacher=teacher, resume=step is not None,
                callbacks=benchmark_curve(data, experiment, run_log),
            )  # fmt: skip
        log.info("best held-out cosine %.4f, at step %d", result.cosine, result.step)
        if state.is_main_process:
            encoders = {"teacher": teacher, "pruned": pruned, "repaired": repaired, "distilled": result.encoder}
            finish(encoders, held_out, data, experiment, places, run_log, step=result.step)


def cut(
    teacher: Encoder, corpus: ParallelCorpus, experiment: Experiment, places: Places, *, resume: bool
) -> tuple[Saliency, Kept]:
    path = places.run / "saliency.safetensors"
    with stage("saliency"):
        if resume and path.exists():
            saliency = load_saliency(path)
        else:
            saliency = measure(teacher, corpus, experiment)
            save_saliency(saliency, path)
        kept = choose_kept(saliency, experiment.budget)
    log.info("heads kept in each layer: %s", " ".join(str(len(layer)) for layer in kept.heads))
    log.info("neurons kept in each layer: %s", " ".join(str(len(layer)) for layer in kept.neurons))
    write_json(places.run / "kept.json", asdict(kept), indent=None)
    return saliency, kept


def measure(teacher: Encoder, corpus: ParallelCorpus, experiment: Experiment) -> Saliency:
    return measure_saliency(teacher, corpus.train, experiment.saliency, seed=experiment.seed, progress="saliency")


def mend(
    pruned: Encoder,
    teacher: Encoder,
    kept: Kept,
    corpus: ParallelCorpus,
    experiment: Experiment,
    places: Places,
    *,
    resume: bool,
) -> Encoder:
    folder = places.models / f"{experiment.name}-pruned"
    if resume and (places.run / "repaired").exists():
        settings = config.Teacher(model=str(folder), max_length=teacher.max_length)
        return load_encoder(settings, device=str(teacher.device))
    repaired = refit(pruned, teacher, kept, corpus, experiment)
    save_encoder(repaired, folder)
    (places.run / "repaired").touch()
    return repaired


def refit(pruned: Encoder, teacher: Encoder, kept: Kept, corpus: ParallelCorpus, experiment: Experiment) -> Encoder:
    with stage("repair"):
        sentences = calibration_sentences(corpus.train, experiment.repair.sentences)
        return repair(pruned, teacher, kept, sentences, experiment.repair, progress="repair")


def calibration_sentences(pairs: Pairs, count: int) -> list[str]:
    """Return both sides of pairs taken from each source in turn, so that a large source does not outweigh the rest."""
    rows: dict[str, list[int]] = {}
    for row, source in enumerate(pairs.source):
        rows.setdefault(source, []).append(row)
    turns = [row for turn in zip_longest(*(rows[source] for source in sorted(rows))) for row in turn if row is not None]
    return [sentence for row in turns for sentence in (pairs.en[row], pairs.ru[row])][:count]


def embed_targets(teacher: Encoder, rows: Pairs, experiment: Experiment, cache: Path) -> Targets | None:
    if experiment.distillation.matching == "tokens":
        return None
    with stage("targets"):
        source = EncoderSource(teacher, pick_precision(experiment.distillation.precision, teacher.device))
        return embed_corpus(source, [*rows.en, *rows.ru], cache / "targets", progress="teacher's vectors")


def finish(
    encoders: dict[str, Encoder],
    held_out: HeldOut,
    data: Path | None,
    experiment: Experiment,
    places: Places,
    run_log: RunLog,
    *,
    step: int,
) -> None:
    """Save the student, score every stage, print and keep the tables."""
    with stage("scores"):
        rows = score_stages(encoders, held_out, experiment)
        scores = score_benchmark(encoders, data, experiment.encodechka)
    folder = places.models / experiment.name
    save_encoder(encoders["distilled"], folder, card=write_card(experiment, rows, scores))
    keep_results(rows, scores, places, run_log, student=folder, step=step)


def prune(experiment: Experiment, out: Path, *, cache: Path) -> None:
    """Cut and repair a model once and save it in `out`, with the held-out cosine before and after said."""
    device = pick_device(experiment.device)
    set_seed(experiment.seed)
    corpus = load_corpus(experiment.corpus, cache)
    teacher = load_encoder(experiment.teacher, device=device)
    held_out = embed_held_out(teacher, corpus, experiment.validation)
    with stage("saliency"):
        kept = choose_kept(measure(teacher, corpus, experiment), experiment.budget)
    pruned = slice_encoder(teacher, kept)
    repaired = refit(pruned, teacher, kept, corpus, experiment)
    rows = score_stages({"teacher": teacher, "pruned": pruned, "repaired": repaired}, held_out, experiment)
    save_encoder(repaired, out, card=write_card(experiment, rows, {}))
    print(format_stages(rows))

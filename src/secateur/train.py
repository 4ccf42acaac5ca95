"""One run from recipe to saved student: the stages in order, each saying what it did and how long it took.

What a run leaves: experiments/NAME/ (recipe.json, saliency.safetensors, whole.json, plan.json, kept.json,
metrics.jsonl, checkpoints/, scores.json, drift.json, draws.npz, table.txt, report.html), models/NAME-pruned/ (cut and
repaired) and models/NAME/ (distilled).
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from pathlib import Path

from accelerate import PartialState
from accelerate.utils import set_seed
from pydantic import TypeAdapter
from transformers import TrainerCallback

from secateur import config
from secateur.budget import Plan, describe
from secateur.config import Experiment
from secateur.corpus import Pairs, ParallelCorpus, load_corpus
from secateur.distillation import Distilled, distill, find_checkpoint
from secateur.encoder import Encoder, load_encoder, pick_device, pick_precision, save_encoder
from secateur.figures import draw_family, draw_figures
from secateur.files import whole_folder, write_json
from secateur.planning import (
    Grounds,
    Shrunk,
    approach,
    cut_again,
    cut_on,
    cut_to,
    cut_words,
    draw_anew,
    look_ahead,
    make_plan,
    measure,
    set_limits,
    shrink,
    shrink_nested,
)
from secateur.record import read_record
from secateur.repair import repair
from secateur.report import format_coverage, format_plan, format_stages, write_card
from secateur.runs import Places, find_step, keep_results, log_figures, open_run, rows_to_train, stage
from secateur.saliency import load_saliency, save_saliency
from secateur.scores import (
    Benchmark,
    HeldOut,
    benchmark_curve,
    compare_stages,
    embed_held_out,
    find_benchmark,
    judge,
    score_benchmark,
    score_stages,
)
from secateur.selection import Kept
from secateur.sources import read_lines
from secateur.targets import Targets, embed_corpus
from secateur.teachers import EncoderSource
from secateur.tracking import RunLog, open_log
from secateur.trimming import fast_tokenizer, measure_coverage, trim_vocabulary

log = logging.getLogger(__name__)

JUDGED_SENTENCES = 400  # that a plan's losses are measured on


def train(experiment: Experiment, places: Places, *, resume: bool = False) -> None:
    """Run every stage of `experiment`, or with `resume` those that are not done yet, and print the result table."""
    device = pick_device(experiment.device)
    state = PartialState(cpu=device == "cpu", timeout=timedelta(hours=12))
    with state.main_process_first():
        if state.is_main_process:
            open_run(experiment, places, resume=resume)
        set_seed(experiment.seed)
        benchmark = find_benchmark(experiment.encodechka, places.cache)
        with stage("teacher"):
            teacher = load_encoder(experiment.teacher, device=device)
        with stage("corpus"):
            corpus = load_corpus(experiment.corpus, places.cache)
            rows = rows_to_train(corpus.train, experiment.distillation)
            held_out = embed_held_out(teacher, corpus, experiment.validation)
        made = resume or not state.is_main_process  # what the main process has made is read
        grounds = survey(teacher, corpus, experiment, places, resume=made)
        plan = draw_up(grounds, places, resume=made)
        targets = embed_targets(teacher, rows, experiment, places.cache)
    step = find_step(places.run) if resume else None
    with open_log(experiment, places.run, resume_step=step) as run_log:
        training = Training(rows, targets, held_out, teacher, experiment, run_log)
        if experiment.budget.gradual_steps:
            shrunk = cut_gradually(grounds, plan, training, places, resume=resume)
        else:
            with state.main_process_first():
                shrunk = cut(grounds, plan, places, resume=resume or not state.is_main_process)
        log_figures(draw_figures([read_record(places.run)]), run_log)
        with stage("distillation"):
            callbacks = benchmark_curve(benchmark, experiment, run_log)
            result = training.run(shrunk.repaired, places.run, resume=step is not None, callbacks=callbacks)
        log.info("the student of step %d is kept, held-out cosine %.4f", result.step, result.cosine)
        if state.is_main_process:
            encoders = {"teacher": teacher, "pruned": shrunk.pruned, "repaired": shrunk.repaired}
            encoders["distilled"] = result.encoder
            finish(encoders, held_out, benchmark, experiment, places, run_log, step=result.step)


@dataclass(frozen=True)
class Training:
    """What every distillation of a run has in common."""

    rows: Pairs
    targets: Targets | None
    held_out: HeldOut
    teacher: Encoder
    experiment: Experiment
    run_log: RunLog

    def run(
        self,
        student: Encoder,
        folder: Path,
        *,
        settings: config.Distillation | None = None,
        prefix: str = "",
        resume: bool = False,
        callbacks: tuple[TrainerCallback, ...] = (),
    ) -> Distilled:
        """Distil `student`, by the recipe's settings or others; `prefix` stands before the names of metrics."""

        def log_metrics(metrics: Mapping[str, float], step: int) -> None:
            self.run_log.metrics({f"{prefix}{name}": value for name, value in metrics.items()}, step)

        validation = self.experiment.validation
        return distill(
            student, self.rows, self.targets, settings or self.experiment.distillation, folder=folder,
            seed=self.experiment.seed, validate=judge(self.held_out.first(validation.during), validation.batch_size),
            log_metrics=log_metrics, teacher=self.teacher, resume=resume, callbacks=callbacks,
        )  # fmt: skip


def survey(
    teacher: Encoder, corpus: ParallelCorpus, experiment: Experiment, places: Places, *, resume: bool
) -> Grounds:
    path = places.run / "saliency.safetensors"
    with stage("saliency"):
        if resume and path.exists():
            saliency = load_saliency(path)
        else:
            saliency = measure(teacher, corpus.train, experiment)
            save_saliency(saliency, path)
    return Grounds(teacher, saliency, corpus.train.texts, judged_sentences(corpus, experiment), experiment)


def judged_sentences(corpus: ParallelCorpus, experiment: Experiment) -> list[str]:
    """Return both sides of held-out pairs, in turn, each source's as often as distillation draws it."""
    pairs = corpus.held_out.draw(JUDGED_SENTENCES // 2, experiment.distillation.source_weights)
    return [side for pair in zip(pairs.en, pairs.ru, strict=True) for side in pair]


def draw_up(grounds: Grounds, places: Places, *, resume: bool) -> Plan:
    path = places.run / "plan.json"
    if resume and path.exists():
        return TypeAdapter(Plan).validate_json(path.read_bytes())
    with stage("plan"):
        plan = make_plan(grounds, progress="cuts tried")
    frame = describe(grounds.teacher)
    log.info(format_plan(plan, frame))
    write_json(places.run / "whole.json", asdict(frame.whole))
    write_json(path, asdict(plan))
    return plan


def cut(grounds: Grounds, plan: Plan, places: Places, *, resume: bool) -> Shrunk:
    experiment = grounds.experiment
    folder = places.models / f"{experiment.name}-pruned"
    path = places.run / "kept.json"
    if resume and (places.run / "repaired").exists():
        settings = config.Teacher(model=str(folder), max_length=grounds.teacher.max_length)
        repaired = load_encoder(settings, device=str(grounds.teacher.device))
        return cut_again(grounds, plan.sizes, TypeAdapter(Kept).validate_json(path.read_bytes()), repaired)
    with stage("cut and repair"):
        if experiment.budget.weights == "random":  # only sizes stay: neither rounds nor repair would be seen
            shrunk = draw_anew(shrink(grounds, plan.sizes, rounds=1, sentences=0), seed=experiment.seed)
        else:
            shrunk = shrink(grounds, plan.sizes, progress="repair")
    for axis in ("heads", "neurons"):
        log.info("%s kept in each layer: %s", axis, " ".join(str(len(layer)) for layer in getattr(shrunk.kept, axis)))
    write_json(path, asdict(shrunk.kept), indent=None)
    save_encoder(shrunk.repaired, folder)
    (places.run / "repaired").touch()
    return shrunk


def cut_gradually(grounds: Grounds, plan: Plan, training: Training, places: Places, *, resume: bool) -> Shrunk:
    """Cut in rounds with distillation between them; each round cuts the student that the one before trained.

    Every finished round leaves round-N/ with its student, from which a stopped run goes on.
    """
    budget, sizes = grounds.budget, plan.sizes
    settings = replace(training.experiment.distillation, steps=budget.gradual_steps, schedule="constant")
    base = cut_words(grounds, sizes)
    whole = describe(base)
    student, pruned, kept = base, base, None
    for number in range(1, budget.rounds + 1):
        folder = places.run / f"round-{number}"
        last = number == budget.rounds
        if resume and not last and (folder / "kept.json").exists():
            student = load_encoder(config.Teacher(model=str(folder / "student"), max_length=base.max_length))
            kept = TypeAdapter(Kept).validate_json((folder / "kept.json").read_bytes())
            continue
        part = sizes if last else approach(whole, sizes, number / budget.rounds)
        with stage(f"round {number}"):
            chosen, kept = cut_on(student, kept, part, grounds, trained=True)
            pruned = cut_to(student, chosen, part, grounds)
            student = repair(
                pruned, student, chosen, grounds.calibration, training.experiment.repair, progress="repair"
            )
            if last:
                break
            found = find_checkpoint(folder / "checkpoints") is not None
            student = training.run(
                student, folder, settings=settings, prefix=f"round-{number}/", resume=resume and found
            ).encoder
        if PartialState().is_main_process:
            save_encoder(student, folder / "student")
            write_json(folder / "kept.json", asdict(kept), indent=None)
    assert kept is not None, "there are at least two rounds"
    if PartialState().is_main_process:
        write_json(places.run / "kept.json", asdict(kept), indent=None)
        save_encoder(student, places.models / f"{training.experiment.name}-pruned")
    return Shrunk(kept, base, pruned, student)


def embed_targets(teacher: Encoder, rows: Pairs, experiment: Experiment, cache: Path) -> Targets | None:
    if experiment.distillation.matching == "tokens":
        return None
    with stage("targets"):
        source = EncoderSource(teacher, pick_precision(experiment.distillation.precision, teacher.device))
        return embed_corpus(source, [*rows.en, *rows.ru], cache / "targets", progress="teacher's vectors")


def finish(
    encoders: dict[str, Encoder],
    held_out: HeldOut,
    benchmark: Benchmark | None,
    experiment: Experiment,
    places: Places,
    run_log: RunLog,
    *,
    step: int,
) -> None:
    """Save the student, score every stage, print and keep the tables."""
    with stage("scores"):
        drift = compare_stages(encoders, held_out, experiment)
        rows = score_stages(encoders, held_out, experiment, drift, runtime=experiment.budget.runtime)
        scores = score_benchmark(encoders, benchmark)
    folder = places.models / experiment.name
    save_encoder(encoders["distilled"], folder, card=write_card(experiment, rows, scores))
    keep_results(rows, scores, drift, places, run_log, student=folder, step=step)


def cut_vocabulary(model: str, files: Mapping[str, Path], size: int, out: Path, *, fold: bool) -> str:
    """Trim a model's vocabulary for the texts of some languages and save it in `out`; return the coverage report."""
    texts = {language: read_lines(path) for language, path in files.items()}
    encoder = load_encoder(config.Teacher(model=model))
    trimmed = trim_vocabulary(encoder, texts, size, fold=fold)
    save_encoder(trimmed.encoder, out)
    tokenizers = fast_tokenizer(encoder), fast_tokenizer(trimmed.encoder)
    return format_coverage(trimmed.kept, measure_coverage(*tokenizers, texts, trimmed.kept))


def prune(experiment: Experiment, out: Path | None, *, cache: Path, dry_run: bool = False) -> None:
    """Cut and repair a model and save it in `out`: the plan first, then what it came to; `dry_run` stops between."""
    grounds, held_out = prepare(experiment, cache)
    with stage("plan"):
        plan = make_plan(grounds, progress="cuts tried")
    print(format_plan(plan, describe(grounds.teacher)))
    if dry_run or out is None:
        return
    shrunk = shrink(grounds, plan.sizes, progress="repair")
    encoders = {"teacher": grounds.teacher, "pruned": shrunk.pruned, "repaired": shrunk.repaired}
    rows = score_stages(encoders, held_out, experiment, runtime=experiment.budget.runtime)
    save_encoder(shrunk.repaired, out, card=write_card(experiment, rows, {}))
    print(format_stages(rows))


def prepare(experiment: Experiment, cache: Path) -> tuple[Grounds, HeldOut]:
    """Load and measure what a cut without training needs."""
    device = pick_device(experiment.device)
    set_seed(experiment.seed)
    teacher = load_encoder(experiment.teacher, device=device)
    corpus = load_corpus(experiment.corpus, cache)
    held_out = embed_held_out(teacher, corpus, experiment.validation)
    with stage("saliency"):
        saliency = measure(teacher, corpus.train, experiment)
    return Grounds(teacher, saliency, corpus.train.texts, judged_sentences(corpus, experiment), experiment), held_out


def prune_family(
    experiment: Experiment, fractions: Sequence[float], out: Path | None, *, cache: Path, dry_run: bool = False
) -> None:
    """Cut nested students that keep these fractions of a model's parameters, from one measure of saliency.

    Each is saved in a folder of `out`, named after its fraction, beside family.json and family.png: quality against
    cost, the Pareto front marked.
    """
    grounds, held_out = prepare(experiment, cache)
    budgets = [replace(experiment.budget, share=fraction) for fraction in sorted(fractions, reverse=True)]
    limits = [set_limits(budget, grounds.teacher) for budget in budgets]
    with stage("plan"):
        outlook = look_ahead(grounds, limits, progress="cuts tried")
        plans: list[Plan] = []
        for each in limits:
            plans.append(outlook.solve(each, within=plans[-1].sizes if plans else None))
    for plan in plans:
        print(format_plan(plan, outlook.frame), end="\n\n")
    if dry_run or out is None:
        return
    names = [f"{budget.share:g}" for budget in budgets]
    encoders = {"teacher": grounds.teacher}
    with stage("cut and repair"):
        students = shrink_nested(grounds, [plan.sizes for plan in plans], progress="repair")
        encoders |= {name: shrunk.repaired for name, shrunk in zip(names, students, strict=True)}
    rows = score_stages(encoders, held_out, experiment, runtime=experiment.budget.runtime)
    with whole_folder(out) as temporary:
        for row, budget in zip(rows[1:], budgets, strict=True):
            card = write_card(replace(experiment, budget=budget), [rows[0], row], {})
            save_encoder(encoders[row["stage"]], temporary / row["stage"], card=card)
        write_json(temporary / "family.json", rows)
        draw_family(rows).savefig(temporary / "family.png", dpi=150)
    print(format_stages(rows))

"""What `import secateur` offers in Python: prune, distill, evaluate, export, load. The commands run the same code."""

import random
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import torch
from sentence_transformers import SentenceTransformer

from secateur.config.choices import Criterion, Device, Dtype, Pooling, Precision, Prompts, Runtime
from secateur.config.corpus import CorpusSettings
from secateur.config.distillation import DistillationSettings
from secateur.config.errors import InputError
from secateur.config.evaluation import EncodechkaSettings
from secateur.config.options import build_prune_recipe, naming_options, spell_argument
from secateur.config.places import default_cache
from secateur.config.quality import QualitySettings
from secateur.config.reading import build_settings, check_value
from secateur.config.values import Above, Positive, Seed
from secateur.data.corpus import load_corpus
from secateur.data.files import check_out
from secateur.data.sources import Row, name_sources, read_given
from secateur.encoders.saving import round_weights
from secateur.evaluation.benchmark_data import DownloadError, find_data
from secateur.evaluation.leaderboard import SENTENCE_TASKS
from secateur.evaluation.scores import Benchmark, score_stages
from secateur.export.export import export as export_files
from secateur.reports.cards import is_repaired, write_trained_card
from secateur.reports.display import ArtefactTable, Evaluation, StageTable
from secateur.runs.distill import distill_student, spread_over
from secateur.runs.prune import plan_pruning
from secateur.runs.student import Student, find_path, name_model, open_model

Model: TypeAlias = str | Path | SentenceTransformer | Student
if TYPE_CHECKING:
    import datasets
    import pandas

    GivenPairs: TypeAlias = (
        str | Path | Sequence[str | Path] | Iterable[tuple[str, str]] | datasets.Dataset | pandas.DataFrame
    )
else:
    GivenPairs = Any  # the two libraries take a second to import


def load(model: Model, *, pooling: Pooling = "auto", device: str = "auto") -> Student:
    """Return a model as a Student: a folder, a hub name or a SentenceTransformer, which is copied.

        student = secateur.load("models/mine")
        student.encode(["Hello, world", "Привет, мир"])  # float32 [2, dimension]

    `pooling`: how token vectors become a sentence vector, where a bare transformer's folder does not say. `device`:
    auto, cpu, cuda or mps. Raises InputError: not a model, or one that secateur cannot prune.
    """
    encoder = open_model(model, pooling=pooling, device=device)
    if isinstance(model, Student):
        return model
    name = Path(name_model(model)).name
    return Student(encoder, name=name, card=read_card(model) if isinstance(model, str | Path) else "")


def prune(
    model: Model,
    pairs: GivenPairs,
    *,
    max_params: int | str | None = None,
    keep_params: float | None = None,
    max_mb: float | None = None,
    max_ms: float | None = None,
    runtime: Runtime = "torch",
    keep_heads: float | None = None,
    keep_neurons: float | None = None,
    keep_hidden: float | None = None,
    layers: int | None = None,
    vocabulary: int | None = None,
    rank: int | None = None,
    rounds: int = 1,
    criterion: Criterion = "both",
    ranking: Literal["global", "layer"] = "global",
    layer_choice: Literal["removal", "even"] = "removal",
    round_neurons_to: int = 1,
    prompts: Prompts = "keep",
    saliency_pairs: int = 1000,
    repair_sentences: int = 2000,
    held_out: float = 0.05,
    allow_missing: bool = False,
    pooling: Pooling = "auto",
    max_length: int | None = None,
    dtype: Literal["auto"] | Dtype = "auto",
    seed: int = 0,
    device: Device = "auto",
    cache: str | Path | None = None,
) -> Student:
    """Cut a model and repair it, without training; return the student.

        student = secateur.prune("models/teacher-mini-en-ru", "pairs.tsv", max_params="4.6M")
        student.plan  # what was kept, and why
        student.table  # what it came to on held-out pairs

    Under a limit (`max_params`, `keep_params`, `max_mb`, `max_ms`) the sizes that lose least are chosen; an axis that
    is named (`keep_heads`, `keep_neurons`, `keep_hidden`: shares that are KEPT; `layers`, `vocabulary`, `rank`:
    counts) keeps what is named; without a limit every other axis stays whole.

    `model`: a folder, a hub name, a SentenceTransformer or a Student. `pairs`: sentences and their translations, a
    .tsv file (English, tab, Russian), two text files whose lines belong together, a .yaml list of catalogs, a list of
    tuples, a `datasets.Dataset` or a pandas frame (its columns en and ru, else the first two). The share `held_out`
    of them is fitted on by nothing: sizes are chosen, a repair kept or not, and teacher and student compared by it.

    How it is done: `saliency_pairs` translation pairs are used to score heads and neurons by `criterion`; `ranking`
    compares them over all layers together or keeps the same share of each; `layer_choice` drops the layers whose
    removal changes the vectors least, or keeps evenly spaced ones; `round_neurons_to` makes each layer's number of
    neurons a multiple; `rounds` cuts in several steps with a repair after each; `repair_sentences` sentences are used
    to refit what is left, 0 leaves it as cut; a repair that loses to the cut alone is not kept. `runtime` is what will
    run the student, for `max_ms` and `max_mb`, which is the file's that it reads. `pooling` is how token vectors become
    a sentence vector, where a bare transformer's folder does not say. `prompts`: what becomes of the teacher's in the
    student: kept, folded away, or a token each. `max_length`: the tokens of a sentence that the
    student reads, where these are to be fewer than the teacher's; `dtype`: the number format that it is saved in, the
    teacher's where it is auto. `cache`: the folder for downloads and for what was measured once.

    Raises InputError: nothing says what to keep; a value out of range; a limit that nothing reaches; a model or pairs
    that cannot be used; QualityError: what was cut costs more than was allowed.
    """
    options = {name: value for name, value in locals().items() if name not in ("model", "pairs", "cache")}
    sources, given = read_pairs(pairs)
    place = find_cache(cache)
    recipe = build_prune_recipe(name_model(model), options, sources, name="student")
    with naming_options(spell_argument), keeping_random_state():
        teacher = open_model(model, pooling=pooling, device=device)
        return plan_pruning(recipe, cache=place, teacher=teacher, given=given).cut()


def distill(
    student: Model,
    teacher: Model,
    pairs: GivenPairs,
    *,
    minutes: float | None = None,
    steps: int | None = None,
    folder: str | Path | None = None,
    batch_size: int = 128,
    learning_rate: float = 3e-4,
    w_similarity: float = 0.1,
    w_output: float = 1.0,
    precision: Precision = "auto",
    held_out: float = 0.05,
    allow_missing: bool = False,
    seed: int = 0,
    cache: str | Path | None = None,
) -> Student:
    """Train a copy of a student towards its teacher on sentence pairs; return the best one by held-out cosine.

        student = secateur.distill(student, "models/teacher-mini-en-ru", "pairs.tsv", minutes=10)

    Name either `steps` or `minutes`. For `minutes` a few steps are timed first, and training then takes as many steps
    as fit into that time together with its validations; computing the teacher's vectors, which is done once, comes
    before and is not counted. With `folder` checkpoints are kept there, and the same call after an interruption goes
    on from the last one. The loss is w_similarity * |s_en - s_ru|^2 + w_output * |s - t|^2, of unit
    vectors s of the student and t of the teacher, means over pairs and over sentences.

    `student`, `teacher`: a folder, a hub name, a SentenceTransformer or a Student; `pairs` as in `prune`; `batch_size`
    counts pairs, at most as many as there are to train on.

    Raises InputError: both or none of minutes and steps; vectors of different lengths; a folder that holds another
    training; pairs that cannot be used.
    """
    if (minutes is None) == (steps is None):
        raise InputError("distill: name one of minutes and steps")
    check_value("seed", seed, Seed)
    if minutes is not None:
        minutes = check_value("minutes", minutes, Above)
    settings = build_settings(
        DistillationSettings,
        {
            "steps": 1 if steps is None else steps, "batch_size": batch_size, "learning_rate": learning_rate,
            "w_similarity": w_similarity, "w_output": w_output, "precision": precision,
        },
        origin="",
    )  # fmt: skip
    if not settings.w_similarity + settings.w_output:
        raise InputError("w_similarity, w_output: both are 0, so there is nothing to train for")
    checkpoints = None if folder is None else find_training_folder(folder)
    sources, given = read_pairs(pairs)
    place = find_cache(cache)
    with naming_options(spell_argument), keeping_random_state():
        own, target = open_model(student), open_model(teacher)
        corpus_settings = build_settings(
            CorpusSettings, {**sources, "held_out": held_out, "allow_missing": allow_missing}, origin=""
        )
        corpus = load_corpus(corpus_settings, place, given=given)
        settings = replace(settings, batch_size=min(settings.batch_size, len(corpus.train)))
        settings = spread_over(settings, settings.steps)
        result, settings, judged = distill_student(
            own, target, corpus, settings, minutes=minutes, folder=checkpoints, cache=place, seed=seed
        )
    round_weights(result.encoder)  # it is scored as it is saved
    distilled = {"distilled": result.encoder} if result.step else {}  # else it is the student from before
    table = StageTable(score_stages({"teacher": target, "before": own} | distilled, judged))
    name = Path(name_model(student)).name
    old = read_card(student) if isinstance(student, str | Path) else getattr(student, "card", "")
    card = write_trained_card(old, name, name_model(teacher), settings, table.rows, result.step, held_out=held_out)
    if isinstance(student, Student):
        recipe = student.recipe and replace(student.recipe, distillation=settings)
        if recipe is not None and student.table is not None and not is_repaired(student.table.rows):
            recipe = replace(recipe, repair=replace(recipe.repair, sentences=0))
        return replace(student, encoder=result.encoder, table=table, recipe=recipe, step=result.step, card=card)
    return Student(result.encoder, table=table, name=name, step=result.step, card=card)


def evaluate(
    model: Model,
    on: Literal["probe", "encodechka"] = "probe",
    *,
    tasks: Sequence[str] | None = None,
    data: str | Path | None = None,
    device: str = "auto",
    cache: str | Path | None = None,
) -> Evaluation:
    """Score a model on the probe that comes with secateur or on encodechka; return its scores, a table in a notebook.

        evaluation = secateur.evaluate(student, "probe")
        evaluation.mean  # of the eight sentence tasks: Mean S, where the benchmark is encodechka
        evaluation.own  # each task's score: {"STS": ..., "PI": ..., ...}

    `tasks`: some of STS, PI, NLI, SA, TI, IA, IC, ICX (all). `data`: a folder with encodechka's files; without it
    they are downloaded once. The probe's numbers are not encodechka's: they compare with each other alone.

    Raises InputError: no such benchmark or task; a model that cannot be loaded; files that cannot be had.
    """
    if on not in ("probe", "encodechka"):
        raise InputError(f"on: {on!r} is neither probe nor encodechka")
    if on == "probe" and data is not None:
        raise InputError("data: names encodechka's files, but the benchmark asked for is the probe")
    wanted = list(SENTENCE_TASKS) if tasks is None else [tasks] if isinstance(tasks, str) else tasks
    for task in check_value("tasks", wanted, list[str]) or [""]:
        if task not in SENTENCE_TASKS:
            raise InputError(f"tasks: {task!r} is none of {', '.join(SENTENCE_TASKS)}")
    named = {"data": None if data is None else str(find_path("data", data)), "tasks": wanted}
    settings = build_settings(EncodechkaSettings, named, origin="")
    encoder = open_model(model, device=device)
    try:
        files = find_data(settings, find_cache(cache)) if on == "encodechka" else None
    except DownloadError as error:
        raise InputError(f"encodechka cannot be scored: {error}; data= names a folder with its files") from None
    name = Path(name_model(model)).name
    return Evaluation(name, Benchmark(settings, files).score(encoder, name=name))


def export(
    model: str | Path | Student,
    *,
    out: str | Path | None = None,
    int8: bool = True,
    pairs: str | Path | None = None,
    data: str | Path | None = None,
    threads: int | None = None,
    **quality: Any,
) -> ArtefactTable:
    """Write a model's ONNX files, float and int8, measure them, and return what they are worth.

        secateur.export("models/mine")
        secateur.Encoder("models/mine", backend="onnx-int8").encode(["..."])  # needs no torch

    `model`: a folder; with `out`, where a copy goes, also a hub name or a Student. `pairs`: a .tsv of pairs to judge
    by (texts that come with secateur). `data`: encodechka's files, to score every file on. `quality`: what the int8
    file must hold, min_cosine, min_low_cosine, max_retrieval_loss, sentences.

    Raises InputError: not a model, or one without an ONNX form; QualityError: a file falls short, and is not kept.
    """
    settings = build_settings(QualitySettings, quality, origin="")
    check_value("threads", threads, Positive | None)
    check_value("int8", int8, bool)
    judged, files, target = (
        None if value is None else find_path(name, value)
        for name, value in (("pairs", pairs), ("data", data), ("out", out))
    )
    if judged is not None and not judged.is_file():
        raise InputError(f"{judged}: no such file")
    if target is not None:
        check_out(target)
    if isinstance(model, Student):
        if target is None:
            raise InputError("out: name a folder for the student's files")
        model, target = model.save(target), None
    name = str(find_path("model", model))
    rows = export_files(name, settings, out=target, int8=int8, pairs=judged, data=files, threads=threads)
    return ArtefactTable(rows)


def read_pairs(pairs: Any) -> tuple[dict[str, Any], list[Row] | None]:
    """Return pairs as keys of a corpus, and as rows where they are in memory."""
    if isinstance(pairs, str | Path):
        return name_sources([pairs]), None
    if isinstance(pairs, list | tuple) and pairs and all(isinstance(each, str | Path) for each in pairs):
        return name_sources(pairs), None
    try:
        return {}, read_given(pairs)
    except TypeError:
        raise InputError(f"pairs: {type(pairs).__name__} is not a file, a list of pairs or a table") from None


def find_cache(cache: str | Path | None) -> Path:
    return default_cache() if cache is None else find_path("cache", cache)


def find_training_folder(folder: str | Path) -> Path:
    """Return the folder that keeps a training's checkpoints. Raises InputError: it is a model's, or cannot be one."""
    path = find_path("folder", folder)
    if (path / "config.json").exists():
        raise InputError(f"{path}: is a model folder; checkpoints need a folder of their own")
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{path}: cannot be made a folder: {error.strerror}") from None
    return path


def read_card(model: str | Path) -> str:
    """Return the README.md of a model folder, empty where there is none."""
    path = find_path("model", model) / "README.md"
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


@contextmanager
def keeping_random_state() -> Iterator[None]:
    """Give the caller's generators back as they were: what is drawn within it is seeded for itself."""
    python, numpy_state, torch_state = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy_state)
        torch.set_rng_state(torch_state)

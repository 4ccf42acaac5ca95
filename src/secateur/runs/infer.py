"""Saved models scored: on encodechka, on the probe, and by the translations that they find in a file of pairs."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import set_num_threads

from secateur.config.errors import InputError
from secateur.config.evaluation import EncodechkaSettings
from secateur.config.reading import build_recipe
from secateur.config.recipe import PruningRecipe
from secateur.config.teacher import TeacherSettings
from secateur.data.files import write_json
from secateur.data.sources import read_table, source_name
from secateur.distillation.teachers import EncoderSource
from secateur.distillation.universal import UniversalSentenceEncoder
from secateur.encoders.cost import count_bytes, count_parameters
from secateur.encoders.device import computing_in, pick_device
from secateur.encoders.encoder import TorchEncoder
from secateur.encoders.inference import Encoder
from secateur.encoders.loading import load_encoder
from secateur.encoders.static import is_static
from secateur.encoders.vectors import VectorSource, encode_units
from secateur.evaluation.benchmark_data import DownloadError, find_data
from secateur.evaluation.intervals import FEW, share_interval
from secateur.evaluation.leaderboard import dump_scores
from secateur.evaluation.ranking import list_sentences, measure_standing, rank, read_benchmarks, term_baselines
from secateur.evaluation.scores import Benchmark
from secateur.evaluation.validation import retrieval
from secateur.reports.text import RETRIEVAL_NOTE, format_benchmark, format_columns, format_ranking
from secateur.runs.start import MODELS, RECIPE, hash_weights, read_json

log = logging.getLogger(__name__)


def infer(model: str, settings: EncodechkaSettings, *, on: Sequence[str], cache: Path, runs: Path, device: str) -> str:
    """Return a model's table for each benchmark of `on`, its teacher beside it where a run's record names one.

    `on` names encodechka, probe or both. Without encodechka's data: what the record of the run that made this model
    kept, if that was all. Raises InputError: not a model, or nothing to score it on.
    """
    if is_static(model):
        return infer_file(model, settings, on=on, cache=cache, runs=runs, backend="torch", device=device, threads=None)
    encoder = load_encoder(TeacherSettings(model=model), device=device)
    teacher = find_teacher(model, runs)
    (name,) = name_apart([model], taken=("teacher",))
    encoders = {name: encoder}
    if teacher is not None:
        try:
            encoders = {"teacher": load_encoder(teacher, device=device), **encoders}
        except InputError as error:
            log.warning("the teacher is not scored: %s", error)
    log.info("%s: %s parameters, %.1f MB", model, f"{count_parameters(encoder):,}", count_bytes(encoder) / 1e6)
    record = find_record(model, runs)
    try:
        return tabulate_scores(encoders, settings, on=on, cache=cache, record=record)
    except DownloadError as error:
        return kept_table(record, error)


def name_apart(models: Sequence[str], *, taken: Sequence[str] = ()) -> list[str]:
    """Return what tables call models: of a path the last part, and as many before it as tell the models apart.

    A name that is `taken` is given in full. Raises InputError: one model is named twice.
    """
    places = [Path(model).expanduser().resolve() for model in models]
    if len(set(places)) < len(places):
        raise InputError(f"the same model is named twice: {', '.join(models)}")
    for count in range(1, max((len(place.parts) for place in places), default=1)):
        names = ["/".join(place.parts[-count:]).lstrip("/") for place in places]
        if len(set(names)) == len(names) and not set(names) & set(taken):
            return names
    return list(models)


def find_record(model: str, runs: Path, *, whole: bool = True) -> Path | None:
    """Return the record of the run that made a model; None: no run here did.

    It is found by the model's weights, which the record lists: folders of one name are not one model. `whole`: only a
    run's student counts, not what was cut on the way to it.
    """
    records = sorted(runs.glob(f"*/{MODELS}"), key=lambda path: path.stat().st_mtime, reverse=True)
    weights = hash_weights(Path(model)) if records and Path(model).is_dir() else ""
    for path in records if weights else ():
        made = read_json(path) or {}
        name = (read_json(path.with_name(RECIPE)) or {}).get("name")
        lists = [hashes for each, hashes in made.items() if each == name or not whole]
        if any(isinstance(hashes, list) and weights in hashes for hashes in lists):
            return path.parent
    return None


def tabulate_scores(
    encoders: Mapping[str, TorchEncoder | VectorSource],
    settings: EncodechkaSettings,
    *,
    on: Sequence[str],
    cache: Path,
    record: Path | None,
    suffix: str = "",
) -> str:
    """Return a table of the encoders for each benchmark of `on`; a run's record, if there is one, keeps the scores.

    Raises DownloadError where encodechka cannot be had and nothing else was asked for.
    """
    tables = []
    for name in on:
        try:
            benchmark = Benchmark(settings, find_data(settings, cache) if name == "encodechka" else None)
        except DownloadError as error:
            if len(on) == 1:
                raise
            log.warning("encodechka cannot be scored: %s", error)
            continue
        scores = {each: benchmark.score(encoders[each], name=each) for each in encoders}
        if record is not None:
            write_json(record / f"{name}{suffix}.json", {each: dump_scores(of) for each, of in scores.items()})
        tables.append(format_benchmark(scores))
    return "\n\n".join(tables)


def rank_models(
    models: Sequence[str], settings: EncodechkaSettings, *, baselines: bool, use: bool, cache: Path, device: str
) -> str:
    """Return models on encodechka and on the probe, how well the two orders agree, and what each swap is worth.

    `baselines` adds vectors that count terms, `use` Universal Sentence Encoder. Raises InputError: fewer than two
    encoders, one that cannot be loaded, or encodechka's data cannot be had.
    """
    names = name_apart(models)
    if len(names) + 3 * baselines + use < 2:
        raise InputError("rank: name two models or more, or ask for --baselines")
    try:
        benchmarks = read_benchmarks(find_data(settings, cache))
    except DownloadError as error:
        raise InputError(f"encodechka cannot be scored: {error}; --data FOLDER names a copy of its files") from None
    encoders = [load_encoder(TeacherSettings(model=model), device=device) for model in models]
    terms = term_baselines(list_sentences(benchmarks)) if baselines else []
    standings = [measure_standing(each, each.name, benchmarks, neural=False) for each in terms]
    for name, encoder in zip(names, encoders, strict=True):
        with computing_in(settings.precision, encoder.device):
            standings.append(measure_standing(encoder, name, benchmarks, progress=name))
    if use:
        source = UniversalSentenceEncoder()
        standings.append(measure_standing(source, source.name, benchmarks, progress=source.name))
    return format_ranking(rank(standings))


def retrieve(
    models: Sequence[str], files: Sequence[Path], *, use: bool, precision: str, device: str, backend: str = "torch",
    threads: int | None = None,
) -> str:  # fmt: skip
    """Return each model's retrieval accuracy@1: how often a sentence's nearest neighbour is its translation.

    `precision` is torch's; `backend` and `threads` are those of `Encoder`; `use` adds Universal Sentence Encoder.
    Raises InputError: no encoder to ask, one that cannot be loaded, or a file without two pairs.
    """
    if not (models or use):
        raise InputError("retrieve: name a model, or ask for --use")
    tests = {source_name(file): read_test(file) for file in files}
    sources: dict[str, VectorSource] = {
        name: open_source(model, precision=precision, device=device, backend=backend, threads=threads)
        for name, model in zip(name_apart(models, taken=(UniversalSentenceEncoder.name,)), models, strict=True)
    }
    if use:
        sources[UniversalSentenceEncoder.name] = UniversalSentenceEncoder()
    rows: list[dict[str, Any]] = []
    for name, source in sources.items():
        row: dict[str, Any] = {"model": name}
        for test, (en, ru) in tests.items():
            vectors = encode_units(source, [*en, *ru], progress=f"{name}, {test}")
            ours, theirs = vectors[: len(en)], vectors[len(en) :]
            row |= {f"{test} en→ru": retrieval(ours, theirs), f"{test} ru→en": retrieval(theirs, ours)}
        rows.append(row)
    columns = {key: (key, "{:.4f}") for key in rows[0] if key != "model"}
    few = [say_few(test, len(en)) for test, (en, _) in tests.items() if len(en) < FEW]
    return f"{format_columns(rows, {'model': ('model', '{}'), **columns})}\n{'; '.join([RETRIEVAL_NOTE, *few])}"


def open_source(model: str, *, precision: str, device: str, backend: str, threads: int | None) -> VectorSource:
    """Load a model, or its exported file, as a source of vectors."""
    if backend != "torch" or is_static(model):
        return Encoder(model, backend=backend, threads=threads, device=device)
    if threads is not None:
        set_num_threads(threads)
    return EncoderSource(load_encoder(TeacherSettings(model=model), device=pick_device(device)), precision)


def say_few(test: str, count: int) -> str:
    """Return how many pairs a small test has, and what a share of them may be off by."""
    low, high = share_interval(0.5, count)
    return f"{test}: {count:,} pairs alone, a share of them may be off by {(high - low) / 2:.2f}"


def read_test(file: Path) -> tuple[list[str], list[str]]:
    """Return a file's English and Russian sides, every row of it but a header of column names."""
    rows = read_table(file, 0.0)
    rows = rows[1:] if rows and rows[0][:2] == ("en", "ru") else rows
    if len(rows) < 2:
        raise InputError(f"{file}: {len(rows)} pairs; finding translations takes two or more")
    return [row.en for row in rows], [row.ru for row in rows]


def infer_file(
    model: str, settings: EncodechkaSettings, *, on: Sequence[str], cache: Path, runs: Path, backend: str, device: str,
    threads: int | None,
) -> str:  # fmt: skip
    """Return an exported file's, or a static model's, table for each benchmark of `on`: its own vectors, no word tasks.

    Raises InputError: no such file, not the one exported, or nothing to score it on.
    """
    encoder = Encoder(model, backend=backend, threads=threads, device=device)
    (name,) = name_apart([model])
    record = find_record(model, runs)
    try:
        return tabulate_scores(
            {f"{name}, {backend}": encoder}, settings, on=on, cache=cache, record=record, suffix=f"-{backend}"
        )
    except DownloadError as error:
        raise InputError(f"encodechka cannot be scored: {error}; {REMEDY}") from None


REMEDY = "--data FOLDER names a copy of its files, --tasks probe scores the probe that comes with secateur"


def kept_table(record: Path | None, error: DownloadError) -> str:
    path = None if record is None else record / "table.txt"
    try:
        table = "" if path is None else path.read_text(encoding="utf-8").rstrip()
    except (OSError, UnicodeDecodeError):
        table = ""
    if not table:
        raise InputError(f"encodechka cannot be scored: {error}; {REMEDY}")
    log.warning("encodechka cannot be scored: %s; %s. From the run's record:", error, REMEDY)
    return table


def find_teacher(model: str, runs: Path) -> TeacherSettings | None:
    """Return the teacher, a folder or a name on the hub, of the run that made a model; None: no such run is here."""
    record = find_record(model, runs, whole=False)
    if record is None:
        return None
    try:
        made = build_recipe(read_json(record / RECIPE) or {}, origin=str(record / RECIPE))
    except InputError as error:
        log.warning("the teacher is not known: %s", error)
        return None
    return made.teacher if isinstance(made, PruningRecipe) else None  # else it is made out of others' vectors


def last_model(runs: Path, models: Path) -> str:
    """Return the model of the run that ended last. Raises InputError where no run has ended."""
    ended = [path for path in runs.glob("*/scores.json") if (models / path.parent.name).is_dir()]
    if not ended:
        raise InputError(f"{models}: no run has ended yet; name a model, or run `make train` first")
    return str(models / max(ended, key=lambda path: path.stat().st_mtime).parent.name)

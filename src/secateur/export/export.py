"""ONNX files of a model folder, measured before they are kept; what was measured, in parity.json and on the card.

MODEL/onnx/model.onnx must give torch's vectors to 1e-5, MODEL/onnx/model_qint8.onnx must pass the quality gate; both
are read back through ONNX Runtime from the file itself. They are written and measured in a folder of their own, and put
in place together with parity.json, so that what is there is always what was measured.
"""

import logging
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import onnx

from secateur import __version__
from secateur.config.errors import InputError, QualityError
from secateur.config.evaluation import EncodechkaSettings
from secateur.config.quality import QualitySettings
from secateur.config.reading import build_settings
from secateur.config.teacher import TeacherSettings
from secateur.data.files import check_out, check_space, check_writable, hash_file, whole_folder, workplace, write_json
from secateur.encoders.cost import count_parameters
from secateur.encoders.encoder import TorchEncoder, tokenize
from secateur.encoders.inference import FILES, OPENVINO, PARITY, Encoder, find_backends
from secateur.encoders.loading import load_encoder
from secateur.encoders.machine import read_processor
from secateur.encoders.onnx_graph import build_graph
from secateur.encoders.reading import Reading, describe_reading, open_tokenizer
from secateur.encoders.saving import save_encoder
from secateur.evaluation.benchmark_data import find_data
from secateur.evaluation.encodechka import score_encodechka
from secateur.evaluation.leaderboard import SENTENCE_TASKS, mean_s
from secateur.export.card import update_card
from secateur.export.quality import (
    Quality,
    Reference,
    Search,
    Texts,
    choose_held_out,
    choose_int8,
    find_shortfall,
    make_reference,
    pick_levels,
    read_pairs,
    read_probe_texts,
)

log = logging.getLogger(__name__)

TOLERANCE = 1e-5  # of any component of a unit vector, float file against torch
HASHED = (".json", ".safetensors", ".txt", ".model", ".py")  # what a model folder's vectors depend on
LEFT_OUT = shutil.ignore_patterns("onnx", PARITY, ".*.partial")  # of a copy
PACKAGES = ("torch", "transformers", "sentence-transformers", "onnx", "onnxruntime", "openvino")


def export(
    model: str,
    limits: QualitySettings,
    *,
    out: Path | None = None,
    int8: bool = True,
    pairs: Path | None = None,
    data: Path | None = None,
    threads: int | None = None,
) -> list[dict[str, Any]]:
    """Write a model's ONNX files, parity.json and its card; return a row of measured numbers for each artefact.

    `out`: another folder, which gets a copy of the model. `pairs`: a .tsv to measure on, on those that a run on it
    holds out (none: the probe's sentences). `data`: encodechka's files, to score every file on.
    Raises InputError: not a model, no ONNX form, no place to write; QualityError: the float file differs from torch, or
    no int8 file passes the quality gate: that file is not kept, what passed is.
    """
    if pairs:
        texts = read_pairs(pairs, limits.sentences, choose_held_out(Path(model), limits.held_out))
    else:
        texts = read_probe_texts(limits.sentences)
    benchmark = find_benchmark(data) if data else None
    folder, encoder = prepare_folder(model, out)
    reading = describe_reading(encoder)
    reference = make_reference(encoder, texts.judged, texts.pairs, threads)
    check_tokenizer(encoder, reading, folder, texts)
    with workplace(folder / "onnx") as place:
        (place / "onnx").mkdir()
        exported = {"onnx": write_float(encoder, place, reference)}
        shortfall = ""
        if int8:
            try:
                exported["onnx-int8"] = write_int8(encoder, place, reference, texts, limits)
            except QualityError as error:
                shortfall = str(error)
        record = describe_export(encoder, reading, folder, place, texts, reference, exported)
        if find_spec("openvino"):
            for name in exported:
                found = try_openvino(place / FILES[name], name, reference, limits)
                record["artefacts"][FILES[name]]["openvino"] = found
        write_record(record, folder, place)
        put_in_place(place, folder, exported)
    if benchmark is not None:
        score_artefacts(record["artefacts"], folder, benchmark, threads)
        with workplace(folder / PARITY) as place:
            write_record(record, folder, place)
            put_in_place(place, folder, {})
    if shortfall:
        raise QualityError(f"{model}: no int8 file is left: {shortfall}; the float file is kept")
    return list_rows(record)


def find_benchmark(data: Path) -> Path:
    """Return the folder of encodechka's files, checked."""
    settings = {"data": str(data), "tasks": SENTENCE_TASKS}
    return find_data(build_settings(EncodechkaSettings, settings, origin="--data"), data)


def prepare_folder(model: str, out: Path | None) -> tuple[Path, TorchEncoder]:
    """Return the folder to write in, and its encoder; with `out` a copy of the model is made there."""
    folder = Path(model)
    if out is None and not folder.is_dir():
        raise InputError(f"{model}: no such folder; out names one for the copy of a hub's model")
    out = None if out is not None and out.resolve() == folder.resolve() else out
    for path in [folder / FILES["onnx"], folder / PARITY] if out is None else []:
        check_writable(path)
    if out is not None:
        check_copy(folder, out)
    encoder = load_encoder(TeacherSettings(model=model))
    build_graph(encoder)  # what has no ONNX form is said before anything is written
    check_space(out or folder, 5 * count_parameters(encoder), "the ONNX files")  # float32 and int8
    if out is None:
        return folder, encoder
    if folder.is_dir():
        with whole_folder(out) as temporary:
            shutil.copytree(folder, temporary, dirs_exist_ok=True, ignore=LEFT_OUT)
    else:
        save_encoder(encoder, out)
    return out, encoder


def check_copy(folder: Path, out: Path) -> None:
    """Raise InputError if a copy of a model cannot be put there: not a place for a model, or inside one another."""
    check_out(out)
    one, other = folder.resolve(), out.resolve()
    if folder.is_dir() and (one in other.parents or other in one.parents):
        inside = f"{out} lies in {folder}" if one in other.parents else f"{folder} lies in {out}"
        raise InputError(f"out: {inside}; a copy needs a folder beside it")


def check_tokenizer(encoder: TorchEncoder, reading: Reading, folder: Path, texts: Texts) -> None:
    """Raise InputError if tokenizer.json alone does not read sentences as the loaded tokenizer does, a long one too."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise InputError(f"{path}: no such file; the ONNX files are used with it")
    tokenizer, prompt = open_tokenizer(path, reading), reading.find_prompt()
    sentences = [*texts.calibration, " ".join(texts.calibration), "Two  blanks. "]
    ours = [each.ids for each in tokenizer.encode_batch_fast([prompt + sentence for sentence in sentences])]
    for sentence, own, expected in zip(sentences, ours, tokenize(encoder, sentences), strict=True):
        if own != expected:
            sentence = f"{sentence[:80]}..." if len(sentence) > 80 else sentence
            raise InputError(f"{path}: reads {sentence!r} as other tokens than the model's tokenizer")


@dataclass(frozen=True)
class ExportedFile:
    """An ONNX file that was kept."""

    quality: Quality
    int8: int  # matrices
    kept_float: tuple[str, ...]  # matrices put back to float, so that the file passes the quality gate
    levels: int | None


def write_float(encoder: TorchEncoder, place: Path, reference: Reference) -> ExportedFile:
    onnx.save(build_graph(encoder), str(place / FILES["onnx"]))
    quality = reference.measure(place / FILES["onnx"], company=True)
    log.info("%s: differs from torch by %.1e at most", FILES["onnx"], quality.max_difference)
    flaw = find_difference(quality)
    if flaw:
        raise QualityError(f"{FILES['onnx']}: {flaw}; it is not kept")
    return ExportedFile(quality, 0, (), None)


def find_difference(quality: Quality) -> str:
    """Return by how much a float file differs from torch, where that is too much; empty: it does not."""
    if quality.max_difference <= TOLERANCE:
        return ""
    return f"differs from torch by {quality.max_difference:.1e}, over {TOLERANCE:.0e}"  # also where it is NaN


def write_int8(
    encoder: TorchEncoder, place: Path, reference: Reference, texts: Texts, limits: QualitySettings
) -> ExportedFile:
    """Write the file with as many matrices in int8 as pass the quality gate; raise QualityError where no file does."""
    calibration = make_reference(encoder, texts.calibration, texts.calibration_pairs, reference.threads)
    search = Search(encoder, calibration, pick_levels(limits, read_processor().adds_int8_exactly))
    # a few hundred sentences say little of retrieval: matrices are chosen by cosine, the file is measured on everything
    int8, back = choose_int8(search, replace(limits, max_retrieval_loss=1.0))
    while int8:
        try:
            return write_checked(search, int8, back, place / FILES["onnx-int8"], reference, limits)
        except QualityError as error:
            log.info("%s", error)
        int8 = int8 if back else search.rank(int8)
        more = max(1, len(back) // 4)
        int8, back = int8[more:], [*back, *int8[:more]]
    flaw = find_shortfall(search.measure(back[-1:]), calibration.float_quality, limits)
    raise QualityError(f"{back[-1]} alone in int8: {flaw}" if flaw else "too little stays in int8")


def write_checked(
    search: Search, int8: Sequence[str], back: Sequence[str], path: Path, reference: Reference, limits: QualitySettings
) -> ExportedFile:
    onnx.save(search.build(int8), str(path))
    quality = reference.measure(path, company=True)
    flaw = find_shortfall(quality, reference.float_quality, limits)
    if flaw:
        path.unlink()
        raise QualityError(f"{len(int8)} matrices in int8, {len(back)} in float: {flaw}")
    put_back = f", {len(back)} put back to float" if back else ""
    log.info(
        "%s: cosine %.5f; a vector differs by %.0e at most in other company; %d matrices in int8%s",
        FILES["onnx-int8"], quality.cosine, quality.drift, len(int8), put_back,
    )  # fmt: skip
    return ExportedFile(quality, len(int8), tuple(back), search.levels)


def try_openvino(path: Path, name: str, reference: Reference, limits: QualitySettings) -> dict[str, Any]:
    """Return what a kept file is worth as OpenVINO runs it, with the reason under `refused` where that is too little:
    the backend is then not to be had, the file itself stays."""
    quality = reference.measure(path, backend="openvino", company=True)
    flaw = find_shortfall(quality, reference.float_quality, limits) if name == "onnx-int8" else find_difference(quality)
    if flaw:
        log.warning("%s: not offered with OpenVINO: %s", FILES[name], flaw)
    return describe_quality(quality) | ({"refused": flaw} if flaw else {})


def describe_export(
    encoder: TorchEncoder,
    reading: Reading,
    folder: Path,
    place: Path,
    texts: Texts,
    reference: Reference,
    exported: Mapping[str, ExportedFile],
) -> dict[str, Any]:
    """Return what parity.json says: the machine, the sentences, each artefact's hash, size and quality."""
    files = {path.relative_to(folder).as_posix(): hash_file(path) for path in list_hashed(folder)}
    listed = "".join(f"{digest}  {name}\n" for name, digest in files.items())
    artefacts: dict[str, Any] = {
        "torch": {
            "sha256": sha256(listed.encode()).hexdigest(),
            "files": files,
            "bytes": sum(path.stat().st_size for path in folder.glob("*.safetensors")),
            **describe_quality(reference.float_quality),
        }
    }
    for name, each in exported.items():
        path = place / FILES[name]
        artefacts[FILES[name]] = {
            "sha256": hash_file(path),
            "bytes": path.stat().st_size,
            **describe_quality(each.quality),
        }
        if each.levels is not None:
            matrices = {"int8_matrices": each.int8, "float_matrices": list(each.kept_float), "levels": each.levels}
            artefacts[FILES[name]] |= matrices
    processor = read_processor()
    return {
        "secateur": __version__,
        "versions": {name: version(name) for name in PACKAGES if find_spec(name.replace("-", "_"))},
        "processor": {"name": processor.name, "instructions": list(processor.instructions)},
        "input": asdict(reading),
        "model": {
            "parameters": count_parameters(encoder),
            "bytes_in_memory": 4 * count_parameters(encoder),  # it computes in float32
            "dimension": encoder.dimension,
            "dtype": encoder.dtype,
        },
        "judged_by": texts.origin,
        "artefacts": artefacts,
    }


def list_hashed(folder: Path) -> list[Path]:
    """Return the files of a model folder that its vectors depend on, by name; not what export writes."""
    inside = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix in HASHED]
    own = [path for path in inside if not any(part.startswith(".") for part in path.relative_to(folder).parts)]
    return [path for path in own if path != folder / PARITY and path.relative_to(folder).parts[0] != "onnx"]


def describe_quality(quality: Quality) -> dict[str, Any]:
    plain = {name: value for name, value in asdict(quality).items() if "drift" not in name or value is not None}
    retrieval = {way: plain.pop(way) for way in ("en_ru", "ru_en")}
    return plain if quality.en_ru is None else plain | {"retrieval": retrieval}


def write_record(record: Mapping[str, Any], folder: Path, place: Path) -> None:
    """Write in `place` the parity.json of a model folder, and its card with what that says."""
    write_json(place / PARITY, record)
    path = folder / "README.md"
    any_bytes = {"encoding": "utf-8", "errors": "surrogateescape"}  # what is no UTF-8 on the card stays as it is
    old = path.read_text(**any_bytes) if path.is_file() else ""
    (place / path.name).write_text(update_card(old, record, name=folder.resolve().name), **any_bytes)


def put_in_place(place: Path, folder: Path, exported: Mapping[str, ExportedFile]) -> None:
    """Put what was written in `place` into a model folder, one name right after the other.

    A process killed in between leaves files that parity.json does not know; `Encoder` refuses these, and the next
    export mends it.
    """
    (folder / "onnx").mkdir(exist_ok=True)
    for name in exported:
        os.replace(place / FILES[name], folder / FILES[name])
    if exported and "onnx-int8" not in exported:
        (folder / FILES["onnx-int8"]).unlink(missing_ok=True)  # of an earlier export
    for file in (PARITY, "README.md"):
        os.replace(place / file, folder / file)


def score_artefacts(artefacts: dict[str, dict[str, Any]], folder: Path, data: Path, threads: int | None) -> None:
    """Add to each artefact its own-vector scores on encodechka, read from disk as a user would."""
    for backend in ("torch", *find_backends(folder)):
        encoder = Encoder(folder, backend=backend, threads=threads)
        own = score_encodechka(
            encoder, data, tasks=SENTENCE_TASKS, own_only=True, progress=f"encodechka, {backend}"
        ).own
        known = {task: None if math.isnan(score) else score for task, score in own.items()}
        artefact = artefacts[FILES.get(OPENVINO.get(backend, backend), backend)]
        (artefact["openvino"] if backend in OPENVINO else artefact).update(mean_s=mean_s(own), encodechka=known)


def list_rows(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a row for each artefact: its name, MB on disk and what was measured."""
    rows = []
    artefacts = record["artefacts"].items()
    by_openvino = {f"{name}, OpenVINO": each | each["openvino"] for name, each in artefacts if "openvino" in each}
    for name, each in [*artefacts, *by_openvino.items()]:
        if "refused" in each:
            continue
        row = {"artefact": name, "mb": each["bytes"] / 1e6, "cosine": each["cosine"], "low": each["low_cosine"]}
        row |= each.get("retrieval", {})
        row |= {"mean_s": each["mean_s"]} if each.get("mean_s") is not None else {}
        rows.append(row | {"difference": each["max_difference"]})
    return rows

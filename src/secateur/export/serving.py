"""Checks of the vectors that a model folder gives: alone, batched, under threads, in stock libraries, in each file."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import numpy as np
import torch
from transformers import AutoModel, AutoTokenizer, PreTrainedTokenizerBase

from secateur.config.errors import InputError, say_error
from secateur.encoders import modeling
from secateur.encoders.inference import OPENVINO, Encoder
from secateur.encoders.loading import quiet_transformers
from secateur.encoders.modeling import PRUNED
from secateur.export.findings import Finding, Status, Subject

EXACT, CLOSE = 1e-5, 1e-3  # of any component of a unit vector: rounding, and what nobody would notice
LOW_COSINE = 0.98  # of an int8 file's vector to torch's
THREADS = 6
DATA = (".json", ".safetensors", ".txt", ".model")  # files that hold no code
RELOAD = """
import json, sys
import numpy as np
from sentence_transformers import SentenceTransformer
model = SentenceTransformer(sys.argv[1], device="cpu", trust_remote_code=True)
np.save(sys.argv[2], model.encode(json.load(sys.stdin), normalize_embeddings=True))
"""


def check_vectors(subject: Subject) -> Iterator[Finding]:
    """Vectors are finite; those of sentence-transformers, of secateur and of every exported file are the same; none
    depends on its batch or on other threads."""
    stock = encode_stock(subject, subject.sentences)
    if not np.isfinite(stock).all():
        yield Finding("vectors", "fail", "a sentence's vector is not finite", "train or save the model again")
        return
    alone = np.concatenate([encode_stock(subject, [text]) for text in subject.sentences])
    yield judge("alone and in a batch, sentence-transformers", distance(stock, alone), "vectors depend on their batch")
    for backend in (*(["torch"] if subject.is_prunable else ()), *subject.backends):
        try:
            encoder = Encoder(subject.folder, backend=backend, device="cpu")
            encoder.has_truncated = True  # a long sentence is read on purpose: nothing to warn of
        except InputError as error:
            todo = "save the model again" if backend == "torch" else "run `secateur export` again"
            yield Finding(f"vectors, {backend}", "fail", str(error), todo)
            continue
        yield from check_backend(encoder, subject, stock)


def check_backend(encoder: Encoder, subject: Subject, stock: np.ndarray) -> Iterator[Finding]:
    """One way to serve the model: beside sentence-transformers, alone and in a batch, under threads."""
    name, texts = encoder.backend, subject.sentences
    vectors = encoder.encode(texts)
    if name.endswith("int8"):
        cosine = float((vectors * stock).sum(axis=1).min())
        status: Status = "pass" if cosine >= LOW_COSINE else "warn"
        found = f"lowest cosine to sentence-transformers' vector {cosine:.4f}"
        yield Finding(f"vectors, {name}", status, found, "" if status == "pass" else "keep more of it in float")
    else:
        yield judge(f"vectors, {name}", distance(vectors, stock), "differs from sentence-transformers")
    alone = np.stack([encoder.encode(text) for text in texts])
    yield judge(f"alone and in a batch, {name}", distance(vectors, alone), "a vector depends on its batch")
    with ThreadPoolExecutor(THREADS) as pool:
        together = np.stack(list(pool.map(encoder.encode, texts)))
    yield judge(f"{THREADS} threads, {name}", distance(together, alone), "threads disturb each other")


def check_exported_files(subject: Subject) -> Iterator[Finding]:
    """The first output of an ONNX file is the sentence vector, and odd masks give finite ones."""
    for backend, path in subject.backends.items():
        if backend in OPENVINO:
            continue
        encoder = Encoder(subject.folder, backend=backend, device="cpu")
        first = name_first_output(path)
        if first == "sentence_embedding":
            yield Finding(f"first output, {backend}", "pass", first)
        else:
            todo = "run `secateur export` again: who takes the first output skips what follows the transformer"
            yield Finding(f"first output, {backend}", "fail", first, todo)
        ids = np.full((4, 6), encoder.pad_id, np.int64)
        mask = np.array([[0, 0, 0, 0, 0, 0], [1, 0, 1, 0, 1, 0], [0, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]], np.int64)
        if np.isfinite(encoder.run(ids, mask)).all():
            yield Finding(f"odd masks, {backend}", "pass", "finite vectors for empty and broken masks")
        else:
            yield Finding(f"odd masks, {backend}", "fail", "a vector that is not finite", "run `secateur export` again")


def name_first_output(path: Path) -> str:
    return str(open_session(path).get_outputs()[0].name)


def open_session(path: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def check_other_files(subject: Subject) -> Iterator[Finding]:
    """ONNX files that no export recorded: their first output beside what sentence-transformers computes."""
    for path in subject.strangers:
        name = path.relative_to(subject.folder).as_posix()
        try:
            cosine = compare_file(path, subject)
        except Exception as error:  # onnxruntime's exceptions have no base class of their own
            yield Finding(name, "fail", f"cannot be run: {say_error(error)}", "remove it, or export the model again")
            continue
        found = f"not recorded by an export of secateur; lowest cosine to sentence-transformers' output {cosine:.4f}"
        if cosine >= LOW_COSINE:
            yield Finding(name, "warn", found, "`secateur export` writes files that it measures and records")
        else:
            yield Finding(name, "fail", found, "it is of another model, or rounded too far: export the model again")


def compare_file(path: Path, subject: Subject) -> float:
    """Return the lowest cosine of a file's first output to the same of sentence-transformers: vectors of sentences, or
    of their tokens."""
    session = open_session(path)
    wanted = {each.name for each in session.get_inputs()}
    lowest = 1.0
    for text in subject.sentences:
        features = subject.model.preprocess([text])
        inputs = {key: value.numpy() for key, value in features.items() if key in wanted}
        if "token_type_ids" in wanted:
            inputs.setdefault("token_type_ids", np.zeros_like(inputs["input_ids"]))
        found = np.asarray(session.run(None, inputs)[0])[0]
        with torch.inference_mode():
            output = subject.model(features)
        expected = output["sentence_embedding" if found.ndim == 1 else "token_embeddings"][0].float().numpy()
        lengths = np.linalg.norm(found, axis=-1) * np.linalg.norm(expected, axis=-1)
        lowest = min(lowest, float(((found * expected).sum(axis=-1) / np.maximum(lengths, 1e-12)).min()))
    return lowest


def check_transformers(subject: Subject) -> Iterator[Finding]:
    """transformers alone loads the same weights, bit for bit, and reads the same tokens."""
    with quiet_transformers():
        bare = AutoModel.from_pretrained(subject.folder)
        tokenizer = AutoTokenizer.from_pretrained(subject.folder)
    weights, ours = bare.state_dict(), subject.transformer.state_dict()
    other = [name for name, value in ours.items() if name not in weights or not torch.equal(value, weights[name])]
    if other:
        found = f"{len(other)} weights differ from those of sentence-transformers, the first is {other[0]}"
        yield Finding("transformers", "fail", found, "save the model again with sentence-transformers")
    elif read(tokenizer, subject.sentences) != read(subject.tokenizer, subject.sentences):
        lowercase = subject.first.do_lower_case
        todo = "do_lower_case of sentence_bert_config.json is what differs" if lowercase else "save the tokenizer again"
        yield Finding("transformers", "warn", "its tokenizer reads other tokens than sentence-transformers'", todo)
    else:
        yield Finding("transformers", "pass", f"{len(ours)} weights the same, bit for bit; the same tokens")


def check_without_secateur(subject: Subject) -> Iterator[Finding]:
    """A pruned model loads without secateur by its own modeling.py; that is run only if it is secateur's own."""
    code = subject.folder / "modeling.py"
    if not str(subject.config.get("model_type", "")).startswith(PRUNED) or not code.is_file():
        return  # a type that stock libraries know; or one without its file, which the model type's check says
    stranger = find_stranger(subject)
    if stranger:
        todo = "it is of another version, or changed, and was not run; save the model again with secateur"
        yield Finding("without secateur", "warn", stranger, todo)
        return
    stock = encode_stock(subject, subject.sentences)
    with TemporaryDirectory() as folder:
        model, file = link_data(subject.folder, Path(folder, "model")), Path(folder, "vectors.npy")
        words = [sys.executable, "-P", "-c", RELOAD, str(model), str(file)]
        done = subprocess.run(
            words, input=json.dumps(subject.sentences), capture_output=True, text=True, check=False, cwd=folder,
            env=os.environ | {"HF_MODULES_CACHE": folder, "HF_HUB_OFFLINE": "1"},
        )  # fmt: skip
        if done.returncode:
            reason = (done.stderr.strip() or "it failed").splitlines()[-1][:200]
            yield Finding("without secateur", "fail", reason, "save the model again with secateur")
            return
        again = np.load(file, allow_pickle=False)
    yield judge("without secateur", distance(stock, again), "other vectors than with secateur")


def find_stranger(subject: Subject) -> str:
    """Return what would run code that is not secateur's own if a folder were trusted; empty: nothing would."""
    if (subject.folder / "modeling.py").read_bytes() != Path(modeling.__file__).read_bytes():
        return "modeling.py is not the one of this secateur"
    modules = json.loads((subject.folder / "modules.json").read_text(encoding="utf-8"))
    if not all(str(each["type"]).startswith("sentence_transformers.") for each in modules):
        return "modules.json names a module that is not of sentence-transformers"
    own = {"AutoConfig", "AutoModel"}
    for path in sorted(subject.folder.rglob("*.json")):
        data = json.loads(path.read_text(encoding="utf-8"))
        named = data.get("auto_map", {}) if isinstance(data, dict) else {}
        if not isinstance(named, dict) or not own.issuperset(named):
            return f"{path.name} names code besides a model and its config"
        if not all(str(each).startswith("modeling.Pruned") for each in named.values()):
            return f"{path.name} names code that is not secateur's"
    return ""


def link_data(folder: Path, place: Path) -> Path:
    """Return a folder of links to a model's data, with secateur's own modeling.py and no other code."""
    for path in folder.rglob("*"):
        if path.is_file() and path.suffix in DATA:
            link = place / path.relative_to(folder)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path.resolve())
    shutil.copyfile(modeling.__file__, place / "modeling.py")
    return place


def read(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    return cast(list[list[int]], tokenizer(texts, truncation=True)["input_ids"])


def encode_stock(subject: Subject, texts: list[str]) -> np.ndarray:
    vectors: np.ndarray = subject.model.encode(texts, normalize_embeddings=True, convert_to_numpy=True)
    return vectors.astype(np.float32)


def distance(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one - other).max())


def judge(check: str, difference: float, flaw: str) -> Finding:
    """Return a finding on the largest difference of any component of unit vectors."""
    if difference <= EXACT:
        return Finding(check, "pass", f"the same to {difference:.0e}" if difference else "the same, bit for bit")
    todo = "run `secateur export` again" if "onnx" in check or "openvino" in check else "load it in float32"
    return Finding(check, "warn" if difference <= CLOSE else "fail", f"{flaw}, by up to {difference:.0e}", todo)

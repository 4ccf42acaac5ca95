"""Sentences to unit vectors in bulk, from a model folder: by torch, or by the ONNX files that `export` wrote.

    vectors = secateur.Encoder("models/mini-en-ru", backend="onnx-int8").encode(sentences)

Sentences run sorted by length, in batches of so many tokens rather than so many sentences: little padding, and
a batch's activations stay in the cache. The other backends need neither torch nor transformers.
"""

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from secateur.config.choices import RUNTIMES
from secateur.config.errors import InputError, require
from secateur.data.files import hash_file
from secateur.data.progress import progress_bar
from secateur.encoders.machine import count_cores
from secateur.encoders.padding import pad_rows, split_by_length

log = logging.getLogger(__name__)

FILES = {"onnx": "onnx/model.onnx", "onnx-int8": "onnx/model_qint8.onnx"}
OPENVINO = {f"openvino{name.removeprefix('onnx')}": name for name in FILES}  # the same files, run by OpenVINO
PARITY = "parity.json"
BATCH_TOKENS = 2_048  # tokens a batch, padding included
WINDOW, WINDOW_CHARACTERS = 16_384, 8_000_000  # sentences, and characters, that are sorted together
UNLIMITED = 1_000_000  # longer than any position embeddings

Run = Callable[[np.ndarray, np.ndarray], np.ndarray]  # input_ids, attention_mask int64 [B, T] -> vectors [B, D]


class Encoder:
    """A model folder that turns sentences into unit vectors; its vectors are those of SentenceTransformer.encode.

    `backend`: torch; onnx or onnx-int8, the files that `secateur export` wrote; openvino or openvino-int8, the same
    files run by OpenVINO. `threads`: how many compute (torch: its own choice; others: the cores this process may use).
    `max_length`: the longest sentence that is read, in tokens; a longer one is truncated (the model's own length).
    `device`: auto, cpu, cuda, mps.
    `batch_tokens`: tokens that run at a time.
    Raises InputError: not a model folder; no such backend, or its file or package is missing; a file that is not the
    one exported, or exported from other weights, or that fell short when it was measured.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        backend: str = "torch",
        threads: int | None = None,
        max_length: int | None = None,
        device: str = "auto",
        batch_tokens: int = BATCH_TOKENS,
    ) -> None:
        if backend not in RUNTIMES:
            raise InputError(f"backend: {backend} is none of {', '.join(RUNTIMES)}")
        if not isinstance(model, str | Path):
            raise InputError(f"model: {type(model).__name__} is not a model folder; a Student encodes by itself")
        for name, value in (("threads", threads), ("max_length", max_length), ("batch_tokens", batch_tokens)):
            if isinstance(value, bool) or not isinstance(value, int | None):
                raise InputError(f"{name}: {value!r} is not a whole number")
        if batch_tokens < 1 or (threads is not None and threads < 1) or (max_length is not None and max_length < 1):
            raise InputError("threads, max_length, batch_tokens: at least 1")
        self.name, self.backend, self.batch_tokens = str(model), backend, batch_tokens
        loaded = (
            load_torch(str(model), threads, device)
            if backend == "torch"
            else load_file(model, backend, threads, device)
        )
        self.tokenizer, self.pad_id, longest, self.dimension, self.run = loaded
        self.max_length = min(longest, max_length or longest)
        direction = (self.tokenizer.truncation or {}).get("direction", "right")
        self.tokenizer.enable_truncation(self.max_length, direction=str(direction).lower())
        self.tokenizer.no_padding()
        self.has_truncated = False

    @property
    def fingerprint(self) -> str:
        """What its vectors are filed under."""
        return f"{Path(self.name).name}-{self.backend}"

    def encode(self, sentences: str | Iterable[str], *, progress: str = "") -> np.ndarray:
        """Return float32 unit vectors [sentences, D] in the order given, [D] for a single sentence.

        `progress` names a progress bar; empty: none.
        """
        check_texts(sentences)
        if isinstance(sentences, str):
            vector: np.ndarray = self.encode([sentences])[0]
            return vector
        empty = np.empty((0, self.dimension), np.float32)
        return np.concatenate([empty, *self.stream(sentences, progress=progress)])

    def stream(self, sentences: Iterable[str], *, progress: str = "") -> Iterator[np.ndarray]:
        """Yield the vectors of so many sentences at a time, in order: for input larger than memory."""
        total = len(sentences) if isinstance(sentences, Sequence) else None
        with progress_bar(progress, total=total, unit="sentences") as bar:
            for some in cut_windows(sentences):
                yield self.encode_window(some, bar)

    def encode_window(self, sentences: Sequence[str], bar: Any) -> np.ndarray:
        rows = self.read_pieces(sentences)
        vectors = np.empty((len(rows), self.dimension), np.float32)
        share = len(rows) / max(sum(map(len, rows)), 1)  # of a sentence a token: long sentences come first, and slowly
        for where, found in run_rows(self.run, rows, self.pad_id, self.batch_tokens):
            vectors[where] = found
            bar.update(share * sum(len(rows[row]) for row in where))
        return vectors

    def read_pieces(self, sentences: Sequence[str]) -> list[list[int]]:
        """Return each sentence's tokens; that one was truncated is said once."""
        encoded = self.tokenizer.encode_batch_fast(list(sentences))
        if not self.has_truncated:
            long = next((number for number, each in enumerate(encoded) if each.overflowing), None)
            if long is not None:
                self.has_truncated = True
                start = sentences[long][:40]
                log.warning(
                    "%s: only the first %d tokens of a sentence are read; longer ones, such as %r..., are truncated",
                    self.name, self.max_length, start,
                )  # fmt: skip
        return [each.ids or [self.pad_id] for each in encoded]  # a tokenizer without special tokens: '' is no token


def check_texts(sentences: Any) -> None:
    """Raise InputError for what is not a text or texts one after the other."""
    if not isinstance(sentences, Iterable) or isinstance(sentences, bytes):
        raise InputError(f"sentences: {sentences!r:.60} is not a text or a list of texts")


def check_text(number: int, sentence: Any) -> str:
    """Return an item that is a text; raise InputError for any other."""
    if not isinstance(sentence, str):
        raise InputError(f"sentences: item {number} is {sentence!r:.60}, not a text")
    return sentence


def cut_windows(sentences: Iterable[str]) -> Iterator[list[str]]:
    """Yield the sentences in lists of up to WINDOW, shorter where they are long."""
    window: list[str] = []
    characters = 0
    for number, sentence in enumerate(sentences):
        window.append(check_text(number, sentence))
        characters += len(sentence)
        if len(window) == WINDOW or characters >= WINDOW_CHARACTERS:
            yield window
            window, characters = [], 0
    if window:
        yield window


def run_rows(
    run: "Run", rows: Sequence[Sequence[int]], pad_id: int, batch_tokens: int = BATCH_TOKENS
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (row numbers, vectors), the longest rows first, as many at a time as `batch_tokens` tokens hold."""
    for where, _ in split_by_length(np.array([len(row) for row in rows]), batch_tokens):
        yield where, run(*pad_rows([rows[row] for row in where], pad_id))


Loaded = tuple[Tokenizer, int, int, int, Run]  # tokenizer, its padding, longest input, dimension, what runs a batch


def load_torch(model: str, threads: int | None, device: str) -> Loaded:
    """Load a model folder or hub name; `threads` is torch's setting for the whole process."""
    require("torch", extra="train", by="backend torch")
    import torch

    from secateur.config.teacher import TeacherSettings
    from secateur.encoders.device import pick_device
    from secateur.encoders.encoder import count_positions, encode
    from secateur.encoders.loading import load_encoder

    if threads is not None:
        torch.set_num_threads(threads)
    loaded = load_encoder(TeacherSettings(model=model, max_length=UNLIMITED), device=pick_device(device))
    tokenizer = loaded.tokenizer._tokenizer
    longest = min(loaded.max_length, count_positions(loaded.transformer))

    def run(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        inputs = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
        with torch.inference_mode():
            moved = {name: values.to(loaded.device) for name, values in inputs.items()}
            vectors: np.ndarray = encode(loaded, moved).vectors.float().cpu().numpy()
        return vectors

    return tokenizer, loaded.tokenizer.pad_token_id, longest, loaded.dimension, run


def load_file(model: str | Path, backend: str, threads: int | None, device: str) -> Loaded:
    """Open the ONNX file of a model folder, checked against what its export recorded."""
    folder = Path(model)
    file = FILES[OPENVINO.get(backend, backend)]
    path = folder / file
    if not folder.is_dir():
        raise InputError(f"{model}: no such folder; the backend {backend} reads a model folder on disk")
    if not path.is_file():
        raise InputError(f"{path}: no such file; `secateur export {model}` writes it")
    longest, pad_id = check_record(folder, file)
    if backend in OPENVINO:
        check_openvino(folder, file)
    run, dimension = open_file(path, threads, device, backend=backend)
    try:
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:  # tokenizers raises Exception itself
        raise InputError(f"{folder / 'tokenizer.json'}: cannot be read as a tokenizer: {error}") from None
    return tokenizer, pad_id, longest, dimension, run


def check_record(folder: Path, name: str) -> tuple[int, int]:
    """Return the longest input and the padding token that an export recorded.

    Raises InputError if the ONNX file, or a file it was exported from, is not the one recorded; weights that were left
    out of a copy of the folder are no fault.
    """
    path = folder / PARITY
    again = f"`secateur export {folder}` writes it anew"
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        recorded: dict[str, str] = {**record["artefacts"]["torch"]["files"], name: record["artefacts"][name]["sha256"]}
        longest, pad_id = record["input"]["max_length"], record["input"]["pad_id"]
    except FileNotFoundError:
        raise InputError(f"{path}: no such file, so {name} cannot be checked; {again}") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not a record of how {name} was exported ({error!r}); {again}") from None
    for file, expected in recorded.items():
        if (folder / file).is_file() and hash_file(folder / file) != expected:
            raise InputError(f"{folder / file}: not the file that {path.name} records for {name}; {again}")
    return int(longest), int(pad_id)


def check_openvino(folder: Path, name: str) -> None:
    """Raise InputError unless an export measured an ONNX file as OpenVINO runs it, and it was good enough."""
    path = folder / PARITY
    measured = json.loads(path.read_text(encoding="utf-8"))["artefacts"][name].get("openvino")
    if measured is None:
        raise InputError(
            f"{path}: {name} has not been measured with OpenVINO; `secateur export` does, where it is installed"
        )
    if "refused" in measured:
        raise InputError(f"{path}: {name} falls short with OpenVINO: {measured['refused']}")


def find_backends(folder: Path) -> dict[str, Path]:
    """Return the backends besides torch that a model folder has files for and this installation can run."""
    there = {backend: folder / file for backend, file in FILES.items() if (folder / file).is_file()}
    for backend, own in OPENVINO.items() if find_spec("openvino") else ():
        try:
            check_openvino(folder, FILES[own])
        except (OSError, ValueError, KeyError, InputError):
            continue
        if own in there:
            there[backend] = there[own]
    return there


def open_openvino(path: Path | bytes, threads: int | None) -> tuple[Run, int]:
    """Return what runs a batch through an ONNX file (or its content) by OpenVINO on the CPU, and the dimension."""
    require("openvino", extra="openvino", by="backend")
    import openvino

    settings = {"INFERENCE_NUM_THREADS": threads or count_cores(), "INFERENCE_PRECISION_HINT": "f32"}
    source, path = (path, Path("graph")) if isinstance(path, bytes) else (str(path), path)
    try:
        core = openvino.Core()
        compiled = core.compile_model(core.read_model(source), "CPU", settings)
        dimension = int(compiled.output("sentence_embedding").get_partial_shape()[-1].get_length())
    except RuntimeError as error:
        raise InputError(f"{path}: OpenVINO cannot run it: {' '.join(str(error).split())[:300]}") from error
    request = compiled.create_infer_request()

    def run(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        vectors: np.ndarray = request.infer({"input_ids": ids, "attention_mask": mask})["sentence_embedding"]
        return vectors

    return run, dimension


def open_file(
    path: Path | bytes, threads: int | None, device: str = "cpu", *, backend: str = "onnx"
) -> tuple[Run, int]:
    """Return what runs a batch through an ONNX file (or its content), and the dimension of its sentence vectors.

    By ONNX Runtime, or by OpenVINO, on the CPU, where the backend is one of its own.
    """
    if backend in OPENVINO:
        return open_openvino(path, threads)
    require("onnxruntime", extra="train", by="backend")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or count_cores()
    options.enable_mem_pattern = False  # it plans memory for one shape, and every batch has another
    options.log_severity_level = 3
    there = onnxruntime.get_available_providers()
    cuda = device == "cuda" or (device == "auto" and "CUDAExecutionProvider" in there)
    if cuda and "CUDAExecutionProvider" not in there:
        raise InputError("device: cuda asked for, but this onnxruntime has no CUDA")
    wanted = ["CUDAExecutionProvider"] if cuda else []
    source, path = (path, Path("graph")) if isinstance(path, bytes) else (str(path), path)
    try:
        session = onnxruntime.InferenceSession(source, options, providers=[*wanted, "CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions have no base class of their own
        raise InputError(f"{path}: cannot be read as ONNX: {' '.join(str(error).split())[:300]}") from error
    outputs = {each.name: each.shape for each in session.get_outputs()}
    if "sentence_embedding" not in outputs:
        raise InputError(f"{path}: has no output sentence_embedding; `secateur export` writes one that has")

    def run(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        vectors: np.ndarray = session.run(["sentence_embedding"], {"input_ids": ids, "attention_mask": mask})[0]
        return vectors

    return run, int(outputs["sentence_embedding"][-1])

"""Sentences to unit vectors in bulk, from a model folder: by torch, or by the ONNX files that `export` wrote.

    vectors = secateur.Encoder("models/mini-en-ru", backend="onnx-int8").encode(sentences)

Sentences run sorted by length, in batches of so many tokens rather than so many sentences: little padding, and
a batch's activations stay in the cache. Through an ONNX file only sentences of one length run together: nothing is
padded, so a vector is the same alone and in any company. The other backends need neither torch nor transformers.
"""

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from secateur.config.choices import MOST, MOST_THREADS, RUNTIMES
from secateur.config.errors import InputError, require
from secateur.data.files import hash_file
from secateur.data.progress import progress_bar
from secateur.data.texts import SURROGATE
from secateur.encoders.forms import open_form
from secateur.encoders.machine import Processor, compare_processors, read_processor
from secateur.encoders.padding import pad_rows, split_by_length
from secateur.encoders.reading import Reading, describe_reading, open_tokenizer, set_length
from secateur.encoders.sessions import Run, open_file

log = logging.getLogger(__name__)

FILES = {"onnx": "onnx/model.onnx", "onnx-int8": "onnx/model_qint8.onnx"}
OPENVINO = {f"openvino{name.removeprefix('onnx')}": name for name in FILES}  # the same files, run by OpenVINO
PARITY = "parity.json"
BATCH_TOKENS = 2_048  # tokens a batch, padding included
WINDOW, WINDOW_CHARACTERS = 16_384, 8_000_000  # sentences, and characters, that are sorted together


class Encoder:
    """A model folder that turns sentences into unit vectors; its vectors are those of SentenceTransformer.encode.

    Any number of threads may use it at once.

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
        counts = {
            "threads": (threads, MOST_THREADS),
            "max_length": (max_length, MOST),
            "batch_tokens": (batch_tokens, MOST),
        }
        for name, (value, most) in counts.items():
            if (
                isinstance(value, bool)
                or not isinstance(value, int | None)
                or (name == "batch_tokens" and value is None)
            ):
                raise InputError(f"{name}: {value!r:.40} is not a whole number")
            if value is not None and not 1 <= value <= most:
                raise InputError(f"{name}: {value!r:.40} is not in 1 to {most}")
        self.name, self.backend, self.batch_tokens = str(model), backend, batch_tokens
        self.loaded = (
            load_torch(str(model), threads, device)
            if backend == "torch"
            else load_file(model, backend, threads, device)
        )
        reading = self.loaded.reading
        self.pad_id, self.dimension, self.run = reading.pad_id, self.loaded.dimension, self.loaded.run("")
        self.max_length = min(reading.max_length, max_length or reading.max_length)
        self.check_length(self.max_length)
        self.tokenizer = set_length(self.loaded.tokenizer, reading, self.max_length)
        self.has_truncated, self.telling = False, Lock()

    def check_length(self, max_length: int) -> None:
        """Raise InputError where no word fits into so many tokens, between the special ones."""
        special = self.loaded.tokenizer.num_special_tokens_to_add(is_pair=False)
        if max_length <= special:
            raise InputError(f"max_length: {max_length} holds no more than the {special} special tokens")

    @property
    def fingerprint(self) -> str:
        """What its vectors are filed under."""
        return f"{Path(self.name).name}-{self.backend}"

    def encode(
        self,
        sentences: str | Iterable[str],
        *,
        prompt: str | None = None,
        prompt_name: str | None = None,
        dimensions: int | None = None,
        output: str = "float32",
        progress: str = "",
    ) -> np.ndarray:
        """Return float32 unit vectors [sentences, D] in the order given, [D] for a single sentence.

        `prompt` is put before every sentence; `prompt_name` names one of the model's own instead. With neither it is
        the model's default prompt, if it has one. `dimensions`: so many first coordinates alone, at unit length;
        `output`: float32, or int8, binary, ubinary, as `secateur vectors` made the model ready for. `progress` names a
        progress bar; empty: none.
        Raises InputError: what is not a text; no prompt of this name; vectors of a form that the model does not have.
        """
        check_texts(sentences)
        form = open_form(Path(self.name), self.dimension, dimensions, output)
        empty = np.empty((0, self.dimension), np.float32)
        items = [sentences] if isinstance(sentences, str) else sentences
        parts = self.stream(items, prompt=prompt, prompt_name=prompt_name, progress=progress)
        vectors: np.ndarray = np.concatenate([form(empty), *map(form, parts)])
        return vectors[0] if isinstance(sentences, str) else vectors

    def stream(
        self,
        sentences: Iterable[str],
        *,
        prompt: str | None = None,
        prompt_name: str | None = None,
        progress: str = "",
    ) -> Iterator[np.ndarray]:
        """Yield the vectors of so many sentences at a time, in order: for input larger than memory."""
        prompt = self.loaded.reading.find_prompt(prompt, prompt_name)
        run = self.loaded.run(prompt)
        total = len(sentences) if isinstance(sentences, Sequence) else None
        with progress_bar(progress, total=total, unit="sentences") as bar:
            for some in cut_windows(sentences):
                yield self.encode_window(some, prompt, run, bar)

    def encode_window(self, sentences: Sequence[str], prompt: str, run: Run, bar: Any) -> np.ndarray:
        rows = self.read_pieces(sentences, prompt)
        vectors = np.empty((len(rows), self.dimension), np.float32)
        share = len(rows) / max(sum(map(len, rows)), 1)  # of a sentence a token: long sentences come first, and slowly
        for where, found in run_rows(run, rows, self.pad_id, self.batch_tokens, padded=self.backend == "torch"):
            vectors[where] = found
            bar.update(share * sum(len(rows[row]) for row in where))
        return vectors

    def read_pieces(self, sentences: Sequence[str], prompt: str = "") -> list[list[int]]:
        """Return the tokens of each sentence behind a prompt; that one was truncated is said once."""
        encoded = self.tokenizer.encode_batch_fast([prompt + sentence for sentence in sentences])
        with self.telling:
            long = None
            if not self.has_truncated:
                long = next((number for number, each in enumerate(encoded) if each.overflowing), None)
                self.has_truncated = long is not None
        if long is not None:
            log.warning(
                "%s: only the %s %d tokens of a sentence are read; longer ones, such as %r..., are truncated",
                self.name, "last" if self.loaded.reading.truncation == "left" else "first", self.max_length,
                sentences[long][:40],
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
    if not sentence.isascii() and SURROGATE.search(sentence):
        raise InputError(f"sentences: item {number} has half of a surrogate pair, which is no character")
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
    run: Run, rows: Sequence[Sequence[int]], pad_id: int, batch_tokens: int = BATCH_TOKENS, *, padded: bool = True
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (row numbers, vectors), the longest rows first, as many at a time as `batch_tokens` tokens hold.

    Not `padded`: only rows of one length run together. On a CPU that takes no longer, and the rounding of a row's
    numbers, which int8 makes visible, does not depend on the length of others.
    """
    lengths = np.array([len(row) for row in rows])
    batches = [where for where, _ in split_by_length(lengths, batch_tokens)]
    if not padded:
        batches = [part for where in batches for part in split_where_lengths_change(where, lengths)]
    for where in batches:
        yield where, run(*pad_rows([rows[row] for row in where], pad_id))


def split_where_lengths_change(where: np.ndarray, lengths: np.ndarray) -> list[np.ndarray]:
    return np.split(where, np.flatnonzero(np.diff(lengths[where])) + 1)


@dataclass(frozen=True)
class Loaded:
    """A model that is ready: its tokenizer, how it reads, what runs a batch behind a prompt, the vectors' length."""

    tokenizer: Tokenizer
    reading: Reading
    run: Callable[[str], Run]
    dimension: int


def load_torch(model: str, threads: int | None, device: str) -> Loaded:
    """Load a model folder or hub name; `threads` is torch's setting for the whole process."""
    require("torch", extra="train", by="backend torch")
    import torch

    from secateur.config.teacher import TeacherSettings
    from secateur.encoders.device import pick_device
    from secateur.encoders.encoder import encode
    from secateur.encoders.loading import load_encoder
    from secateur.encoders.static import is_static, open_bag

    if threads is not None:
        torch.set_num_threads(threads)
    if is_static(model):
        bag, how, run_bag, dimension = open_bag(model, pick_device(device))
        return Loaded(bag, how, lambda prompt: run_bag, dimension)
    loaded = load_encoder(TeacherSettings(model=model), device=pick_device(device))
    reading = describe_reading(loaded)

    def run_behind(prompt: str) -> Run:
        left_out = loaded.count_left_out(prompt)

        def run(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
            inputs = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
            with torch.inference_mode():
                moved = {name: values.to(loaded.device) for name, values in inputs.items()}
                vectors: np.ndarray = encode(loaded, moved, prompt_length=left_out).vectors.float().cpu().numpy()
            return vectors

        return run

    # a copy: the loaded tokenizer forgets how it truncates whenever transformers uses it
    tokenizer = Tokenizer.from_str(loaded.tokenizer._tokenizer.to_str())
    return Loaded(tokenizer, reading, run_behind, loaded.dimension)


def load_file(model: str | Path, backend: str, threads: int | None, device: str) -> Loaded:
    """Open the ONNX file of a model folder, checked against what its export recorded."""
    folder = Path(model)
    file = FILES[OPENVINO.get(backend, backend)]
    path = folder / file
    if not folder.is_dir():
        raise InputError(f"{model}: no such folder; the backend {backend} reads a model folder on disk")
    if not path.is_file():
        raise InputError(f"{path}: no such file; `secateur export {model}` writes it")
    reading = check_record(folder, file)
    if backend in OPENVINO:
        check_openvino(folder, file)
    run, dimension = open_file(path, threads, device, backend=backend)

    def run_behind(prompt: str) -> Run:
        if prompt and not reading.pools_prompt:
            raise InputError(f"{file}: the model leaves its prompt out of the vector, which backend torch alone can do")
        return run

    return Loaded(open_tokenizer(folder / "tokenizer.json", reading), reading, run_behind, dimension)


def check_record(folder: Path, name: str) -> Reading:
    """Return how the model of an ONNX file reads, as its export recorded it; warn where the processor is another kind.

    Raises InputError if the ONNX file, or a file it was exported from, is not the one recorded; weights that were left
    out of a copy of the folder are no fault.
    """
    path = folder / PARITY
    again = f"`secateur export {folder}` writes it anew"
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        recorded: dict[str, str] = {**record["artefacts"]["torch"]["files"], name: record["artefacts"][name]["sha256"]}
        reading = Reading(**record["input"])
        made = Processor(record["processor"]["name"], tuple(record["processor"]["instructions"]), 1)
        levels = record["artefacts"][name].get("levels")
        if not isinstance(levels, int | None) or not all(
            isinstance(each, str) for each in (made.name, *made.instructions)
        ):
            raise TypeError("levels, or the processor's instructions")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file, so {name} cannot be checked; {again}") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path}: not a record of how {name} was exported ({error!r:.120}); {again}") from None
    for file, expected in recorded.items():
        if (folder / file).is_file() and hash_file(folder / file) != expected:
            raise InputError(f"{folder / file}: not the file that {path.name} records for {name}; {again}")
    flaw = compare_processors(made, read_processor(), levels)
    if flaw:
        log.warning("%s: %s; `secateur export %s`, run on this machine, writes one for it", folder / name, flaw, folder)
    return reading


def check_openvino(folder: Path, name: str) -> None:
    """Raise InputError unless an export measured an ONNX file as OpenVINO runs it, and it was good enough."""
    path = folder / PARITY
    try:
        measured = json.loads(path.read_text(encoding="utf-8"))["artefacts"][name].get("openvino")
        refused = measured and measured.get("refused")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path}: not a record of how {name} was exported ({error!r:.120})") from None
    if measured is None:
        raise InputError(
            f"{path}: {name} has not been measured with OpenVINO; `secateur export` does, where it is installed"
        )
    if refused:
        raise InputError(f"{path}: {name} falls short with OpenVINO: {refused}")


def find_backends(folder: Path) -> dict[str, Path]:
    """Return the backends besides torch that a model folder has files for and this installation can run."""
    there = {backend: folder / file for backend, file in FILES.items() if (folder / file).is_file()}
    for backend, own in OPENVINO.items() if find_spec("openvino") else ():
        try:
            check_openvino(folder, FILES[own])
        except InputError:
            continue
        if own in there:
            there[backend] = there[own]
    return there

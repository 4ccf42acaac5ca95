"""What an encoder costs: parameters, bytes, FLOPs, milliseconds a sentence, sentences a second."""

import importlib
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from secateur.config.errors import InputError, require
from secateur.config.teacher import TeacherSettings
from secateur.encoders.encoder import TorchEncoder, encode, pad, tokenize
from secateur.encoders.inference import OPENVINO, PARITY, Encoder, find_backends
from secateur.encoders.loading import load_encoder
from secateur.encoders.machine import count_cores, read_mapped, read_memory
from secateur.encoders.sessions import open_file

BATCH = 32
READ = {".json", ".safetensors", ".txt", ".model", ".py"}  # endings of what torch reads of a model folder
OTHERS = {"onnx", "openvino", PARITY}
TURN = 5  # sentences, when encoders are timed in turn


def count_parameters(encoder: TorchEncoder) -> int:
    """Return the number of parameters that the sentence vector uses."""
    return sum(parameter.numel() for parameter in encoder.model.parameters())


def count_bytes(encoder: TorchEncoder) -> int:
    """Return the bytes of the weights in the number format that they are saved in; they are held in float32."""
    return count_parameters(encoder) * int(getattr(torch, encoder.dtype).itemsize)


def time_encoders(
    encoders: Sequence[TorchEncoder], sentences: Sequence[str], *, runtime: str = "torch", warmup: int = 10
) -> list[float]:
    """Return each encoder's median milliseconds for one sentence, batch 1, tokenisation included.

    `runtime`: torch, or a backend of `secateur.Encoder`, with every matrix in float or in int8.
    """
    return time_turns([serve(encoder, runtime) for encoder in encoders], sentences, warmup=warmup)


def time_turns(runs: Sequence[Callable[[str], object]], sentences: Sequence[str], *, warmup: int = 10) -> list[float]:
    """Return the median milliseconds that each of some functions takes for one sentence.

    They take turns on every few sentences, so that a drift of the machine's speed meets all of them alike. In each turn
    the first sentence is run once more, untimed: the weights of a small encoder stay in the processor's cache when it
    serves alone, whatever the encoders between its turns left there.
    """
    seconds: list[list[float]] = [[] for _ in runs]
    for run in runs:
        for sentence in sentences[:warmup]:
            run(sentence)
    for start in range(0, len(sentences), TURN):
        turn = sentences[start : start + TURN]
        for run, spent in zip(runs, seconds, strict=True):
            run(turn[0])
            for sentence in turn:
                started = time.perf_counter()
                run(sentence)
                spent.append(time.perf_counter() - started)
    return [1000 * statistics.median(times) for times in seconds]


def serve(encoder: TorchEncoder, runtime: str) -> Callable[[str], object]:
    """Return what turns one sentence into a vector as that runtime does."""
    if runtime == "torch":

        def embed_one(sentence: str) -> Tensor:
            with torch.inference_mode():
                return encode(encoder, pad(encoder, tokenize(encoder, [sentence]))).vectors.cpu()

        return embed_one
    require("onnx", extra="train", by=f"budget.runtime: {runtime}")
    from secateur.encoders.onnx_graph import build_graph, list_matrices

    matrices = list_matrices(encoder) if runtime.endswith("int8") else []
    graph = build_graph(encoder, matrices).SerializeToString()
    run, _ = open_file(graph, None, backend=runtime)

    def run_one(sentence: str) -> np.ndarray:
        inputs = pad(encoder, tokenize(encoder, [sentence]))
        return run(inputs["input_ids"].cpu().numpy(), inputs["attention_mask"].cpu().numpy())

    return run_one


@dataclass(frozen=True)
class Timing:
    """How costs are timed: tokens a sentence, measured runs at batch 1, warm-up runs, numbers of threads."""

    length: int
    repeats: int
    warmup: int
    threads: tuple[int, ...] = ()  # none named: 1 and the cores there are

    @property
    def batches(self) -> int:
        """Measured runs at batch 32."""
        return max(3, self.repeats // 10)


def measure_costs(models: Sequence[str], timing: Timing, *, device: str = "auto") -> list[dict[str, Any]]:
    """Return a row for each model and each ONNX file in its folder: parameters, MB on disk and in memory, GFLOPs of a
    sentence, and for every number of threads the median and 95th percentile of a sentence's milliseconds, and
    sentences a second in batches of 32.

    Inputs are random tokens, the same for all that know them; runs take turns, so that a drift of the machine's
    speed meets all alike. Where torch sees a GPU, its times stand beside. Raises InputError: not a model, or a length
    it cannot read.
    """
    rows = [row for model in models for row in describe_costs(model, timing)]
    for threads in timing.threads or sorted({1, count_cores()}):
        encoders = [Encoder(row["model"], backend=row["backend"], threads=threads, device="cpu") for row in rows]
        for row, times in zip(rows, take_times(encoders, timing), strict=True):
            row["times"][f"{threads} thread{'s' if threads > 1 else ''}"] = times
    if device in ("auto", "cuda") and torch.cuda.is_available():
        on_gpu = [row for row in rows if row["backend"] == "torch"]
        encoders = [Encoder(row["model"], device="cuda") for row in on_gpu]
        for row, times in zip(on_gpu, take_times(encoders, timing), strict=True):
            row["times"][torch.cuda.get_device_name()] = times
    return rows


def describe_costs(model: str, timing: Timing) -> list[dict[str, Any]]:
    """Return what needs no clock, for torch and for each ONNX file there is."""
    encoder = load_encoder(TeacherSettings(model=model))
    if timing.length > encoder.max_length:
        raise InputError(f"--length: {timing.length} is over the {encoder.max_length} tokens that {model} reads")
    folder = Path(model)
    there = find_backends(folder)
    disk = {"torch": count_disk(folder) or count_bytes(encoder)}  # of a hub's model: its weights
    tokenizer = count_size(folder / "tokenizer.json")
    disk |= {backend: count_size(path) + tokenizer for backend, path in there.items()}
    known = {"model": model, "parameters": count_parameters(encoder), "flops": count_flops(encoder, timing.length)}
    return [
        {**known, "backend": name, "disk": size, "memory": measure_memory(model, name), "times": {}}
        for name, size in disk.items()
    ]


def count_disk(folder: Path) -> int:
    """Return the bytes of the files that torch reads of a model folder: weights, those of a Dense layer's folder too,
    tokenizer and settings; what was exported is not among them."""
    inside = [path.relative_to(folder) for path in folder.rglob("*") if path.suffix in READ and path.is_file()]
    own = [path for path in inside if path.parts[0] not in OTHERS and not any(part[0] == "." for part in path.parts)]
    return sum(count_size(folder / path) for path in own)


def count_size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def count_flops(encoder: TorchEncoder, length: int) -> int:
    """Return the floating point operations of all matrix products for one sentence of `length` tokens, as torch
    counts them: two for a multiplication and an addition."""
    ids = torch.full((1, length), encoder.tokenizer.pad_token_id + 1, device=encoder.device)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        encode(encoder, {"input_ids": ids, "attention_mask": torch.ones_like(ids)})
    return int(counter.get_total_flops())


def take_times(encoders: Sequence[Encoder], timing: Timing) -> list[dict[str, float]]:
    """Return each encoder's times: ms and p95 of a sentence, and sentences a second in batches."""
    single = time_runs(encoders, timing.length, 1, timing.warmup, timing.repeats)
    batched = time_runs(encoders, timing.length, BATCH, min(timing.warmup, 2), timing.batches)
    return [
        {
            "ms": 1000 * statistics.median(one),
            "p95": 1000 * float(np.quantile(one, 0.95)),
            "per_second": BATCH / statistics.median(many),
        }
        for one, many in zip(single, batched, strict=True)
    ]


def time_runs(encoders: Sequence[Encoder], length: int, batch: int, warmup: int, repeats: int) -> list[list[float]]:
    """Return the seconds of each encoder's runs over random tokens [batch, length]; the encoders take turns."""
    generator = np.random.default_rng(0)
    pieces = min(encoder.tokenizer.get_vocab_size() for encoder in encoders)
    mask = np.ones((batch, length), np.int64)
    seconds: list[list[float]] = [[] for _ in encoders]
    for number in range(warmup + repeats):
        ids = generator.integers(min(5, pieces - 1), pieces, (batch, length))
        for encoder, spent in zip(encoders, seconds, strict=True):
            started = time.perf_counter()
            encoder.run(ids, mask)
            if number >= warmup:
                spent.append(time.perf_counter() - started)
    return seconds


def measure_memory(model: str, backend: str) -> int | None:
    """Return the bytes that loading a model and encoding a sentence add to a process of its own (Linux; else None).

    They are what the process allocates, and the files that it maps: weights that are mapped are read as they are used.
    """
    if read_memory("RssAnon") is None:
        return None
    words = [sys.executable, "-P", "-m", "secateur.encoders.cost", model, backend]  # -P: not from the current folder
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise InputError(f"{model}, {backend}: {(done.stderr.strip() or 'failed').splitlines()[-1]}")
    return int(done.stdout.split()[-1])


def print_memory(arguments: Sequence[str]) -> None:
    model, backend = arguments
    if backend != "torch":  # the library's own memory is not the model's
        importlib.import_module("openvino" if backend in OPENVINO else "onnxruntime")
    before, mapped = read_memory("RssAnon") or 0, read_mapped()
    encoder = Encoder(model, backend=backend, device="cpu")
    encoder.encode(["one"])
    files = sum(size for path, size in read_mapped().items() if path not in mapped)
    print((read_memory("RssAnon") or 0) - before + files)


if __name__ == "__main__":
    print_memory(sys.argv[1:])

"""Rows of large shapes with random weights: a student cut to half against its teacher, and int8 files against torch."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling
from transformers import BertConfig, BertModel

from secateur.bench.comparisons import SEED, Comparison, Seconds, Workshop, timed
from secateur.encoders.cost import count_parameters
from secateur.encoders.encoder import TorchEncoder, encode
from secateur.encoders.modeling import find_layers, head_size
from secateur.encoders.onnx_graph import build_graph, list_matrices
from secateur.encoders.sessions import open_file
from secateur.encoders.surgery import replace_transformer
from secateur.pruning.selection import Kept
from secateur.pruning.slicing import slice_encoder


def make_shape(shop: Workshop, *, pieces: int, layers: int, hidden: int, heads: int) -> TorchEncoder:
    """Return an encoder of a shape with random weights, reading with the embedded teacher's tokenizer."""
    torch.manual_seed(SEED)
    shape = BertConfig(
        vocab_size=pieces, num_hidden_layers=layers, hidden_size=hidden, num_attention_heads=heads,
        intermediate_size=4 * hidden,
    )  # fmt: skip
    transformer = BertModel(shape, add_pooling_layer=False)
    transformer.set_attn_implementation("eager")
    first = replace_transformer(shop.load(), transformer).model[0]
    model = SentenceTransformer(modules=[first, Pooling(hidden, pooling_mode="mean"), Normalize()], device="cpu")
    return TorchEncoder(model.eval())


def make_teacher(shop: Workshop) -> TorchEncoder:
    """Return LaBSE-en-ru's shape, or a toy's."""
    sizes = shop.sizes
    return make_shape(shop, pieces=sizes.pieces, layers=sizes.layers, hidden=sizes.hidden, heads=sizes.hidden // 64)


def halve(encoder: TorchEncoder, *, multiple: int = 1) -> TorchEncoder:
    """Return an encoder with half of all heads and neurons, unevenly, as a global ranking leaves them.

    A layer's neurons are rounded down to a multiple.
    """
    shape = encoder.transformer.config
    heads, layers = shape.hidden_size // head_size(shape), len(find_layers(encoder.transformer))

    def draw(each: int) -> tuple[tuple[int, ...], ...]:
        kept = np.random.default_rng(SEED).permutation(layers * each)[: layers * each // 2]
        return tuple(tuple(sorted((kept[kept // each == layer] % each).tolist())) for layer in range(layers))

    neurons = tuple(kept[: len(kept) // multiple * multiple] for kept in draw(shape.intermediate_size))
    return slice_encoder(encoder, Kept(draw(heads), neurons))


def run_random(
    run: Callable[[np.ndarray, np.ndarray], object], pieces: int, batch: int, length: int
) -> Callable[[], object]:
    ids = np.random.default_rng(SEED).integers(5, pieces, (batch, length))
    mask = np.ones_like(ids)
    return lambda: run(ids, mask)


def run_torch(
    encoder: TorchEncoder, precision: torch.dtype = torch.float32
) -> Callable[[np.ndarray, np.ndarray], object]:
    def run(ids: np.ndarray, mask: np.ndarray) -> object:
        inputs = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
        on = precision != torch.float32
        with torch.inference_mode(), torch.autocast(encoder.device.type, torch.bfloat16, enabled=on):
            return encode(encoder, {name: values.to(encoder.device) for name, values in inputs.items()}).vectors.cpu()

    return run


def compare_students(shop: Workshop) -> list[Comparison]:
    """LaBSE-en-ru's shape with random weights at the reference ratio, torch against torch."""
    cases = [(batch, length, "float32") for batch in (1, 32, 64) for length in (16, 32)]
    return time_students(shop, [*cases, (64, 16, "bf16"), (64, 32, "bf16")], "cpu")


def compare_students_on_gpu(shop: Workshop) -> list[Comparison]:
    """The same on a CUDA device, in bf16; of small batches its time goes into starting kernels, so a large one too."""
    cases = [(batch, length, "bf16") for batch in (1, 32, 64, 1_024) for length in (16, 32)]
    return time_students(shop, cases, "cuda")


def time_students(shop: Workshop, cases: Sequence[tuple[int, int, str]], device: str) -> list[Comparison]:
    """Return a row for each batch, length and dtype."""
    sizes = shop.sizes
    teacher = make_teacher(shop)
    student = halve(teacher)
    encoders = {"student": student, "teacher": teacher}
    if device == "cuda":  # whose kernels for matrix products want sizes that 8 divides
        encoders["student, neurons a multiple of 8"] = halve(teacher, multiple=8)
    for encoder in encoders.values():
        encoder.model.to(device)
    rows = []
    for batch, length, dtype in cases:
        precision = torch.bfloat16 if dtype == "bf16" else torch.float32
        sides = {
            name: repeat(run_random(run_torch(encoder, precision), sizes.pieces, batch, length), sizes.runs, batch)
            for name, encoder in encoders.items()
        }
        aims = {"teacher": 1.75} if batch in (1, 32) and device == "cpu" else {}
        conditions = say_shape(teacher, student, batch, length) | {"dtype": dtype, "device": device}
        rows.append(Comparison(f"student, batch {batch} of {length}, {dtype}, {device}", sides, aims, conditions))
    return rows


def repeat(run: Callable[[], object], runs: int, batch: int) -> Seconds:
    """Return the seconds a batch over several runs, fewer of large batches.

    Half as many run before the clock starts: threads of the other side's library still spin for some milliseconds.
    """
    count = max(1, runs // batch)

    def several(times: int) -> None:
        for _ in range(times):
            run()

    clock = timed(lambda: several(count), count)

    def seconds() -> float:
        several(max(1, count // 2))
        return clock()

    return seconds


def say_shape(teacher: TorchEncoder, student: TorchEncoder, batch: int, length: int) -> dict[str, Any]:
    return {
        "parameters": f"{count_parameters(student):,}; {count_parameters(teacher):,}",
        "batch": batch,
        "pieces": length,
        "padding": "0; 0",
        "dtype": "float32",
        "threads": torch.get_num_threads(),
    }


def compare_int8(shop: Workshop) -> list[Comparison]:
    """The same student's int8 file, and a small encoder's, against the torch float teacher at batch 1."""
    sizes = shop.sizes
    teacher = make_teacher(shop)
    small_pieces = min(30_000, sizes.pieces)
    students = {
        "half of heads and neurons": (halve(teacher), 4.0),
        "6 layers, 256 wide": (make_shape(shop, pieces=small_pieces, layers=6, hidden=256, heads=4), 50.0),
    }
    rows = []
    for name, (student, aim) in students.items():
        file = build_graph(student, list_matrices(student)).SerializeToString()
        run, _ = open_file(file, torch.get_num_threads())
        pieces = student.transformer.config.vocab_size
        for length in (16, 32):
            sides = {
                "int8 file": repeat(run_random(run, pieces, 1, length), sizes.runs, 1),
                "torch float teacher": repeat(run_random(run_torch(teacher), pieces, 1, length), sizes.runs, 1),
            }
            conditions = say_shape(teacher, student, 1, length) | {"dtype": "int8; float32", "file MB": len(file) / 1e6}
            rows.append(Comparison(f"int8, {name}, {length} tokens", sides, {"torch float teacher": aim}, conditions))
    return rows

"""What is compared with what: each row gives its sides as functions that run once and return seconds a unit of work.

Ours stands first. Both sides have the same weights, sentences, threads, dtype and batch; what differs is named, and
each side's share of padding is counted where lengths differ.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any

import numpy as np
import torch
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.base.sampler import DefaultBatchSampler
from sentence_transformers.sentence_transformer.losses import MSELoss
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling
from torch import Tensor, nn
from torch.utils.data import SequentialSampler
from transformers import BertConfig, BertModel, TrainerCallback

from secateur import config
from secateur.corpus import Pairs
from secateur.cost import count_flops, count_parameters
from secateur.distillation import LengthSampler, PairDataset, distill
from secateur.encodechka import list_sentences, score_examples
from secateur.encoder import Encoder, embed, encode, load_encoder, pad, replace_transformer, tokenize
from secateur.gate import read_probe_texts
from secateur.inference import Encoder as SavedEncoder
from secateur.inference import open_file, run_rows
from secateur.modeling import find_layers, head_size
from secateur.onnx_graph import build_graph, list_matrices
from secateur.probe import FOLDER, PARTS, read_parts
from secateur.saliency import accumulate_gates, frozen, pair_losses, similarity_scores
from secateur.selection import Kept
from secateur.slicing import slice_encoder
from secateur.targets import Targets, embed_corpus
from secateur.teachers import EncoderSource

log = logging.getLogger(__name__)

SEED = 0
Seconds = Callable[[], float]


@dataclass(frozen=True)
class Sizes:
    """How large the compared work is."""

    sentences: int  # encoded in bulk
    pieces: int  # of the large shape's vocabulary
    layers: int
    hidden: int
    runs: int  # at batch 1, in one round
    batch: int  # pairs a distillation step
    steps: int  # timed, after as many of warm-up
    tasks: tuple[str, ...]


FULL = Sizes(10_000, 55_083, 12, 768, 20, 64, 20, tuple(PARTS))
TOY = Sizes(40, 500, 2, 128, 2, 8, 2, ("STS",))


@dataclass(frozen=True)
class Comparison:
    claim: str
    sides: Mapping[str, Seconds]  # ours first; each runs once and returns its seconds
    aims: Mapping[str, float] = field(default_factory=dict)  # by peer: how many times ours should be faster
    conditions: Mapping[str, Any] = field(default_factory=dict)  # a function is asked when all rounds are done
    warmup: int = 1


class Workshop:
    """What rows share: the embedded teacher, sentences, a folder for what they write."""

    def __init__(self, model: str, sizes: Sizes) -> None:
        self.model, self.sizes = model, sizes

    def __enter__(self) -> "Workshop":
        self.temporary = TemporaryDirectory()
        self.folder = Path(self.temporary.name)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.temporary.cleanup()

    def load(self) -> Encoder:
        return load_encoder(config.Teacher(model=self.model))

    def sentences(self) -> list[str]:
        """Return sentences of mixed length: the probe's, and one to six of them in a row."""
        generator = np.random.default_rng(SEED)
        texts = read_probe_texts(4_000).judged
        counts = generator.choice([1, 1, 1, 2, 3, 6], size=self.sizes.sentences)
        return [" ".join(texts[row] for row in generator.integers(len(texts), size=count)) for count in counts]


def timed(run: Callable[[], object], work: int = 1) -> Seconds:
    """Return a function that runs `run` once and returns its seconds a unit of work."""

    def seconds() -> float:
        started = time.perf_counter()
        run()
        return (time.perf_counter() - started) / work

    return seconds


@contextmanager
def counting(transformer: nn.Module, counts: np.ndarray) -> Iterator[None]:
    """Add to counts [real pieces, all pieces] what a transformer is given, or sentence-transformers' module around it
    (which calls the transformer's `forward` past its hooks)."""

    def count(module: nn.Module, arguments: Any, named: dict[str, Any]) -> None:
        mask = (named or arguments[0])["attention_mask"]
        counts[:] += [int(mask.sum()), mask.numel()]

    hook = transformer.register_forward_pre_hook(count, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()


def padding_share(counts: np.ndarray) -> float:
    return round(float(1 - counts[0] / counts[1]), 4)


def compare_encoding(shop: Workshop) -> list[Comparison]:
    """Encoder.encode against SentenceTransformer.encode: the same weights, sentences of mixed length."""
    sentences = shop.sentences()
    ours, theirs = SavedEncoder(shop.model), SentenceTransformer(shop.model, device="cpu")
    counts = np.zeros(2, np.int64)
    with counting(theirs[0], counts):
        theirs.encode(sentences[: len(sentences) // 10])
    rows = ours.read_pieces(sentences)
    padded = np.zeros(2, np.int64)

    def count(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        padded[:] += [int(mask.sum()), mask.size]
        return np.zeros((len(ids), 1), np.float32)

    for _ in run_rows(count, rows, ours.pad_id):
        pass
    return [
        Comparison(
            "encode in bulk",
            {
                "Encoder.encode": timed(lambda: ours.encode(sentences), len(sentences)),
                "SentenceTransformer.encode": timed(lambda: theirs.encode(sentences), len(sentences)),
            },
            aims={"SentenceTransformer.encode": 1.3},
            conditions={
                "sentences": len(sentences),
                "mean pieces": round(float(np.mean([len(row) for row in rows])), 1),
                "batch": f"{ours.batch_tokens} pieces; 32 sentences",
                "padding": f"{padding_share(padded)}; {padding_share(counts)} (of a tenth)",
                "dtype": "float32",
                "threads": torch.get_num_threads(),
            },
        )
    ]


def make_shape(shop: Workshop, *, pieces: int, layers: int, hidden: int, heads: int) -> Encoder:
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
    return Encoder(model.eval())


def halve(encoder: Encoder) -> Encoder:
    """Return an encoder with half of all heads and neurons, unevenly, as a global ranking leaves them."""
    shape = encoder.transformer.config
    heads, layers = shape.hidden_size // head_size(shape), len(find_layers(encoder.transformer))
    generator = np.random.default_rng(SEED)

    def draw(each: int) -> tuple[tuple[int, ...], ...]:
        kept = generator.permutation(layers * each)[: layers * each // 2]
        return tuple(tuple(sorted((kept[kept // each == layer] % each).tolist())) for layer in range(layers))

    return slice_encoder(encoder, Kept(heads=draw(heads), neurons=draw(shape.intermediate_size)))


def run_random(
    run: Callable[[np.ndarray, np.ndarray], object], pieces: int, batch: int, length: int
) -> Callable[[], object]:
    ids = np.random.default_rng(SEED).integers(5, pieces, (batch, length))
    mask = np.ones_like(ids)
    return lambda: run(ids, mask)


def run_torch(encoder: Encoder, precision: torch.dtype = torch.float32) -> Callable[[np.ndarray, np.ndarray], object]:
    def run(ids: np.ndarray, mask: np.ndarray) -> object:
        inputs = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
        on = precision != torch.float32
        with torch.inference_mode(), torch.autocast(encoder.device.type, torch.bfloat16, enabled=on):
            return encode(encoder, {name: values.to(encoder.device) for name, values in inputs.items()}).vectors.cpu()

    return run


def compare_students(shop: Workshop) -> list[Comparison]:
    """LaBSE-en-ru's shape with random weights at the reference ratio, torch against torch."""
    sizes = shop.sizes
    teacher = make_shape(shop, pieces=sizes.pieces, layers=sizes.layers, hidden=sizes.hidden, heads=sizes.hidden // 64)
    student = halve(teacher)
    rows = []
    cases = [(batch, length, "float32") for batch in (1, 32, 64) for length in (16, 32)]
    for batch, length, dtype in [*cases, (64, 16, "bf16"), (64, 32, "bf16")]:
        precision = torch.bfloat16 if dtype == "bf16" else torch.float32
        sides = {
            name: repeat(run_random(run_torch(encoder, precision), sizes.pieces, batch, length), sizes.runs, batch)
            for name, encoder in {"student": student, "teacher": teacher}.items()
        }
        aims = {"teacher": 1.75} if batch in (1, 32) else {}
        conditions = say_shape(teacher, student, batch, length) | {"dtype": dtype}
        rows.append(Comparison(f"student, batch {batch} of {length}, {dtype}", sides, aims, conditions))
    return rows


def repeat(run: Callable[[], object], runs: int, batch: int) -> Seconds:
    """Return the seconds a batch over several runs, fewer of large batches."""
    count = max(1, runs // batch)

    def several() -> None:
        for _ in range(count):
            run()

    return timed(several, count)


def say_shape(teacher: Encoder, student: Encoder, batch: int, length: int) -> dict[str, Any]:
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
    teacher = make_shape(shop, pieces=sizes.pieces, layers=sizes.layers, hidden=sizes.hidden, heads=sizes.hidden // 64)
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
            rows.append(Comparison(f"int8, {name}, {length} pieces", sides, {"torch float teacher": aim}, conditions))
    return rows


SHAPE = {"batches": 8, "pairs": 32, "shortest": 8, "longest": 32}  # of random word pieces, equal on both sides


def prepare_saliency(model: str) -> tuple[Encoder, list[dict[str, Tensor]]]:
    encoder = load_encoder(config.Teacher(model=model))
    generator = torch.Generator().manual_seed(SEED)
    vocabulary = encoder.transformer.config.vocab_size
    batches = []
    for number in range(SHAPE["batches"]):
        longest = SHAPE["shortest"] + number * (SHAPE["longest"] - SHAPE["shortest"]) // (SHAPE["batches"] - 1)
        lengths = torch.randint(longest - 3, longest + 1, (2 * SHAPE["pairs"],), generator=generator)
        rows = [torch.randint(5, vocabulary, (int(n),), generator=generator).tolist() for n in lengths]
        batches.append(pad(encoder, rows))
    return encoder, batches


def run_plain(encoder: Encoder, batches: list[dict[str, Tensor]]) -> None:
    """Forward and backward of the similarity loss to every weight."""
    encoder.model.requires_grad_(True)
    for inputs in batches:
        pair_losses(encode(encoder, inputs).vectors).sum().backward()
        encoder.model.zero_grad(set_to_none=True)


def run_saliency(encoder: Encoder, batches: list[dict[str, Tensor]]) -> None:
    with frozen(encoder):
        accumulate_gates(encoder, iter(batches), [similarity_scores])


PASSES: dict[str, Callable[[Encoder, list[dict[str, Tensor]]], None]] = {"saliency": run_saliency, "plain": run_plain}


def compare_saliency(shop: Workshop) -> list[Comparison]:
    """All heads' and neurons' saliency against a plain forward and backward pass over the same batches."""
    encoder, batches = prepare_saliency(shop.model)
    sides = {name: timed(lambda run=run: run(encoder, batches)) for name, run in PASSES.items()}  # type: ignore[misc]
    masks = [inputs["attention_mask"] for inputs in batches]
    counts = np.array([sum(int(mask.sum()) for mask in masks), sum(mask.numel() for mask in masks)])
    conditions = {**SHAPE, "padding": padding_share(counts), "dtype": "float32", "threads": torch.get_num_threads()}
    return [Comparison("saliency pass", sides, {"plain": 1.18}, conditions)]


@dataclass(frozen=True)
class Lesson:
    """What every distillation in a comparison trains on: the same student, pairs and teacher's vectors."""

    student: Encoder
    teacher: Encoder
    pairs: Pairs
    targets: Targets
    sizes: Sizes


def prepare_lesson(shop: Workshop) -> Lesson:
    texts = read_probe_texts(4_000).judged
    count = 2 * shop.sizes.steps * shop.sizes.batch
    en, ru = ([texts[(2 * row + side) % len(texts)] for row in range(count)] for side in (0, 1))
    teacher = shop.load()
    targets = embed_corpus(EncoderSource(teacher), [*en, *ru], shop.folder / "targets")
    return Lesson(halve(teacher), teacher, Pairs(en, ru, ["probe"] * count, [True] * count), targets, shop.sizes)


class StepClock(TrainerCallback):
    """When each step ended."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.ends.append(time.perf_counter())

    def per_step(self, warmup: int) -> float:
        return (self.ends[-1] - self.ends[warmup - 1]) / (len(self.ends) - warmup)


def train_ours(lesson: Lesson, folder: Path, counts: np.ndarray) -> float:
    """Return seconds a step of `distill`."""
    sizes = lesson.sizes
    settings = config.Distillation(
        steps=2 * sizes.steps, batch_size=sizes.batch, learning_rate=1e-4, evaluate_every=2 * sizes.steps
    )

    def validate(encoder: Encoder) -> dict[str, float]:
        return {"cosine": 0.0}

    class Counted(StepClock):
        def on_train_begin(self, *_: Any, model: Any = None, **__: Any) -> None:
            self.counted = counting(model.encoder.transformer, counts)
            self.counted.__enter__()

    counted = Counted()
    distill(
        lesson.student, lesson.pairs, lesson.targets, settings, folder=folder, seed=SEED, validate=validate,
        log_metrics=lambda metrics, step: None, callbacks=(counted,),
    )  # fmt: skip
    return counted.per_step(sizes.steps)


class OnlineLoss(MSELoss):
    """sentence-transformers' MSELoss with labels that the teacher gives as it goes."""

    def __init__(self, model: SentenceTransformer, teacher: SentenceTransformer) -> None:
        super().__init__(model)
        self.teacher = [teacher]  # in a list: no part of what is trained

    def forward(self, sentence_features: Any, labels: Tensor | None) -> Tensor:
        losses = []
        for features in sentence_features:
            with torch.no_grad():
                given = self.teacher[0](dict(features))["sentence_embedding"]
            losses.append(super().forward([features], given))
        return torch.stack(losses).mean()


def train_theirs(
    lesson: Lesson, folder: Path, counts: np.ndarray, *, online: bool = False, by_length: bool = False
) -> float:
    """Return seconds a step of sentence-transformers' trainer with its MSELoss."""
    from datasets import Dataset

    sizes, clock = lesson.sizes, StepClock()
    student = replace_transformer(lesson.student, deepcopy(lesson.student.transformer))
    student.transformer.set_attn_implementation("sdpa")  # as sentence-transformers loads it
    en, ru, rows = lesson.pairs.en, lesson.pairs.ru, list(range(len(lesson.pairs)))
    if by_length:  # the batches that `distill` makes
        rows = list(LengthSampler(PairDataset(lesson.student, lesson.pairs, None, 128).lengths, sizes.batch, SEED))
    label = lesson.targets[np.array(rows)].astype(np.float32)
    data = Dataset.from_dict({"en": [en[r] for r in rows], "ru": [ru[r] for r in rows], "label": label.tolist()})
    order: dict[str, Any] = {"batch_sampler": in_order} if by_length else {}
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(folder), max_steps=2 * sizes.steps, per_device_train_batch_size=sizes.batch, use_cpu=True,
        learning_rate=1e-4, optim="adamw_torch_fused", save_strategy="no", report_to=[], disable_tqdm=True, seed=SEED,
        dataloader_pin_memory=False, **order,
    )  # fmt: skip
    loss = OnlineLoss(student.model, lesson.teacher.model) if online else MSELoss(student.model)
    trainer = SentenceTransformerTrainer(
        model=student.model, args=arguments, train_dataset=data, loss=loss, callbacks=[clock]
    )
    with counting(student.model[0], counts):
        trainer.train()
    return clock.per_step(sizes.steps)


def in_order(dataset: Any, batch_size: int, drop_last: bool, **_: Any) -> DefaultBatchSampler:
    return DefaultBatchSampler(SequentialSampler(dataset), batch_size=batch_size, drop_last=drop_last)


def train_as_reference(lesson: Lesson, counts: np.ndarray) -> float:
    """Return seconds a step (16 pairs) of the reference work's loop: tokenised twice, attentions and hidden states
    returned, MSE of all states without a mask, teacher on line."""
    student, teacher = deepcopy(lesson.student.transformer).train(), lesson.teacher.transformer
    tokenizer = lesson.student.tokenizer
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-4)
    pairs, steps = 16, lesson.sizes.steps
    started = 0.0
    named: dict[str, Any] = {"output_attentions": True, "output_hidden_states": True}
    with counting(student, counts):
        for step in range(2 * steps):
            if step == steps:
                started = time.perf_counter()
            rows = [(step * pairs + row) % len(lesson.pairs) for row in range(pairs)]
            loss = torch.zeros(())
            for texts in ([lesson.pairs.en[row] for row in rows], [lesson.pairs.ru[row] for row in rows]):
                own, other = (
                    tokenizer(texts, padding=True, truncation=True, return_tensors="pt") for _ in ("student", "teacher")
                )
                with torch.no_grad():
                    wanted = teacher(**other, **named)
                given = student(**own, **named)
                loss = loss + nn.functional.mse_loss(given.last_hidden_state, wanted.last_hidden_state)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    return (time.perf_counter() - started) / steps


def compare_distillation(shop: Workshop) -> list[Comparison]:
    """`distill` against sentence-transformers' trainer three ways and the reference work's step; seconds a pair."""
    lesson = prepare_lesson(shop)
    batch = shop.sizes.batch
    names = ("distill", "online teacher", "labels", "labels, by length", "the reference work's step")
    counts = {name: np.zeros(2, np.int64) for name in names}
    folder = shop.folder
    sides: dict[str, Seconds] = {
        names[0]: lambda: train_ours(lesson, folder / "ours", counts[names[0]]) / batch,
        names[1]: lambda: train_theirs(lesson, folder / "theirs", counts[names[1]], online=True) / batch,
        names[2]: lambda: train_theirs(lesson, folder / "theirs", counts[names[2]]) / batch,
        names[3]: lambda: train_theirs(lesson, folder / "theirs", counts[names[3]], by_length=True) / batch,
        names[4]: lambda: train_as_reference(lesson, counts[names[4]]) / 16,
    }
    conditions = {
        "batch": f"{batch} pairs; the reference's 16",
        "steps": f"{shop.sizes.steps} timed after as many",
        "dtype": "float32",
        "threads": torch.get_num_threads(),
        "padding": lambda: {name: padding_share(each) for name, each in counts.items()},
    }
    aims = {"online teacher": 3.0, "labels": 2.0, "labels, by length": 1.1}
    return [Comparison("distillation", sides, aims, conditions, warmup=0)]


def compare_matmul(shop: Workshop) -> list[Comparison]:
    """A distillation step against the matrix product that this machine does best: seconds a GFLOP."""
    lesson = prepare_lesson(shop)
    counts = np.zeros(2, np.int64)
    data = PairDataset(lesson.student, lesson.pairs, None, 128)
    width = 1024 if shop.sizes is FULL else 64
    one, other = torch.randn(width, width), torch.randn(width, width)

    def step() -> float:
        # a step's FLOPs: three times a forward pass over its mean sentence, two sentences a pair
        length = max(2, round(float(np.mean(data.lengths))))
        flops = 3 * 2 * lesson.sizes.batch * count_flops(lesson.student, length)
        return train_ours(lesson, shop.folder / "ours", counts) / (flops / 1e9)

    def product() -> float:
        runs = 20
        return timed(lambda: [one @ other for _ in range(runs)], 1)() / (runs * 2 * width**3 / 1e9)

    conditions = {"product": f"{width} x {width} x {width}", "dtype": "float32", "threads": torch.get_num_threads()}
    aims = {"matrix product": 0.5}
    return [Comparison("a step's GFLOP", {"distill": step, "matrix product": product}, aims, conditions)]


class OneAtATime:
    """An encoder as the original benchmark runs it: each sentence in a batch of its own."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder

    def poolings(self, sentences: Sequence[str], *, batch_size: int, progress: str) -> dict[str, np.ndarray]:
        vectors = []
        for sentence in sentences:
            with torch.inference_mode():
                inputs = pad(self.encoder, tokenize(self.encoder, [sentence]))
                vectors.append(encode(self.encoder, inputs).vectors.cpu().numpy()[0])
        return {"own": np.stack(vectors)}


def compare_benchmark(shop: Workshop) -> list[Comparison]:
    """A benchmark's eight tasks, the probe's texts: embedding alone, and the whole, against one sentence at a time."""
    encoder = shop.load()
    parts = {task: read_parts(FOLDER, task) for task in shop.sizes.tasks}
    sentences = list_sentences(parts)
    single = OneAtATime(encoder)
    conditions = {"sentences": len(sentences), "dtype": "float32", "threads": torch.get_num_threads()}
    embedding = {
        "in batches": timed(lambda: embed(encoder, sentences)),
        "one at a time": timed(lambda: single.poolings(sentences, batch_size=1, progress="")),
    }
    whole = {
        "in batches": timed(lambda: score_examples(encoder, parts, own_only=True)),
        "one at a time": timed(lambda: score_examples(single, parts, own_only=True)),
    }
    return [
        Comparison("eight tasks, embedding", embedding, {"one at a time": 2.5}, conditions),
        Comparison("eight tasks, whole", whole, {"one at a time": 2.0}, conditions),
    ]


ROWS: dict[str, Callable[[Workshop], list[Comparison]]] = {
    "encode": compare_encoding,
    "student": compare_students,
    "int8": compare_int8,
    "saliency": compare_saliency,
    "distillation": compare_distillation,
    "matmul": compare_matmul,
    "tasks": compare_benchmark,
}

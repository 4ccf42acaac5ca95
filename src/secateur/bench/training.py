"""Rows of training: a distillation step against others' steps, and against the matrix product a machine does best."""

import time
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.base.sampler import DefaultBatchSampler
from sentence_transformers.sentence_transformer.losses import MSELoss
from torch import Tensor, nn
from torch.utils.data import SequentialSampler

from secateur.bench.comparisons import (
    FULL,
    LONG_ROUNDS,
    SEED,
    Comparison,
    Seconds,
    Sizes,
    Workshop,
    counting,
    padding_share,
    timed,
)
from secateur.bench.shapes import halve
from secateur.config.distillation import DistillationSettings
from secateur.data.pairs import Pairs
from secateur.distillation.batches import LengthSampler, PairDataset
from secateur.distillation.distillation import distill, set_dropout
from secateur.distillation.pace import StepClock
from secateur.distillation.targets import Targets, embed_corpus
from secateur.distillation.teachers import EncoderSource
from secateur.encoders.cost import count_flops
from secateur.encoders.encoder import TorchEncoder
from secateur.encoders.surgery import replace_transformer
from secateur.export.quality import read_probe_texts


@dataclass(frozen=True)
class Lesson:
    """What every distillation in a comparison trains on: the same student, pairs and teacher's vectors."""

    student: TorchEncoder
    teacher: TorchEncoder
    pairs: Pairs
    targets: Targets
    sizes: Sizes
    device: str
    dtype: Literal["float32", "bf16"]  # of every side


def prepare_lesson(shop: Workshop, device: str = "cpu") -> Lesson:
    texts = read_probe_texts(4_000).judged
    count = shop.sizes.steps * shop.sizes.batch  # an epoch, of which every side is timed on its second
    en, ru = ([texts[(2 * row + side) % len(texts)] for row in range(count)] for side in (0, 1))
    teacher = shop.load(device)
    targets = embed_corpus(EncoderSource(teacher), [*en, *ru], shop.folder / "targets")
    student = halve(teacher)
    student.model.to(device)
    pairs = Pairs(en, ru, ["probe"] * count, [True] * count)
    return Lesson(student, teacher, pairs, targets, shop.sizes, device, "float32" if device == "cpu" else "bf16")


def train_ours(lesson: Lesson, folder: Path, counts: np.ndarray) -> float:
    """Return seconds a step of `distill`."""
    sizes = lesson.sizes
    settings = DistillationSettings(
        steps=2 * sizes.steps, batch_size=sizes.batch, learning_rate=1e-4, evaluate_every=2 * sizes.steps,
        precision=lesson.dtype,
    )  # fmt: skip

    def validate(encoder: TorchEncoder) -> dict[str, float]:
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
    lesson: Lesson,
    folder: Path,
    counts: np.ndarray,
    *,
    online: bool = False,
    by_length: bool = False,
    dropout: bool = True,
) -> float:
    """Return seconds a step of sentence-transformers' trainer with its MSELoss; dropout: as the model's config says."""
    from datasets import Dataset

    sizes, clock = lesson.sizes, StepClock()
    student = replace_transformer(lesson.student, deepcopy(lesson.student.transformer))
    student.transformer.set_attn_implementation("sdpa")  # as sentence-transformers loads it
    if not dropout:
        set_dropout(student, 0.0)
    en, ru, rows = lesson.pairs.en, lesson.pairs.ru, list(range(len(lesson.pairs)))
    if by_length:  # the batches that `distill` makes
        rows = list(LengthSampler(PairDataset(lesson.student, lesson.pairs, None, 128).lengths, sizes.batch, SEED))
    label = lesson.targets[np.array(rows)].astype(np.float32)
    data = Dataset.from_dict({"en": [en[r] for r in rows], "ru": [ru[r] for r in rows], "label": label.tolist()})
    order: dict[str, Any] = {"batch_sampler": in_order} if by_length else {}
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(folder), max_steps=2 * sizes.steps, per_device_train_batch_size=sizes.batch, learning_rate=1e-4,
        use_cpu=lesson.device == "cpu", bf16=lesson.dtype == "bf16", optim="adamw_torch_fused", save_strategy="no",
        report_to=[], disable_tqdm=True, seed=SEED, dataloader_pin_memory=False, **order,
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
            loss = torch.zeros((), device=lesson.device)
            for texts in ([lesson.pairs.en[row] for row in rows], [lesson.pairs.ru[row] for row in rows]):
                own, other = (
                    tokenizer(texts, padding=True, truncation=True, return_tensors="pt").to(lesson.device)
                    for _ in ("student", "teacher")
                )
                with torch.no_grad():
                    wanted = teacher(**other, **named)
                given = student(**own, **named)
                loss = loss + nn.functional.mse_loss(given.last_hidden_state, wanted.last_hidden_state)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    return (time.perf_counter() - started) / steps


def find_dropout(encoder: TorchEncoder) -> float:
    """Return the probability that a model's config says for its hidden states."""
    return float(getattr(encoder.transformer.config, "hidden_dropout_prob", 0.0))


def compare_distillation(shop: Workshop, device: str = "cpu") -> list[Comparison]:
    """`distill` against sentence-transformers' trainer four ways and the reference work's step; seconds a pair."""
    lesson = prepare_lesson(shop, device)
    batch = shop.sizes.batch
    ways: dict[str, dict[str, bool]] = {  # of sentence-transformers' trainer
        "online teacher": {"online": True},
        "labels": {},
        "labels, by length": {"by_length": True},
        "labels, by length, no dropout": {"by_length": True, "dropout": False},
    }
    ours, reference = "distill", "the reference work's step"
    counts = {name: np.zeros(2, np.int64) for name in (ours, *ways, reference)}
    folder = shop.folder

    def peer(name: str) -> Seconds:
        return lambda: train_theirs(lesson, folder / "theirs", counts[name], **ways[name]) / batch

    sides: dict[str, Seconds] = {
        ours: lambda: train_ours(lesson, folder / "ours", counts[ours]) / batch,
        **{name: peer(name) for name in ways},
        reference: lambda: train_as_reference(lesson, counts[reference]) / 16,
    }
    conditions = {
        "batch": f"{batch} pairs; the reference's 16",
        "steps": f"{shop.sizes.steps}, an epoch, timed after as many",
        "dtype": f"{lesson.dtype}; the reference's float32",
        "dropout": f"{DistillationSettings(steps=1).dropout}; {find_dropout(lesson.student)} where not said otherwise",
        "device": device,
        "threads": torch.get_num_threads(),
        "padding": lambda: {name: padding_share(each) for name, each in counts.items()},
    }
    on_cpu = device == "cpu"  # where a round takes five minutes
    aims = {"online teacher": 3.0, "labels": 2.0, "labels, by length": 1.1} if on_cpu else {}
    return [
        Comparison(f"distillation, {device}", sides, aims, conditions, warmup=0, rounds=LONG_ROUNDS if on_cpu else None)
    ]


def compare_matmul(shop: Workshop) -> list[Comparison]:
    """A distillation step against the matrix product that this machine does best: seconds a GFLOP."""
    lesson = prepare_lesson(shop)
    counts = np.zeros(2, np.int64)
    data = PairDataset(lesson.student, lesson.pairs, None, 128)
    width = 1024 if shop.sizes is FULL else 64
    one, other = torch.randn(width, width), torch.randn(width, width)

    def step() -> float:
        # a step's FLOPs: three times a forward pass over its mean sentence without padding, two sentences a pair
        length = max(2, round(float(np.mean([len(row) for row in data.pieces]))))
        flops = 3 * 2 * lesson.sizes.batch * count_flops(lesson.student, length)
        return train_ours(lesson, shop.folder / "ours", counts) / (flops / 1e9)

    def product() -> float:
        runs = 20
        return timed(lambda: [one @ other for _ in range(runs)], 1)() / (runs * 2 * width**3 / 1e9)

    conditions = {"product": f"{width} x {width} x {width}", "dtype": "float32", "threads": torch.get_num_threads()}
    aims = {"matrix product": 0.5}
    return [Comparison("a step's GFLOP", {"distill": step, "matrix product": product}, aims, conditions)]

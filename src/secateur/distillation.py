"""Pull a student towards its teacher on parallel sentences.

    L = w_similarity * mean over pairs of similarity(s_en, s_ru)
      + w_output * mean over sentences (embedding) or tokens (tokens) of matching(student, teacher)

The training loop is the Hugging Face Trainer: accelerate, several processes, bf16, accumulation, checkpoints
and resume come from it. Means are taken over the global batch, whatever it is split into. Sentences are
tokenised once and batched by length; with `embedding` matching the teacher never runs during training.
"""

import json
import logging
import math
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler
from torch.utils.data import Dataset, Sampler
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import ProgressCallback

from secateur import config
from secateur.config import InputError
from secateur.corpus import Pairs
from secateur.encoder import Encoder, encode, pad_rows, pick_precision, replace_transformer, tokenize
from secateur.losses import match_embedding, match_tokens, similarity_contrastive, similarity_mse
from secateur.machine import trim_memory
from secateur.padding import split_by_length
from secateur.targets import Targets

log = logging.getLogger(__name__)

Log = Callable[[Mapping[str, float], int], None]
Validate = Callable[[Encoder], Mapping[str, float]]


@dataclass(frozen=True)
class Distilled:
    """The student that is kept, and its cosine on held-out pairs; step 0 is the one distillation started from."""

    encoder: Encoder
    step: int
    cosine: float


def distill(
    student: Encoder,
    pairs: Pairs,
    targets: Targets | None,
    settings: config.Distillation,
    *,
    folder: Path,
    seed: int,
    validate: Validate,
    log_metrics: Log,
    teacher: Encoder | None = None,
    resume: bool = False,
    callbacks: tuple[TrainerCallback, ...] = (),
) -> Distilled:
    """Train a copy of `student` for `settings.steps` steps and return the best of it by held-out cosine, or the last.

    `targets` holds the teacher's vectors of pairs.en, then of pairs.ru (embedding matching); `teacher` runs beside
    the student instead for tokens matching. `validate` returns at least `cosine`. Checkpoints go to
    folder/checkpoints; `resume` continues from the last whole one.
    """
    checkpoint = find_checkpoint(folder / "checkpoints") if resume else None
    start = validate(student)
    if checkpoint is None:
        log_metrics({f"validation/{name}": value for name, value in start.items()}, 0)
    if not settings.steps:
        return Distilled(encoder=student, step=0, cosine=start["cosine"])
    trained = replace_transformer(student, deepcopy(student.transformer))
    set_dropout(trained, settings.dropout)
    trainer = DistillationTrainer(
        trained, teacher, PairDataset(trained, pairs, targets, settings.max_length, settings.source_weights), settings,
        folder=folder / "checkpoints", seed=seed, validate=validate, log_metrics=log_metrics, callbacks=callbacks,
    )  # fmt: skip
    trainer.train(resume_from_checkpoint=checkpoint)
    trained.model.eval()
    if settings.keep == "last":
        return Distilled(encoder=trained, step=settings.steps, cosine=validate(trained)["cosine"])
    best = trainer.state.best_metric if trainer.state.best_metric is not None else -math.inf
    if best <= start["cosine"]:
        log.warning("distillation did not beat the student it started from on held-out pairs; that one is kept")
        return Distilled(encoder=student, step=0, cosine=start["cosine"])
    return Distilled(encoder=trained, step=trainer.state.best_global_step or 0, cosine=best)


def check_batch(weights: np.ndarray, settings: config.Distillation) -> None:
    """Raise InputError where an epoch, as long as the sum of the rows' weights, is shorter than a batch."""
    drawn = int(weights.sum())
    if drawn < settings.batch_size:
        raise InputError(f"distillation.batch_size: {settings.batch_size} exceeds the corpus's {drawn} rows")


def set_dropout(encoder: Encoder, probability: float) -> None:
    for module in encoder.transformer.modules():
        if isinstance(module, nn.Dropout):
            module.p = probability


def find_checkpoint(folder: Path) -> str | None:
    """Return the newest checkpoint that was written to its end, or None."""
    found = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    whole = [path for path in found if is_whole(path)]
    return str(whole[-1]) if whole else None


def is_whole(checkpoint: Path) -> bool:
    """A checkpoint's trainer_state.json is written last."""
    try:
        json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return True


class PairDataset(Dataset[int]):
    """Pairs tokenised once; an item is a row number, and `collate` turns row numbers into a batch."""

    def __init__(
        self,
        encoder: Encoder,
        pairs: Pairs,
        targets: Targets | None,
        max_length: int,
        source_weights: Mapping[str, float] = MappingProxyType({}),
    ):
        self.encoder = encoder
        self.targets = targets
        self.paired = torch.tensor(pairs.paired)
        pieces = tokenize(encoder, [*pairs.en, *pairs.ru])
        self.pieces = [np.array(cut(row, max_length), np.int32) for row in pieces]
        lengths = np.array([len(row) for row in self.pieces])
        self.lengths = np.maximum(lengths[: len(pairs.en)], lengths[len(pairs.en) :])
        self.weights = pairs.weigh(source_weights)

    def __len__(self) -> int:
        return len(self.paired)

    def __getitem__(self, row: int) -> int:
        return row

    def collate(self, rows: list[int]) -> dict[str, Tensor]:
        """Return the 2B sentences of B rows, English first: input_ids, attention_mask, paired [B], targets [2B, D]."""
        both = [*rows, *(row + len(self) for row in rows)]
        batch = pad_rows([self.pieces[row].tolist() for row in both], self.encoder.tokenizer.pad_token_id)
        batch["paired"] = self.paired[rows]
        if self.targets is not None:
            batch["targets"] = torch.from_numpy(self.targets[np.array(both)])
        return batch


def cut(pieces: list[int], max_length: int) -> list[int]:
    """Cut word pieces at max_length, keeping the closing one."""
    return pieces if len(pieces) <= max_length else [*pieces[: max_length - 1], pieces[-1]]


class LengthSampler(Sampler[int]):
    """Each epoch: draw rows by their weights, shuffle, sort stretches of 50 batches by length, shuffle the batches.

    An epoch is as long as the weights' sum. A row of weight w is drawn floor(w) or ceil(w) times in it, w on average.
    The order depends on the seed, the epoch and the global batch size alone, so any number of processes and any
    accumulation see the same global batches.
    """

    def __init__(self, lengths: np.ndarray, batch_size: int, seed: int, weights: np.ndarray | None = None):
        self.lengths, self.batch_size, self.seed, self.epoch = lengths, batch_size, seed, 0
        self.weights = np.ones(len(lengths)) if weights is None else weights
        self.drawn = int(self.weights.sum())

    def __len__(self) -> int:
        return self.drawn // self.batch_size * self.batch_size

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = np.random.default_rng([self.seed, self.epoch])
        order = self.draw_rows(generator)[: len(self)]
        stretch = 50 * self.batch_size
        batches: list[np.ndarray] = []
        for start in range(0, len(order), stretch):
            rows = order[start : start + stretch]
            rows = rows[np.argsort(self.lengths[rows], kind="stable")]
            batches += np.split(rows, len(rows) // self.batch_size)
        for number in generator.permutation(len(batches)):
            yield from batches[number].tolist()

    def draw_rows(self, generator: np.random.Generator) -> np.ndarray:
        """Systematic sampling (Madow 1944): points 1 apart on the rows' weights laid end to end, in random order."""
        rows = generator.permutation(len(self.lengths))
        if (self.weights == 1).all():
            return rows
        ends = np.cumsum(self.weights[rows])
        points = np.arange(self.drawn) + generator.random()
        return generator.permutation(rows[np.searchsorted(ends, points, side="right")])


class VectorModel(nn.Module):
    """What the Trainer wraps: padded inputs to unit vectors and last hidden states, in parts on a CPU.

    A batch has pairs of like length, but of a pair one side is longer: padded to one length, an eighth is padding.
    """

    def __init__(self, encoder: Encoder):
        super().__init__()
        self.model = encoder.model
        self.encoder = encoder

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        whole = {"input_ids": input_ids, "attention_mask": attention_mask}
        on_cpu = input_ids.device.type == "cpu"
        parts = split_by_length(attention_mask.sum(dim=1).numpy(), PART_PIECES) if on_cpu else []
        if len(parts) < 2:
            encoded = encode(self.encoder, whole)
            return encoded.vectors, encoded.tokens
        vectors, tokens = [], []
        for rows, length in parts:
            encoded = encode(self.encoder, {name: values[rows, :length] for name, values in whole.items()})
            vectors.append(encoded.vectors)
            tokens.append(nn.functional.pad(encoded.tokens, (0, 0, 0, input_ids.shape[1] - length)))
        back = np.argsort(np.concatenate([rows for rows, _ in parts]))
        return torch.cat(vectors)[back], torch.cat(tokens)[back]


class DistillationTrainer(Trainer):
    """The Hugging Face Trainer with our loss, our batches and held-out cosine as its measure."""

    def __init__(
        self,
        student: Encoder,
        teacher: Encoder | None,
        dataset: PairDataset,
        settings: config.Distillation,
        *,
        folder: Path,
        seed: int,
        validate: Validate,
        log_metrics: Log,
        callbacks: tuple[TrainerCallback, ...],
    ):
        arguments = training_arguments(settings, student, folder, seed)
        parts = arguments.world_size * settings.accumulation
        if settings.batch_size % parts:
            raise InputError(
                f"distillation.batch_size: {settings.batch_size} is not divisible by "
                f"{arguments.world_size} processes x {settings.accumulation} accumulated batches"
            )
        arguments.per_device_train_batch_size = settings.batch_size // parts
        check_batch(dataset.weights, settings)
        for parameter in student.model.parameters():
            parameter.requires_grad_(parameter.numel() > 0)  # a layer without heads has empty matrices
        self.settings, self.student, self.teacher, self.rows = settings, student, teacher, dataset
        self.validate, self.log_metrics = validate, log_metrics
        self.terms, self.parts = torch.zeros(2), 0
        self.order_seed = seed
        super().__init__(
            model=VectorModel(student), args=arguments, train_dataset=dataset, eval_dataset=dataset,
            data_collator=dataset.collate,
            callbacks=[TrimMemory(), *callbacks],
        )  # fmt: skip
        self.loss_is_scaled_for_ga = True
        self.model_accepts_loss_kwargs = True  # what older releases ask instead
        if self.pop_callback(ProgressCallback):
            self.add_callback(QuietProgress)

    def _get_train_sampler(self, train_dataset: Any = None) -> LengthSampler:
        return LengthSampler(self.rows.lengths, self.settings.batch_size, self.order_seed, self.rows.weights)

    def _get_num_items_in_batch(self, batch_samples: list[dict[str, Tensor]], device: torch.device) -> Tensor:
        """Return [pairs, matched sentences or tokens] of the global batch."""
        counts = torch.zeros(2, device=device)
        for batch in batch_samples:
            tokens = self.settings.matching == "tokens"
            matched = batch["attention_mask"].sum() if tokens else torch.tensor(len(batch["attention_mask"]))
            counts += torch.stack([batch["paired"].sum().to(device), matched.to(device)])
        total: Tensor = self.accelerator.reduce(counts, reduction="sum")
        return total

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Tensor], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Tensor:
        """Return this process's share of the loss, times the number of processes (gradients are averaged)."""
        settings = self.settings
        vectors, tokens = model(inputs["input_ids"], inputs["attention_mask"])
        en, ru = vectors.chunk(2)
        en, ru = en[inputs["paired"]], ru[inputs["paired"]]
        if settings.similarity == "contrastive":
            similarity = similarity_contrastive(en, ru, temperature=settings.temperature)
        else:
            similarity = similarity_mse(en, ru)
        if settings.matching == "tokens":
            output = match_tokens(tokens, self.teacher_tokens(inputs), inputs["attention_mask"])
        else:
            output = match_embedding(vectors, inputs["targets"])
        pairs, matched = num_items_in_batch.clamp(min=1)
        terms = torch.stack([similarity.sum() / pairs, output.sum() / matched])
        self.terms, self.parts = self.terms.to(terms.device) + terms.detach(), self.parts + 1
        loss = settings.w_similarity * terms[0] + settings.w_output * terms[1]
        share: Tensor = loss * self.accelerator.num_processes
        return share

    def teacher_tokens(self, inputs: dict[str, Tensor]) -> Tensor:
        assert self.teacher is not None, "tokens matching runs the teacher"
        with torch.no_grad():
            padded = {name: inputs[name] for name in ("input_ids", "attention_mask")}
            tokens: Tensor = self.teacher.transformer(**padded).last_hidden_state
        return tokens

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        """Give the word pieces' vectors a learning rate of their own, where the recipe names one."""
        optimizer = super().create_optimizer(*args, **kwargs)
        rate = self.settings.embedding_learning_rate
        if rate is not None and len(optimizer.param_groups) < 3:
            vectors = self.student.transformer.get_input_embeddings().weight
            for group in optimizer.param_groups:
                group["params"] = [parameter for parameter in group["params"] if parameter is not vectors]
            optimizer.add_param_group({"params": [vectors], "lr": rate, "weight_decay": self.settings.weight_decay})
        return optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> LRScheduler:
        if self.settings.schedule != "annealing":
            return super().create_scheduler(num_training_steps, optimizer)
        assert self.optimizer is not None, "the Trainer makes its optimizer first"
        schedule = CosineAnnealingLR(
            self.optimizer, T_max=self.settings.annealing_steps, eta_min=self.settings.annealing_floor
        )
        self.lr_scheduler = schedule  # type: ignore[assignment] # any scheduler does
        self._created_lr_scheduler = True
        return schedule

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Score the student on held-out pairs; `keep: best` keeps the checkpoint of the highest cosine."""
        training = self.student.model.training
        self.student.model.eval()
        metrics = dict(self.validate(self.student))
        self.student.model.train(training)
        self.log_metrics({f"validation/{name}": value for name, value in metrics.items()}, self.state.global_step)
        log.info("step %d: held-out cosine %.4f", self.state.global_step, metrics["cosine"])
        named = {f"eval_{name}": value for name, value in metrics.items()}
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, named)
        return named

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add each term of the loss, a mean over the steps since the last line, and hand the line on."""
        if "loss" in logs:
            steps = self.parts / self.settings.accumulation
            terms = self.accelerator.reduce(self.terms, reduction="sum") / steps
            self.terms, self.parts = torch.zeros(2), 0
            logs = {**logs, "similarity": terms[0].item(), "output": terms[1].item()}
            self.log_metrics({f"train/{name}": value for name, value in logs.items()}, self.state.global_step)
        super().log(logs, start_time)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        """Write the weights as safetensors and nothing else; the Trainer would pickle its arguments beside them."""
        path = Path(output_dir or str(self.args.output_dir))
        path.mkdir(parents=True, exist_ok=True)
        weights = state_dict if state_dict is not None else VectorModel(self.student).state_dict()
        save_file({name: value.contiguous() for name, value in weights.items()}, path / "model.safetensors")


PART_PIECES = 2048  # of a batch that go through the student at once, on a CPU
TRIM_EVERY = 50  # steps
COLLATORS = 2  # processes that make batches while a GPU computes; on a CPU they would take its cores
SCHEDULES = {"linear": "linear", "cosine": "cosine", "constant": "constant_with_warmup", "annealing": "constant"}


def training_arguments(settings: config.Distillation, student: Encoder, folder: Path, seed: int) -> TrainingArguments:
    on_cpu = student.device.type == "cpu"
    every = min(settings.evaluate_every, settings.steps)
    return TrainingArguments(
        output_dir=str(folder),
        max_steps=settings.steps,
        gradient_accumulation_steps=settings.accumulation,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        warmup_steps=settings.warmup_steps,
        lr_scheduler_type=SCHEDULES[settings.schedule],
        optim="adamw_torch_fused",
        bf16=pick_precision(settings.precision, student.device) == "bf16",
        use_cpu=on_cpu,
        ddp_backend="gloo" if on_cpu and torch.distributed.is_initialized() else None,
        eval_strategy="steps",
        eval_steps=every,
        save_strategy="steps",
        save_steps=every,
        save_total_limit=2,
        load_best_model_at_end=settings.keep == "best",
        metric_for_best_model="cosine",
        greater_is_better=True,
        logging_steps=min(20, every),
        logging_nan_inf_filter=False,
        dataloader_drop_last=True,
        dataloader_pin_memory=not on_cpu,
        dataloader_num_workers=0 if on_cpu else COLLATORS,
        remove_unused_columns=False,
        report_to=[],
        seed=seed,
        label_names=[],
    )


class TrimMemory(TrainerCallback):
    """Batches of many lengths leave holes between live tensors that the C library would keep, gigabytes of them."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step % TRIM_EVERY == 0:
            trim_memory()


class QuietProgress(ProgressCallback):
    """The Trainer's bar with rate and time left, the loss beside it instead of a line each time."""

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if state.is_world_process_zero and self.training_bar is not None and logs and "loss" in logs:
            self.training_bar.set_postfix(loss=f"{logs['loss']:.4f}", refresh=False)

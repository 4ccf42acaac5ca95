"""The Hugging Face Trainer with our loss, our batches and held-out cosine as its measure."""

import logging
import math
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler
from torch.utils.checkpoint import checkpoint
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from secateur.config.distillation import DistillationSettings
from secateur.config.errors import InputError, say_error
from secateur.data.progress import is_watched
from secateur.distillation.batches import LengthSampler, PairDataset
from secateur.distillation.checkpoints import is_whole
from secateur.distillation.checks import check_split
from secateur.distillation.losses import (
    match_embedding,
    match_relations,
    match_tokens,
    similarity_contrastive,
    similarity_mse,
)
from secateur.distillation.optimizers import find_matrices, hand_to_muon
from secateur.distillation.processes import gather_pairs
from secateur.encoders.device import pick_precision
from secateur.encoders.encoder import TorchEncoder, encode
from secateur.encoders.machine import trim_memory
from secateur.encoders.padding import split_by_length

log = logging.getLogger(__name__)

Log = Callable[[Mapping[str, float], int], None]
Validate = Callable[[TorchEncoder], Mapping[str, float]]

NEVER = torch.iinfo(torch.int64).max


class DivergedError(Exception):
    """Training came to numbers that are not finite; the message says which, and at which step."""


class VectorModel(nn.Module):
    """What the Trainer wraps: padded inputs to unit vectors and last hidden states, in parts on a CPU.

    A batch has pairs of like length, but of a pair one side is longer: padded to one length, an eighth is padding.
    Of a batch of long texts each part is run once more on the way back (gradient checkpointing, Chen et al. 2016), so
    that what one part leaves behind is all that is kept: 128 pairs of paragraphs would leave 14 GB at 12M parameters.
    """

    def __init__(self, encoder: TorchEncoder):
        super().__init__()
        self.model = encoder.model
        self.encoder = encoder

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        on_cpu = input_ids.device.type == "cpu"
        parts = split_by_length(attention_mask.sum(dim=1).numpy(), PART_PIECES) if on_cpu else []
        if len(parts) < 2:
            return self.run_part(input_ids, attention_mask)
        again = torch.is_grad_enabled() and int(attention_mask.sum()) > KEPT_PIECES
        vectors, tokens = [], []
        for rows, length in parts:
            part = (input_ids[rows, :length], attention_mask[rows, :length])
            encoded = checkpoint(self.run_part, *part, use_reentrant=False) if again else self.run_part(*part)
            vectors.append(encoded[0])
            tokens.append(nn.functional.pad(encoded[1], (0, 0, 0, input_ids.shape[1] - length)))
        back = np.argsort(np.concatenate([rows for rows, _ in parts]))
        return torch.cat(vectors)[back], torch.cat(tokens)[back]

    def run_part(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return the vectors and the last hidden states of rows that are padded to one length."""
        encoded = encode(self.encoder, {"input_ids": input_ids, "attention_mask": attention_mask})
        return encoded.vectors, encoded.tokens


class DistillationTrainer(Trainer):
    """The Hugging Face Trainer with our loss, our batches and held-out cosine as its measure."""

    def __init__(
        self,
        student: TorchEncoder,
        teacher: TorchEncoder | None,
        dataset: PairDataset,
        settings: DistillationSettings,
        *,
        folder: Path,
        seed: int,
        validate: Validate,
        log_metrics: Log,
        callbacks: tuple[TrainerCallback, ...],
    ):
        arguments = training_arguments(settings, student, folder, seed)
        check_split(settings, arguments.world_size)
        arguments.per_device_train_batch_size = settings.batch_size // (arguments.world_size * settings.accumulation)
        for parameter in student.model.parameters():
            parameter.requires_grad_(parameter.numel() > 0)  # a layer without heads has empty matrices
        self.settings, self.student, self.teacher, self.rows = settings, student, teacher, dataset
        self.validate, self.log_metrics = validate, log_metrics
        self.terms, self.parts = torch.zeros(len(TERMS)), 0
        self.flawed = torch.tensor(NEVER)  # the first step whose loss is not finite
        self.order_seed = seed
        super().__init__(
            model=VectorModel(student), args=arguments, train_dataset=dataset, eval_dataset=dataset,
            data_collator=dataset.collate,
            callbacks=[TrimMemory(), *callbacks],
        )  # fmt: skip
        self.loss_is_scaled_for_ga = True
        self.model_accepts_loss_kwargs = True  # what older releases ask instead
        self.pop_callback(PrinterCallback)  # which would print a dictionary where there is no bar
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
        similarity = self.compare_pairs(vectors, inputs["paired"])
        if settings.matching == "tokens":
            output = match_tokens(tokens, self.teacher_tokens(inputs), inputs["attention_mask"])
        else:
            output = match_embedding(vectors, inputs["targets"])
        pairs, matched = num_items_in_batch.clamp(min=1)
        relations = self.relate(vectors, inputs) if settings.w_relations else output.new_zeros(1)
        terms = torch.stack([similarity.sum() / pairs, output.sum() / matched, relations.sum() / matched])
        self.terms, self.parts = self.terms.to(terms.device) + terms.detach(), self.parts + 1
        loss = torch.dot(terms, terms.new_tensor([settings.w_similarity, settings.w_output, settings.w_relations]))
        flawed = self.flawed.to(loss.device)
        self.flawed = torch.where(loss.detach().isfinite(), flawed, flawed.clamp(max=self.state.global_step + 1))
        share: Tensor = loss * self.accelerator.num_processes
        return share

    def compare_pairs(self, vectors: Tensor, paired: Tensor) -> Tensor:
        """Return the similarity loss of this process's paired rows; the contrastive one has all processes' as others.

        vectors: [2B, D], English first; paired: [B].
        """
        whole_en, whole_ru = vectors.chunk(2)
        en, ru = whole_en[paired], whole_ru[paired]
        if self.settings.similarity == "mse":
            return similarity_mse(en, ru)
        temperature = self.settings.temperature
        if self.accelerator.num_processes == 1:
            return similarity_contrastive(en, ru, temperature=temperature)
        *pool, first = gather_pairs(whole_en, whole_ru, paired)
        return similarity_contrastive(en, ru, temperature=temperature, pool=(pool[0], pool[1]), first=first)

    def relate(self, vectors: Tensor, inputs: dict[str, Tensor]) -> Tensor:
        """Return the relations' loss [2B] of this process's part of the batch, among its own sentences."""
        return match_relations(vectors, inputs["targets"], temperature=self.settings.relation_temperature)

    def stop_if_diverged(self, gradient_norm: float = 0.0) -> None:
        """Raise DivergedError, in every process alike, if a loss or the last gradient was not finite."""
        step = int(self.accelerator.gather(self.flawed.to(self.accelerator.device).reshape(1)).min())
        if step < NEVER:
            raise DivergedError(f"the loss of step {step} is not a finite number")
        if not math.isfinite(gradient_norm):
            raise DivergedError(f"the gradient of step {self.state.global_step} is not finite")

    def teacher_tokens(self, inputs: dict[str, Tensor]) -> Tensor:
        assert self.teacher is not None, "tokens matching runs the teacher"
        with torch.no_grad():
            padded = {name: inputs[name] for name in ("input_ids", "attention_mask")}
            tokens: Tensor = self.teacher.transformer(**padded).last_hidden_state
        return tokens

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        """Give the tokens' vectors a rate of their own where the recipe names one, and the layers' matrices to Muon."""
        optimizer = super().create_optimizer(*args, **kwargs)
        if len(optimizer.param_groups) > 2:
            return optimizer  # a second call gets the first one's
        rate = self.settings.embedding_learning_rate
        if rate is not None:
            vectors = self.student.transformer.get_input_embeddings().weight
            for group in optimizer.param_groups:
                group["params"] = [parameter for parameter in group["params"] if parameter is not vectors]
            optimizer.add_param_group({"params": [vectors], "lr": rate, "weight_decay": self.settings.weight_decay})
        if self.settings.optimizer == "muon":
            precision = pick_precision(self.settings.precision, self.student.device)
            dtype = torch.bfloat16 if precision == "bf16" else torch.float32
            self.optimizer = hand_to_muon(optimizer, find_matrices(self.student.transformer), dtype)
        return self.optimizer

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
        """Score the student on held-out pairs; `keep: best` keeps the checkpoint of the highest cosine.

        Raises DivergedError: the loss of a step before, or a score, is not finite; no checkpoint is written then.
        """
        self.stop_if_diverged()
        training = self.student.model.training
        self.student.model.eval()
        metrics = dict(self.validate(self.student))
        self.student.model.train(training)
        if not all(map(math.isfinite, metrics.values())):
            raise DivergedError(f"after step {self.state.global_step} the student's vectors are not finite")
        self.log_metrics({f"validation/{name}": value for name, value in metrics.items()}, self.state.global_step)
        log.info("step %d: held-out cosine %.4f", self.state.global_step, metrics["cosine"])
        named = {f"eval_{name}": value for name, value in metrics.items()}
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, named)
        return named

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add each term of the loss, a mean over the steps since the last line, and hand the line on."""
        if "loss" in logs:
            self.stop_if_diverged(logs.get("grad_norm", 0.0))
            steps = self.parts / self.settings.accumulation
            terms = self.accelerator.reduce(self.terms, reduction="sum") / steps
            self.terms, self.parts = torch.zeros(len(TERMS)), 0
            logs = {**logs, **dict(zip(TERMS, terms.tolist(), strict=True))}
            self.log_metrics({f"train/{name}": value for name, value in logs.items()}, self.state.global_step)
        super().log(logs, start_time)

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        """Write a checkpoint; raise InputError, and leave no half of it, where the disk does not take it."""
        try:
            super()._save_checkpoint(*args, **kwargs)
        except (OSError, RuntimeError, SafetensorError) as error:
            if isinstance(error, RuntimeError) and not re.search("PytorchStreamWriter|inline_container", str(error)):
                raise  # torch's own words of a full disk are those two
            folder = Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}"
            if not is_whole(folder):
                shutil.rmtree(folder, ignore_errors=True)
            reason = getattr(error, "strerror", None) or say_error(error, 200)
            raise InputError(f"{folder}: the checkpoint cannot be written: {reason}") from error

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        """Write the weights as safetensors and nothing else; the Trainer would pickle its arguments beside them."""
        path = Path(output_dir or str(self.args.output_dir))
        path.mkdir(parents=True, exist_ok=True)
        weights = state_dict if state_dict is not None else VectorModel(self.student).state_dict()
        file = path / "model.safetensors"
        file.touch()
        mode = file.stat().st_mode  # as the umask says; safetensors writes for its owner alone
        save_file({name: value.contiguous() for name, value in weights.items()}, file)
        file.chmod(mode)


TERMS = ("similarity", "output", "relations")  # of the loss
PART_PIECES = 2048  # of a batch that go through the student at once, on a CPU
KEPT_PIECES = 4 * PART_PIECES  # of a batch whose every activation is kept for the way back
TRIM_EVERY = 50  # steps
COLLATORS = 2  # processes that make batches while a GPU computes; on a CPU they would take its cores
SCHEDULES = {"linear": "linear", "cosine": "cosine", "constant": "constant_with_warmup", "annealing": "constant"}


def training_arguments(
    settings: DistillationSettings, student: TorchEncoder, folder: Path, seed: int
) -> TrainingArguments:
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
        disable_tqdm=not is_watched(),
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

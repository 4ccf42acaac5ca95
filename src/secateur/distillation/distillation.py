"""Pull a student towards its teacher on parallel sentences.

    L = w_similarity * mean over pairs of similarity(s_en, s_ru)
      + w_output * mean over sentences (embedding) or tokens (tokens) of matching(student, teacher)

The training loop is the Hugging Face Trainer: accelerate, several processes, bf16, accumulation, checkpoints
and resume come from it. Means are taken over the global batch, whatever it is split into. Sentences are
tokenised once and batched by length; with `embedding` matching the teacher never runs during training.
"""

import logging
import math
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

from torch import nn
from transformers import TrainerCallback

from secateur.config.distillation import DistillationSettings
from secateur.config.errors import QualityError
from secateur.data.pairs import Pairs
from secateur.distillation.batches import PairDataset
from secateur.distillation.checkpoints import find_checkpoint
from secateur.distillation.checks import check_teacher, check_training
from secateur.distillation.targets import Targets
from secateur.distillation.trainer import DistillationTrainer, DivergedError, Log, Validate
from secateur.encoders.encoder import TorchEncoder
from secateur.encoders.surgery import replace_transformer

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Distilled:
    """The student that is kept, and what is known of it.

    `step`: how many steps of training are in it; 0: it is the one distillation started from, whatever was tried.
    `cosine`: its own on held-out pairs; `start_cosine`: that of the student that distillation started from.
    `trained_steps`: how many steps were trained, kept or not; 0: there was no distillation.
    """

    encoder: TorchEncoder
    step: int
    cosine: float
    start_cosine: float
    trained_steps: int

    @property
    def thrown_away(self) -> bool:
        """Whether there was a distillation of which nothing is kept."""
        return self.trained_steps > 0 and self.step == 0

    @property
    def lost(self) -> bool:
        """Whether the student that is kept is farther from the teacher than the one distillation started from."""
        return self.cosine < self.start_cosine


def distill(
    student: TorchEncoder,
    pairs: Pairs,
    targets: Targets | None,
    settings: DistillationSettings,
    *,
    folder: Path,
    seed: int,
    validate: Validate,
    log_metrics: Log,
    teacher: TorchEncoder | None = None,
    resume: bool = False,
    callbacks: tuple[TrainerCallback, ...] = (),
) -> Distilled:
    """Train a copy of `student` for `settings.steps` steps and return the best of it by held-out cosine, or the last.

    `targets` holds the teacher's vectors of pairs.en, then of pairs.ru (embedding matching); `teacher` runs beside
    the student instead for tokens matching. `validate` returns at least `cosine`. Checkpoints go to
    folder/checkpoints; `resume` continues from the last whole one.

    Raises InputError: settings that do not fit the pairs, the student or the teacher, a checkpoint that cannot be
    written; QualityError: training diverged, at which step, and which checkpoint is the last good one.
    """
    check_teacher(teacher, settings)
    check_training(pairs, settings, student=student, teacher=teacher)
    checkpoint = find_checkpoint(folder / "checkpoints") if resume else None
    start = validate(student)
    if not math.isfinite(start["cosine"]):
        raise QualityError("distillation: the vectors of the student that it starts from are not finite")
    if checkpoint is None:
        log_metrics({f"validation/{name}": value for name, value in start.items()}, 0)
    if not settings.steps:
        return Distilled(student, 0, start["cosine"], start["cosine"], trained_steps=0)
    if settings.similarity == "contrastive" and settings.accumulation > 1:
        log.warning(
            "contrastive loss: a pair is compared with the %d pairs of its part of the batch, of %d",
            settings.batch_size // settings.accumulation, settings.batch_size,
        )  # fmt: skip
    trained = replace_transformer(student, deepcopy(student.transformer))
    set_dropout(trained, settings.dropout)
    trainer = DistillationTrainer(
        trained, teacher,
        PairDataset(
            trained, pairs, targets, settings.max_length, settings.source_weights, settings.source_prompts
        ), settings,
        folder=folder / "checkpoints", seed=seed, validate=validate, log_metrics=log_metrics, callbacks=callbacks,
    )  # fmt: skip
    train(trainer, folder, checkpoint)
    trained.model.eval()
    best = trainer.state.best_metric if trainer.state.best_metric is not None else -math.inf
    if settings.keep == "best" and best <= start["cosine"]:
        log.warning(
            "distillation did not improve the student on held-out pairs, cosine %.4f, %.4f before; the student it "
            "started from is kept", best, start["cosine"],
        )  # fmt: skip
        return Distilled(student, 0, start["cosine"], start["cosine"], settings.steps)
    step, cosine = trainer.state.best_global_step or 0, best
    if settings.keep == "last":
        step, cosine = settings.steps, validate(trained)["cosine"]
    check_finite(trained)
    kept = Distilled(trained, step, cosine, start["cosine"], settings.steps)
    if kept.lost:
        log.warning(
            "distillation made the student worse on held-out pairs, cosine %.4f, %.4f before; the last one is kept, as "
            "distillation.keep asks", cosine, start["cosine"],
        )  # fmt: skip
    return kept


def train(trainer: DistillationTrainer, folder: Path, checkpoint: str | None) -> None:
    """Train to the end; raise QualityError, with the last good checkpoint, where numbers cease to be finite."""
    try:
        trainer.train(resume_from_checkpoint=checkpoint)
    except DivergedError as error:
        last = find_checkpoint(folder / "checkpoints")
        good = f"the last good checkpoint is that of step {last.rpartition('-')[2]}" if last else "nothing is kept"
        raise QualityError(
            f"distillation diverged: {error}; {good}; a lower distillation.learning_rate may help"
        ) from None


def check_finite(encoder: TorchEncoder) -> None:
    """Raise QualityError for a trained weight that is not finite."""
    for name, weight in encoder.transformer.named_parameters():
        if not weight.isfinite().all():
            raise QualityError(f"distillation diverged: the student's weight {name} is not finite; it is not kept")


def set_dropout(encoder: TorchEncoder, probability: float) -> None:
    for module in encoder.transformer.modules():
        if isinstance(module, nn.Dropout):
            module.p = probability

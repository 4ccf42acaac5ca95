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
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

from torch import nn
from transformers import TrainerCallback

from secateur.config.distillation import DistillationSettings
from secateur.data.pairs import Pairs
from secateur.distillation.batches import PairDataset
from secateur.distillation.targets import Targets
from secateur.distillation.trainer import DistillationTrainer, Log, Validate
from secateur.encoders.encoder import TorchEncoder
from secateur.encoders.surgery import replace_transformer

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Distilled:
    """The student that is kept, and its cosine on held-out pairs; step 0 is the one distillation started from."""

    encoder: TorchEncoder
    step: int
    cosine: float


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
        log.warning("distillation did not improve the student on held-out pairs; the student it started from is kept")
        return Distilled(encoder=student, step=0, cosine=start["cosine"])
    return Distilled(encoder=trained, step=trainer.state.best_global_step or 0, cosine=best)


def set_dropout(encoder: TorchEncoder, probability: float) -> None:
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

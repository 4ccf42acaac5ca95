"""How long training takes: seconds a step, measured by a few steps of it."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from transformers import TrainerCallback

from secateur.config.distillation import DistillationSettings
from secateur.data.pairs import Pairs
from secateur.distillation.distillation import distill
from secateur.distillation.targets import Targets
from secateur.encoders.encoder import TorchEncoder

STEPS = 12  # that are timed; the first WARMUP of them do not count
WARMUP = 4


@dataclass
class StepClock(TrainerCallback):
    """Notes when each step ends."""

    ends: list[float] = field(default_factory=list)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.ends.append(time.perf_counter())

    def per_step(self, warmup: int) -> float:
        """Return the mean seconds of a step, without the first `warmup` of them."""
        return (self.ends[-1] - self.ends[warmup - 1]) / (len(self.ends) - warmup)


def measure_step(
    student: TorchEncoder, rows: Pairs, targets: Targets | None, settings: DistillationSettings, *,
    teacher: TorchEncoder | None, seed: int,
) -> float:  # fmt: skip
    """Return the seconds that a step of this training takes, from a few steps of a copy that is thrown away.

    `rows` are those that training will draw from, STEPS batches of them or more; batches come in random order of
    length, so the mean over a few steps is fair.
    """
    clock = StepClock()
    trial = replace(settings, steps=STEPS, evaluate_every=STEPS, warmup_steps=0, keep="last")
    with TemporaryDirectory() as folder:
        distill(
            student, rows, targets, trial, folder=Path(folder), seed=seed, validate=lambda _: {"cosine": 0.0},
            log_metrics=ignore, teacher=teacher, callbacks=(clock,),
        )  # fmt: skip
    return clock.per_step(WARMUP)


def ignore(metrics: Mapping[str, float], step: int) -> None:
    """Metrics of a trial are of no interest."""

"""What every distillation of a run has in common."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from transformers import TrainerCallback

from secateur.config.distillation import DistillationSettings
from secateur.config.recipe import PruningRecipe
from secateur.data.pairs import Pairs
from secateur.distillation.distillation import Distilled, distill
from secateur.distillation.targets import Targets, embed_corpus
from secateur.distillation.teachers import EncoderSource
from secateur.encoders.device import pick_precision
from secateur.encoders.encoder import TorchEncoder
from secateur.evaluation.scores import HeldOut, judge
from secateur.runs.bookkeeping import stage
from secateur.runs.tracking import RunLog


@dataclass(frozen=True)
class Training:
    """What every distillation of a run has in common."""

    rows: Pairs
    targets: Targets | None
    held_out: HeldOut
    teacher: TorchEncoder
    recipe: PruningRecipe
    run_log: RunLog

    def run(
        self,
        student: TorchEncoder,
        folder: Path,
        *,
        settings: DistillationSettings | None = None,
        prefix: str = "",
        resume: bool = False,
        callbacks: tuple[TrainerCallback, ...] = (),
    ) -> Distilled:
        """Distil `student`, by the recipe's settings or others; `prefix` stands before the names of metrics."""

        def log_metrics(metrics: Mapping[str, float], step: int) -> None:
            self.run_log.metrics({f"{prefix}{name}": value for name, value in metrics.items()}, step)

        validation = self.recipe.validation
        return distill(
            student, self.rows, self.targets, settings or self.recipe.distillation, folder=folder,
            seed=self.recipe.seed, validate=judge(self.held_out.first(validation.during), validation.batch_size),
            log_metrics=log_metrics, teacher=self.teacher, resume=resume, callbacks=callbacks,
        )  # fmt: skip


def embed_targets(teacher: TorchEncoder, rows: Pairs, settings: DistillationSettings, cache: Path) -> Targets | None:
    """Return the teacher's vectors of these rows; none where last hidden states are matched: the teacher runs then."""
    if settings.matching == "tokens":
        return None
    with stage("teacher's vectors"):
        source = EncoderSource(teacher, pick_precision(settings.precision, teacher.device))
        return embed_corpus(source, [*rows.en, *rows.ru], cache / "targets", progress="teacher's vectors")

"""What every distillation of a run has in common, and the weights that a stopped run goes on from."""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load_file, save_file
from transformers import TrainerCallback

from secateur.config.distillation import DistillationSettings
from secateur.config.recipe import PruningRecipe
from secateur.data.files import whole_file
from secateur.data.pairs import Pairs
from secateur.distillation.batches import group_by_prompt
from secateur.distillation.distillation import Distilled, distill
from secateur.distillation.targets import Targets, embed_corpus, sort_targets
from secateur.distillation.teachers import EncoderSource, limit_source
from secateur.distillation.trainer import Validate
from secateur.encoders.device import pick_precision
from secateur.encoders.encoder import TorchEncoder
from secateur.encoders.surgery import replace_transformer
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

    @property
    def validate(self) -> Validate:
        """What scores a student while the run goes on: every choice between two is by its `cosine`."""
        validation = self.recipe.validation
        return judge(self.held_out.first(validation.during), validation.batch_size)

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

        return distill(
            student, self.rows, self.targets, settings or self.recipe.distillation, folder=folder,
            seed=self.recipe.seed, validate=self.validate,
            log_metrics=log_metrics, teacher=self.teacher, resume=resume, callbacks=callbacks,
        )  # fmt: skip


def embed_targets(teacher: TorchEncoder, rows: Pairs, settings: DistillationSettings, cache: Path) -> Targets | None:
    """Return the teacher's vectors of these rows, as long as training reads them; none where last hidden states are
    matched: the teacher runs then."""
    if settings.matching == "tokens":
        return None
    with stage("teacher's vectors"):
        precision, sentences = pick_precision(settings.precision, teacher.device), [*rows.en, *rows.ru]
        groups = group_by_prompt(rows, settings.source_prompts)
        parts = []
        for name, numbers in groups.items():
            source = limit_source(EncoderSource(teacher.prompted(name), precision), settings.max_length)
            chosen = [sentences[number] for number in numbers]
            parts.append(embed_corpus(source, chosen, cache / "targets", progress="teacher's vectors"))
        return sort_targets(parts, list(groups.values()))


def save_weights(encoder: TorchEncoder, path: Path) -> None:
    """Write every weight of an encoder as it is in memory, whatever number format its folder will have."""
    weights = {name: value.detach().cpu().clone().contiguous() for name, value in encoder.model.state_dict().items()}
    with whole_file(path) as temporary:
        save_file(weights, temporary)


def load_weights(encoder: TorchEncoder, path: Path) -> TorchEncoder:
    """Return a copy of an encoder with the weights that `save_weights` wrote of one of the same sizes."""
    loaded = replace_transformer(encoder, deepcopy(encoder.transformer))
    loaded.model.load_state_dict(load_file(path))
    return loaded

"""Distil a student towards a teacher, for so many steps or minutes, without a recipe's other stages."""

import json
import logging
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, replace
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from accelerate.utils import set_seed

from secateur.config.distillation import DistillationSettings
from secateur.config.errors import InputError
from secateur.config.evaluation import ValidationSettings
from secateur.config.reading import build_settings
from secateur.data.files import check_writable, write_json
from secateur.data.locks import hold
from secateur.data.pairs import Pairs, ParallelCorpus
from secateur.distillation.checkpoints import find_checkpoint
from secateur.distillation.checks import check_distillation
from secateur.distillation.distillation import Distilled, distill
from secateur.distillation.pace import STEPS, measure_step
from secateur.distillation.trainer import Validate
from secateur.encoders.encoder import TorchEncoder
from secateur.encoders.fingerprint import fingerprint
from secateur.evaluation.scores import HeldOut, embed_held_out, judge
from secateur.runs.bookkeeping import rows_to_train, say_kept_step, stage
from secateur.runs.training import embed_targets

log = logging.getLogger(__name__)

RECORD = "distillation.json"
VALIDATIONS = 4  # in a training


def distill_student(
    student: TorchEncoder,
    teacher: TorchEncoder,
    corpus: ParallelCorpus,
    settings: DistillationSettings,
    *,
    minutes: float | None,
    folder: Path | None,
    cache: Path,
    seed: int = 0,
) -> tuple[Distilled, DistillationSettings, HeldOut]:
    """Train a copy of `student` and return it with the settings it was trained by and the held-out pairs.

    `minutes` takes the place of settings.steps: a few steps are timed first. `folder` keeps checkpoints; a call that
    finds those of the same training there goes on with it. Raises InputError: they are of another training, or
    another process is at work there; the student's vectors have another length than the teacher's.
    """
    if student.dimension != teacher.dimension:
        raise InputError(
            f"distill: the student's vectors have {student.dimension} dimensions, the teacher's {teacher.dimension}"
        )
    timed = settings if minutes is None else replace(settings, steps=STEPS)
    check_distillation(corpus.train, timed, student=student, teacher=teacher)
    if folder is not None:
        check_writable(folder / RECORD)
    set_seed(seed)
    validation = ValidationSettings()
    held_out = embed_held_out(teacher, corpus, validation)
    validate = judge(held_out.first(validation.during), validation.batch_size)
    with ExitStack() as stack:
        place = folder or Path(stack.enter_context(TemporaryDirectory()))
        stack.enter_context(hold(place.absolute()))
        asked = describe_training(student, teacher, corpus, settings, minutes, seed)
        known = read_record(place / RECORD, asked)
        if known is None and any((place / "checkpoints").glob("checkpoint-*")):
            raise InputError(f"{place}: holds checkpoints of a training that is not known; name another folder")
        begun = find_checkpoint(place / "checkpoints") is not None
        if known is not None:
            settings = build_settings(DistillationSettings, known, origin=str(place / RECORD))
        elif minutes is not None:
            settings = set_steps(student, teacher, corpus.train, settings, validate, minutes, cache, seed=seed)
        write_json(place / RECORD, {"asked": asked, "settings": asdict(settings)})
        rows = rows_to_train(corpus.train, settings)
        targets = embed_targets(teacher, rows, settings, cache)
        with stage("distillation"):
            result = distill(
                student, rows, targets, settings, folder=place, seed=seed, validate=validate, log_metrics=log_debug,
                teacher=teacher, resume=begun,
            )  # fmt: skip
    log.info("%s, held-out cosine %.4f", say_kept_step(result, settings), result.cosine)
    return result, settings, held_out


def describe_training(
    student: TorchEncoder,
    teacher: TorchEncoder,
    corpus: ParallelCorpus,
    settings: DistillationSettings,
    minutes: float | None,
    seed: int,
) -> dict[str, Any]:
    """Return what makes two trainings the same: weights, pairs, settings."""
    asked = asdict(settings) | {"steps": settings.steps if minutes is None else f"{minutes} minutes"}
    rows = [(side.en, side.ru, side.paired) for side in (corpus.train, corpus.held_out)]
    pairs = sha256(json.dumps(rows).encode()).hexdigest()[:16]
    described = {"student": fingerprint(student), "teacher": fingerprint(teacher), "seed": seed}
    return json.loads(json.dumps({**described, "pairs": pairs, **asked}))  # type: ignore[no-any-return]


def read_record(path: Path, asked: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the settings of the training in a folder, None where there is none. Raises InputError: it is another."""
    if not path.is_file():
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        was, settings = dict(record["asked"]), dict(record["settings"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: is not the record of a training: {error!r}") from None
    for key in asked:
        if was.get(key) != asked[key]:
            raise InputError(f"{path.parent}: holds another training: {key} was {was.get(key)}, is now {asked[key]}")
    return settings


def set_steps(
    student: TorchEncoder,
    teacher: TorchEncoder,
    pairs: Pairs,
    settings: DistillationSettings,
    validate: Validate,
    minutes: float,
    cache: Path,
    *,
    seed: int,
) -> DistillationSettings:
    """Return the settings with as many steps as fit in the minutes, validations included.

    The few steps that are timed, and the validations, count; computing the teacher's vectors, once, does not.
    """
    rows = rows_to_train(pairs, replace(settings, steps=STEPS))
    targets = embed_targets(teacher, rows, settings, cache)
    with stage("timing of a few steps"):
        step = measure_step(student, rows, targets, settings, teacher=teacher, seed=seed)
        started = time.perf_counter()
        validate(student)
        validation = time.perf_counter() - started
    left = 60 * minutes - (VALIDATIONS + 1) * validation - STEPS * step
    steps = max(1, int(left / step))
    log.info("%d steps of %.2f s and %d validations of %.1f s fit in %g minutes", steps, step, VALIDATIONS + 1,
             validation, minutes)  # fmt: skip
    return spread_over(settings, steps)


def spread_over(settings: DistillationSettings, steps: int) -> DistillationSettings:
    """Return settings for so many steps: a tenth of them, at most 100, to warm up, and VALIDATIONS validations."""
    return replace(
        settings, steps=steps, warmup_steps=min(100, steps // 10), evaluate_every=max(1, -(-steps // VALIDATIONS))
    )


def log_debug(metrics: Mapping[str, float], step: int) -> None:
    log.debug("step %d: %s", step, ", ".join(f"{name} {value:.4g}" for name, value in metrics.items()))

"""What makes a training impossible, said before anything is written."""

import torch

from secateur.config.distillation import DistillationSettings
from secateur.config.errors import InputError
from secateur.data.pairs import Pairs
from secateur.distillation.batches import check_batch
from secateur.encoders.device import pick_precision
from secateur.encoders.encoder import TorchEncoder


def check_distillation(
    pairs: Pairs,
    settings: DistillationSettings,
    *,
    student: TorchEncoder | None = None,
    teacher: TorchEncoder | None = None,
    processes: int = 1,
) -> None:
    """Raise InputError, by the key that is wrong, for a training that would be refused or could not work.

    `student`: what will be trained, or an encoder on its device that reads as it will; `teacher`: whose hidden states
    or vectors it is to match. None: what depends on it is not looked at.
    """
    check_sources(pairs, settings)
    check_training(pairs, settings, student=student, teacher=teacher, processes=processes)


def check_training(
    pairs: Pairs,
    settings: DistillationSettings,
    *,
    student: TorchEncoder | None,
    teacher: TorchEncoder | None,
    processes: int = 1,
) -> None:
    """Check all but the names of sources, which rows taken from a corpus may lack."""
    if not settings.steps:
        return
    check_batch(pairs.weigh(settings.source_weights), settings)
    check_split(settings, processes)
    if student is None:
        return
    check_length(student, settings)
    check_precision(student.device, settings)
    if teacher is not None:
        check_match(student, teacher, settings)
        check_prompts(teacher, settings)


def check_sources(pairs: Pairs, settings: DistillationSettings) -> None:
    """Raise InputError for a weight of a source that is not there."""
    for key, named in (("source_weights", settings.source_weights), ("source_prompts", settings.source_prompts)):
        unknown = sorted(named.keys() - set(pairs.source))
        if unknown:
            known = ", ".join(sorted(set(pairs.source)))
            raise InputError(f"distillation.{key}: no source {unknown[0]}; there are {known}")


def check_teacher(teacher: TorchEncoder | None, settings: DistillationSettings) -> None:
    """Raise InputError where hidden states are to be matched and there is no encoder that has them."""
    if settings.matching == "tokens" and teacher is None:
        raise InputError("distillation.matching: tokens needs a teacher's hidden states; here embedding is to be had")


def check_split(settings: DistillationSettings, processes: int) -> None:
    """Raise InputError where a batch cannot be shared out to processes and parts evenly."""
    if settings.batch_size % (processes * settings.accumulation):
        raise InputError(
            f"distillation.batch_size: {settings.batch_size} is not divisible by "
            f"{processes} processes x {settings.accumulation} accumulated batches"
        )


def check_length(student: TorchEncoder, settings: DistillationSettings) -> None:
    """Raise InputError where no token of a sentence fits behind the prompt and between the special tokens."""
    around = student.tokenizer.num_special_tokens_to_add()
    before = len(student.tokenizer(student.prompt, add_special_tokens=False)["input_ids"]) if student.prompt else 0
    if settings.max_length <= around + before:
        raise InputError(
            f"distillation.max_length: {settings.max_length} leaves no token to a sentence beside {around} special "
            f"tokens and {before} of the prompt"
        )


def check_prompts(teacher: TorchEncoder, settings: DistillationSettings) -> None:
    """Raise InputError for a prompt that the teacher does not have, or whose tokens its pooling leaves out."""
    for source, name in settings.source_prompts.items():
        key = f"distillation.source_prompts.{source}: {name}"
        if not teacher.model.prompts.get(name):
            known = ", ".join(name for name, text in teacher.model.prompts.items() if text) or "none"
            raise InputError(f"{key}: the teacher has no prompt of this name; there are {known}")
        if teacher.prompted(name).prompt_length != teacher.prompt_length:
            raise InputError(f"{key}: the teacher's pooling leaves another number of tokens out than by default")


def check_precision(device: torch.device, settings: DistillationSettings) -> None:
    """Raise InputError where a GPU cannot compute in the precision."""
    wanted = pick_precision(settings.precision, device)
    if wanted == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise InputError("distillation.precision: this GPU does not compute in bf16; float32 is to be had")


def check_match(student: TorchEncoder, teacher: TorchEncoder, settings: DistillationSettings) -> None:
    """Raise InputError where what is matched has another size, or tokens another meaning, in student and teacher."""
    if settings.matching == "embedding":
        if student.dimension != teacher.dimension:
            raise InputError(
                f"distillation.matching: the student's vectors have {student.dimension} dimensions, the teacher's "
                f"{teacher.dimension}"
            )
        return
    own, other = (encoder.transformer.config.hidden_size for encoder in (student, teacher))
    if own != other:
        raise InputError(f"distillation.matching: tokens needs hidden states of one width; the student's is {own}, "
                         f"the teacher's {other}")  # fmt: skip
    if student.tokenizer.get_vocab() != teacher.tokenizer.get_vocab():
        raise InputError("distillation.matching: tokens needs one vocabulary; the student's is not the teacher's")

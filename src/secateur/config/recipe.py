"""A recipe: the settings of every stage of a run."""

from typing import Annotated

from pydantic import BeforeValidator, Field
from pydantic.dataclasses import dataclass

from secateur.config.choices import Device, Prompts
from secateur.config.corpus import CorpusSettings
from secateur.config.distillation import DistillationSettings
from secateur.config.errors import InputError
from secateur.config.evaluation import EncodechkaSettings, ValidationSettings
from secateur.config.pruning import BudgetSettings, RepairSettings, SaliencySettings
from secateur.config.student import StudentSettings
from secateur.config.teacher import TeacherSettings, VectorTeacher, as_tuple
from secateur.config.tracking import TrackingSettings
from secateur.config.values import FROZEN, Name, Seed


@dataclass(frozen=True, config=FROZEN, kw_only=True)
class Recipe:
    """What every run has. Its name is the recipe's file name."""

    name: Name = Field(description="The name of the run and of its student: letters, digits, `.`, `_` and `-`.")
    corpus: CorpusSettings = Field(description="Where sentence pairs come from.")
    distillation: DistillationSettings = Field(description="How the student is trained.")
    validation: ValidationSettings = Field(
        default_factory=ValidationSettings, description="How held-out pairs are used."
    )
    encodechka: EncodechkaSettings = Field(default_factory=EncodechkaSettings, description="How the benchmark is run.")
    tracking: TrackingSettings = Field(default_factory=TrackingSettings, description="Where metrics go.")
    seed: Seed = Field(default=0, description="The seed of everything drawn at random.")
    device: Device = Field(default="auto", description="Where torch computes; auto: on a GPU where torch sees one.")


@dataclass(frozen=True, config=FROZEN, kw_only=True)
class PruningRecipe(Recipe):
    """A run that prunes a teacher, repairs what is left and distils it."""

    teacher: TeacherSettings = Field(description="The encoder that is pruned.")
    saliency: SaliencySettings = Field(description="How heads and neurons are scored.")
    budget: BudgetSettings = Field(description="What the student keeps and what it may cost.")
    repair: RepairSettings = Field(description="How the weights that are left are refitted.")
    prompts: Prompts = Field(
        default="keep",
        description=(
            "What becomes of the teacher's prompts, which it always reads: keep puts them before the student's "
            "sentences too; fold lets the student read the bare sentence, some tokens fewer, with one vector for every "
            "use; token puts one token in the place of each prompt."
        ),
    )

    def __post_init__(self) -> None:
        if self.prompts != "keep" and self.distillation.matching == "tokens":
            raise InputError(f"prompts: {self.prompts} gives the student other tokens than the teacher's, which "
                             "distillation.matching: tokens compares")  # fmt: skip


@dataclass(frozen=True, config=FROZEN, kw_only=True)
class CreationRecipe(Recipe):
    """A run that makes a new encoder out of the vectors of others; a recipe with a `student`."""

    teacher: Annotated[tuple[VectorTeacher, ...], Field(min_length=1), BeforeValidator(as_tuple)] = Field(
        description="One source of vectors, or a list of several."
    )
    student: StudentSettings = Field(description="The new encoder.")

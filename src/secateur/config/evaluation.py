"""What students are judged by: held-out pairs and the benchmark."""

from typing import Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from secateur.config.choices import TASKS, Precision, Task
from secateur.config.values import FROZEN, Positive


@dataclass(frozen=True, config=FROZEN)
class ValidationSettings:
    """Held-out pairs: cosine to the teacher and translation retrieval."""

    pairs: Positive = Field(default=2000, description="How many of the held-out pairs are used, at most.")
    during: Positive = Field(default=1000, description="How many of these are used at each validation while training.")
    batch_size: Positive = Field(default=64, description="How many sentences run at a time.")


@dataclass(frozen=True, config=FROZEN)
class EncodechkaSettings:
    """The benchmark: where its data lie and which tasks are run."""

    data: str | None = Field(
        default=None, description="A folder with the benchmark's files; none: they are downloaded once."
    )
    tasks: tuple[Task, ...] = Field(default=TASKS, description="Which tasks are scored; an empty list: none.")
    stages: tuple[Literal["teacher", "pruned", "repaired", "distilled"], ...] = Field(
        default=("teacher", "distilled"), description="Which encoders of the run are scored."
    )
    batch_size: Positive = Field(default=64, description="How many sentences run at a time.")
    precision: Precision = Field(
        default="auto", description="The number format; auto: bf16 where the processor computes in it, else float32."
    )

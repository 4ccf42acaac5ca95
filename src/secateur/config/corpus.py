"""Where sentence pairs come from, and how they are cleaned and split."""

from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from secateur.config.teacher import Wheel
from secateur.config.values import FROZEN, Count, Fraction, Name, Positive


@dataclass(frozen=True, config=FROZEN)
class DatasetSettings:
    """A Hugging Face data set of pairs; `name` may also be a local folder that `datasets` reads."""

    name: Name = Field(description="The data set's name on the hub, or a local folder.")
    en: Name = Field(description="The English column; a dot enters a struct, as in `translation.en`.")
    ru: Name = Field(description="The Russian column.")
    config: str | None = Field(default=None, description="Which of the data set's configurations.")
    split: Name = Field(default="train", description="Which of its splits.")
    streaming: bool = Field(
        default=True,
        description=(
            "Whether rows are read as they arrive and nothing is stored; false: the data set is downloaded first."
        ),
    )
    limit: Positive | None = Field(default=None, description="How many rows are read at most.")


@dataclass(frozen=True, config=FROZEN)
class CorpusSettings:
    """Where pairs come from, and how they are cleaned and split."""

    files: tuple[Name | tuple[Name, Name], ...] = Field(
        default=(),
        description=(
            "Files of pairs: a .tsv or .tsv.gz file, or [English text, Russian text] with a sentence on each line."
        ),
    )
    texts: tuple[tuple[Name, Name], ...] = Field(
        default=(),
        description=(
            "[English text, Russian text] with a sentence on each line that are not translations of each other: they "
            "serve as single sentences."
        ),
    )
    datasets: tuple[DatasetSettings, ...] = Field(default=(), description="Hugging Face data sets of pairs.")
    catalogs: tuple[Wheel, ...] = Field(
        default=(), description="Translations inside pinned wheels, or a YAML file that lists such wheels."
    )
    allow_missing: bool = Field(
        default=False,
        description=(
            "Whether a wheel of the catalogs that cannot be had is left out, with a warning; false: the run stops, as "
            "its corpus would be another one."
        ),
    )
    words: Count = Field(
        default=0,
        description=(
            "How many of the most frequent words of each language are added as rows; such rows are single "
            "sentences, not pairs."
        ),
    )
    min_words: Positive = Field(
        default=3,
        description="The fewest words on each side of a pair; a shorter pair still serves as two single sentences.",
    )
    max_words: Positive = Field(default=64, description="The most words on each side; a longer pair is left out.")
    passages: Count = Field(
        default=0,
        description=(
            "How many long texts are made of training pairs that stand one after the other in their source, joined; "
            "the name of their source is `passages`."
        ),
    )
    passage_words: Positive = Field(default=250, description="The most words of such a text; the fewest are 40.")
    max_per_source: dict[str, Count] = Field(
        default_factory=dict,
        description="The most rows taken from a source, by its name; `*` stands for every source not named.",
    )
    held_out: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.05, description="The share of pairs, chosen by hash, that no stage trains on."
    )
    max_malformed: Fraction = Field(
        default=0.01,
        description=(
            "The share of a file's lines that may be malformed; such lines are skipped, and with more the file "
            "is refused."
        ),
    )

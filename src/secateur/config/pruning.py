"""Saliency, budget and repair: what is measured, what survives, how the rest is refitted."""

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from secateur.config.choices import Criterion, Precision, Runtime
from secateur.config.errors import InputError
from secateur.config.values import FROZEN, Above, Amount, Count, Fraction, Positive, Share, Weight


@dataclass(frozen=True, config=FROZEN)
class SaliencySettings:
    """How much each head and neuron matters."""

    pairs: Positive = Field(description="How many translation pairs saliency is measured on.")
    criterion: Criterion = Field(
        default="both",
        description=(
            "What a score is: similarity and output matching by Taylor saliency, both, the reference work's sum "
            "of |w dL/dw|, magnitude, or random numbers."
        ),
    )
    batch_size: Positive = Field(default=32, description="How many pairs run at a time.")
    precision: Precision = Field(default="float32", description="The number format of the forward and backward passes.")


@dataclass(frozen=True, config=FROZEN)
class BudgetSettings:
    """What survives: limits on what the student may cost, the kept size of single axes, or both.

    Without a limit an axis that is not named stays whole; with one, the solver chooses it.
    """

    heads: Fraction | None = Field(
        default=None, description="The share of the kept layers' attention heads that is kept."
    )
    neurons: Fraction | None = Field(
        default=None, description="The share of the kept layers' FFN neurons that is kept."
    )
    hidden: Fraction | None = Field(
        default=None, description="The share of the hidden width that is kept, rounded to a multiple of the head size."
    )
    layers: Count | None = Field(
        default=None,
        description=(
            "How many layers are kept; 0: none, the student is a vector for each token, of the length `rank`, fitted "
            "to the encoder's vectors of sentences."
        ),
    )
    vocabulary: Positive | None = Field(default=None, description="How many tokens the vocabulary keeps.")
    rank: Positive | None = Field(
        default=None, description="The rank of the word embeddings, which are then factorised."
    )
    share: Share | None = Field(
        default=None, description="The most parameters the student may have, as a share of the teacher's."
    )
    params: Amount | None = Field(default=None, description="The most parameters the student may have, as in 12.8M.")
    mb: Above | None = Field(
        default=None,
        description=(
            "The most megabytes its weights may take on disk, in the number format that they are saved in; under "
            "another runtime than torch, the most megabytes its ONNX file may take."
        ),
    )
    ms: Above | None = Field(
        default=None, description="The most milliseconds it may take for a sentence, measured on this machine."
    )
    runtime: Runtime = Field(
        default="torch", description="What will run the student, for the limits in milliseconds and in megabytes."
    )
    layer_choice: Literal["removal", "even"] = Field(
        default="removal",
        description=(
            "How layers are chosen: removal drops those whose removal changes the vectors least; even keeps "
            "evenly spaced ones, as DistilBERT does."
        ),
    )
    initialization: Literal["teacher", "random"] = Field(
        default="teacher",
        description=(
            "Where the student's weights come from: the teacher, or random numbers, so that the same sizes are "
            "trained from scratch."
        ),
    )
    ranking: Literal["global", "layer"] = Field(
        default="global",
        description=(
            "Whether heads and neurons are ranked over all layers together, or the same share of each layer is kept."
        ),
    )
    layer_scaling: Literal["root", "none"] = Field(
        default="root",
        description=(
            "How each layer's scores are scaled before layers are compared: divided by the square root of their "
            "norm, or not at all."
        ),
    )
    round_neurons_to: Positive = Field(
        default=1,
        description=(
            "Each layer's number of neurons becomes a multiple of this, without keeping more in all; 8 suits a GPU."
        ),
    )
    rounds: Positive = Field(
        default=1,
        description="How many rounds of measuring, cutting and repair; each round cuts the same share of what is left.",
    )
    gradual_steps: Count = Field(
        default=0,
        description=(
            "How many steps of distillation follow each round but the last; the rounds then follow the cubic schedule."
        ),
    )

    def __post_init__(self) -> None:
        axes = (self.heads, self.neurons, self.hidden, self.layers, self.vocabulary, self.rank)
        if not self.is_limited and all(axis is None for axis in axes):
            raise InputError(
                "name a limit (share, params, mb, ms) or an axis (heads, neurons, hidden, layers, vocabulary, rank)"
            )
        if self.is_static:
            self.check_static()
        if self.gradual_steps and self.rounds == 1:
            raise InputError("gradual_steps: distillation between rounds needs more than one (rounds)")
        if self.gradual_steps and self.initialization == "random":
            raise InputError(
                "initialization: random weights are drawn for the last cut; gradual_steps train between cuts"
            )

    def check_static(self) -> None:
        """Raise InputError for what means nothing without layers."""
        named = ("heads", "neurons", "hidden", "share", "params", "mb", "ms")
        useless = [key for key in named if getattr(self, key) is not None]
        useless += ["rounds"] if self.rounds > 1 else []
        useless += ["initialization: random"] if self.initialization == "random" else []
        if useless:
            raise InputError(f"layers: 0 goes with vocabulary and rank alone, not with {useless[0]}")

    @property
    def is_static(self) -> bool:
        """Whether the student has no layer: a bag of token vectors."""
        return self.layers == 0

    @property
    def is_limited(self) -> bool:
        return any(limit is not None for limit in (self.share, self.params, self.mb, self.ms))


@dataclass(frozen=True, config=FROZEN)
class RepairSettings:
    """Closed-form least squares on calibration sentences; 0 sentences: no repair."""

    sentences: Count = Field(
        description="How many sentences of both languages repair is fitted on, from each source in turn; 0: no repair."
    )
    ridge: Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(
        default=3e-3, description="The strength of the ridge penalty, relative to the mean squared input."
    )
    w_sentence: Weight = Field(
        default=3.0, description="The weight of each sentence's mean in the fit, beside the weight 1 of each token."
    )
    batch_size: Positive = Field(default=64, description="How many sentences run at a time.")

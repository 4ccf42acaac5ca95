"""What an exported file must hold."""

from pydantic import Field
from pydantic.dataclasses import dataclass

from secateur.config.values import FROZEN, Fraction, Positive, Share


@dataclass(frozen=True, config=FROZEN)
class QualitySettings:
    """What an int8 file must hold to be kept, measured on sentences that nothing was fitted to."""

    min_cosine: Fraction = Field(default=0.99, description="The lowest mean cosine to the float model's vectors.")
    min_low_cosine: Fraction = Field(default=0.97, description="The lowest first percentile of those cosines.")
    max_retrieval_loss: Fraction = Field(
        default=0.01, description="The largest loss of retrieval accuracy@1, in each direction."
    )
    max_drift: Fraction = Field(
        default=1e-5,
        description="The largest difference of any component of a sentence's vector alone to the one in a batch.",
    )
    held_out: Share | None = Field(
        default=None,
        description=(
            "The share of the pairs, chosen by hash, that the model's training held out; none: what its card says, "
            "else 0.05. Of a file that it never saw: 1."
        ),
    )
    sentences: Positive = Field(
        default=1000, description="How many sentences of each language, or of the probe's texts, are compared."
    )
    exact: bool | None = Field(
        default=None,
        description=(
            "Whether int8 weights go up to 127; none: up to 127 where this processor adds them up exactly, else "
            "up to 63."
        ),
    )

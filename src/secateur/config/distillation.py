"""Training a student towards its teacher."""

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from secateur.config.choices import Precision
from secateur.config.errors import InputError
from secateur.config.values import FROZEN, Above, Count, Fraction, Positive, Weight


@dataclass(frozen=True, config=FROZEN)
class DistillationSettings:
    """Training the student towards its teacher; 0 steps: none."""

    steps: Count = Field(description="How many optimizer steps; 0: no distillation.")
    batch_size: Positive = Field(
        default=128, description="How many pairs a step uses, over all processes and accumulated parts."
    )
    learning_rate: Weight = Field(default=3e-4, description="The highest learning rate.")
    embedding_learning_rate: Weight | None = Field(
        default=None, description="The highest learning rate of the token embeddings; none: the same."
    )
    optimizer: Literal["adamw", "muon"] = Field(
        default="adamw",
        description=(
            "AdamW for all weights, or Muon for the matrices of the layers and AdamW for the rest, at the same rate: "
            "more is learnt in a step, which takes about a tenth longer."
        ),
    )
    matching: Literal["embedding", "tokens"] = Field(
        default="embedding",
        description="What output matching compares: the sentence vector, or the last hidden state of every token.",
    )
    similarity: Literal["mse", "contrastive"] = Field(
        default="mse",
        description=(
            "How the two vectors of a pair are pulled together: mean squared error, or a contrastive loss among the "
            "pairs of the batch, of all processes; with `accumulation`, of one part of it."
        ),
    )
    w_similarity: Weight = Field(
        default=0.5, description="The weight of the similarity of a pair's two vectors in the loss."
    )
    w_output: Weight = Field(default=0.5, description="The weight of output matching in the loss.")
    temperature: Above = Field(default=0.05, description="The temperature of the contrastive loss.")
    w_relations: Weight = Field(
        default=0.0,
        description=(
            "The weight of matching how near each sentence of a batch is to the others: the teacher's nearest "
            "neighbours count most, so that what retrieval finds stays the same. Needs `matching: embedding`."
        ),
    )
    relation_temperature: Above = Field(
        default=0.05, description="The temperature of the relations: the lower, the more the nearest neighbours count."
    )
    source_prompts: dict[str, str] = Field(
        default_factory=dict,
        description=(
            "Which of the teacher's prompts stands before the rows of a source, by its name, such as `passages: "
            "passage`; a source not named: the teacher's default prompt."
        ),
    )
    weight_decay: Weight = Field(default=0.01, description="AdamW's weight decay.")
    warmup_steps: Count = Field(
        default=0, description="How many steps the learning rate rises before the schedule begins."
    )
    schedule: Literal["linear", "cosine", "constant", "annealing"] = Field(
        default="cosine", description="How the learning rate falls after the warm-up."
    )
    annealing_steps: Positive = Field(
        default=1, description="With `schedule: annealing`, the T_max of torch's CosineAnnealingLR."
    )
    annealing_floor: Weight = Field(default=0.0, description="With `schedule: annealing`, its eta_min.")
    source_weights: dict[str, Annotated[Weight, Field(le=1000)]] = Field(
        default_factory=dict,
        description=(
            "How often the rows of a source are used, by its name, in training and wherever sentences decide "
            "what is cut; a source not named: 1."
        ),
    )
    accumulation: Positive = Field(default=1, description="How many parts a batch is computed in, one after the other.")
    max_length: Positive = Field(
        default=128,
        description=(
            "The longest sentence that is read in training, in tokens; a longer one is truncated, for the teacher too. "
            "The student's own length stays as it is."
        ),
    )
    dropout: Fraction = Field(default=0.0, description="The student's dropout rate while it trains.")
    precision: Precision = Field(
        default="float32", description="The number format of training and of the teacher's vectors."
    )
    evaluate_every: Positive = Field(
        default=500, description="After how many steps the student is validated and a checkpoint is written."
    )
    keep: Literal["best", "last"] = Field(
        default="best",
        description=(
            "Which student is kept: the best by held-out cosine, the student before training among them, or the last."
        ),
    )

    def __post_init__(self) -> None:
        if self.w_relations and self.matching != "embedding":
            raise InputError("w_relations: relations are matched between sentence vectors; set matching to embedding")

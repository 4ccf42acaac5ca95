"""What a plan is made from: the teacher, its saliency, texts and held-out sentences."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import zip_longest
from pathlib import Path

import numpy as np
import torch

from secateur.config.pruning import BudgetSettings
from secateur.config.recipe import PruningRecipe
from secateur.data.pairs import Pairs, ParallelCorpus
from secateur.encoders.encoder import TorchEncoder, embed
from secateur.encoders.modeling import find_layers
from secateur.pruning.cache import recall_saliency
from secateur.pruning.layers import score_layers
from secateur.pruning.predictions import Times
from secateur.pruning.saliency import measure_saliency
from secateur.pruning.scores import Saliency
from secateur.pruning.tokenizer import fast_tokenizer
from secateur.pruning.trimming import weigh_pieces

Texts = Mapping[str, Sequence[str]]  # sentences by language


TRIMMED_SENTENCES = 50_000  # of each language
TRIAL_SENTENCES = (100, 500)  # at least and at most that a trial cut is repaired on: its loss is only compared
TRIAL_WORK = 5.3e9  # such sentences times the parameters of layers: those of 500 at six layers 384 wide
LAYER_SHARE = 0.4  # of as many sentences, that layers are scored on


@dataclass(frozen=True)
class PlanningInputs:
    """What plans are made from."""

    teacher: TorchEncoder
    saliency: Saliency
    pairs: Pairs
    judged: Sequence[str]  # held-out sentences that losses are measured on
    recipe: PruningRecipe
    cache: Path | None = None  # where what trial cuts lost is kept; none: nowhere
    times: Times | None = None  # what milliseconds are made of, where that was measured before

    @property
    def budget(self) -> BudgetSettings:
        return self.recipe.budget

    @cached_property
    def texts(self) -> Texts:
        """What a vocabulary is trimmed for."""
        return trimmed_texts(self.pairs, self.recipe)

    @cached_property
    def expected(self) -> np.ndarray:
        """The teacher's vectors of the judged sentences, float32 [sentences, D]."""
        return embed(self.teacher, self.judged)

    @cached_property
    def weights(self) -> np.ndarray:
        """How often those texts have each token of the teacher, float64 [tokens]."""
        return weigh_pieces(fast_tokenizer(self.teacher), self.texts, prompt=self.teacher.prompt)

    @cached_property
    def calibration(self) -> list[str]:
        """What repair is fitted on."""
        return calibration_sentences(self.pairs, self.recipe.repair.sentences)

    def weigh(self, encoder: TorchEncoder) -> np.ndarray:
        """Return how often those texts have each token of an encoder, float64 [tokens]."""
        if encoder.tokenizer is self.teacher.tokenizer:
            return self.weights
        return weigh_pieces(fast_tokenizer(encoder), self.texts, prompt=encoder.prompt)

    @cached_property
    def layer_order(self) -> tuple[int, ...]:
        """The teacher's layers, those that matter most first."""
        return rank_layers(self.teacher, self.judged)


def trimmed_texts(pairs: Pairs, recipe: PruningRecipe) -> Texts:
    """Return what a vocabulary is trimmed for: rows as often as distillation draws them."""
    drawn = pairs.draw(TRIMMED_SENTENCES, recipe.distillation.source_weights)
    return {"en": drawn.en, "ru": drawn.ru}


def measure_on_corpus(
    encoder: TorchEncoder, pairs: Pairs, recipe: PruningRecipe, *, cache: Path | None = None
) -> Saliency:
    """Return saliency on translations, each source's as often as distillation draws it.

    With a `cache` what was measured there before, of the same weights on the same pairs, is not measured again.
    """
    chosen = pairs.translations.draw(recipe.saliency.pairs, recipe.distillation.source_weights)

    def measure() -> Saliency:
        return measure_saliency(encoder, chosen, recipe.saliency, seed=recipe.seed, progress="saliency")

    if cache is None:
        return measure()
    return recall_saliency(cache, encoder, chosen, recipe.saliency, recipe.seed, measure)


def calibration_sentences(pairs: Pairs, count: int) -> list[str]:
    """Return both sides of pairs taken from each source in turn, so that a large source does not outweigh the rest."""
    rows: dict[str, list[int]] = {}
    for row, source in enumerate(pairs.source):
        rows.setdefault(source, []).append(row)
    turns = [row for turn in zip_longest(*(rows[source] for source in sorted(rows))) for row in turn if row is not None]
    return [sentence for row in turns for sentence in (pairs.en[row], pairs.ru[row])][:count]


def rank_layers(encoder: TorchEncoder, judged: Sequence[str]) -> tuple[int, ...]:
    count = int(LAYER_SHARE * count_trial_sentences(encoder))
    scores = score_layers(encoder, judged[:count], precision="auto")
    return tuple(torch.argsort(scores, descending=True).tolist())


def count_trial_sentences(encoder: TorchEncoder) -> int:
    """Return how many sentences a trial cut is repaired on: fewer of a larger encoder, which takes longer for each."""
    parameters = sum(weight.numel() for layer in find_layers(encoder.transformer) for weight in layer.parameters())
    least, most = TRIAL_SENTENCES
    return int(np.clip(TRIAL_WORK / parameters, least, most))


JUDGED_SENTENCES = 400  # that a plan's losses are measured on


def judged_sentences(corpus: ParallelCorpus, recipe: PruningRecipe) -> list[str]:
    """Return both sides of held-out pairs, in turn, each source's as often as distillation draws it."""
    pairs = corpus.held_out.draw(JUDGED_SENTENCES // 2, recipe.distillation.source_weights)
    return [side for pair in zip(pairs.en, pairs.ru, strict=True) for side in pair]

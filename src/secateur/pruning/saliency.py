"""How much each head, FFN neuron and channel of the hidden width matters: first-order Taylor scores over a corpus."""

import numpy as np
import torch

from secateur.config.errors import InputError
from secateur.config.pruning import SaliencySettings
from secateur.data.pairs import Pairs
from secateur.data.progress import progress_bar
from secateur.encoders.device import computing_in
from secateur.encoders.encoder import TorchEncoder, pad, tokenize
from secateur.pruning.criteria import CRITERIA
from secateur.pruning.gates import PairBatches, frozen
from secateur.pruning.scores import Saliency


def measure_saliency(
    encoder: TorchEncoder, pairs: Pairs, settings: SaliencySettings, *, seed: int, progress: str = ""
) -> Saliency:
    """Score every head, neuron and hidden channel of `encoder` on the first `settings.pairs` translation pairs.

    The model is used in evaluation mode and comes back as it was. The pairs run in batches of like length. Raises
    InputError: no translation pair, or scores that are not finite.
    """
    measure = CRITERIA[settings.criterion]
    generator = torch.Generator().manual_seed(seed)
    with frozen(encoder), computing_in(settings.precision, encoder.device):
        saliency = measure(encoder, pair_batches(encoder, pairs, settings, progress), generator)
    check_finite(saliency, settings)
    return saliency


def check_finite(saliency: Saliency, settings: SaliencySettings) -> None:
    """Raise InputError if a score is not finite."""
    named = {f"the {axis} of layer {number}": scores for axis in ("heads", "neurons")
             for number, scores in enumerate(getattr(saliency, axis))}  # fmt: skip
    for what, scores in {**named, "the channels of the hidden width": saliency.hidden}.items():
        if not torch.isfinite(scores).all():
            raise InputError(
                f"saliency: the scores of {what} are not finite; criterion {settings.criterion}, precision "
                f"{settings.precision}"
            )


def pair_batches(encoder: TorchEncoder, pairs: Pairs, settings: SaliencySettings, progress: str) -> PairBatches:
    """Yield inputs of 2B sentences: B English, then their B translations, pairs of like length together."""
    translations = pairs.translations.draw(settings.pairs, {})
    if not len(translations):
        raise InputError("saliency: the corpus has no translation pairs to measure on")
    en, ru = tokenize(encoder, translations.en), tokenize(encoder, translations.ru)
    longest = np.array([max(len(a), len(b)) for a, b in zip(en, ru, strict=True)])
    order = np.argsort(longest, kind="stable")
    with progress_bar(progress, total=int(longest.sum()), unit="tokens") as bar:  # batches grow: pairs would mislead
        for start in range(0, len(order), settings.batch_size):
            chosen = order[start : start + settings.batch_size]
            yield pad(encoder, [en[i] for i in chosen] + [ru[i] for i in chosen])
            bar.update(int(longest[chosen].sum()))

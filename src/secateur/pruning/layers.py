"""How much each layer matters: the loss when it goes."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from secateur.config.errors import InputError
from secateur.encoders.encoder import TorchEncoder, embed
from secateur.encoders.modeling import find_layers


def score_layers(
    encoder: TorchEncoder, sentences: Sequence[str], *, batch_size: int = 64, precision: str = "float32"
) -> Tensor:
    """Return what each layer matters, float64 [layers]: the loss when it goes, after those that matter less.

    The layer whose removal moves the sentence vectors least, 1 - cosine to the whole encoder's, goes first; then of
    what is left the next one. No layer is repaired meanwhile. The k layers of highest score are those left of k.
    Raises InputError: without some layer the vectors are not finite.
    """
    layers = find_layers(encoder.transformer)
    expected = embed(encoder, sentences, batch_size=batch_size, precision=precision)
    removed: list[int] = []
    scores = torch.zeros(len(layers), dtype=torch.float64)
    while len(removed) < len(layers):
        losses = {}
        for number in set(range(len(layers))) - set(removed):
            with skipped([layers[each] for each in (*removed, number)]):
                loss = vector_loss(encoder, sentences, expected, batch_size=batch_size, precision=precision)
            if not np.isfinite(loss):
                raise InputError(f"layers: without layer {number} the vectors are not finite")
            losses[number] = loss
        least = min(losses, key=lambda number: (losses[number], number))
        removed.append(least)
        scores[least] = max(losses[least], scores.max().item()) + 1e-9 * len(removed)  # in the order of removal
    return scores


def vector_loss(
    encoder: TorchEncoder,
    sentences: Sequence[str],
    expected: np.ndarray,
    *,
    batch_size: int = 64,
    precision: str = "float32",
) -> float:
    """Return 1 - the mean cosine of an encoder's vectors to the unit vectors `expected` [sentences, D]."""
    vectors = embed(encoder, sentences, batch_size=batch_size, precision=precision)
    return float(1 - (vectors * expected).sum(axis=1).mean())


@contextmanager
def skipped(layers: Sequence[nn.Module]) -> Iterator[None]:
    """Let hidden states pass these layers as they come; the layers do not run."""

    def pass_by(hidden: Tensor, *_: Any, **__: Any) -> Tensor:
        return hidden

    for layer in layers:
        vars(layer)["forward"] = pass_by  # before the method of the class
    try:
        yield
    finally:
        for layer in layers:
            del vars(layer)["forward"]

"""What an encoder costs: parameters, bytes, milliseconds a sentence."""

import statistics
import time
from collections.abc import Sequence

import torch

from secateur.encoder import Encoder, encode, pad, tokenize


def count_parameters(encoder: Encoder) -> int:
    """Return the number of parameters that the sentence vector uses."""
    return sum(parameter.numel() for parameter in encoder.model.parameters())


def count_bytes(encoder: Encoder) -> int:
    """Return the bytes of the weights as they are held and saved, 4 a parameter in float32."""
    return sum(parameter.numel() * parameter.element_size() for parameter in encoder.model.parameters())


def time_encoders(encoders: Sequence[Encoder], sentences: Sequence[str], *, warmup: int = 10) -> list[float]:
    """Return each encoder's median milliseconds for one sentence, batch 1, tokenisation included.

    The encoders take turns on every sentence, so that a drift of the machine's speed meets all of them alike.
    """
    seconds: list[list[float]] = [[] for _ in encoders]
    for sentence in [*sentences[:warmup], *sentences]:
        for number, encoder in enumerate(encoders):
            started = time.perf_counter()
            with torch.inference_mode():
                encode(encoder, pad(encoder, tokenize(encoder, [sentence]))).vectors.cpu()
            seconds[number].append(time.perf_counter() - started)
    return [1000 * statistics.median(times[min(warmup, len(sentences)) :]) for times in seconds]

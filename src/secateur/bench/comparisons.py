"""What rows of `python -m secateur.bench` are made of: sides as functions that run once and return seconds a unit of
work; the sizes, the sentences, the clock.

Ours stands first. Both sides have the same weights, sentences, threads, dtype and batch; what differs is named, and
each side's share of padding is counted where lengths differ.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any

import numpy as np
from torch import nn

from secateur.config.teacher import TeacherSettings
from secateur.encoders.encoder import TorchEncoder
from secateur.encoders.loading import load_encoder
from secateur.evaluation.probe import PARTS
from secateur.export.quality import read_probe_texts

SEED = 0
LONG_ROUNDS = 3  # where a side takes minutes: the spread of so long a run is small
Seconds = Callable[[], float]


@dataclass(frozen=True)
class Sizes:
    """How large the compared work is."""

    sentences: int  # encoded in bulk
    pieces: int  # of the large shape's vocabulary
    layers: int
    hidden: int
    runs: int  # at batch 1, in one round
    batch: int  # pairs a distillation step
    steps: int  # timed, after as many of warm-up
    tasks: tuple[str, ...]


FULL = Sizes(10_000, 55_083, 12, 768, 20, 64, 20, tuple(PARTS))
TOY = Sizes(40, 500, 2, 128, 2, 8, 2, ("STS",))


@dataclass(frozen=True)
class Comparison:
    claim: str
    sides: Mapping[str, Seconds]  # ours first; each runs once and returns its seconds
    aims: Mapping[str, float] = field(default_factory=dict)  # by peer: how many times ours should be faster
    conditions: Mapping[str, Any] = field(default_factory=dict)  # a function is asked when all rounds are done
    warmup: int = 1
    rounds: int | None = None  # at most; None: as many as are asked for


class Workshop:
    """What rows share: the embedded teacher, sentences, a folder for what they write."""

    def __init__(self, model: str, sizes: Sizes) -> None:
        self.model, self.sizes = model, sizes

    def __enter__(self) -> "Workshop":
        self.temporary = TemporaryDirectory()
        self.folder = Path(self.temporary.name)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.temporary.cleanup()

    def load(self, device: str = "cpu") -> TorchEncoder:
        return load_encoder(TeacherSettings(model=self.model), device=device)

    def sentences(self) -> list[str]:
        """Return sentences of mixed length: the probe's, and one to six of them in a row."""
        generator = np.random.default_rng(SEED)
        texts = read_probe_texts(4_000).judged
        counts = generator.choice([1, 1, 1, 2, 3, 6], size=self.sizes.sentences)
        return [" ".join(texts[row] for row in generator.integers(len(texts), size=count)) for count in counts]


def timed(run: Callable[[], object], work: int = 1) -> Seconds:
    """Return a function that runs `run` once and returns its seconds a unit of work."""

    def seconds() -> float:
        started = time.perf_counter()
        run()
        return (time.perf_counter() - started) / work

    return seconds


@contextmanager
def counting(transformer: nn.Module, counts: np.ndarray) -> Iterator[None]:
    """Add to counts [real tokens, all tokens] what a transformer is given, or sentence-transformers' module around it
    (which calls the transformer's `forward` past its hooks)."""

    def count(module: nn.Module, arguments: Any, named: dict[str, Any]) -> None:
        mask = (named or arguments[0])["attention_mask"]
        counts[:] += [int(mask.sum()), mask.numel()]

    hook = transformer.register_forward_pre_hook(count, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()


def padding_share(counts: np.ndarray) -> float:
    return round(float(1 - counts[0] / counts[1]), 4)

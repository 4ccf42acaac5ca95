"""Tokenised pairs, and their order: batches of like length, drawn by weight."""

from collections.abc import Iterator, Mapping
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from secateur.config.distillation import DistillationSettings
from secateur.config.errors import InputError
from secateur.data.pairs import Pairs
from secateur.distillation.targets import Targets
from secateur.encoders.encoder import TorchEncoder, pad_rows, tokenize


def check_batch(weights: np.ndarray, settings: DistillationSettings) -> None:
    """Raise InputError where an epoch, as long as the sum of the rows' weights, is shorter than a batch."""
    drawn = int(weights.sum())
    if drawn < settings.batch_size:
        raise InputError(f"distillation.batch_size: {settings.batch_size} exceeds the corpus's {drawn} rows")


def group_by_prompt(pairs: Pairs, source_prompts: Mapping[str, str]) -> dict[str | None, list[int]]:
    """Return the sentences that each prompt is put before, by their numbers: English ones first, then Russian ones.

    None: the default prompt, or none.
    """
    groups: dict[str | None, list[int]] = {} if len(pairs) else {None: []}
    for number, source in enumerate([*pairs.source, *pairs.source]):
        groups.setdefault(source_prompts.get(source), []).append(number)
    return groups


class PairDataset(Dataset[int]):
    """Pairs tokenised once; an item is a row number, and `collate` turns row numbers into a batch."""

    def __init__(
        self,
        encoder: TorchEncoder,
        pairs: Pairs,
        targets: Targets | None,
        max_length: int,
        source_weights: Mapping[str, float] = MappingProxyType({}),
        source_prompts: Mapping[str, str] = MappingProxyType({}),
    ):
        self.encoder = encoder
        self.targets = targets
        self.paired = torch.tensor(pairs.paired)
        reader = encoder.limited(min(max_length, encoder.max_length))
        sentences = [*pairs.en, *pairs.ru]
        self.pieces = [np.empty(0, np.int32)] * len(sentences)
        for name, rows in group_by_prompt(pairs, source_prompts).items():
            for row, pieces in zip(
                rows, tokenize(reader.prompted(name), [sentences[row] for row in rows]), strict=True
            ):
                self.pieces[row] = np.array(pieces, np.int32)
        lengths = np.array([len(row) for row in self.pieces])
        self.lengths = np.maximum(lengths[: len(pairs.en)], lengths[len(pairs.en) :])
        self.weights = pairs.weigh(source_weights)

    def __len__(self) -> int:
        return len(self.paired)

    def __getitem__(self, row: int) -> int:
        return row

    def collate(self, rows: list[int]) -> dict[str, Tensor]:
        """Return the 2B sentences of B rows, English first: input_ids, attention_mask, paired [B], targets [2B, D]."""
        both = [*rows, *(row + len(self) for row in rows)]
        batch = pad_rows([self.pieces[row].tolist() for row in both], self.encoder.tokenizer.pad_token_id)
        batch["paired"] = self.paired[rows]
        if self.targets is not None:
            batch["targets"] = torch.from_numpy(self.targets[np.array(both)])
        return batch


class LengthSampler(Sampler[int]):
    """Each epoch: draw rows by their weights, shuffle, sort stretches of 50 batches by length, shuffle the batches.

    An epoch is as long as the weights' sum. A row of weight w is drawn floor(w) or ceil(w) times in it, w on average.
    The order depends on the seed, the epoch and the global batch size alone, so any number of processes and any
    accumulation see the same global batches.
    """

    def __init__(self, lengths: np.ndarray, batch_size: int, seed: int, weights: np.ndarray | None = None):
        self.lengths, self.batch_size, self.seed, self.epoch = lengths, batch_size, seed, 0
        self.weights = np.ones(len(lengths)) if weights is None else weights
        self.drawn = int(self.weights.sum())

    def __len__(self) -> int:
        return self.drawn // self.batch_size * self.batch_size

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = np.random.default_rng([self.seed, self.epoch])
        order = self.draw_rows(generator)[: len(self)]
        stretch = 50 * self.batch_size
        batches: list[np.ndarray] = []
        for start in range(0, len(order), stretch):
            rows = order[start : start + stretch]
            rows = rows[np.argsort(self.lengths[rows], kind="stable")]
            batches += np.split(rows, len(rows) // self.batch_size)
        for number in generator.permutation(len(batches)):
            yield from batches[number].tolist()

    def draw_rows(self, generator: np.random.Generator) -> np.ndarray:
        """Systematic sampling (Madow 1944): points 1 apart on the rows' weights laid end to end, in random order."""
        rows = generator.permutation(len(self.lengths))
        if (self.weights == 1).all():
            return rows
        ends = np.cumsum(self.weights[rows])
        points = np.arange(self.drawn) + generator.random()
        return generator.permutation(rows[np.searchsorted(ends, points, side="right")])

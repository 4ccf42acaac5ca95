"""Tokens of sentences side by side: rows of one length, which of their places hold a token, and which rows go
together."""

from collections.abc import Sequence
from itertools import chain

import numpy as np


def pad_rows(rows: Sequence[Sequence[int]], pad_id: int) -> tuple[np.ndarray, np.ndarray]:
    """Return input_ids and attention_mask, int64 [B, T], padded on the right."""
    lengths = np.array([len(row) for row in rows])
    mask = np.arange(lengths.max()) < lengths[:, np.newaxis]  # [B, T]
    ids = np.full(mask.shape, pad_id, np.int64)
    ids[mask] = np.fromiter(chain.from_iterable(rows), np.int64, count=int(lengths.sum()))
    return ids, mask.astype(np.int64)


def split_by_length(lengths: np.ndarray, pieces: int) -> list[tuple[np.ndarray, int]]:
    """Return (row numbers, their longest length), the longest first, of as many rows as `pieces` tokens hold."""
    order = np.argsort(-lengths, kind="stable")
    parts = []
    while len(order):
        longest = int(lengths[order[0]])
        count = max(1, pieces // longest)
        parts.append((order[:count], longest))
        order = order[count:]
    return parts

"""The rows of all processes together, with gradients: what a loss over the global batch is computed from."""

from typing import Any

import torch
from torch import Tensor, distributed
from torch.autograd import Function


class GatherRows(Function):
    """Rows [B, D] of each of N processes -> those of all [N B, D], in the order of ranks.

    Each process's loss depends on every row, so the gradient of a row is the sum of what all processes say of it.
    """

    @staticmethod
    def forward(context: Any, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows) for _ in range(distributed.get_world_size())]
        distributed.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        total = gradient.contiguous()
        distributed.all_reduce(total)
        return total.chunk(distributed.get_world_size())[distributed.get_rank()]


def gather_pairs(en: Tensor, ru: Tensor, paired: Tensor) -> tuple[Tensor, Tensor, int]:
    """Return both sides of the paired rows of all processes [P, D], and the first of them that is this process's.

    en, ru: [B, D], B the same in each process; paired: [B], of which each process has a number of its own.
    """
    rows = GatherRows.apply(torch.cat([en, ru], dim=1))  # [N B, 2 D]
    flags = [torch.empty_like(paired) for _ in range(distributed.get_world_size())]
    distributed.all_gather(flags, paired.contiguous())
    first = int(sum(flag.sum() for flag in flags[: distributed.get_rank()]))
    all_en, all_ru = rows[torch.cat(flags)].chunk(2, dim=1)
    return all_en, all_ru, first

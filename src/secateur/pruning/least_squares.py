"""Ridge regression from second moments, batch by batch."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from secateur.config.pruning import RepairSettings

ROWS = 8192  # of moments, at once


@dataclass
class Moments:
    """Second moments of a regression's inputs (k of them and a 1) and outputs (m), in float64 on the CPU.

    `systems` many regressions may run side by side, as leading dimensions. Rows wait until there are ROWS of them:
    adding a product of two matrices up in float64 costs as much as the product of a batch.
    """

    by_token: Tensor  # [*systems, k + 1, k + 1 + m]
    by_sentence: Tensor  # [*systems, k + 1, k + 1 + m]
    tokens: int = 0
    sentences: int = 0
    waiting: list[Tensor] = field(default_factory=list)  # [*systems, tokens, k + 1 + m]
    means: list[Tensor] = field(default_factory=list)  # [*systems, sentences, k + 1 + m]

    @classmethod
    def empty(cls, inputs: int, outputs: int, *, systems: tuple[int, ...] = ()) -> "Moments":
        shape = (*systems, inputs + 1, inputs + 1 + outputs)
        return cls(torch.zeros(shape, dtype=torch.float64), torch.zeros(shape, dtype=torch.float64))

    def add(self, inputs: Tensor, missing: Tensor, *, scale: Tensor | float = 1.0) -> None:
        """Add a batch, inputs [*systems, B, T, k] and missing [*systems, B, T, m], each row divided by its scale."""
        rows = torch.cat([inputs, inputs.new_ones(*inputs.shape[:-1], 1), missing], dim=-1)
        rows /= scale
        self.waiting.append(rows.flatten(-3, -2))
        self.means.append(rows.mean(dim=-2))
        self.sentences += inputs.shape[-3]
        self.tokens += inputs.shape[-3] * inputs.shape[-2]
        for total, waiting in self.sums:
            if sum(each.shape[-2] for each in waiting) >= ROWS:
                self.flush(total, waiting)

    @property
    def sums(self) -> tuple[tuple[Tensor, list[Tensor]], ...]:
        return (self.by_token, self.waiting), (self.by_sentence, self.means)

    def flush(self, total: Tensor, waiting: list[Tensor]) -> None:
        if waiting:
            total += self.multiply(torch.cat(waiting, dim=-2))
            waiting.clear()

    def multiply(self, rows: Tensor) -> Tensor:
        return multiply(rows[..., : self.by_token.shape[-2]].mT, rows)

    def solve(self, settings: RepairSettings) -> tuple[Tensor, Tensor]:
        """Return D [*systems, m, k] and d [*systems, m], the solution of the ridge regression above."""
        few = self.tokens + self.sentences < min(len(self.by_token), ROWS)  # and all of them wait
        change = self.solve_dual(settings) if few and self.by_token.ndim == 2 else self.solve_primal(settings)
        return change[..., :-1], change[..., -1]

    def solve_dual(self, settings: RepairSettings) -> Tensor:
        """Return D and d [m, k + 1] from the rows themselves."""
        tokens = torch.cat(self.waiting) / self.tokens**0.5
        means = torch.cat(self.means) * (settings.w_sentence / self.sentences) ** 0.5
        inputs, missing = torch.cat([tokens, means]).tensor_split([len(self.by_token)], dim=1)
        kernel = multiply(inputs, inputs.T)
        kernel.diagonal().add_(settings.ridge * kernel.trace() / inputs.shape[1])
        shares = solve_exactly(kernel, missing.double().cpu())
        return (inputs.double().cpu().T @ shares).T

    def solve_primal(self, settings: RepairSettings) -> Tensor:
        for each in self.sums:
            self.flush(*each)
        total = self.by_token / self.tokens + settings.w_sentence * self.by_sentence / self.sentences
        gram, moment = total.tensor_split([total.shape[-2]], dim=-1)
        diagonal = gram.diagonal(dim1=-2, dim2=-1)
        diagonal += settings.ridge * diagonal.mean(dim=-1, keepdim=True)
        factor, failed = torch.linalg.cholesky_ex(gram)
        return (solve_exactly(gram, moment) if failed.any() else torch.cholesky_solve(moment, factor)).mT


def multiply(left: Tensor, right: Tensor) -> Tensor:
    """Return a product of matrices in float64 on the CPU, computed in float32 where that can hold it."""
    product = (left @ right).double().cpu()
    return product if torch.isfinite(product).all() else left.cpu().double() @ right.cpu().double()


def solve_exactly(gram: Tensor, moment: Tensor) -> Tensor:
    """Return the solution of a symmetric system, of a singular one the smallest of those that come closest, of one
    that is not finite what is not finite either."""
    found = torch.linalg.solve_ex(gram, moment)
    solution: Tensor = found.result
    singular = found.info
    if (torch.isfinite(solution).all() and not singular.any()) or not torch.isfinite(gram).all():
        return solution
    smallest: Tensor = torch.linalg.pinv(gram, hermitian=True) @ moment
    return smallest

"""Muon for the matrices of the layers and AdamW for everything else, as one optimizer that the Trainer can save.

torch.optim.Muon computes in bf16 whatever the machine; without instructions for it, a step of an encoder of 12M
parameters took 14 s there and takes .5 s in float32. So the few lines are here, and are tested against torch's.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from transformers import PreTrainedModel

from secateur.encoders.modeling import find_layers

MATRICES = "matrices"  # marks a group of Muon's
MOMENTUM = 0.95
RATE = 0.2  # what AdamW moves a weight by, as a share of the learning rate
COEFFICIENTS = (3.4445, -4.775, 2.0315)  # of the odd polynomial that carries singular values into [.7, 1.2]
ITERATIONS = 5


class MuonWithAdamW(torch.optim.AdamW):
    """Muon (Jordan et al. 2024) for groups with `matrices: True`, 2-D parameters all, AdamW for the others.

    Muon makes a matrix's momentum nearly orthogonal, so that a step turns all of its directions alike, the weak ones
    too; the step is scaled to the size of AdamW's (Liu et al. 2025, "Muon is scalable for LLM training", section 2.2),
    so that both take the same learning rates and decays. `dtype`: that of the products which make it orthogonal.
    """

    def __init__(self, groups: Sequence[Mapping[str, Any]], *, lr: float, dtype: torch.dtype = torch.float32) -> None:
        super().__init__([{MATRICES: False, **group} for group in groups], lr=lr, fused=True)
        self.dtype = dtype

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Take a step; the matrices' gradients are None after it, so that AdamW passes them by."""
        loss = None if closure is None else closure()
        for group in self.param_groups:
            if group[MATRICES]:
                self.turn(group)
        super().step()
        return loss

    def turn(self, group: Mapping[str, Any]) -> None:
        """Take a step of Muon with a group's parameters that have a gradient."""
        for weight in group["params"]:
            if weight.grad is None:
                continue
            state = self.state[weight]
            if not state:
                state["step"] = torch.zeros(())  # AdamW's reading of a checkpoint asks for it
                state["momentum"] = torch.zeros_like(weight)
            state["step"] += 1
            momentum = state["momentum"].lerp_(weight.grad, 1 - MOMENTUM)
            direction = orthogonalise(weight.grad.lerp(momentum, MOMENTUM).to(self.dtype))  # Nesterov's
            weight.mul_(1 - group["lr"] * group["weight_decay"])
            weight.add_(direction, alpha=-group["lr"] * RATE * max(weight.shape) ** 0.5)
            weight.grad = None


def orthogonalise(matrix: Tensor) -> Tensor:
    """Return about U V^T of a matrix U S V^T [rows, columns]: singular values between .7 and 1.2 in place of its own.

    By Newton-Schulz iterations (Jordan et al. 2024); a singular value far below the largest one stays below .7.
    """
    a, b, c = COEFFICIENTS
    wide = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    wide = wide / wide.norm().clamp(min=1e-7)
    for _ in range(ITERATIONS):
        gram = wide @ wide.T
        wide = torch.addmm(wide, torch.addmm(gram, gram, gram, beta=b, alpha=c), wide, beta=a)
    return wide.T if matrix.shape[0] > matrix.shape[1] else wide


def find_matrices(transformer: PreTrainedModel) -> list[Parameter]:
    """Return the weight matrices of a transformer's layers; a layer without heads has empty ones, left out."""
    weights = (weight for layer in find_layers(transformer) for weight in layer.parameters())
    return [weight for weight in weights if weight.ndim == 2 and weight.numel()]


def hand_to_muon(optimizer: torch.optim.Optimizer, matrices: Sequence[Parameter], dtype: torch.dtype) -> MuonWithAdamW:
    """Return an optimizer like a fresh AdamW, but for these matrices, which become a group of their own, the last.

    It has the learning rate and the decay of the first group, whose the matrices were.
    """
    taken = {id(matrix) for matrix in matrices}
    groups: list[dict[str, Any]] = [
        {
            "params": [each for each in group["params"] if id(each) not in taken],
            "lr": group["lr"],
            "weight_decay": group["weight_decay"],
        }
        for group in optimizer.param_groups
    ]
    groups.append({**groups[0], "params": list(matrices), MATRICES: True})
    return MuonWithAdamW(groups, lr=groups[0]["lr"], dtype=dtype)

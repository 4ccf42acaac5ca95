"""Muon beside AdamW: torch's own two are the references, step by step."""

from typing import Any

import pytest
import torch
from torch.nn import Parameter

from secateur.distillation.optimizers import MuonWithAdamW, find_matrices, hand_to_muon, orthogonalise
from secateur.encoders.encoder import TorchEncoder
from secateur.pruning.selection import Kept
from secateur.pruning.slicing import slice_encoder

SHAPES = {"wide": (6, 20), "tall": (20, 6), "square": (9, 9)}


def draw(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def give_gradients(weights: dict[str, Parameter], seed: int) -> None:
    for number, weight in enumerate(weights.values()):
        weight.grad = draw(100 * seed + number, *weight.shape)


def make_weights() -> dict[str, Parameter]:
    shapes: dict[str, tuple[int, ...]] = {**SHAPES, "bias": (7,)}
    return {name: Parameter(draw(number, *shape)) for number, (name, shape) in enumerate(shapes.items())}


def build(weights: dict[str, Parameter], dtype: torch.dtype = torch.bfloat16) -> MuonWithAdamW:
    adamw = torch.optim.AdamW(
        [{"params": list(weights.values()), "weight_decay": 0.1}, {"params": [], "weight_decay": 0.0}], lr=0.02
    )
    return hand_to_muon(adamw, [weights[name] for name in SHAPES], dtype)


def test_matrices_move_as_torch_muon_moves_them_and_the_rest_as_adamw_does() -> None:
    ours, theirs = make_weights(), make_weights()
    both = build(ours)
    references: list[torch.optim.Optimizer] = [
        torch.optim.Muon([theirs[name] for name in SHAPES], lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW([theirs["bias"]], lr=0.02, weight_decay=0.1),
    ]
    for step in range(1, 6):
        give_gradients(ours, step)
        give_gradients(theirs, step)
        both.step()
        for reference in references:
            reference.step()
    for name, weight in ours.items():
        assert torch.allclose(weight, theirs[name], atol=1e-6), name


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_a_matrix_becomes_nearly_orthogonal_along_its_own_singular_vectors(shape: tuple[int, int]) -> None:
    matrix = draw(3, *shape)
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    turned = left.T @ orthogonalise(matrix) @ right.T
    strong = values > 0.05 * values.max()
    assert ((turned.diag()[strong] > 0.65) & (turned.diag()[strong] < 1.25)).all()
    assert (turned - turned.diag().diag()).abs().max() < 1e-4


def test_a_matrix_of_zeros_stays_where_it_is() -> None:
    assert torch.equal(orthogonalise(torch.zeros(3, 5)), torch.zeros(3, 5))


def test_an_optimizer_put_back_from_its_state_goes_on_alike() -> None:
    stopped, whole = make_weights(), make_weights()
    first, through = build(stopped), build(whole)
    for step in range(1, 4):
        give_gradients(stopped, step)
        give_gradients(whole, step)
        first.step()
        through.step()
    second = build(stopped)
    second.load_state_dict(first.state_dict())
    for step in range(4, 7):
        give_gradients(stopped, step)
        give_gradients(whole, step)
        second.step()
        through.step()
    assert all(torch.equal(weight, whole[name]) for name, weight in stopped.items())


def test_a_matrix_without_a_gradient_is_left_alone() -> None:
    weights = make_weights()
    before = weights["wide"].clone()
    optimizer = build(weights)
    give_gradients(weights, 1)
    weights["wide"].grad = None
    optimizer.step()
    assert torch.equal(weights["wide"], before)
    assert not torch.equal(weights["tall"], make_weights()["tall"])


def test_muon_gets_the_matrices_of_the_layers_and_no_empty_ones(teacher: TorchEncoder, ragged: Kept) -> None:
    student = slice_encoder(teacher, ragged).transformer
    names: dict[int, Any] = {id(weight): name for name, weight in student.named_parameters()}
    found = [names[id(matrix)] for matrix in find_matrices(student)]
    wanted = [
        name
        for name, weight in student.named_parameters()
        if ".layer." in name and name.endswith("weight") and "LayerNorm" not in name and weight.numel()
    ]
    assert found == wanted
    assert 0 < len(found) < 6 * len(student.encoder.layer)  # this cut has layers without heads or without neurons

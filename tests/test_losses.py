"""Losses on unit vectors small enough to solve by hand."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import entropy

from secateur.distillation.losses import (
    match_embedding,
    match_relations,
    match_tokens,
    similarity_contrastive,
    similarity_mse,
)

EN = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
RU = torch.tensor([[0.6, 0.8], [0.0, 1.0]])


def test_squared_distances_of_unit_vectors_are_twice_one_minus_cosine() -> None:
    torch.testing.assert_close(similarity_mse(EN, RU), torch.tensor([0.8, 0.0]))
    torch.testing.assert_close(match_embedding(EN, RU), torch.tensor([0.8, 0.0]))


def test_contrastive_loss_of_two_pairs() -> None:
    # cosines [[.6, 0], [.8, 1]] at temperature .5: logits [[1.2, 0], [1.6, 2]]
    def loss(own: float, other: float) -> float:
        return math.log(1 + math.exp(other - own))

    expected = [(loss(1.2, 0) + loss(1.2, 1.6)) / 2, (loss(2, 1.6) + loss(2, 0)) / 2]
    assert similarity_contrastive(EN, RU, temperature=0.5).tolist() == pytest.approx(expected, rel=1e-5)


def test_token_matching_leaves_padding_out() -> None:
    student = torch.tensor([[[1.0, 3.0], [100.0, 100.0]], [[0.0, 0.0], [2.0, 2.0]]])
    mask = torch.tensor([[1, 0], [1, 1]])
    assert match_tokens(student, torch.zeros_like(student), mask).tolist() == [5.0, 0.0, 4.0]


def unit_rows(seed: int, count: int = 6, width: int = 4) -> torch.Tensor:
    rows = torch.randn(count, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return rows / rows.norm(dim=1, keepdim=True)


def test_relations_are_the_divergence_of_neighbour_distributions() -> None:
    student, teacher, t = unit_rows(0), unit_rows(1), 0.2
    found = match_relations(student, teacher, temperature=t)
    for i in range(6):
        others = [j for j in range(6) if j != i]
        p, q = (np.exp(each.numpy()[others] @ each.numpy()[i] / t) for each in (teacher, student))
        assert found[i].item() == pytest.approx(entropy(p / p.sum(), q / q.sum()), rel=1e-9)


def test_relations_are_matched_by_the_teacher_itself_in_any_rotation_and_by_nothing_else() -> None:
    teacher = unit_rows(1)
    rotation = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)).Q
    student = (teacher @ rotation).requires_grad_()
    loss = match_relations(student, teacher, temperature=0.05)
    assert loss.max() < 1e-12
    (gradient,) = torch.autograd.grad(loss.sum(), student)
    assert gradient.abs().max() < 1e-9
    assert match_relations(unit_rows(0), teacher, temperature=0.05).min() > 0


def test_relations_of_one_sentence_are_nothing() -> None:
    assert match_relations(unit_rows(0, 1), unit_rows(1, 1), temperature=0.05).item() == 0

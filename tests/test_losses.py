"""Losses on unit vectors small enough to solve by hand."""

import math

import pytest
import torch

from secateur.distillation.losses import match_embedding, match_tokens, similarity_contrastive, similarity_mse

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

"""Repair: exact where an exact answer exists, better on unseen sentences, linear in the layers, the input untouched."""

from copy import deepcopy

import numpy as np
import pytest
import torch
from conftest import FAMILIES, MakeEncoder, keep_all
from torch import Tensor, nn

from secateur import config
from secateur.encoder import Encoder, embed, replace_transformer
from secateur.modeling import find_layers
from secateur.repair import refit, repair
from secateur.selection import Kept
from secateur.slicing import slice_encoder

HALF = Kept(heads=((0, 1),) * 3, neurons=(tuple(range(24)),) * 3)


def mend(student: Encoder, teacher: Encoder, sentences: list[str], *, ridge: float = 1e-3) -> Encoder:
    return repair(student, teacher, sentences, config.Repair(sentences=len(sentences), ridge=ridge))


def cosine(student: Encoder, teacher: Encoder, sentences: list[str]) -> float:
    return float((embed(student, sentences) * embed(teacher, sentences)).sum(axis=1).mean())


def double_up(encoder: Encoder) -> Encoder:
    """Return an encoder whose heads 2, 3 and neurons 24.. compute what heads 0, 1 and neurons ..23 do."""
    transformer = deepcopy(encoder.transformer)
    with torch.no_grad():
        for layer in transformer.encoder.layer:
            for linear, half in (
                (layer.attention.self.query, 16),
                (layer.attention.self.key, 16),
                (layer.attention.self.value, 16),
                (layer.intermediate.dense, 24),
            ):
                linear.weight[half:] = linear.weight[:half]
                linear.bias[half:] = linear.bias[:half]
    return replace_transformer(encoder, transformer)


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_cut_stays_within_a_hundred_thousandth(
    make_encoder: MakeEncoder, sentences: list[str], family: str
) -> None:
    teacher = make_encoder(family)
    repaired = mend(slice_encoder(teacher, keep_all(teacher)), teacher, sentences)
    np.testing.assert_allclose(embed(repaired, sentences), embed(teacher, sentences), atol=1e-5)


def test_cut_duplicates_are_restored_exactly(teacher: Encoder, sentences: list[str]) -> None:
    doubled = double_up(teacher)
    student = slice_encoder(doubled, HALF)
    assert cosine(student, doubled, sentences[1::2]) < 0.9
    repaired = mend(student, doubled, sentences[::2], ridge=1e-9)
    np.testing.assert_allclose(embed(repaired, sentences[1::2]), embed(doubled, sentences[1::2]), atol=1e-3)


class Toy(nn.Module):
    """x + W x + b before a LayerNorm: the shape of half a layer."""

    def __init__(self, weight: Tensor, bias: Tensor):
        super().__init__()
        self.project = nn.Linear(2, 2)
        self.project.weight.data, self.project.bias.data = weight, bias
        self.norm = nn.LayerNorm(2)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.norm(hidden + self.project(hidden))


def test_refit_solves_the_normal_equations_written_in_its_docstring() -> None:
    generator = torch.Generator().manual_seed(0)
    hidden, target = torch.randn(2, 5, 2, generator=generator), torch.randn(2, 5, 2, generator=generator)
    weight, bias = torch.tensor([[1.0, 2], [3, 4]]), torch.tensor([0.5, -0.5])
    toy = Toy(weight.clone(), bias.clone())
    settings = config.Repair(sentences=2, ridge=0.1, w_sentence=2.0)
    with torch.no_grad():
        refit(toy, "project", "norm", [hidden[:1], hidden[1:]], [target[:1], target[1:]], settings)
    scale = target.double().std(dim=-1, keepdim=True)
    c = torch.cat([hidden, torch.ones(2, 5, 1)], dim=-1).double() / scale  # [sentences, tokens, 3]
    r = (target - hidden - hidden @ weight.T - bias).double() / scale
    C, R = c.flatten(0, 1), r.flatten(0, 1)
    gram = C.T @ C / 10 + 2 * c.mean(dim=1).T @ c.mean(dim=1) / 2
    moment = C.T @ R / 10 + 2 * c.mean(dim=1).T @ r.mean(dim=1) / 2
    D = (torch.linalg.inv(gram + 0.1 * gram.diagonal().mean() * torch.eye(3)) @ moment).T
    torch.testing.assert_close(toy.project.weight.double(), weight + D[:, :2], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(toy.project.bias.double(), bias + D[:, 2], rtol=1e-5, atol=1e-5)


def test_a_large_ridge_keeps_the_sliced_weights(teacher: Encoder, ragged: Kept, sentences: list[str]) -> None:
    student = slice_encoder(teacher, ragged)
    repaired = mend(student, teacher, sentences, ridge=1e12)
    np.testing.assert_allclose(embed(repaired, sentences), embed(student, sentences), atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_repair_raises_the_cosine_to_the_teacher_on_unseen_sentences(
    make_encoder: MakeEncoder, ragged: Kept, sentences: list[str], family: str
) -> None:
    teacher = make_encoder(family)
    for kept in (HALF, ragged):  # ragged: a layer without heads, a layer without neurons
        student = slice_encoder(teacher, kept)
        repaired = mend(student, teacher, sentences[::2], ridge=1e-2)
        before, after = (cosine(encoder, teacher, sentences[1::2]) for encoder in (student, repaired))
        assert after > before + 0.3 * (1 - before)


def test_a_neuron_that_is_always_zero_does_not_stop_the_repair(teacher: Encoder, sentences: list[str]) -> None:
    student = slice_encoder(teacher, HALF)
    with torch.no_grad():
        for layer in student.transformer.encoder.layer:
            layer.intermediate.dense.weight[0], layer.intermediate.dense.bias[0] = 0, 0  # gelu(0) = 0
    repaired = mend(student, teacher, sentences[:1], ridge=1e-9)  # and fewer tokens than channels
    assert np.isfinite(embed(repaired, sentences)).all()


def test_the_student_given_is_not_touched(teacher: Encoder, ragged: Kept, sentences: list[str]) -> None:
    student = slice_encoder(teacher, ragged)
    before = {name: value.clone() for name, value in student.transformer.state_dict().items()}
    repaired = mend(student, teacher, sentences)
    assert all(torch.equal(value, before[name]) for name, value in student.transformer.state_dict().items())
    assert not torch.equal(
        repaired.transformer.encoder.layer[0].output.dense.weight, before["encoder.layer.0.output.dense.weight"]
    )
    assert all(parameter.requires_grad for parameter in repaired.transformer.parameters())
    assert not [module for module in repaired.model.modules() if module._forward_pre_hooks]


def test_no_calibration_sentences_is_no_repair(teacher: Encoder, ragged: Kept, sentences: list[str]) -> None:
    student = slice_encoder(teacher, ragged)
    assert repair(student, teacher, sentences, config.Repair(sentences=0)) is student


def test_cost_grows_linearly_with_layers(make_encoder: MakeEncoder, sentences: list[str]) -> None:
    calls = {layers: count_calls(make_encoder(layers=layers), sentences[:8]) for layers in (2, 4, 8)}
    assert calls[4] == 2 * calls[2]
    assert calls[8] == 4 * calls[2]


def count_calls(teacher: Encoder, sentences: list[str]) -> int:
    """Return how many times a repair runs a layer, the teacher's or the student's."""
    student = slice_encoder(teacher, keep_all(teacher))
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    for encoder in (teacher, student):
        for layer in find_layers(encoder.transformer):
            layer.register_forward_hook(count)  # a deep copy keeps it
    mend(student, teacher, sentences)
    return calls

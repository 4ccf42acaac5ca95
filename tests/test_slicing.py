"""Cuts: nothing cut changes nothing, biases and fused matrices follow, the teacher stays as it was."""

import numpy as np
import pytest
import torch
from conftest import FAMILIES, MakeEncoder, keep_all
from torch import nn
from torch.nn.functional import linear

from secateur.encoder import Encoder, embed, encode, pad, tokenize
from secateur.modeling import count_heads, count_neurons
from secateur.selection import Kept
from secateur.slicing import head_channels, slice_encoder, take_columns, take_rows


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("pooling", ["mean", "pooler"])
def test_keeping_everything_is_bit_equal(
    make_encoder: MakeEncoder, sentences: list[str], family: str, pooling: str
) -> None:
    if family == "distilbert" and pooling == "pooler":
        pytest.skip("DistilBERT has no pooler")
    teacher = make_encoder(family, pooling=pooling)
    student = slice_encoder(teacher, keep_all(teacher))
    inputs = pad(teacher, tokenize(teacher, sentences))
    with torch.inference_mode():
        assert torch.equal(encode(student, inputs).vectors, encode(teacher, inputs).vectors)
    assert student.transformer.config.model_type == family


def test_keeping_everything_of_the_embedded_teacher_is_bit_equal(embedded: Encoder, sentences: list[str]) -> None:
    student = slice_encoder(embedded, keep_all(embedded))
    assert np.array_equal(embed(student, sentences[:4]), embed(embedded, sentences[:4]))


def test_weights_and_biases_of_kept_heads_and_neurons_are_the_teachers(teacher: Encoder, ragged: Kept) -> None:
    old = teacher.transformer.encoder.layer[2]
    new = slice_encoder(teacher, ragged).transformer.encoder.layer[2]  # heads 1, 2, 3; no neurons
    for name in ("query", "key", "value"):
        whole, part = getattr(old.attention.self, name), getattr(new.attention.self, name)
        assert torch.equal(part.weight, whole.weight[8:])
        assert torch.equal(part.bias, whole.bias[8:])
    assert torch.equal(new.attention.output.dense.weight, old.attention.output.dense.weight[:, 8:])
    assert torch.equal(new.attention.output.dense.bias, old.attention.output.dense.bias)
    first = slice_encoder(teacher, ragged).transformer.encoder.layer[0]
    whole = teacher.transformer.encoder.layer[0]
    assert torch.equal(first.intermediate.dense.weight, whole.intermediate.dense.weight[::3])
    assert torch.equal(first.intermediate.dense.bias, whole.intermediate.dense.bias[::3])
    assert torch.equal(first.output.dense.weight, whole.output.dense.weight[:, ::3])
    assert torch.equal(first.output.dense.bias, whole.output.dense.bias)


def test_the_teacher_is_not_touched_and_shares_no_weight(teacher: Encoder, ragged: Kept) -> None:
    before = {name: value.clone() for name, value in teacher.transformer.state_dict().items()}
    settings = teacher.transformer.config.to_dict()
    student = slice_encoder(teacher, ragged)
    with torch.no_grad():
        for parameter in student.model.parameters():
            parameter.fill_(7)
    assert all(torch.equal(value, before[name]) for name, value in teacher.transformer.state_dict().items())
    assert teacher.transformer.config.to_dict() == settings


def test_cutting_twice_is_cutting_once(teacher: Encoder, ragged: Kept, sentences: list[str]) -> None:
    again = Kept(heads=((1,), (), (0, 2)), neurons=((0, 3), (4,), ()))
    twice = slice_encoder(slice_encoder(teacher, ragged), again)
    once = slice_encoder(teacher, Kept(heads=((2,), (), (1, 3)), neurons=((0, 9), (4,), ())))
    assert count_heads(twice.transformer) == [1, 0, 2]
    assert count_neurons(twice.transformer) == [2, 1, 0]
    assert np.array_equal(embed(twice, sentences), embed(once, sentences))


def test_a_student_without_any_head_or_neuron_still_runs(teacher: Encoder, sentences: list[str]) -> None:
    student = slice_encoder(teacher, Kept(heads=((),) * 3, neurons=((),) * 3))
    assert np.isfinite(embed(student, sentences)).all()


def test_head_channels_are_consecutive() -> None:
    assert head_channels((0, 2), 3).tolist() == [0, 1, 2, 6, 7, 8]
    assert head_channels((), 3).tolist() == []


def test_a_fused_matrix_is_cut_in_each_of_its_blocks() -> None:
    torch.manual_seed(0)
    query, key, value = (nn.Linear(6, 6) for _ in range(3))
    fused = torch.cat([query.weight, key.weight, value.weight])
    bias = torch.cat([query.bias, key.bias, value.bias])
    rows, inputs = head_channels((1,), 3), torch.randn(2, 6)
    starts = (0, 6, 12)
    cut = linear(inputs, take_rows(fused, rows, starts=starts), take_rows(bias, rows, starts=starts))
    expected = torch.cat([layer(inputs)[:, 3:] for layer in (query, key, value)], dim=1)
    torch.testing.assert_close(cut, expected)


def test_columns_are_taken_in_order() -> None:
    assert take_columns(torch.arange(6).view(2, 3), torch.tensor([0, 2])).tolist() == [[0, 2], [3, 5]]

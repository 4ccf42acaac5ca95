"""Cuts: nothing cut changes nothing, biases and fused matrices follow, the teacher stays as it was."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import FAMILIES, MakeEncoder, keep_all
from sentence_transformers import SentenceTransformer

from secateur.encoders.encoder import TorchEncoder, embed, encode, pad, tokenize
from secateur.encoders.modeling import count_heads, count_neurons, find_layers, layer_names
from secateur.encoders.saving import save_encoder
from secateur.pruning.selection import Kept
from secateur.pruning.slicing import head_channels, slice_encoder


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("pooling", ["mean", "pooler"])
def test_keeping_everything_is_bit_equal(
    make_encoder: MakeEncoder, sentences: list[str], family: str, pooling: str
) -> None:
    teacher = make_encoder(family, pooling=pooling)
    student = slice_encoder(teacher, keep_all(teacher))
    inputs = pad(teacher, tokenize(teacher, sentences))
    with torch.inference_mode():
        assert torch.equal(encode(student, inputs).vectors, encode(teacher, inputs).vectors)
    assert student.transformer.config.model_type == family


def test_keeping_everything_of_the_embedded_teacher_is_bit_equal(embedded: TorchEncoder, sentences: list[str]) -> None:
    student = slice_encoder(embedded, keep_all(embedded))
    assert np.array_equal(embed(student, sentences[:4]), embed(embedded, sentences[:4]))


def test_weights_and_biases_of_kept_heads_and_neurons_are_the_teachers(teacher: TorchEncoder, ragged: Kept) -> None:
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


def test_the_teacher_is_not_touched_and_shares_no_weight(teacher: TorchEncoder, ragged: Kept) -> None:
    before = {name: value.clone() for name, value in teacher.transformer.state_dict().items()}
    settings = teacher.transformer.config.to_dict()
    student = slice_encoder(teacher, ragged)
    with torch.no_grad():
        for parameter in student.model.parameters():
            parameter.fill_(7)
    assert all(torch.equal(value, before[name]) for name, value in teacher.transformer.state_dict().items())
    assert teacher.transformer.config.to_dict() == settings


def test_cutting_twice_is_cutting_once(teacher: TorchEncoder, ragged: Kept, sentences: list[str]) -> None:
    again = Kept(heads=((1,), (), (0, 2)), neurons=((0, 3), (4,), ()))
    twice = slice_encoder(slice_encoder(teacher, ragged), again)
    once = slice_encoder(teacher, Kept(heads=((2,), (), (1, 3)), neurons=((0, 9), (4,), ())))
    assert count_heads(twice.transformer) == [1, 0, 2]
    assert count_neurons(twice.transformer) == [2, 1, 0]
    assert np.array_equal(embed(twice, sentences), embed(once, sentences))


def test_a_student_without_any_head_or_neuron_still_runs(teacher: TorchEncoder, sentences: list[str]) -> None:
    student = slice_encoder(teacher, Kept(heads=((),) * 3, neurons=((),) * 3))
    assert np.isfinite(embed(student, sentences)).all()


def test_kept_layers_are_those_of_the_teacher_and_the_stock_type(
    make_encoder: MakeEncoder, sentences: list[str]
) -> None:
    teacher = make_encoder(layers=4)
    whole = keep_all(teacher)
    student = slice_encoder(teacher, replace(whole, heads=whole.heads[:2], neurons=whole.neurons[:2], layers=(0, 3)))
    assert student.transformer.config.model_type == "bert"
    assert student.transformer.config.num_hidden_layers == 2
    layers = student.transformer.encoder.layer
    for new, old in zip(layers, (0, 3), strict=True):
        expected = teacher.transformer.encoder.layer[old].state_dict()
        assert all(torch.equal(value, expected[name]) for name, value in new.state_dict().items())
    assert embed(student, sentences).shape == (len(sentences), 32)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("pooling", ["mean", "cls", "pooler"])
def test_keeping_every_channel_by_name_changes_no_vector(
    make_encoder: MakeEncoder, sentences: list[str], family: str, pooling: str
) -> None:
    teacher = make_encoder(family, pooling=pooling)
    student = slice_encoder(teacher, replace(keep_all(teacher), hidden=tuple(range(32))))
    np.testing.assert_allclose(embed(student, sentences), embed(teacher, sentences), atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("pooling", ["mean", "pooler"])
def test_a_narrow_student_has_the_teachers_rows_and_columns_and_dimension_and_reloads_in_stock_classes(
    make_encoder: MakeEncoder, sentences: list[str], tmp_path: Path, family: str, pooling: str
) -> None:
    teacher = make_encoder(family, pooling=pooling)
    hidden = list(range(0, 32, 2))
    kept = Kept(heads=((0,), (2, 3)), neurons=((1, 2), ()), layers=(0, 2), hidden=tuple(hidden))
    student = slice_encoder(teacher, kept)
    names = layer_names(teacher.transformer.config)
    old, new = find_layers(teacher.transformer)[2], find_layers(student.transformer)[1]
    rows = old.get_submodule(names.query).weight[16:]
    assert torch.equal(new.get_submodule(names.query).weight, rows[:, hidden])
    assert torch.equal(
        new.get_submodule(names.attention_output).weight, old.get_submodule(names.attention_output).weight[hidden, 16:]
    )
    assert torch.equal(
        new.get_submodule(names.output_norm).bias, old.get_submodule(names.output_norm).bias[list(hidden)]
    )
    assert student.dimension == 32
    vectors = embed(student, sentences)
    if pooling == "mean":
        assert not vectors[:, 1::2].any()
    save_encoder(student, tmp_path / "student")
    stock = SentenceTransformer(str(tmp_path / "student"), device="cpu", model_kwargs={"attn_implementation": "eager"})
    assert np.array_equal(stock.encode(sentences), student.model.encode(sentences))
    np.testing.assert_allclose(stock.encode(sentences, normalize_embeddings=True), vectors, atol=1e-6)
    narrower = slice_encoder(
        student, replace(kept, heads=((0,),), neurons=((1,),), layers=(0,), hidden=tuple(range(8)))
    )
    assert embed(narrower, sentences).shape == (len(sentences), 32)


def test_a_width_with_as_many_heads_as_go_into_it_is_the_stock_type(teacher: TorchEncoder) -> None:
    whole = keep_all(teacher)
    kept = replace(whole, heads=((0, 2),) * 3, hidden=tuple(range(16)))
    assert slice_encoder(teacher, kept).transformer.config.model_type == "bert"
    with pytest.raises(ValueError, match="hidden width 15 is not a multiple of the head size 8"):
        slice_encoder(teacher, replace(kept, hidden=tuple(range(15))))


def test_head_channels_are_consecutive() -> None:
    assert head_channels((0, 2), 3).tolist() == [0, 1, 2, 6, 7, 8]
    assert head_channels((), 3).tolist() == []

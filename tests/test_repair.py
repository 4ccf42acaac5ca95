"""Repair: exact where an exact answer exists, better on unseen sentences, linear in the layers, the input untouched."""

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import FAMILIES, MakeEncoder, keep_all
from torch import Tensor, nn

from secateur.config.pruning import RepairSettings
from secateur.encoders.encoder import TorchEncoder, embed
from secateur.encoders.modeling import find_layers, layer_names
from secateur.encoders.surgery import replace_transformer
from secateur.pruning.least_squares import Moments
from secateur.pruning.refits import refit_norm, refit_projection, refit_readers, standardise
from secateur.pruning.repair import Half, repair, split_layer
from secateur.pruning.selection import Kept
from secateur.pruning.slicing import slice_encoder

HALF = Kept(heads=((0, 1),) * 3, neurons=(tuple(range(24)),) * 3)


def mend(teacher: TorchEncoder, kept: Kept, sentences: list[str], *, ridge: float = 1e-3) -> TorchEncoder:
    settings = RepairSettings(sentences=len(sentences), ridge=ridge)
    return repair(slice_encoder(teacher, kept), teacher, kept, sentences, settings)


def cosine(student: TorchEncoder, teacher: TorchEncoder, sentences: list[str]) -> float:
    return float((embed(student, sentences) * embed(teacher, sentences)).sum(axis=1).mean())


def double_up(encoder: TorchEncoder) -> TorchEncoder:
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
def test_what_lies_before_the_first_cut_stays_bit_equal(
    make_encoder: MakeEncoder, sentences: list[str], family: str
) -> None:
    teacher = make_encoder(family)
    whole = keep_all(teacher)
    kept = replace(whole, neurons=(whole.neurons[0], (0, 1), whole.neurons[2]))
    first, _, last = zip(
        find_layers(mend(teacher, kept, sentences).transformer), find_layers(teacher.transformer), strict=True
    )
    for new, old in zip(*(layer.parameters() for layer in first), strict=True):
        assert torch.equal(new, old)
    for new, old in zip(*(layer.parameters() for layer in last), strict=True):
        assert not torch.equal(new, old)
    unchanged = mend(teacher, whole, sentences).transformer.state_dict()
    assert all(torch.equal(weight, unchanged[name]) for name, weight in teacher.transformer.state_dict().items())


def test_cut_duplicates_are_restored_exactly(teacher: TorchEncoder, sentences: list[str]) -> None:
    doubled = double_up(teacher)
    student = slice_encoder(doubled, HALF)
    assert cosine(student, doubled, sentences[1::2]) < 0.9
    repaired = mend(doubled, HALF, sentences[::2], ridge=1e-9)
    np.testing.assert_allclose(embed(repaired, sentences[1::2]), embed(doubled, sentences[1::2]), atol=1e-3)


SETTINGS = RepairSettings(sentences=2, ridge=0.1, w_sentence=2.0)


def toy_half(generator: torch.Generator) -> Half:
    """A half layer of 3 channels over a hidden width of 4."""
    reader, projection, norm = nn.Linear(4, 3), nn.Linear(3, 4), nn.LayerNorm(4)
    for parameter in (*reader.parameters(), *projection.parameters(), *norm.parameters()):
        parameter.data = torch.randn(parameter.shape, generator=generator)
    return Half(readers=(reader,), channels=lambda x: reader(x).tanh(), projection=projection, norm=norm)


def solve(inputs: Tensor, missing: Tensor) -> tuple[Tensor, Tensor]:
    """Return D [m, k] and d [m] of the ridge regression in the module's docstring, written out with an inverse."""
    c = torch.cat([inputs, torch.ones(*inputs.shape[:2], 1)], dim=-1).double()  # [sentences, tokens, k + 1]
    return solve_rows(c, missing.double())


def solve_rows(c: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
    C, R = c.flatten(0, 1), r.flatten(0, 1)
    gram = C.T @ C / len(C) + SETTINGS.w_sentence * c.mean(dim=1).T @ c.mean(dim=1) / len(c)
    moment = C.T @ R / len(C) + SETTINGS.w_sentence * c.mean(dim=1).T @ r.mean(dim=1) / len(c)
    ridge = SETTINGS.ridge * gram.diagonal().mean() * torch.eye(len(gram))
    D = (torch.linalg.inv(gram + ridge) @ moment).T
    return D[:, :-1], D[:, -1]


@pytest.fixture
def batches() -> tuple[Tensor, Tensor]:
    """Return hidden states [sentences, tokens, H] of a student and of its teacher."""
    generator = torch.Generator().manual_seed(0)
    goals = torch.randn(6, 5, 4, generator=generator)
    return goals + torch.randn(6, 5, 4, generator=generator) / 2, goals


@torch.no_grad()
def test_the_refit_projection_solves_the_normal_equations(batches: tuple[Tensor, Tensor]) -> None:
    inputs, targets = batches
    half = toy_half(torch.Generator().manual_seed(1))
    before = deepcopy(half.projection)
    channels = half.channels(inputs)
    refit_projection(half.projection, *(list(each.split(2)) for each in (channels, inputs, targets)), None, SETTINGS)
    s = targets.double().std(dim=-1, keepdim=True)
    c = torch.cat([channels, torch.ones(6, 5, 1)], dim=-1) / s
    D, d = solve_rows(c, (targets - inputs - before(channels)) / s)
    torch.testing.assert_close(half.projection.weight.double(), before.weight + D, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(half.projection.bias.double(), before.bias + d, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_the_refit_readers_read_the_student_mapped_to_its_teacher(batches: tuple[Tensor, Tensor]) -> None:
    inputs, goals = batches
    half = toy_half(torch.Generator().manual_seed(1))
    (reader,) = half.readers
    before = deepcopy(reader)
    rows = torch.arange(3)
    refit_readers(half.readers, (before,), rows, list(inputs.split(2)), list(goals.split(2)), None, SETTINGS)
    D, d = solve(inputs, goals - inputs)
    mapped = inputs + inputs @ D.T.float() + d.float()
    torch.testing.assert_close(reader(inputs), before(mapped), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_the_refit_norm_is_one_line_per_channel(batches: tuple[Tensor, Tensor]) -> None:
    sums, targets = batches
    norm = toy_half(torch.Generator().manual_seed(1)).norm
    before = deepcopy(norm)
    refit_norm(norm, list(sums.split(2)), [standardise(each, norm) for each in targets.split(2)], None, SETTINGS)
    plain = nn.LayerNorm(4)
    for channel in range(4):
        found, wanted = (plain(values)[..., channel : channel + 1] for values in (sums, targets))
        D, d = solve(found, wanted - found)
        line = before.weight[channel] * (found + D.float() * found + d.float()) + before.bias[channel]
        torch.testing.assert_close(norm(sums)[..., channel : channel + 1], line, rtol=1e-4, atol=1e-5)


def run_half(half: Half, hidden: Tensor) -> Tensor:
    output: Tensor = half.norm(hidden + half.projection(half.channels(hidden)))
    return output


@pytest.mark.parametrize("family", FAMILIES)
@torch.inference_mode()
def test_two_halves_are_the_layer(make_encoder: MakeEncoder, family: str) -> None:
    transformer = make_encoder(family).transformer
    hidden = torch.randn(2, 7, transformer.config.hidden_size, generator=torch.Generator().manual_seed(0))
    for layer in find_layers(transformer):
        attention, ffn = split_layer(layer, layer_names(transformer.config))
        middle = run_half(attention, hidden)
        output = layer(hidden)
        output = output[0] if isinstance(output, tuple) else output
        torch.testing.assert_close(run_half(ffn, middle), output, rtol=1e-5, atol=1e-6)


def test_a_large_ridge_keeps_the_sliced_weights(teacher: TorchEncoder, ragged: Kept, sentences: list[str]) -> None:
    student = slice_encoder(teacher, ragged)
    repaired = mend(teacher, ragged, sentences, ridge=1e12)
    np.testing.assert_allclose(embed(repaired, sentences), embed(student, sentences), atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_repair_raises_the_cosine_to_the_teacher_on_unseen_sentences(
    make_encoder: MakeEncoder, ragged: Kept, sentences: list[str], family: str
) -> None:
    teacher = make_encoder(family)
    for kept in (HALF, ragged):  # ragged: a layer without heads, a layer without neurons
        student = slice_encoder(teacher, kept)
        repaired = mend(teacher, kept, sentences[::2], ridge=1e-2)
        before, after = (cosine(encoder, teacher, sentences[1::2]) for encoder in (student, repaired))
        assert after > before + 0.3 * (1 - before)


NARROW = tuple(channel for channel in range(32) if channel % 4)  # 24 of 32, three heads of 8


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("pooling", ["mean", "pooler"])
def test_cut_channels_and_layers_are_repaired_on_unseen_sentences(
    make_encoder: MakeEncoder, sentences: list[str], family: str, pooling: str
) -> None:
    teacher = make_encoder(family, pooling=pooling)
    whole = keep_all(teacher)
    fewer = {"heads": whole.heads[:2], "neurons": whole.neurons[:2]}
    for kept in (
        replace(whole, hidden=NARROW),
        replace(whole, layers=(0, 2), **fewer),
        replace(whole, layers=(1, 2), **fewer),
        replace(HALF, hidden=NARROW, layers=(0, 1), heads=HALF.heads[:2], neurons=HALF.neurons[:2]),
    ):
        student = slice_encoder(teacher, kept)
        repaired = mend(teacher, kept, sentences[::2], ridge=1e-2)
        before, after = (cosine(encoder, teacher, sentences[1::2]) for encoder in (student, repaired))
        assert after > before + 0.3 * (1 - before)


def test_channels_that_repeat_others_are_cut_without_a_trace(teacher: TorchEncoder, sentences: list[str]) -> None:
    # every channel 16 + i is a copy of channel i, in all that writes and reads the hidden states
    transformer = deepcopy(teacher.transformer)
    with torch.no_grad():
        for name, value in transformer.state_dict().items():
            if name.startswith("embeddings."):
                value[..., 16:] = value[..., :16]
            elif "LayerNorm" in name or name.endswith(("output.dense.weight", "output.dense.bias")):
                value[16:] = value[:16]
    doubled = replace_transformer(teacher, transformer)
    kept = replace(keep_all(teacher), hidden=tuple(range(16)))
    repaired = mend(doubled, kept, sentences[::2], ridge=1e-9)
    np.testing.assert_allclose(embed(repaired, sentences[1::2]), embed(doubled, sentences[1::2]), atol=1e-3)


def test_a_neuron_that_is_always_zero_does_not_stop_the_repair(teacher: TorchEncoder, sentences: list[str]) -> None:
    with torch.no_grad():
        for layer in teacher.transformer.encoder.layer:
            layer.intermediate.dense.weight[0], layer.intermediate.dense.bias[0] = 0, 0  # gelu(0) = 0
    repaired = mend(teacher, HALF, sentences[:1], ridge=1e-9)  # and fewer tokens than channels
    assert np.isfinite(embed(repaired, sentences)).all()


@pytest.mark.parametrize("sentences_given", [3, 30], ids=["fewer rows than inputs", "more"])
def test_moments_solve_the_ridge_regression_of_tokens_and_sentences(sentences_given: int) -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(sentences_given, 5, 40, generator=generator)
    missing = torch.randn(sentences_given, 5, 7, generator=generator)
    moments = Moments.empty(40, 7)
    for start in range(0, sentences_given, 3):
        moments.add(inputs[start : start + 3], missing[start : start + 3])
    weight, bias = moments.solve(RepairSettings(sentences=1, ridge=0.01, w_sentence=0.5))

    carried = torch.cat([inputs, torch.ones(*inputs.shape[:2], 1)], dim=-1).double().numpy()
    tokens, means = carried.reshape(-1, 41), carried.mean(axis=1)
    wanted = missing.double().numpy()
    gram = tokens.T @ tokens / len(tokens) + 0.5 * means.T @ means / len(means)
    moment = tokens.T @ wanted.reshape(-1, 7) / len(tokens) + 0.5 * means.T @ wanted.mean(axis=1) / len(means)
    expected = np.linalg.solve(gram + 0.01 * np.trace(gram) / 41 * np.eye(41), moment).T
    np.testing.assert_allclose(weight, expected[:, :-1], atol=1e-6)
    np.testing.assert_allclose(bias, expected[:, -1], atol=1e-6)


def test_the_student_given_is_not_touched(teacher: TorchEncoder, ragged: Kept, sentences: list[str]) -> None:
    student = slice_encoder(teacher, ragged)
    before = {name: value.clone() for name, value in student.transformer.state_dict().items()}
    repaired = repair(student, teacher, ragged, sentences, RepairSettings(sentences=len(sentences)))
    assert all(torch.equal(value, before[name]) for name, value in student.transformer.state_dict().items())
    assert not torch.equal(
        repaired.transformer.encoder.layer[0].output.dense.weight, before["encoder.layer.0.output.dense.weight"]
    )
    assert all(parameter.requires_grad for parameter in repaired.transformer.parameters())
    assert not [module for module in repaired.model.modules() if module._forward_pre_hooks]


def test_no_calibration_sentences_is_no_repair(teacher: TorchEncoder, ragged: Kept, sentences: list[str]) -> None:
    student = slice_encoder(teacher, ragged)
    assert repair(student, teacher, ragged, sentences, RepairSettings(sentences=0)) is student


def test_cost_grows_linearly_with_layers(make_encoder: MakeEncoder, sentences: list[str]) -> None:
    calls = {layers: count_calls(make_encoder(layers=layers), sentences[:8]) for layers in (2, 4, 8)}
    assert calls[4] == 2 * calls[2] > 0
    assert calls[8] == 4 * calls[2]


def count_calls(teacher: TorchEncoder, sentences: list[str]) -> int:
    """Return how many times a repair runs a layer, the teacher's or the student's."""
    kept = keep_all(teacher)
    student = slice_encoder(teacher, kept)
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    for encoder in (teacher, student):
        for layer in find_layers(encoder.transformer):
            layer.register_forward_pre_hook(count)  # a deep copy keeps it
    repair(student, teacher, kept, sentences, RepairSettings(sentences=len(sentences)))
    return calls

"""Gates against weight gradients, finite differences and brute force; each criterion against its formula."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import FAMILIES, MakeEncoder, keep_all
from torch import Tensor, nn

from secateur.config.errors import InputError
from secateur.config.pruning import SaliencySettings
from secateur.data.pairs import Pairs
from secateur.encoders.encoder import TorchEncoder, embed, encode, pad, tokenize
from secateur.encoders.modeling import find_layers, find_linear, head_size, layer_names
from secateur.encoders.surgery import replace_transformer
from secateur.pruning.criteria import CRITERIA
from secateur.pruning.gates import accumulate_gates, frozen, gated, output_scores, pair_losses
from secateur.pruning.layers import score_layers
from secateur.pruning.saliency import measure_saliency
from secateur.pruning.scores import Saliency, load_saliency, save_saliency
from secateur.pruning.selection import Kept
from secateur.pruning.slicing import slice_encoder

GRADIENT_CRITERIA = ("similarity", "output", "both", "taylor_weight")


def measure(encoder: TorchEncoder, corpus: Pairs, criterion: str, *, seed: int = 0, **keys: Any) -> Saliency:
    settings = SaliencySettings(**{"pairs": 12, "criterion": criterion, **keys})
    return measure_saliency(encoder, corpus, settings, seed=seed)


def flat(saliency: Saliency) -> Tensor:
    return torch.cat([*saliency.heads, *saliency.neurons, saliency.hidden])


def pair_inputs(encoder: TorchEncoder, pairs: Pairs, count: int) -> dict[str, Tensor]:
    return pad(encoder, tokenize(encoder, [*pairs.en[:count], *pairs.ru[:count]]))


def assert_close(actual: Tensor, expected: Tensor, *, relative: float) -> None:
    """Compare up to `relative` of the largest expected value."""
    scale = expected.abs().max().item()
    assert scale > 0
    torch.testing.assert_close(actual.to(expected.dtype), expected, rtol=0, atol=relative * scale)


def permute_heads(encoder: TorchEncoder, order: list[int]) -> TorchEncoder:
    """Return an encoder whose head i is the given one's head order[i], in every layer."""
    transformer = deepcopy(encoder.transformer)
    names, size = layer_names(transformer.config), head_size(transformer.config)
    channels = torch.cat([torch.arange(head * size, (head + 1) * size) for head in order])
    with torch.no_grad():
        for layer in find_layers(transformer):
            for path in (names.query, names.key, names.value):
                linear = find_linear(layer, path)
                linear.weight.copy_(linear.weight[channels])
                linear.bias.copy_(linear.bias[channels])
            output = find_linear(layer, names.attention_output)
            output.weight.copy_(output.weight[:, channels])
    return replace_transformer(encoder, transformer)


@contextmanager
def multiplied(linear: nn.Linear, factors: Tensor) -> Iterator[None]:
    """Multiply what enters a projection, channel by channel: a real gate."""
    handle = linear.register_forward_pre_hook(lambda _, inputs: (inputs[0] * factors,))
    yield
    handle.remove()


@contextmanager
def channels_multiplied(encoder: TorchEncoder, factors: Tensor) -> Iterator[None]:
    """Multiply the hidden states by factors [H] behind the embeddings and behind every LayerNorm of a layer."""
    names = layer_names(encoder.transformer.config)
    modules = [encoder.transformer.get_submodule("embeddings")]
    for layer in find_layers(encoder.transformer):
        modules += [layer.get_submodule(names.attention_norm), layer.get_submodule(names.output_norm)]
    handles = [module.register_forward_hook(lambda _, __, states: states * factors) for module in modules]
    yield
    for handle in handles:
        handle.remove()


@contextmanager
def masked(encoder: TorchEncoder, kept: Kept) -> Iterator[None]:
    """Multiply the contexts of all heads and the activations of all neurons that are not kept by zero."""
    names, size = layer_names(encoder.transformer.config), head_size(encoder.transformer.config)
    with ExitStack() as stack:
        for layer, heads, neurons in zip(find_layers(encoder.transformer), kept.heads, kept.neurons, strict=True):
            output, contract = find_linear(layer, names.attention_output), find_linear(layer, names.contract)
            head_mask = torch.zeros(output.in_features // size)
            head_mask[list(heads)] = 1
            neuron_mask = torch.zeros(contract.in_features)
            neuron_mask[list(neurons)] = 1
            stack.enter_context(multiplied(output, head_mask.repeat_interleave(size)))
            stack.enter_context(multiplied(contract, neuron_mask))
        yield


@pytest.mark.parametrize("family", FAMILIES)
def test_gate_gradient_is_the_sum_of_weight_times_gradient_over_its_columns(
    make_encoder: MakeEncoder, pairs: Pairs, family: str
) -> None:
    encoder = make_encoder(family)
    names, size = layer_names(encoder.transformer.config), head_size(encoder.transformer.config)
    with gated(encoder) as gates:
        loss = pair_losses(encode(encoder, pair_inputs(encoder, pairs, 8)).vectors).sum()
        gradients = dict(zip(gates, torch.autograd.grad(loss, list(gates.values()), retain_graph=True), strict=True))
        loss.backward()
    for number, layer in enumerate(find_layers(encoder.transformer)):
        output, contract = find_linear(layer, names.attention_output), find_linear(layer, names.contract)
        by_head = (output.weight * output.weight.grad).sum(dim=0).view(-1, size).sum(dim=1)
        by_neuron = (contract.weight * contract.weight.grad).sum(dim=0)
        assert_close(gradients["heads", number].sum(dim=0), by_head.detach(), relative=1e-5)
        assert_close(gradients["neurons", number].sum(dim=0), by_neuron.detach(), relative=1e-5)


def test_bf16_scores_are_those_of_float32_but_for_its_rounding(teacher: TorchEncoder, pairs: Pairs) -> None:
    exact, rounded = (measure(teacher, pairs, "both", precision=name) for name in ("float32", "bf16"))
    assert not torch.equal(flat(exact), flat(rounded))
    for axis in ("heads", "neurons"):
        for one, other in zip(getattr(exact, axis), getattr(rounded, axis), strict=True):
            assert_close(other, one, relative=0.05)


def test_each_row_of_a_gate_is_the_gradient_of_its_sentence_alone(teacher: TorchEncoder, sentences: list[str]) -> None:
    rows = tokenize(teacher, sentences[::8])
    probe = torch.randn(len(rows), teacher.dimension, generator=torch.Generator().manual_seed(0))

    def gradients(chosen: slice) -> list[Tensor]:
        with gated(teacher) as gates:
            loss = (encode(teacher, pad(teacher, rows[chosen])).vectors * probe[chosen]).sum()
            return list(torch.autograd.grad(loss, list(gates.values())))

    together = gradients(slice(None))
    for row in range(len(rows)):
        for batch, alone in zip(together, gradients(slice(row, row + 1)), strict=True):
            torch.testing.assert_close(alone[0], batch[row], rtol=1e-4, atol=1e-5)


def test_gates_leave_the_vectors_as_they_are(teacher: TorchEncoder, sentences: list[str]) -> None:
    expected = embed(teacher, sentences)
    with gated(teacher):
        assert np.array_equal(embed(teacher, sentences), expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_encoder_gated_to_zero_equals_the_sliced_one(
    make_encoder: MakeEncoder, ragged: Kept, sentences: list[str], family: str
) -> None:
    encoder = make_encoder(family)
    with masked(encoder, ragged):
        expected = embed(encoder, sentences)
    assert np.abs(expected - embed(encoder, sentences)).max() > 0.01
    np.testing.assert_allclose(embed(slice_encoder(encoder, ragged), sentences), expected, atol=1e-5)


@pytest.mark.parametrize("criterion", [*GRADIENT_CRITERIA, "magnitude"])
def test_permuted_heads_give_the_same_vectors_and_permuted_scores(
    teacher: TorchEncoder, pairs: Pairs, sentences: list[str], criterion: str
) -> None:
    order = [2, 0, 3, 1]
    permuted = permute_heads(teacher, order)
    np.testing.assert_allclose(embed(permuted, sentences), embed(teacher, sentences), atol=1e-5)
    ours, theirs = measure(permuted, pairs, criterion), measure(teacher, pairs, criterion)
    for one, two in zip(ours.heads, theirs.heads, strict=True):
        assert_close(one, two[order], relative=1e-4)
    assert_close(torch.cat(ours.neurons), torch.cat(theirs.neurons), relative=1e-4)


def test_similarity_is_the_sum_over_pairs_of_the_absolute_gate_gradient(teacher: TorchEncoder, pairs: Pairs) -> None:
    expected = [torch.zeros(4, dtype=torch.float64) for _ in range(3)]
    for row in range(12):
        with gated(teacher) as gates:
            en, ru = encode(teacher, pad(teacher, tokenize(teacher, [pairs.en[row], pairs.ru[row]]))).vectors
            (2 - 2 * en @ ru).backward()
        for layer in range(3):
            expected[layer] += gates["heads", layer].grad.sum(dim=0).abs()
    for actual, by_hand in zip(measure(teacher, pairs, "similarity").heads, expected, strict=True):
        assert_close(actual, by_hand, relative=1e-4)


def unit_probe(dimension: int) -> object:
    """Return the gate scores of one dimension of the sentence vectors: squared derivatives, summed over the batch."""
    return lambda vectors: (vectors[:, dimension].sum(), lambda gradient: gradient.square().sum(dim=0))


def test_unit_probes_add_up_to_the_squared_derivative_by_finite_differences(
    teacher: TorchEncoder, sentences: list[str]
) -> None:
    encoder = replace_transformer(teacher, deepcopy(teacher.transformer).double())
    inputs = pad(encoder, tokenize(encoder, sentences[:4]))

    with frozen(encoder):
        parts = accumulate_gates(encoder, [inputs], [unit_probe(d) for d in range(encoder.dimension)])
    names = layer_names(encoder.transformer.config)
    layer = find_layers(encoder.transformer)[1]
    for axis, path, first, last in (("heads", names.attention_output, 8, 16), ("neurons", names.contract, 5, 6)):
        linear = find_linear(layer, path)
        nudge = torch.zeros(linear.in_features, dtype=torch.float64)
        nudge[first:last] = 1e-5
        with torch.no_grad():
            with multiplied(linear, 1 + nudge):
                above = encode(encoder, inputs).vectors
            with multiplied(linear, 1 - nudge):
                below = encode(encoder, inputs).vectors
        expected = ((above - below) / 2e-5).square().sum()
        actual = sum(getattr(part, axis)[1][1 if axis == "heads" else 5] for part in parts)
        assert_close(actual, expected, relative=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_channels_score_is_the_squared_derivative_of_the_vector_by_the_channel_in_every_layer(
    make_encoder: MakeEncoder, sentences: list[str], family: str
) -> None:
    encoder = make_encoder(family)
    encoder = replace_transformer(encoder, deepcopy(encoder.transformer).double())
    inputs = pad(encoder, tokenize(encoder, sentences[:4]))

    with frozen(encoder):
        parts = accumulate_gates(encoder, [inputs], [unit_probe(d) for d in range(encoder.dimension)])
    for channel in (0, 19):
        nudge = torch.zeros(32, dtype=torch.float64)
        nudge[channel] = 1e-5
        with torch.no_grad():
            with channels_multiplied(encoder, 1 + nudge):
                above = encode(encoder, inputs).vectors
            with channels_multiplied(encoder, 1 - nudge):
                below = encode(encoder, inputs).vectors
        expected = ((above - below) / 2e-5).square().sum()
        assert_close(sum(part.hidden[channel] for part in parts), expected, relative=1e-5)


def test_random_probes_estimate_the_squared_derivative(teacher: TorchEncoder, sentences: list[str]) -> None:
    inputs = pad(teacher, tokenize(teacher, sentences[:8]))
    generator, repeats = torch.Generator().manual_seed(0), 200

    with frozen(teacher):
        exact = accumulate_gates(teacher, [inputs], [unit_probe(d) for d in range(teacher.dimension)])
        (estimate,) = accumulate_gates(teacher, [inputs] * repeats, [output_scores(generator)])
    expected = sum(torch.cat(part.heads) for part in exact)
    assert ((torch.cat(estimate.heads) / repeats / expected) - 1).abs().max() < 0.3  # deviation sqrt(2 / 1600) x 6..8


def test_both_adds_the_shares_of_similarity_and_probe(teacher: TorchEncoder, pairs: Pairs) -> None:
    both, similarity, probe = (measure(teacher, pairs, name, seed=1) for name in ("both", "similarity", "output"))
    for scores in (lambda each: torch.cat(each.heads), lambda each: torch.cat(each.neurons), lambda each: each.hidden):
        one, two = scores(similarity), scores(probe)
        assert_close(scores(both), one / one.sum() + two / two.sum(), relative=1e-9)


def test_taylor_weight_is_the_brute_force_sum_over_a_groups_weights(teacher: TorchEncoder, pairs: Pairs) -> None:
    copy = replace_transformer(teacher, deepcopy(teacher.transformer))
    pair_losses(encode(copy, pair_inputs(copy, pairs, 12)).vectors).sum().backward()
    actual = measure(teacher, pairs, "taylor_weight", batch_size=5)
    for number, layer in enumerate(copy.transformer.encoder.layer):
        own, ffn = layer.attention.self, (layer.intermediate.dense.weight, layer.output.dense.weight)
        for head in range(4):
            rows = slice(head * 8, head * 8 + 8)
            parts = [linear.weight.grad[rows] * linear.weight[rows] for linear in (own.query, own.key, own.value)]
            output = layer.attention.output.dense.weight
            expected = sum(part.abs().sum() for part in [*parts, output.grad[:, rows] * output[:, rows]])
            assert actual.heads[number][head].item() == pytest.approx(expected.item(), rel=1e-3)
        first, second = ((weight * weight.grad).abs().detach() for weight in ffn)
        assert_close(actual.neurons[number], first.sum(dim=1) + second.sum(dim=0), relative=1e-4)


def test_magnitude_is_the_sum_of_absolute_weights(teacher: TorchEncoder, pairs: Pairs) -> None:
    scores = measure(teacher, pairs, "magnitude")
    layer = teacher.transformer.encoder.layer[2]
    own = layer.attention.self
    rows = slice(8, 16)
    expected = sum(linear.weight[rows].abs().sum() for linear in (own.query, own.key, own.value))
    expected = expected + layer.attention.output.dense.weight[:, rows].abs().sum()
    assert scores.heads[2][1].item() == pytest.approx(expected.item(), rel=1e-5)
    neuron = layer.intermediate.dense.weight[7].abs().sum() + layer.output.dense.weight[:, 7].abs().sum()
    assert scores.neurons[2][7].item() == pytest.approx(neuron.item(), rel=1e-5)
    channel = sum(
        linear.weight[:, 3].abs().sum()
        for layer in teacher.transformer.encoder.layer
        for own in [layer.attention.self]
        for linear in (own.query, own.key, own.value, layer.intermediate.dense)
    ) + sum(
        linear.weight[3].abs().sum()
        for layer in teacher.transformer.encoder.layer
        for linear in (layer.attention.output.dense, layer.output.dense)
    )
    assert scores.hidden[3].item() == pytest.approx(channel.item(), rel=1e-5)


def test_random_and_probe_follow_the_seed(teacher: TorchEncoder, pairs: Pairs) -> None:
    for criterion in ("random", "output"):
        first, again, other = (flat(measure(teacher, pairs, criterion, seed=seed)) for seed in (3, 3, 4))
        assert torch.equal(first, again)
        assert not torch.equal(first, other)


@pytest.mark.parametrize("criterion", ["similarity", "taylor_weight"])
def test_padding_and_batching_do_not_change_scores(teacher: TorchEncoder, pairs: Pairs, criterion: str) -> None:
    alone = flat(measure(teacher, pairs, criterion, batch_size=1))
    together = flat(measure(teacher, pairs, criterion, batch_size=12))
    assert_close(together, alone, relative=1e-4)


def test_only_paired_rows_are_measured_and_no_more_than_asked(teacher: TorchEncoder, pairs: Pairs) -> None:
    paired = [row % 2 == 0 for row in range(len(pairs))]
    mixed = Pairs(en=pairs.en, ru=pairs.ru, source=pairs.source, paired=paired)
    even = Pairs(en=pairs.en[::2], ru=pairs.ru[::2], source=pairs.source[::2], paired=[True] * (len(pairs) // 2))
    ours, theirs = measure(teacher, mixed, "similarity", pairs=7), measure(teacher, even, "similarity", pairs=7)
    assert torch.equal(flat(ours), flat(theirs))
    with pytest.raises(InputError, match="no translation pairs"):
        measure(teacher, Pairs(en=pairs.en, ru=pairs.ru, source=pairs.source, paired=[False] * 32), "similarity")


@pytest.mark.parametrize("criterion", list(CRITERIA))
def test_measuring_leaves_the_model_as_it_was(teacher: TorchEncoder, pairs: Pairs, criterion: str) -> None:
    transformer = teacher.transformer
    transformer.train()
    transformer.embeddings.requires_grad_(False)
    before = {name: value.clone() for name, value in transformer.state_dict().items()}
    modes = [module.training for module in teacher.model.modules()]
    trained = [parameter.requires_grad for parameter in transformer.parameters()]
    measure(teacher, pairs, criterion)
    assert all(torch.equal(value, before[name]) for name, value in transformer.state_dict().items())
    assert [module.training for module in teacher.model.modules()] == modes
    assert [parameter.requires_grad for parameter in transformer.parameters()] == trained
    assert all(parameter.grad is None for parameter in transformer.parameters())
    assert not [module for module in teacher.model.modules() if module._forward_pre_hooks or module._forward_hooks]


def test_an_error_while_measuring_leaves_the_model_as_it_was(teacher: TorchEncoder, pairs: Pairs) -> None:
    def fail(vectors: Tensor) -> None:
        raise RuntimeError("stop")

    teacher.transformer.train()
    with pytest.raises(RuntimeError, match="stop"), frozen(teacher):
        accumulate_gates(teacher, [pair_inputs(teacher, pairs, 2)], [fail])
    assert teacher.transformer.training
    assert all(parameter.requires_grad for parameter in teacher.transformer.parameters())
    assert not [module for module in teacher.transformer.modules() if module._forward_pre_hooks]


@pytest.mark.parametrize("criterion", list(CRITERIA))
def test_a_ragged_student_can_be_measured_again(
    teacher: TorchEncoder, ragged: Kept, pairs: Pairs, criterion: str
) -> None:
    scores = measure(slice_encoder(teacher, ragged), pairs, criterion)
    assert [len(layer) for layer in scores.heads] == [2, 0, 3]
    assert [len(layer) for layer in scores.neurons] == [16, 5, 0]
    assert torch.isfinite(flat(scores)).all()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("criterion", list(CRITERIA))
def test_every_family_gives_a_positive_score_to_every_head_and_neuron(
    make_encoder: MakeEncoder, pairs: Pairs, family: str, criterion: str
) -> None:
    encoder = make_encoder(family, layers=2)
    scores = measure(encoder, pairs, criterion, pairs=4)
    everything = keep_all(encoder)
    assert [len(layer) for layer in scores.heads] == [len(layer) for layer in everything.heads]
    assert [len(layer) for layer in scores.neurons] == [len(layer) for layer in everything.neurons]
    assert flat(scores).dtype == torch.float64
    assert (flat(scores) > 0).all()


def test_saved_scores_are_read_back_equal(tmp_path: Path) -> None:
    heads = tuple(torch.arange(layer, dtype=torch.float64) for layer in range(12))  # layer 0 has none
    neurons = tuple(torch.full((3,), 0.1, dtype=torch.float64) * layer for layer in range(12))
    hidden = torch.arange(5, dtype=torch.float64)
    save_saliency(Saliency(heads=heads, neurons=neurons, hidden=hidden), tmp_path / "saliency.safetensors")
    loaded = load_saliency(tmp_path / "saliency.safetensors")
    assert all(torch.equal(one, two) for one, two in zip(loaded.heads, heads, strict=True))
    assert all(torch.equal(one, two) for one, two in zip(loaded.neurons, neurons, strict=True))
    assert torch.equal(loaded.hidden, hidden)
    assert [path.name for path in tmp_path.iterdir()] == ["saliency.safetensors"]


def test_a_layers_score_is_what_its_removal_does_to_the_vectors(teacher: TorchEncoder, sentences: list[str]) -> None:
    whole = keep_all(teacher)

    def loss(kept: tuple[int, ...]) -> float:
        heads, neurons = ([each[layer] for layer in kept] for each in (whole.heads, whole.neurons))
        student = slice_encoder(teacher, Kept(tuple(heads), tuple(neurons), layers=kept))
        return float(1 - (embed(student, sentences) * embed(teacher, sentences)).sum(axis=1).mean())

    single = {number: loss(tuple(each for each in range(3) if each != number)) for number in range(3)}
    first = min(single, key=single.__getitem__)
    scores = score_layers(teacher, sentences)
    assert scores[first].item() == pytest.approx(single[first], abs=1e-6)
    rest = [number for number in range(3) if number != first]
    second = min(rest, key=lambda number: loss(tuple(each for each in rest if each != number)))
    assert torch.argsort(scores)[:2].tolist() == [first, second]
    assert not [module for module in teacher.model.modules() if "forward" in vars(module)]

"""Gates of ones on heads, neurons and hidden channels, and the gradients that reach them.

A gate g = 1 multiplies every head's context and every neuron's activation. By the chain rule

    dL/dg_h = sum over the columns c of head h, over rows r, of w_rc dL/dw_rc    (w: the output projection)

so one number per head holds the signed Taylor term of the whole head, and no weight gradient is ever made. A channel
of the hidden width is the same channel in every layer: one gate, shared, stands behind the embeddings and behind every
LayerNorm, and its gradient is the sum over all of them.
One gate per sentence gives one signed value per sentence (Michel et al. 2019, equation 2, takes |dL/dg| per
example; Molchanov et al. 2017 derive |w dL/dw|).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from secateur.encoders.encoder import TorchEncoder, encode
from secateur.encoders.modeling import count_heads, count_neurons, find_layers, layer_names
from secateur.pruning.scores import Saliency

# The vectors of a batch, en then ru [2B, D] -> the scalar to differentiate, and how a gate's gradient
# [2B, groups] becomes one non-negative score per group.
Score = Callable[[Tensor], tuple[Tensor, Callable[[Tensor], Tensor]]]


def similarity_scores(vectors: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    def per_pair(gradient: Tensor) -> Tensor:
        en, ru = gradient.chunk(2)
        return (en + ru).abs().sum(dim=0)

    return pair_losses(vectors).sum(), per_pair


def output_scores(generator: torch.Generator) -> Score:
    def score(vectors: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        probe = torch.randn(vectors.shape, generator=generator).to(vectors)  # [2B, D]
        return (probe * vectors).sum(), lambda gradient: gradient.square().sum(dim=0)

    return score


def pair_losses(vectors: Tensor) -> Tensor:
    """Return |en_i - ru_i|^2 for each pair [B], of unit vectors [2B, D], English first."""
    en, ru = vectors.chunk(2)
    return (en - ru).square().sum(dim=-1)


def accumulate_gates(encoder: TorchEncoder, batches: "PairBatches", scores: list[Score]) -> list[Saliency]:
    """Run every batch once with gates in place and add up each score's value per gate."""
    counts = {"heads": count_heads(encoder.transformer), "neurons": count_neurons(encoder.transformer)}
    counts["hidden"] = [encoder.transformer.config.hidden_size]
    totals = [
        {axis: [torch.zeros(n, dtype=torch.float64) for n in layers] for axis, layers in counts.items()} for _ in scores
    ]
    with gated(encoder) as gates:
        for inputs in batches:
            for total, values in zip(totals, score_batch(encoder, inputs, gates, scores), strict=True):
                for (axis, layer), value in values.items():
                    total[axis][layer] += value
            gates.clear()  # what is left of a batch would lie between the next one's activations
    return [
        Saliency(heads=tuple(total["heads"]), neurons=tuple(total["neurons"]), hidden=total["hidden"][0])
        for total in totals
    ]


def score_batch(
    encoder: TorchEncoder, inputs: dict[str, Tensor], gates: dict[tuple[str, int], Tensor], scores: list[Score]
) -> list[dict[tuple[str, int], Tensor]]:
    """Return each score's value per gate for one batch, by (axis, layer), in float64."""
    vectors = encode(encoder, inputs).vectors
    values = []
    for number, score in enumerate(scores):
        loss, reduce = score(vectors)
        more = number < len(scores) - 1
        gradients = torch.autograd.grad(loss, list(gates.values()), retain_graph=more)
        values.append({name: reduce(gradient).double().cpu() for name, gradient in zip(gates, gradients, strict=True)})
    return values


class Gate(torch.autograd.Function):
    """The identity, whose gate of ones [B, groups] receives sum over tokens and channels of x dL/dx."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, gate: Tensor) -> Tensor:
        ctx.save_for_backward(values)
        ctx.groups = gate.shape[1]
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        (gradient,) = gradients
        (values,) = ctx.saved_tensors
        channels = (gradient * values).sum(dim=1)  # [B, channels]
        return gradient, channels.unflatten(-1, (ctx.groups, -1)).sum(dim=-1)


@contextmanager
def gated(encoder: TorchEncoder) -> Iterator[dict[tuple[str, int], Tensor]]:
    """Put a gate of ones on every head, neuron and hidden channel; yield those of the latest forward pass by (axis,
    layer), the hidden width's one gate as ("hidden", 0)."""
    names = layer_names(encoder.transformer.config)
    gates: dict[tuple[str, int], Tensor] = {}
    handles = []

    def add_gate(linear: nn.Module, axis: str, layer: int, groups: int) -> None:
        def apply(_: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
            (values,) = inputs  # [B, T, channels]
            gate = torch.ones(len(values), groups, device=values.device, requires_grad=True)
            gates[axis, layer] = gate
            return (Gate.apply(values, gate),)

        if groups:
            handles.append(linear.register_forward_pre_hook(apply))

    def pass_channels(_: nn.Module, __: Any, states: Tensor) -> Tensor:
        return cast(Tensor, Gate.apply(states, gates["hidden", 0]))

    def open_channels(module: nn.Module, inputs: Any, states: Tensor) -> Tensor:
        gates["hidden", 0] = torch.ones(len(states), states.shape[-1], device=states.device, requires_grad=True)
        return pass_channels(module, inputs, states)

    counts = zip(count_heads(encoder.transformer), count_neurons(encoder.transformer), strict=True)
    layers = find_layers(encoder.transformer)
    try:
        embeddings = encoder.transformer.get_submodule("embeddings")
        handles.append(embeddings.register_forward_hook(open_channels))
        for number, (layer, (heads, neurons)) in enumerate(zip(layers, counts, strict=True)):
            add_gate(layer.get_submodule(names.attention_output), "heads", number, heads)
            add_gate(layer.get_submodule(names.contract), "neurons", number, neurons)
            for norm in (names.attention_norm, names.output_norm):
                handles.append(layer.get_submodule(norm).register_forward_hook(pass_channels))
        yield gates
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def frozen(encoder: TorchEncoder) -> Iterator[None]:
    """Switch weight gradients off and evaluation mode on; put both back as they were."""
    parameters = [(parameter, parameter.requires_grad) for parameter in encoder.model.parameters()]
    modes = [(module, module.training) for module in encoder.model.modules()]
    encoder.model.eval().requires_grad_(False)
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
        for parameter, trained in parameters:
            parameter.requires_grad_(trained)


PairBatches = Iterator[dict[str, Tensor]]

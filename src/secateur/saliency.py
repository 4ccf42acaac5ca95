"""How much each head, FFN neuron and channel of the hidden width matters: first-order Taylor scores over a corpus.

A gate g = 1 multiplies every head's context and every neuron's activation. By the chain rule

    dL/dg_h = sum over the columns c of head h, over rows r, of w_rc dL/dw_rc    (w: the output projection)

so one number per head holds the signed Taylor term of the whole head, and no weight gradient is ever made. A channel
of the hidden width is the same channel in every layer: one gate, shared, stands behind the embeddings and behind every
LayerNorm, and its gradient is the sum over all of them.
One gate per sentence gives one signed value per sentence (Michel et al. 2019, equation 2, takes |dL/dg| per
example; Molchanov et al. 2017 derive |w dL/dw|).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm

from secateur import config
from secateur.config import InputError
from secateur.corpus import Pairs
from secateur.encoder import Encoder, computing_in, embed, encode, pad, tokenize
from secateur.files import whole_file
from secateur.losses import similarity_mse
from secateur.modeling import count_heads, count_neurons, find_layers, find_linear, head_size, layer_names


@dataclass(frozen=True)
class Saliency:
    """One float64 score per head and neuron, a tensor for each layer, and per hidden channel; higher matters more."""

    heads: tuple[Tensor, ...]
    neurons: tuple[Tensor, ...]
    hidden: Tensor  # [H]


def measure_saliency(
    encoder: Encoder, pairs: Pairs, settings: config.Saliency, *, seed: int, progress: str = ""
) -> Saliency:
    """Score every head, neuron and hidden channel of `encoder` on the first `settings.pairs` translation pairs.

    The model is used in evaluation mode and comes back as it was. The pairs run in batches of like length.
    """
    measure = CRITERIA[settings.criterion]
    generator = torch.Generator().manual_seed(seed)
    with frozen(encoder), computing_in(settings.precision, encoder.device):
        return measure(encoder, pair_batches(encoder, pairs, settings, progress), generator)


def measure_similarity(encoder: Encoder, batches: "PairBatches", generator: torch.Generator) -> Saliency:
    """Return the sum over pairs of |dL/dg|, L = |f(en) - f(ru)|^2."""
    return accumulate_gates(encoder, batches, [similarity_scores])[0]


def measure_probe(encoder: Encoder, batches: "PairBatches", generator: torch.Generator) -> Saliency:
    """Return the sum over sentences of (d<v, f(x)>/dg)^2, v ~ N(0, I) drawn anew for each sentence.

    Its expectation is |df/dg|^2: half the second derivative of |f_g(x) - f(x)|^2, the Gauss-Newton term of
    output matching, whose own gradient at the teacher is zero.
    """
    return accumulate_gates(encoder, batches, [probe_scores(generator)])[0]


def measure_both(encoder: Encoder, batches: "PairBatches", generator: torch.Generator) -> Saliency:
    """Return similarity + probe, each scaled to sum 1 on each axis, from one forward pass."""
    similarity, probe = accumulate_gates(encoder, batches, [similarity_scores, probe_scores(generator)])
    return add_up(similarity, probe)


def measure_taylor_weight(encoder: Encoder, batches: "PairBatches", generator: torch.Generator) -> Saliency:
    """Return |w dL/dw| summed over a head's query, key, value and output weights, a neuron's two matrices, and a
    channel's rows and columns in all of them.

    The gradient is summed over the corpus first (Petrov & Sentyurev 2024): this criterion, alone, keeps the
    gradient of every matrix it scores.
    """
    matrices = find_matrices(encoder)
    for matrix in matrices:
        matrix.requires_grad_(True)
    totals = [torch.zeros_like(matrix) for matrix in matrices]
    for inputs in batches:
        loss = pair_losses(encode(encoder, inputs).vectors).sum()
        gradients = torch.autograd.grad(loss, matrices, materialize_grads=True)  # zeros where a layer has no heads
        for total, gradient in zip(totals, gradients, strict=True):
            total += gradient
    products = {id(matrix): (matrix * total).detach().abs() for matrix, total in zip(matrices, totals, strict=True)}
    return sum_groups(encoder, lambda matrix: products[id(matrix)])


def measure_magnitude(encoder: Encoder, batches: "PairBatches", generator: torch.Generator) -> Saliency:
    """Return the sum of |w| over the same weights; no data is used."""
    return sum_groups(encoder, lambda matrix: matrix.detach().abs())


def measure_random(encoder: Encoder, batches: "PairBatches", generator: torch.Generator) -> Saliency:
    """Return uniform scores from the generator; no data is used."""

    def draw(counts: list[int]) -> tuple[Tensor, ...]:
        return tuple(torch.rand(count, generator=generator, dtype=torch.float64) for count in counts)

    transformer = encoder.transformer
    (hidden,) = draw([transformer.config.hidden_size])
    return Saliency(heads=draw(count_heads(transformer)), neurons=draw(count_neurons(transformer)), hidden=hidden)


CRITERIA: dict[str, Callable[[Encoder, "PairBatches", torch.Generator], Saliency]] = {
    "similarity": measure_similarity,
    "probe": measure_probe,
    "both": measure_both,
    "taylor_weight": measure_taylor_weight,
    "magnitude": measure_magnitude,
    "random": measure_random,
}

# The vectors of a batch, en then ru [2B, D] -> the scalar to differentiate, and how a gate's gradient
# [2B, groups] becomes one non-negative score per group.
Score = Callable[[Tensor], tuple[Tensor, Callable[[Tensor], Tensor]]]


def similarity_scores(vectors: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    def per_pair(gradient: Tensor) -> Tensor:
        en, ru = gradient.chunk(2)
        return (en + ru).abs().sum(dim=0)

    return pair_losses(vectors).sum(), per_pair


def probe_scores(generator: torch.Generator) -> Score:
    def score(vectors: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        probe = torch.randn(vectors.shape, generator=generator).to(vectors)  # [2B, D]
        return (probe * vectors).sum(), lambda gradient: gradient.square().sum(dim=0)

    return score


def pair_losses(vectors: Tensor) -> Tensor:
    en, ru = vectors.chunk(2)
    return similarity_mse(en, ru)


def accumulate_gates(encoder: Encoder, batches: "PairBatches", scores: list[Score]) -> list[Saliency]:
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
    encoder: Encoder, inputs: dict[str, Tensor], gates: dict[tuple[str, int], Tensor], scores: list[Score]
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
def gated(encoder: Encoder) -> Iterator[dict[tuple[str, int], Tensor]]:
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
def frozen(encoder: Encoder) -> Iterator[None]:
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


def score_layers(
    encoder: Encoder, sentences: Sequence[str], *, batch_size: int = 64, precision: str = "float32"
) -> Tensor:
    """Return what each layer matters, float64 [layers]: the loss when it goes, after those that matter less.

    The layer whose removal moves the sentence vectors least, 1 - cosine to the whole encoder's, goes first; then of
    what is left the next one. No layer is repaired meanwhile. The k layers of highest score are those left of k.
    """
    layers = find_layers(encoder.transformer)
    expected = embed(encoder, sentences, batch_size=batch_size, precision=precision)
    removed: list[int] = []
    scores = torch.zeros(len(layers), dtype=torch.float64)
    while len(removed) < len(layers):
        losses = {}
        for number in set(range(len(layers))) - set(removed):
            with skipped([layers[each] for each in (*removed, number)]):
                losses[number] = vector_loss(encoder, sentences, expected, batch_size=batch_size, precision=precision)
        least = min(losses, key=lambda number: (losses[number], number))
        removed.append(least)
        scores[least] = max(losses[least], scores.max().item()) + 1e-9 * len(removed)  # in the order of removal
    return scores


def vector_loss(
    encoder: Encoder,
    sentences: Sequence[str],
    expected: np.ndarray,
    *,
    batch_size: int = 64,
    precision: str = "float32",
) -> float:
    """Return 1 - the mean cosine of an encoder's vectors to the unit vectors `expected` [sentences, D]."""
    vectors = embed(encoder, sentences, batch_size=batch_size, precision=precision)
    return float(1 - (vectors * expected).sum(axis=1).mean())


@contextmanager
def skipped(layers: Sequence[nn.Module]) -> Iterator[None]:
    """Let hidden states pass these layers as they come; the layers do not run."""

    def pass_by(hidden: Tensor, *_: Any, **__: Any) -> Tensor:
        return hidden

    for layer in layers:
        vars(layer)["forward"] = pass_by  # before the method of the class
    try:
        yield
    finally:
        for layer in layers:
            del vars(layer)["forward"]


PairBatches = Iterator[dict[str, Tensor]]


def pair_batches(encoder: Encoder, pairs: Pairs, settings: config.Saliency, progress: str) -> PairBatches:
    """Yield inputs of 2B sentences: B English, then their B translations, pairs of like length together."""
    translations = pairs.translations.draw(settings.pairs, {})
    if not len(translations):
        raise InputError("saliency: the corpus has no translation pairs to measure on")
    en, ru = tokenize(encoder, translations.en), tokenize(encoder, translations.ru)
    order = np.argsort([max(len(a), len(b)) for a, b in zip(en, ru, strict=True)], kind="stable")
    for start in tqdm(range(0, len(order), settings.batch_size), desc=progress, unit=" batches", disable=not progress):
        chosen = order[start : start + settings.batch_size]
        yield pad(encoder, [en[i] for i in chosen] + [ru[i] for i in chosen])


def find_matrices(encoder: Encoder) -> list[Tensor]:
    names = layer_names(encoder.transformer.config)
    paths = (names.query, names.key, names.value, names.attention_output, names.expand, names.contract)
    return [find_linear(layer, path).weight for layer in find_layers(encoder.transformer) for path in paths]


def sum_groups(encoder: Encoder, values: Callable[[Tensor], Tensor]) -> Saliency:
    """Add up one value per weight over each head's rows (q, k, v) and columns (output), each neuron's and channel's."""
    names = layer_names(encoder.transformer.config)
    size = head_size(encoder.transformer.config)
    heads, neurons = [], []
    hidden = torch.zeros(encoder.transformer.config.hidden_size, dtype=torch.float64)
    for layer in find_layers(encoder.transformer):

        def of(path: str, layer: nn.Module = layer) -> Tensor:
            return values(find_linear(layer, path).weight).double().cpu()

        rows = sum(of(path).sum(dim=1) for path in (names.query, names.key, names.value))
        channels = rows + of(names.attention_output).sum(dim=0)
        heads.append(channels.view(-1, size).sum(dim=1))
        neurons.append(of(names.expand).sum(dim=1) + of(names.contract).sum(dim=0))
        hidden += sum(of(path).sum(dim=0) for path in (names.query, names.key, names.value, names.expand))
        hidden += of(names.attention_output).sum(dim=1) + of(names.contract).sum(dim=1)
    return Saliency(heads=tuple(heads), neurons=tuple(neurons), hidden=hidden)


def add_up(first: Saliency, second: Saliency) -> Saliency:
    """Return the sum of two measures of the same parts, each scaled to sum 1 on each axis."""
    return Saliency(
        heads=add_shares(first.heads, second.heads),
        neurons=add_shares(first.neurons, second.neurons),
        hidden=add_shares((first.hidden,), (second.hidden,))[0],
    )


def add_shares(first: tuple[Tensor, ...], second: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    one, two = torch.cat(first).sum(), torch.cat(second).sum()
    return tuple(a / one + b / two for a, b in zip(first, second, strict=True))


def save_saliency(saliency: Saliency, path: Path) -> None:
    """Write the scores as safetensors: `heads.0`, `neurons.0`, ..., `hidden`. A new budget needs no second pass."""
    tensors = {
        f"{axis}.{layer}": scores.contiguous()
        for axis, layers in (("heads", saliency.heads), ("neurons", saliency.neurons))
        for layer, scores in enumerate(layers)
    }
    with whole_file(path) as temporary:
        save_file({**tensors, "hidden": saliency.hidden.contiguous()}, temporary)


def load_saliency(path: Path) -> Saliency:
    """Read what `save_saliency` wrote."""
    tensors = load_file(path)
    layers = sum(key.startswith("heads.") for key in tensors)
    return Saliency(
        heads=tuple(tensors[f"heads.{layer}"] for layer in range(layers)),
        neurons=tuple(tensors[f"neurons.{layer}"] for layer in range(layers)),
        hidden=tensors["hidden"],
    )

"""What a score is: the criteria by which heads, neurons and channels are ranked."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from secateur.encoders.encoder import TorchEncoder, encode
from secateur.encoders.modeling import count_heads, count_neurons, find_layers, find_linear, head_size, layer_names
from secateur.pruning.gates import PairBatches, accumulate_gates, output_scores, pair_losses, similarity_scores
from secateur.pruning.scores import Saliency, add_up


def measure_similarity(encoder: TorchEncoder, batches: "PairBatches", generator: torch.Generator) -> Saliency:
    """Return the sum over pairs of |dL/dg|, L = |f(en) - f(ru)|^2."""
    return accumulate_gates(encoder, batches, [similarity_scores])[0]


def measure_output(encoder: TorchEncoder, batches: "PairBatches", generator: torch.Generator) -> Saliency:
    """Return the sum over sentences of (d<v, f(x)>/dg)^2, v ~ N(0, I) drawn anew for each sentence.

    Its expectation is |df/dg|^2: half the second derivative of |f_g(x) - f(x)|^2, the Gauss-Newton term of
    output matching, whose own gradient at the teacher is zero.
    """
    return accumulate_gates(encoder, batches, [output_scores(generator)])[0]


def measure_both(encoder: TorchEncoder, batches: "PairBatches", generator: torch.Generator) -> Saliency:
    """Return similarity + probe, each scaled to sum 1 on each axis, from one forward pass."""
    similarity, probe = accumulate_gates(encoder, batches, [similarity_scores, output_scores(generator)])
    return add_up(similarity, probe)


def measure_taylor_weight(encoder: TorchEncoder, batches: "PairBatches", generator: torch.Generator) -> Saliency:
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


def measure_magnitude(encoder: TorchEncoder, batches: "PairBatches", generator: torch.Generator) -> Saliency:
    """Return the sum of |w| over the same weights; no data is used."""
    return sum_groups(encoder, lambda matrix: matrix.detach().abs())


def measure_random(encoder: TorchEncoder, batches: "PairBatches", generator: torch.Generator) -> Saliency:
    """Return uniform scores from the generator; no data is used."""

    def draw(counts: list[int]) -> tuple[Tensor, ...]:
        return tuple(torch.rand(count, generator=generator, dtype=torch.float64) for count in counts)

    transformer = encoder.transformer
    (hidden,) = draw([transformer.config.hidden_size])
    return Saliency(heads=draw(count_heads(transformer)), neurons=draw(count_neurons(transformer)), hidden=hidden)


CRITERIA: dict[str, Callable[[TorchEncoder, "PairBatches", torch.Generator], Saliency]] = {
    "similarity": measure_similarity,
    "output": measure_output,
    "both": measure_both,
    "taylor_weight": measure_taylor_weight,
    "magnitude": measure_magnitude,
    "random": measure_random,
}


def find_matrices(encoder: TorchEncoder) -> list[Tensor]:
    names = layer_names(encoder.transformer.config)
    paths = (names.query, names.key, names.value, names.attention_output, names.expand, names.contract)
    return [find_linear(layer, path).weight for layer in find_layers(encoder.transformer) for path in paths]


def sum_groups(encoder: TorchEncoder, values: Callable[[Tensor], Tensor]) -> Saliency:
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

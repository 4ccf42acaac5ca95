"""Closed-form repair: after a cut, refit each layer's two output projections by least squares, without training.

For a projection with kept inputs c (a head's context or a neuron's activation, one row a token) the student's
sum before the LayerNorm is x + W c + b. The refit makes it the teacher's sum y in the least-squares sense:

    min over D of |y - x - (W + D) c|^2 + ridge * s * |D|^2,   D = R^T C (C^T C + ridge * s * I)^-1

with C the kept inputs [tokens, channels + 1] (a column of ones refits the bias), R = y - (x + W c + b) what is
missing, and s the mean squared activation times the number of tokens. x already is the repaired student's, so
each layer also mends what the layers below it still get wrong (compare LLM Surgeon, van der Ouderaa et al. 2024,
and Kwon et al. 2022, section 3.3, who fit masks; here the weights themselves are refitted).
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from copy import deepcopy

import torch
from torch import Tensor, nn
from tqdm import tqdm

from secateur import config
from secateur.encoder import Encoder, replace_transformer, tokenize
from secateur.modeling import find_layers, find_linear, layer_names

log = logging.getLogger(__name__)


def repair(
    student: Encoder, teacher: Encoder, sentences: Sequence[str], settings: config.Repair, *, progress: str = ""
) -> Encoder:
    """Return a student whose output projections are refitted on the first `settings.sentences` sentences.

    Layer by layer, bottom up; each layer's inputs are computed once, so the cost grows linearly with layers.
    """
    chosen = list(sentences[: settings.sentences])
    if not chosen:
        return student
    repaired = replace_transformer(student, deepcopy(student.transformer))
    names = layer_names(teacher.transformer.config)
    steps = ((names.attention_output, names.attention_norm), (names.contract, names.output_norm))
    layers = list(zip(find_layers(repaired.transformer), find_layers(teacher.transformer), strict=True))
    with torch.inference_mode():
        ids = equal_lengths(teacher, chosen, settings.batch_size)
        inputs = [repaired.transformer.get_submodule("embeddings")(batch) for batch in ids]
        goals = [teacher.transformer.get_submodule("embeddings")(batch) for batch in ids]
        for layer, original in tqdm(layers, desc=progress, unit=" layers", disable=not progress):
            taught = [run_layer(original, batch, [path for _, path in steps]) for batch in goals]
            for number, (projection, norm) in enumerate(steps):
                targets = [sums[number] for _, sums in taught]
                refit(layer, projection, norm, inputs, targets, ridge=settings.ridge)
            inputs = [run_layer(layer, batch, [])[0] for batch in inputs]
            goals = [output for output, _ in taught]
    return repaired


def equal_lengths(encoder: Encoder, sentences: list[str], batch_size: int) -> list[Tensor]:
    """Return word pieces [B, T] in batches of exactly equal length, so that no layer needs a mask."""
    by_length: dict[int, list[list[int]]] = {}
    for row in tokenize(encoder, sentences):
        by_length.setdefault(len(row), []).append(row)
    return [
        torch.tensor(rows[start : start + batch_size], device=encoder.device)
        for _, rows in sorted(by_length.items())
        for start in range(0, len(rows), batch_size)
    ]


def run_layer(layer: nn.Module, hidden: Tensor, norms: list[str]) -> tuple[Tensor, list[Tensor]]:
    """Run one layer on hidden states [B, T, H]; return its output and what entered each named LayerNorm."""
    with record_inputs(layer, norms) as seen:
        output = layer(hidden)
    return (output[0] if isinstance(output, tuple) else output), seen


def refit(
    layer: nn.Module, projection: str, norm: str, inputs: list[Tensor], targets: list[Tensor], *, ridge: float
) -> None:
    """Refit one output projection in place so that the sums entering `norm` come closest to `targets`."""
    linear = find_linear(layer, projection)
    width = linear.in_features + 1
    gram = torch.zeros(width, width, dtype=torch.float64)  # C^T C
    moment = torch.zeros(width, linear.out_features, dtype=torch.float64)  # C^T R
    for hidden, target in zip(inputs, targets, strict=True):
        with record_inputs(layer, [projection, norm], stop=True) as seen, suppress(AllSeen):
            layer(hidden)
        channels, total = seen[0].flatten(0, 1), seen[1].flatten(0, 1)
        channels = torch.cat([channels, channels.new_ones(len(channels), 1)], dim=1)  # [tokens, width]
        missing = target.flatten(0, 1) - total  # [tokens, H]
        gram += (channels.T @ channels).double().cpu()
        moment += (channels.T @ missing).double().cpu()
    gram.diagonal().add_(ridge * gram.diagonal().mean())
    change = torch.linalg.solve(gram, moment).to(linear.weight)  # D^T [width, H]
    linear.weight.add_(change[:-1].T)
    linear.bias.add_(change[-1])


class AllSeen(Exception):  # noqa: N818 (nothing went wrong)
    """Ends a forward pass behind which nothing more is wanted."""


@contextmanager
def record_inputs(layer: nn.Module, paths: list[str], *, stop: bool = False) -> Iterator[list[Tensor]]:
    """Yield a list that holds, after a forward pass, what entered each of these modules, in their order.

    With `stop` the pass ends at the last of them, by AllSeen.
    """
    seen: list[Tensor] = [torch.empty(0)] * len(paths)
    handles = []
    for number, path in enumerate(paths):

        def keep(_: nn.Module, inputs: tuple[Tensor], number: int = number) -> None:
            seen[number] = inputs[0]
            if stop and number == len(paths) - 1:
                raise AllSeen

        handles.append(layer.get_submodule(path).register_forward_pre_hook(keep))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()

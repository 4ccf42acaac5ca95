"""Closed-form repair: after a cut, refit each layer's two output projections by least squares, without training.

For a projection with kept inputs c (a head's context or a neuron's activation, one row a token) the student's
sum before the LayerNorm is x + W c + b. The refit brings it to the teacher's sum y, in the scale that the LayerNorm
gives it: r = (y - x - W c - b) / s is what is missing and c / s what can supply it, s the standard deviation of y over
its channels. Token by token for what the next attention sees, and in each sentence's mean for what pooling sees:

    min over D of  mean over tokens |r - D c/s|^2 + w_sentence * mean over sentences |mean r - D mean c/s|^2
                   + ridge * m * |D|^2

D is the change of W and, through a constant input of 1, of b; m is the mean squared input of both terms. The solution
is D^T = (G + ridge m I)^-1 M, with G and M the second moments of inputs with inputs and with what is missing. x already
is the repaired student's, so each layer also mends what the layers below it still get wrong (compare Kwon et al. 2022,
section 3.3, who fit masks layer by layer; here the weights themselves are refitted).
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from copy import deepcopy
from dataclasses import dataclass

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
                refit(layer, projection, norm, inputs, targets, settings)
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
    layer: nn.Module,
    projection: str,
    norm: str,
    inputs: list[Tensor],
    targets: list[Tensor],
    settings: config.Repair,
) -> None:
    """Refit one output projection in place so that the sums entering `norm` come closest to `targets`."""
    linear = find_linear(layer, projection)
    by_token, by_sentence = Moments.empty(linear), Moments.empty(linear)
    for hidden, target in zip(inputs, targets, strict=True):
        with record_inputs(layer, [projection, norm], stop=True) as seen, suppress(AllSeen):
            layer(hidden)
        channels, total = seen  # [B, T, channels], [B, T, H]
        scale = target.std(dim=-1, keepdim=True).clamp(min=1e-6)  # [B, T, 1]
        channels = torch.cat([channels, channels.new_ones(*channels.shape[:2], 1)], dim=-1) / scale
        missing = (target - total) / scale
        by_token.add(channels.flatten(0, 1), missing.flatten(0, 1))
        by_sentence.add(channels.mean(dim=1), missing.mean(dim=1))
    gram = by_token.gram / by_token.rows + settings.w_sentence * by_sentence.gram / by_sentence.rows
    moment = by_token.moment / by_token.rows + settings.w_sentence * by_sentence.moment / by_sentence.rows
    gram.diagonal().add_(settings.ridge * gram.diagonal().mean())
    change = torch.linalg.solve(gram, moment).to(linear.weight)  # D^T [channels + 1, H]
    linear.weight.add_(change[:-1].T)
    linear.bias.add_(change[-1])


@dataclass
class Moments:
    """Sums over rows, in float64: inputs by inputs, inputs by what is missing, and how many rows."""

    gram: Tensor  # [channels + 1, channels + 1]
    moment: Tensor  # [channels + 1, H]
    rows: int = 0

    @classmethod
    def empty(cls, linear: nn.Linear) -> "Moments":
        width = linear.in_features + 1
        return cls(
            gram=torch.zeros(width, width, dtype=torch.float64),
            moment=torch.zeros(width, linear.out_features, dtype=torch.float64),
        )

    def add(self, channels: Tensor, missing: Tensor) -> None:
        self.gram += (channels.T @ channels).double().cpu()
        self.moment += (channels.T @ missing).double().cpu()
        self.rows += len(channels)


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

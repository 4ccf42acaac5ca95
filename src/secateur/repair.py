"""Closed-form repair: after a cut, refit each layer by least squares on calibration sentences, without training.

A layer is two halves, attention and FFN, each x -> LayerNorm(x + W c(x) + b): its readers (query, key and value; the
first FFN matrix) turn the hidden states x into channels c (heads' contexts; neurons' activations), which its output
projection W, b brings back. Bottom up, half by half, on the student's own hidden states x and the teacher's y:

1. Readers. They were fitted to y and now get x. The linear map x + D x + d that comes closest to y is folded into
   them: V (x + D x + d) + v. They then read what they used to read, as far as x still says it.
2. Output projection. In the scale that the LayerNorm gives the teacher's sum, s = its standard deviation over the
   channels, r = (teacher's sum - x - W c - b) / s is what is missing and c / s what can supply it. W + D, b + d is
   the refit (compare Kwon et al. 2022, section 3.3, who fit masks layer by layer; here the weights themselves).
3. LayerNorm. Gain and bias, one line per channel: the student's normalised sums to the teacher's.

Each is the same ridge regression of what is missing, r, on what can supply it, c, over every token (what the next
half sees) and every sentence's mean (what pooling sees):

    min over D of  mean over tokens |r - D c|^2 + w_sentence * mean over sentences |mean r - D mean c|^2
                   + ridge * m * |D|^2

with c carrying a constant 1 for d, and m the mean squared input of both terms. Its solution is
D^T = (G + ridge m I)^-1 M, with G and M the second moments of c with c and of c with r. x is the repaired student's
own, so each half also mends what the halves below it still get wrong.
"""

import logging
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm
from tqdm import tqdm

from secateur import config
from secateur.encoder import Encoder, replace_transformer, tokenize
from secateur.modeling import LayerNames, find_layers, find_linear, layer_names

log = logging.getLogger(__name__)


def repair(
    student: Encoder, teacher: Encoder, sentences: Sequence[str], settings: config.Repair, *, progress: str = ""
) -> Encoder:
    """Return a student refitted on the first `settings.sentences` sentences.

    Each layer runs on the hidden states that the one below left, so the cost grows linearly with layers.
    """
    chosen = list(sentences[: settings.sentences])
    if not chosen:
        return student
    repaired = replace_transformer(student, deepcopy(student.transformer))
    names = layer_names(teacher.transformer.config)
    layers = list(zip(find_layers(repaired.transformer), find_layers(teacher.transformer), strict=True))
    with torch.inference_mode():
        ids = equal_lengths(teacher, chosen, settings.batch_size)
        inputs = [repaired.transformer.get_submodule("embeddings")(batch) for batch in ids]
        goals = [teacher.transformer.get_submodule("embeddings")(batch) for batch in ids]
        for pair in tqdm(layers, desc=progress, unit=" layers", disable=not progress):
            for half, original in zip(*(split_layer(layer, names) for layer in pair), strict=True):
                inputs, goals = repair_half(half, original, inputs, goals, settings)
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


@dataclass(frozen=True)
class Half:
    """Half a layer: hidden [B, T, H] -> norm(hidden + projection(channels(hidden)))."""

    readers: tuple[nn.Linear, ...]
    channels: Callable[[Tensor], Tensor]
    projection: nn.Linear
    norm: nn.LayerNorm


def split_layer(layer: nn.Module, names: LayerNames) -> tuple[Half, Half]:
    expand, activate = find_linear(layer, names.expand), layer.get_submodule(names.activation)

    def attend(hidden: Tensor) -> Tensor:
        return catch_input(layer, names.attention_output, hidden)

    def apply_neurons(hidden: Tensor) -> Tensor:
        return cast(Tensor, activate(expand(hidden)))

    attention = Half(
        readers=tuple(find_linear(layer, path) for path in (names.query, names.key, names.value)),
        channels=attend,
        projection=find_linear(layer, names.attention_output),
        norm=cast(nn.LayerNorm, layer.get_submodule(names.attention_norm)),
    )
    ffn = Half(
        readers=(expand,),
        channels=apply_neurons,
        projection=find_linear(layer, names.contract),
        norm=cast(nn.LayerNorm, layer.get_submodule(names.output_norm)),
    )
    return attention, ffn


def repair_half(
    half: Half, original: Half, inputs: list[Tensor], goals: list[Tensor], settings: config.Repair
) -> tuple[list[Tensor], list[Tensor]]:
    """Refit `half` in place; return its hidden states and the original's, for the next half."""
    refit_readers(half.readers, inputs, goals, settings)
    targets = [goal + original.projection(original.channels(goal)) for goal in goals]
    channels = [half.channels(hidden) for hidden in inputs]
    refit_projection(half.projection, channels, inputs, targets, settings)
    sums = [hidden + half.projection(values) for hidden, values in zip(inputs, channels, strict=True)]
    refit_norm(half.norm, sums, targets, settings)
    return [half.norm(total) for total in sums], [original.norm(target) for target in targets]


def refit_readers(
    readers: Sequence[nn.Linear], inputs: list[Tensor], goals: list[Tensor], settings: config.Repair
) -> None:
    """Fold the map from the student's hidden states to the teacher's into the matrices that read them."""
    moments = Moments.empty(readers[0].in_features, readers[0].in_features)
    for hidden, goal in zip(inputs, goals, strict=True):
        moments.add(hidden, goal - hidden)
    weight, bias = moments.solve(settings)
    for reader in readers:
        reader.bias.add_(reader.weight @ bias.to(reader.bias))
        reader.weight.add_(reader.weight @ weight.to(reader.weight))


def refit_projection(
    linear: nn.Linear, channels: list[Tensor], inputs: list[Tensor], targets: list[Tensor], settings: config.Repair
) -> None:
    """Refit an output projection so that the sums entering the LayerNorm come closest to `targets`, in its scale."""
    moments = Moments.empty(linear.in_features, linear.out_features)
    for values, hidden, target in zip(channels, inputs, targets, strict=True):
        scale = target.std(dim=-1, keepdim=True).clamp(min=1e-6)  # [B, T, 1]
        moments.add(values, target - hidden - linear(values), scale=scale)
    weight, bias = moments.solve(settings)
    linear.weight.add_(weight.to(linear.weight))
    linear.bias.add_(bias.to(linear.bias))


def refit_norm(norm: nn.LayerNorm, sums: list[Tensor], targets: list[Tensor], settings: config.Repair) -> None:
    """Refit gain and bias of a LayerNorm, channel by channel, on what it makes of `sums` and of `targets`."""
    width = len(norm.weight)
    moments = Moments.empty(1, 1, systems=(width,))
    for total, target in zip(sums, targets, strict=True):
        found, wanted = (layer_norm(values, (width,), eps=norm.eps) for values in (total, target))  # [B, T, H]
        values, missing = (each.permute(2, 0, 1).unsqueeze(-1) for each in (found, wanted - found))  # [H, B, T, 1]
        moments.add(values, missing)
    weight, bias = (change.flatten().to(norm.weight) for change in moments.solve(settings))  # [H] each
    norm.bias.add_(norm.weight * bias)
    norm.weight.add_(norm.weight * weight)


@dataclass
class Moments:
    """Second moments of what can supply (k inputs and a 1) and what is missing (m outputs), in float64 on the CPU.

    `systems` many regressions may run side by side, as leading dimensions.
    """

    by_token: Tensor  # [*systems, k + 1, k + 1 + m]
    by_sentence: Tensor  # [*systems, k + 1, k + 1 + m]
    tokens: int = 0
    sentences: int = 0

    @classmethod
    def empty(cls, inputs: int, outputs: int, *, systems: tuple[int, ...] = ()) -> "Moments":
        shape = (*systems, inputs + 1, inputs + 1 + outputs)
        return cls(torch.zeros(shape, dtype=torch.float64), torch.zeros(shape, dtype=torch.float64))

    def add(self, inputs: Tensor, missing: Tensor, *, scale: Tensor | float = 1.0) -> None:
        """Add a batch, inputs [*systems, B, T, k] and missing [*systems, B, T, m], each row divided by its scale."""
        rows = torch.cat([inputs, inputs.new_ones(*inputs.shape[:-1], 1), missing], dim=-1)
        rows /= scale
        self.by_token += self.multiply(rows.flatten(-3, -2))
        self.by_sentence += self.multiply(rows.mean(dim=-2))
        self.sentences += inputs.shape[-3]
        self.tokens += inputs.shape[-3] * inputs.shape[-2]

    def multiply(self, rows: Tensor) -> Tensor:
        inputs = rows[..., : self.by_token.shape[-2]]
        return (inputs.mT @ rows).double().cpu()

    def solve(self, settings: config.Repair) -> tuple[Tensor, Tensor]:
        """Return D [*systems, m, k] and d [*systems, m], the solution of the ridge regression above."""
        total = self.by_token / self.tokens + settings.w_sentence * self.by_sentence / self.sentences
        gram, moment = total.tensor_split([total.shape[-2]], dim=-1)
        diagonal = gram.diagonal(dim1=-2, dim2=-1)
        diagonal += settings.ridge * diagonal.mean(dim=-1, keepdim=True)
        change = torch.linalg.solve(gram, moment).mT
        return change[..., :-1], change[..., -1]


def catch_input(layer: nn.Module, path: str, hidden: Tensor) -> Tensor:
    """Run a layer on hidden states as far as one of its modules; return what enters that."""

    def catch(_: nn.Module, inputs: tuple[Tensor]) -> None:
        raise Caught(inputs[0])

    handle = layer.get_submodule(path).register_forward_pre_hook(catch)
    try:
        layer(hidden)
    except Caught as caught:
        return caught.values
    finally:
        handle.remove()
    raise ValueError(f"{path} does not run")


class Caught(Exception):  # noqa: N818 (nothing went wrong)
    """Carries a value out of a forward pass of which nothing more is wanted."""

    def __init__(self, values: Tensor):
        self.values = values

"""Closed-form repair: after a cut, refit each layer by least squares on calibration sentences, without training.

A layer is two halves, attention and FFN, each x -> LayerNorm(x + W c(x) + b): its readers (query, key and value; the
first FFN matrix) turn the hidden states x into channels c (heads' contexts; neurons' activations), which its output
projection W, b brings back. Bottom up, half by half, on the student's own hidden states x and the teacher's y:

1. Readers. They were fitted to y and now get x. The linear map x + D x + d that comes closest to y is folded into
   them: V (x + D x + d) + v. They then read what they used to read, as far as x still says it. Where channels of the
   hidden width were cut, x + D x stands for P x + D x, P x having zeros at the cut channels.
2. Output projection. In the scale that the LayerNorm gives the teacher's sum, s = its standard deviation over the
   channels, r = (teacher's sum - x - W c - b) / s is what is missing and c / s what can supply it. W + D, b + d is
   the refit (compare Kwon et al. 2022, section 3.3, who fit masks layer by layer; here the weights themselves).
   Before layers that were cut, the sum is that of the last of them: the half stands for all of them.
3. LayerNorm. Gain and bias, one line per channel: the student's normalised sums to the teacher's.

Where channels were cut, the embeddings' LayerNorm is refitted first and the `Dense` behind the pooling last: the
student's pooled states to the teacher's.

Each is the same ridge regression of what is missing, r, on what can supply it, c, over every token (what the next
half sees) and every sentence's mean (what pooling sees):

    min over D of  mean over tokens |r - D c|^2 + w_sentence * mean over sentences |mean r - D mean c|^2
                   + ridge * m * |D|^2

with c carrying a constant 1 for d, and m the mean squared input of both terms. Its solution is
D^T = (G + ridge m I)^-1 M, with G and M the second moments of c with c and of c with r. Of fewer rows than inputs, C
and R, each scaled by the root of its weight, D^T = C^T (C C^T + ridge m I)^-1 R is the same and costs less. x is the
repaired student's own, so each half also mends what the halves below it still get wrong.
"""

import logging
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import cast

import torch
from sentence_transformers.base.modules import Dense
from torch import Tensor, nn
from torch.nn.functional import layer_norm
from tqdm import tqdm

from secateur import config
from secateur.encoder import Encoder, replace_transformer, tokenize
from secateur.modeling import LayerNames, find_layers, find_linear, head_size, layer_names
from secateur.selection import Kept
from secateur.slicing import head_channels

log = logging.getLogger(__name__)


def repair(
    student: Encoder,
    teacher: Encoder,
    kept: Kept,
    sentences: Sequence[str],
    settings: config.Repair,
    *,
    progress: str = "",
) -> Encoder:
    """Return a student refitted on the first `settings.sentences` sentences; `kept` cut it from `teacher`.

    Each layer runs on the hidden states that the one below left, so the cost grows linearly with layers.
    """
    chosen = list(sentences[: settings.sentences])
    if not chosen:
        return student
    repaired = replace_transformer(student, deepcopy(student.transformer))
    names, size = layer_names(teacher.transformer.config), head_size(teacher.transformer.config)
    hidden = None if kept.hidden is None else torch.tensor(kept.hidden, device=teacher.device)
    halves = [half for layer in find_layers(teacher.transformer) for half in split_layer(layer, names)]
    before, groups = group_halves(halves, kept.layers)
    layers = zip(find_layers(repaired.transformer), groups, kept.heads, kept.neurons, strict=True)
    with torch.inference_mode():
        ids = equal_lengths(teacher, chosen, settings.batch_size)
        inputs = embed_pieces(repaired, teacher, ids, hidden, settings)
        goals = [teacher.transformer.get_submodule("embeddings")(batch) for batch in ids]
        goals = run_over(before, goals)
        for layer, originals, heads, neurons in tqdm(
            layers, desc=progress, unit=" layers", total=len(groups), disable=not progress
        ):
            attention, ffn = split_layer(layer, names)
            for half, behind, rows in (
                (attention, originals[:1], head_channels(heads, size)),
                (ffn, originals[1:], torch.tensor(neurons, dtype=torch.long)),
            ):
                inputs, goals = repair_half(half, behind, rows, inputs, goals, hidden, settings)
        if hidden is not None:
            refit_dense(repaired, teacher, inputs, goals, settings)
    return repaired


def group_halves(halves: "list[Half]", kept: Sequence[int] | None) -> "tuple[list[Half], list[list[Half]]]":
    """Return the halves of the layers before the first that is kept, and of each kept one and those cut behind it."""
    count = len(halves) // 2
    starts = list(range(count) if kept is None else kept)
    ends = [*starts[1:], count]
    return halves[: 2 * starts[0]], [halves[2 * start : 2 * end] for start, end in zip(starts, ends, strict=True)]


def embed_pieces(
    student: Encoder, teacher: Encoder, ids: list[Tensor], hidden: Tensor | None, settings: config.Repair
) -> list[Tensor]:
    """Return the student's embeddings; where channels were cut, their LayerNorm is refitted first, in place."""
    own, original = (encoder.transformer.get_submodule("embeddings") for encoder in (student, teacher))
    if hidden is not None:
        sums, targets = ([catch_input(module, "LayerNorm", batch) for batch in ids] for module in (own, original))
        refit_norm(cast(nn.LayerNorm, own.LayerNorm), sums, targets, hidden, settings)
    return [own(batch) for batch in ids]


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

    def add_up(self, hidden: Tensor) -> Tensor:
        """Return the residual sum that enters the LayerNorm."""
        return hidden + cast(Tensor, self.projection(self.channels(hidden)))


def run_over(halves: Sequence[Half], batches: Sequence[Tensor]) -> list[Tensor]:
    return [run_halves(halves, hidden) for hidden in batches]


def run_halves(halves: Sequence[Half], hidden: Tensor) -> Tensor:
    for half in halves:
        hidden = half.norm(half.add_up(hidden))
    return hidden


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
    half: Half,
    originals: Sequence[Half],
    rows: Tensor,
    inputs: list[Tensor],
    goals: list[Tensor],
    hidden: Tensor | None,
    settings: config.Repair,
) -> tuple[list[Tensor], list[Tensor]]:
    """Refit `half` in place; return its hidden states and the teacher's, for the next half.

    `originals` are the half it was cut from, keeping `rows` of its readers, and those cut behind it; `hidden` the
    kept channels of the hidden width. A half that nothing was cut from, and nothing before it, stays as it is.
    """
    first, last = originals[0], originals[-1]
    whole = hidden is None and len(originals) == 1 and len(rows) == first.projection.in_features
    if whole and all(map(torch.equal, inputs, goals)):
        states = run_over([first], goals)
        return states, states
    refit_readers(half.readers, first.readers, rows, inputs, goals, hidden, settings)
    targets = [last.add_up(run_halves(originals[:-1], goal)) for goal in goals]
    for parameter, original in zip(half.norm.parameters(), last.norm.parameters(), strict=True):
        parameter.copy_(pick(original, hidden))
    channels = [half.channels(states) for states in inputs]
    refit_projection(half.projection, channels, inputs, targets, hidden, settings)
    sums = [states + half.projection(values) for states, values in zip(inputs, channels, strict=True)]
    refit_norm(half.norm, sums, targets, hidden, settings)
    return [half.norm(total) for total in sums], [last.norm(target) for target in targets]


def pick(values: Tensor, hidden: Tensor | None) -> Tensor:
    """Return the kept channels of [..., H]."""
    return values if hidden is None else values[..., hidden]


def refit_readers(
    readers: Sequence[nn.Linear],
    originals: Sequence[nn.Linear],
    rows: Tensor,
    inputs: list[Tensor],
    goals: list[Tensor],
    hidden: Tensor | None,
    settings: config.Repair,
) -> None:
    """Fold the map from the student's hidden states to the teacher's into the matrices that read them."""
    width, narrow = originals[0].in_features, readers[0].in_features
    places = torch.eye(width, device=inputs[0].device)  # [H, h]: where the student's channels are among the teacher's
    places = places if hidden is None else places[:, hidden]
    moments = Moments.empty(narrow, width)
    for states, goal in zip(inputs, goals, strict=True):
        moments.add(states, goal - states @ places.T)
    weight, bias = moments.solve(settings)
    for reader, original in zip(readers, originals, strict=True):
        kept = original.weight[rows]
        reader.weight.copy_(kept @ (places + weight.to(kept)))
        reader.bias.copy_(original.bias[rows] + kept @ bias.to(kept))


def refit_projection(
    linear: nn.Linear,
    channels: list[Tensor],
    inputs: list[Tensor],
    targets: list[Tensor],
    hidden: Tensor | None,
    settings: config.Repair,
) -> None:
    """Refit an output projection so that the sums entering the LayerNorm come closest to `targets`, in its scale."""
    moments = Moments.empty(linear.in_features, linear.out_features)
    for values, states, target in zip(channels, inputs, targets, strict=True):
        scale = target.std(dim=-1, keepdim=True).clamp(min=1e-6)  # [B, T, 1]
        moments.add(values, pick(target, hidden) - states - linear(values), scale=scale)
    weight, bias = moments.solve(settings)
    linear.weight.add_(weight.to(linear.weight))
    linear.bias.add_(bias.to(linear.bias))


def refit_norm(
    norm: nn.LayerNorm, sums: list[Tensor], targets: list[Tensor], hidden: Tensor | None, settings: config.Repair
) -> None:
    """Refit gain and bias of a LayerNorm, channel by channel, on what it makes of `sums` and of `targets`."""
    width = len(norm.weight)
    moments = Moments.empty(1, 1, systems=(width,))
    for total, target in zip(sums, targets, strict=True):
        found = normalise(total, norm)
        wanted = pick(normalise(target, norm), hidden)
        values, missing = (each.permute(2, 0, 1).unsqueeze(-1) for each in (found, wanted - found))  # [h, B, T, 1]
        moments.add(values, missing)
    weight, bias = (change.flatten().to(norm.weight) for change in moments.solve(settings))  # [h] each
    norm.bias.add_(norm.weight * bias)
    norm.weight.add_(norm.weight * weight)


def normalise(values: Tensor, norm: nn.LayerNorm) -> Tensor:
    """Return values [B, T, H] of mean 0 and variance 1 over all their channels."""
    return layer_norm(values, values.shape[-1:], eps=norm.eps)


def refit_dense(
    student: Encoder, teacher: Encoder, inputs: list[Tensor], goals: list[Tensor], settings: config.Repair
) -> None:
    """Refit the `Dense` behind the student's pooling to what the teacher has there, each sentence in its own scale."""
    dense = cast(nn.Linear, student.model[2].linear)
    moments = Moments.empty(dense.in_features, dense.out_features)
    for states, goal in zip(inputs, goals, strict=True):
        pooled, wanted = pool(student, states), read_out(teacher, goal)  # [B, h], [B, H]
        scale = wanted.norm(dim=-1, keepdim=True).clamp(min=1e-6)
        moments.add(*(each.unsqueeze(1) for each in (pooled, wanted - dense(pooled))), scale=scale.unsqueeze(1))
    weight, bias = moments.solve(settings)
    dense.weight.add_(weight.to(dense.weight))
    dense.bias.add_(bias.to(dense.bias))


def read_out(teacher: Encoder, states: Tensor) -> Tensor:
    """Return what the student's `Dense` is to give: pooled states, or what the teacher's next matrix makes of them."""
    if teacher.uses_pooler:
        return cast(Tensor, teacher.transformer.get_submodule("pooler.dense")(states[:, 0]))
    pooled = pool(teacher, states)
    following = list(teacher.model)[2:]
    if following and isinstance(following[0], Dense):
        return cast(Tensor, following[0].linear(pooled))
    return pooled


def pool(encoder: Encoder, states: Tensor) -> Tensor:
    """Return what the encoder's pooling makes of hidden states [B, T, H] without padding."""
    mask = torch.ones(states.shape[:2], dtype=torch.long, device=states.device)
    features = encoder.model[1]({"token_embeddings": states, "attention_mask": mask})
    return cast(Tensor, features["sentence_embedding"])


ROWS = 8192  # of moments, at once


@dataclass
class Moments:
    """Second moments of what can supply (k inputs and a 1) and what is missing (m outputs), in float64 on the CPU.

    `systems` many regressions may run side by side, as leading dimensions. Rows wait until there are ROWS of them:
    adding a product of two matrices up in float64 costs as much as the product of a batch.
    """

    by_token: Tensor  # [*systems, k + 1, k + 1 + m]
    by_sentence: Tensor  # [*systems, k + 1, k + 1 + m]
    tokens: int = 0
    sentences: int = 0
    waiting: list[Tensor] = field(default_factory=list)  # [*systems, tokens, k + 1 + m]
    means: list[Tensor] = field(default_factory=list)  # [*systems, sentences, k + 1 + m]

    @classmethod
    def empty(cls, inputs: int, outputs: int, *, systems: tuple[int, ...] = ()) -> "Moments":
        shape = (*systems, inputs + 1, inputs + 1 + outputs)
        return cls(torch.zeros(shape, dtype=torch.float64), torch.zeros(shape, dtype=torch.float64))

    def add(self, inputs: Tensor, missing: Tensor, *, scale: Tensor | float = 1.0) -> None:
        """Add a batch, inputs [*systems, B, T, k] and missing [*systems, B, T, m], each row divided by its scale."""
        rows = torch.cat([inputs, inputs.new_ones(*inputs.shape[:-1], 1), missing], dim=-1)
        rows /= scale
        self.waiting.append(rows.flatten(-3, -2))
        self.means.append(rows.mean(dim=-2))
        self.sentences += inputs.shape[-3]
        self.tokens += inputs.shape[-3] * inputs.shape[-2]
        for total, waiting in self.sums:
            if sum(each.shape[-2] for each in waiting) >= ROWS:
                self.flush(total, waiting)

    @property
    def sums(self) -> tuple[tuple[Tensor, list[Tensor]], ...]:
        return (self.by_token, self.waiting), (self.by_sentence, self.means)

    def flush(self, total: Tensor, waiting: list[Tensor]) -> None:
        if waiting:
            total += self.multiply(torch.cat(waiting, dim=-2))
            waiting.clear()

    def multiply(self, rows: Tensor) -> Tensor:
        inputs = rows[..., : self.by_token.shape[-2]]
        return (inputs.mT @ rows).double().cpu()

    def solve(self, settings: config.Repair) -> tuple[Tensor, Tensor]:
        """Return D [*systems, m, k] and d [*systems, m], the solution of the ridge regression above."""
        few = self.tokens + self.sentences < min(len(self.by_token), ROWS)  # and all of them wait
        change = self.solve_dual(settings) if few and self.by_token.ndim == 2 else self.solve_primal(settings)
        return change[..., :-1], change[..., -1]

    def solve_dual(self, settings: config.Repair) -> Tensor:
        """Return D and d [m, k + 1] from the rows themselves."""
        tokens = torch.cat(self.waiting) / self.tokens**0.5
        means = torch.cat(self.means) * (settings.w_sentence / self.sentences) ** 0.5
        inputs, missing = torch.cat([tokens, means]).tensor_split([len(self.by_token)], dim=1)
        kernel = (inputs @ inputs.T).double().cpu()
        kernel.diagonal().add_(settings.ridge * kernel.trace() / inputs.shape[1])
        shares: Tensor = torch.linalg.solve(kernel, missing.double().cpu())
        return (inputs.double().cpu().T @ shares).T

    def solve_primal(self, settings: config.Repair) -> Tensor:
        for each in self.sums:
            self.flush(*each)
        total = self.by_token / self.tokens + settings.w_sentence * self.by_sentence / self.sentences
        gram, moment = total.tensor_split([total.shape[-2]], dim=-1)
        diagonal = gram.diagonal(dim1=-2, dim2=-1)
        diagonal += settings.ridge * diagonal.mean(dim=-1, keepdim=True)
        factor, failed = torch.linalg.cholesky_ex(gram)
        return (torch.linalg.solve(gram, moment) if failed.any() else torch.cholesky_solve(moment, factor)).mT


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

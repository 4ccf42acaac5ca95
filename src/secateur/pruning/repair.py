"""Closed-form repair: after a cut, refit each layer by least squares on calibration sentences, without training.

A layer is two halves, attention and FFN, each x -> LayerNorm(x + W c(x) + b): its readers (query, key and value; the
first FFN matrix) turn the hidden states x into channels c (heads' contexts; neurons' activations), which its output
projection W, b brings back. Bottom up, half by half, on the student's own hidden states x and the teacher's y:

1. Readers. They were fitted to y and now get x. The linear map x + D x + d that comes closest to y is folded into
   them: V (x + D x + d) + v. They then read what they used to read, as far as x still says it. Where channels of the
   hidden width were cut, x + D x stands for P x + D x, P x having zeros at the cut channels.
2. Output projection. In the scale that the LayerNorm gives the teacher's sum, s = its standard deviation over the
   channels, r = (teacher's sum - x - W c - b) / s is what the student's sum lacks, and it is predicted from c / s.
   W + D, b + d is the refit (compare Kwon et al. 2022, section 3.3, who fit masks layer by layer; here the weights
   themselves). Before layers that were cut, the sum is that of the last of them: the half stands for all of them.
3. LayerNorm. Gain and bias, one line per channel: the student's normalised sums to the teacher's.

Where channels were cut, the embeddings' LayerNorm is refitted first and the `Dense` behind the pooling last: the
student's pooled states to the teacher's.

Each is the same ridge regression: what the student lacks, r, is predicted from its channels, c, over every token (what
the next half sees) and every sentence's mean (what pooling sees):

    min over D of  mean over tokens |r - D c|^2 + w_sentence * mean over sentences |mean r - D mean c|^2
                   + ridge * m * |D|^2

with c carrying a constant 1 for d, and m the mean squared input of both terms. Its solution is
D^T = (G + ridge m I)^-1 M, with G and M the second moments of c with c and of c with r. Of fewer rows than inputs, C
and R, each scaled by the root of its weight, D^T = C^T (C C^T + ridge m I)^-1 R is the same and costs less. x is the
repaired student's own, so each half also mends what the halves below it still get wrong.

A teacher may read a prompt whose tokens the student lacks. Its states run with them, so that attention sees them, and
are compared without them. Where all tokens are pooled, the states that the last LayerNorm is fitted to move by the
difference of the two means: the student's mean is then to be the teacher's, its prompt included.
"""

import logging
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from secateur.config.errors import InputError
from secateur.config.pruning import RepairSettings
from secateur.data.progress import progress_bar
from secateur.encoders.encoder import TorchEncoder, tokenize
from secateur.encoders.modeling import LayerNames, find_layers, find_linear, head_size, layer_names
from secateur.encoders.surgery import replace_transformer
from secateur.pruning.refits import pick, refit_dense, refit_norm, refit_projection, refit_readers, standardise
from secateur.pruning.selection import Kept
from secateur.pruning.slicing import head_channels

log = logging.getLogger(__name__)


def repair(
    student: TorchEncoder,
    teacher: TorchEncoder,
    kept: Kept,
    sentences: Sequence[str],
    settings: RepairSettings,
    *,
    progress: str = "",
) -> TorchEncoder:
    """Return a student refitted on the first `settings.sentences` sentences; `kept` cut it from `teacher`.

    Each layer runs on the hidden states that the one below left, so the cost grows linearly with layers. Raises
    InputError: hidden states or refitted weights that are not finite, with the layer.
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
        ids, read = equal_lengths(repaired, teacher, chosen, settings.batch_size)
        lacking = read[0].shape[1] - ids[0].shape[1]
        inputs = embed_pieces(repaired, teacher, ids, read, lacking, hidden, settings)
        goals = [teacher.transformer.get_submodule("embeddings")(batch) for batch in read]
        goals = run_over(before, goals)
        bar = progress_bar(progress, layers, total=len(groups), unit="layers")
        for number, (layer, originals, heads, neurons) in enumerate(bar):
            check_states([*inputs, *goals], f"layer {number}")
            attention, ffn = split_layer(layer, names)
            for half, behind, rows in (
                (attention, originals[:1], head_channels(heads, size)),
                (ffn, originals[1:], torch.tensor(neurons, dtype=torch.long)),
            ):
                aligned = Aligned(goals, lacking, pools=lacking > 0 and behind[-1] is halves[-1] and pools_all(teacher))
                inputs, goals = repair_half(half, behind, rows, inputs, aligned, hidden, settings)
            check_weights(layer, f"layer {number}")
        check_states([*inputs, *goals], "the pooling")
        if hidden is not None:
            refit_dense(repaired, teacher, inputs, goals, settings)
            check_weights(repaired.model, "the Dense behind the pooling")
    return repaired


def check_states(states: Sequence[Tensor], where: str) -> None:
    if not all(torch.isfinite(each).all() for each in states):
        raise InputError(f"repair: the hidden states that enter {where} are not finite")


def check_weights(module: nn.Module, where: str) -> None:
    if not all(torch.isfinite(each).all() for each in module.parameters()):
        raise InputError(f"repair: the refitted weights of {where} are not finite")


def group_halves(halves: "list[Half]", kept: Sequence[int] | None) -> "tuple[list[Half], list[list[Half]]]":
    """Return the halves of the layers before the first that is kept, and of each kept one and those cut behind it."""
    count = len(halves) // 2
    starts = list(range(count) if kept is None else kept)
    ends = [*starts[1:], count]
    return halves[: 2 * starts[0]], [halves[2 * start : 2 * end] for start, end in zip(starts, ends, strict=True)]


def embed_pieces(
    student: TorchEncoder,
    teacher: TorchEncoder,
    ids: list[Tensor],
    read: list[Tensor],
    lacking: int,
    hidden: Tensor | None,
    settings: RepairSettings,
) -> list[Tensor]:
    """Return the student's embeddings; where channels were cut, their LayerNorm is refitted first, in place."""
    own, original = (encoder.transformer.get_submodule("embeddings") for encoder in (student, teacher))
    if hidden is not None:  # the words alone; a teacher's prompt stands apart
        sums = [catch_input(own, "LayerNorm", batch) for batch in ids]
        norm = cast(nn.LayerNorm, original.LayerNorm)
        targets = [drop_tokens(standardise(catch_input(original, "LayerNorm", batch), norm), lacking) for batch in read]
        refit_norm(cast(nn.LayerNorm, own.LayerNorm), sums, targets, hidden, settings)
    return [own(batch) for batch in ids]


def equal_lengths(
    student: TorchEncoder, teacher: TorchEncoder, sentences: list[str], batch_size: int
) -> tuple[list[Tensor], list[Tensor]]:
    """Return the student's tokens [B, T] and the teacher's [B, T + its prompt's] in batches of exactly equal length, so
    that no layer needs a mask."""
    by_length: dict[tuple[int, int], list[tuple[list[int], list[int]]]] = {}
    for pair in zip(tokenize(student, sentences), tokenize(teacher, sentences), strict=True):
        by_length.setdefault((len(pair[0]), len(pair[1])), []).append(pair)
    lacking = min(whole - own for own, whole in by_length)
    batches = [
        rows[start : start + batch_size]
        for (own, whole), rows in sorted(by_length.items())
        if whole - own == lacking  # of a sentence that is cut off, both lose as much
        for start in range(0, len(rows), batch_size)
    ]
    sides = [[torch.tensor([row[side] for row in rows], device=teacher.device) for rows in batches] for side in (0, 1)]
    return sides[0], sides[1]


def pools_all(teacher: TorchEncoder) -> bool:
    """Return whether the sentence vector is the mean over all tokens, the prompt's included."""
    pooling = teacher.model[1] if len(teacher.model) > 1 else None
    return getattr(pooling, "pooling_mode", "") == "mean" and not teacher.prompt_length


@dataclass(frozen=True)
class Aligned:
    """The teacher's states, and those of them that the student has too: without the tokens behind the first that it
    lacks; where `pools`, moved so that their mean is the mean of all."""

    states: list[Tensor]  # [B, T + lacking, H]
    lacking: int
    pools: bool = False

    def shared(self, states: list[Tensor]) -> list[Tensor]:
        """Return states of the student's tokens alone [B, T, H]."""
        return [drop_tokens(each, self.lacking) for each in states]

    def pooled(self, states: list[Tensor]) -> list[Tensor]:
        """Return such states, moved where the pooling asks for it."""
        kept = self.shared(states)
        if not self.pools:
            return kept
        return [
            own + (every.mean(dim=1, keepdim=True) - own.mean(dim=1, keepdim=True))
            for own, every in zip(kept, states, strict=True)
        ]


def drop_tokens(states: Tensor, count: int) -> Tensor:
    """Return [B, T, H] without so many tokens behind the first."""
    return torch.cat([states[:, :1], states[:, 1 + count :]], dim=1) if count else states


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
    aligned: Aligned,
    hidden: Tensor | None,
    settings: RepairSettings,
) -> tuple[list[Tensor], list[Tensor]]:
    """Refit `half` in place; return its hidden states and the teacher's, for the next half.

    `originals` are the half it was cut from, keeping `rows` of its readers, and those cut behind it; `hidden` the
    kept channels of the hidden width. A half that nothing was cut from, and nothing before it, stays as it is.
    """
    first, last, goals = originals[0], originals[-1], aligned.states
    whole = hidden is None and len(originals) == 1 and len(rows) == first.projection.in_features
    if whole and all(map(torch.equal, inputs, goals)):
        states = run_over([first], goals)
        return states, states
    refit_readers(half.readers, first.readers, rows, inputs, aligned.shared(goals), hidden, settings)
    targets = [last.add_up(run_halves(originals[:-1], goal)) for goal in goals]
    for parameter, original in zip(half.norm.parameters(), last.norm.parameters(), strict=True):
        parameter.copy_(pick(original, hidden))
    channels = [half.channels(states) for states in inputs]
    refit_projection(half.projection, channels, inputs, aligned.shared(targets), hidden, settings)
    sums = [states + half.projection(values) for states, values in zip(inputs, channels, strict=True)]
    wanted = aligned.pooled([standardise(target, last.norm) for target in targets])
    refit_norm(half.norm, sums, wanted, hidden, settings)
    return [half.norm(total) for total in sums], [last.norm(target) for target in targets]


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

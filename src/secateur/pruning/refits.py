"""The refits of a repair, each one ridge regression: readers, output projection, LayerNorm, Dense."""

from collections.abc import Sequence
from typing import cast

import torch
from sentence_transformers.base.modules import Dense
from torch import Tensor, nn
from torch.nn.functional import layer_norm

from secateur.config.pruning import RepairSettings
from secateur.encoders.encoder import TorchEncoder
from secateur.pruning.least_squares import Moments


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
    settings: RepairSettings,
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
    settings: RepairSettings,
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
    norm: nn.LayerNorm, sums: list[Tensor], targets: list[Tensor], hidden: Tensor | None, settings: RepairSettings
) -> None:
    """Refit gain and bias of a LayerNorm, channel by channel, on what it makes of `sums`, standardised, and on
    `targets`, which are so already."""
    width = len(norm.weight)
    moments = Moments.empty(1, 1, systems=(width,))
    for total, target in zip(sums, targets, strict=True):
        found = standardise(total, norm)
        wanted = pick(target, hidden)
        values, missing = (each.permute(2, 0, 1).unsqueeze(-1) for each in (found, wanted - found))  # [h, B, T, 1]
        moments.add(values, missing)
    weight, bias = (change.flatten().to(norm.weight) for change in moments.solve(settings))  # [h] each
    norm.bias.add_(norm.weight * bias)
    norm.weight.add_(norm.weight * weight)


def standardise(values: Tensor, norm: nn.LayerNorm) -> Tensor:
    """Return values [B, T, H] of mean 0 and variance 1 over all their channels."""
    return layer_norm(values, values.shape[-1:], eps=norm.eps)


def refit_dense(
    student: TorchEncoder, teacher: TorchEncoder, inputs: list[Tensor], goals: list[Tensor], settings: RepairSettings
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


def read_out(teacher: TorchEncoder, states: Tensor) -> Tensor:
    """Return what the student's `Dense` is to give: pooled states, or what the teacher's next matrix makes of them."""
    if teacher.uses_pooler:
        return cast(Tensor, teacher.transformer.get_submodule("pooler.dense")(states[:, 0]))
    pooled = pool(teacher, states)
    following = list(teacher.model)[2:]
    if following and isinstance(following[0], Dense):
        return cast(Tensor, following[0].linear(pooled))
    return pooled


def pool(encoder: TorchEncoder, states: Tensor) -> Tensor:
    """Return what the encoder's pooling makes of hidden states [B, T, H] without padding."""
    mask = torch.ones(states.shape[:2], dtype=torch.long, device=states.device)
    features = encoder.model[1]({"token_embeddings": states, "attention_mask": mask})
    return cast(Tensor, features["sentence_embedding"])

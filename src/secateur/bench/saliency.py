"""Rows of saliency: the scores of all heads and neurons against one plain pass, and against Torch-Pruning's."""

from collections.abc import Callable
from functools import lru_cache, partial
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor

from secateur.bench.comparisons import SEED, Comparison, Workshop, padding_share, timed
from secateur.config.teacher import TeacherSettings
from secateur.encoders.encoder import TorchEncoder, encode, pad
from secateur.encoders.loading import load_encoder
from secateur.encoders.modeling import find_layers, find_linear, layer_names
from secateur.pruning.gates import accumulate_gates, frozen, pair_losses, similarity_scores

SHAPE = {"batches": 8, "pairs": 32, "shortest": 8, "longest": 32}  # of random tokens, equal on both sides


def prepare_saliency(model: str) -> tuple[TorchEncoder, list[dict[str, Tensor]]]:
    encoder = load_encoder(TeacherSettings(model=model))
    generator = torch.Generator().manual_seed(SEED)
    vocabulary = encoder.transformer.config.vocab_size
    batches = []
    for number in range(SHAPE["batches"]):
        longest = SHAPE["shortest"] + number * (SHAPE["longest"] - SHAPE["shortest"]) // (SHAPE["batches"] - 1)
        lengths = torch.randint(longest - 3, longest + 1, (2 * SHAPE["pairs"],), generator=generator)
        rows = [torch.randint(5, vocabulary, (int(n),), generator=generator).tolist() for n in lengths]
        batches.append(pad(encoder, rows))
    return encoder, batches


def run_plain(encoder: TorchEncoder, batches: list[dict[str, Tensor]]) -> None:
    """Forward and backward of the similarity loss to every weight."""
    encoder.model.requires_grad_(True)
    for inputs in batches:
        pair_losses(encode(encoder, inputs).vectors).sum().backward()
        encoder.model.zero_grad(set_to_none=True)


def run_saliency(encoder: TorchEncoder, batches: list[dict[str, Tensor]]) -> None:
    with frozen(encoder):
        accumulate_gates(encoder, iter(batches), [similarity_scores])


def run_torch_pruning(encoder: TorchEncoder, batches: list[dict[str, Tensor]]) -> None:
    """Torch-Pruning's Taylor scores (GroupTaylorImportance) of all channels of attention and the FFN: backward passes
    to every weight, then |sum w dL/dw| over each group of channels that go together. Its graph is built beforehand."""
    import torch_pruning

    graph = find_graph(encoder)
    importance = torch_pruning.importance.GroupTaylorImportance()
    encoder.model.requires_grad_(True)
    for inputs in batches:
        pair_losses(encode(encoder, inputs).vectors).sum().backward()
    names = layer_names(encoder.transformer.config)
    for layer in find_layers(encoder.transformer):
        for first in (find_linear(layer, names.query), find_linear(layer, names.expand)):  # one of each group
            channels = list(range(first.out_features))
            importance(graph.get_pruning_group(first, torch_pruning.prune_linear_out_channels, idxs=channels))
    encoder.model.zero_grad(set_to_none=True)


@lru_cache(maxsize=1)
def find_graph(encoder: TorchEncoder) -> Any:
    """Return what Torch-Pruning traces: which channels of which matrices go together."""
    import torch_pruning

    inputs = pad(encoder, [[5, 6, 7], [5, 6, 7]])
    return torch_pruning.DependencyGraph().build_dependency(
        encoder.transformer, example_inputs=dict(inputs), output_transform=lambda output: output.last_hidden_state.sum()
    )


Pass = Callable[[TorchEncoder, list[dict[str, Tensor]]], None]
PASSES: dict[str, Pass] = {"saliency": run_saliency, "plain": run_plain, "Torch-Pruning": run_torch_pruning}


def compare_saliency(shop: Workshop) -> list[Comparison]:
    """All heads' and neurons' saliency against plain forward and backward passes and Torch-Pruning's, same batches."""
    encoder, batches = prepare_saliency(shop.model)
    installed = find_spec("torch_pruning") is not None
    passes = {name: run for name, run in PASSES.items() if installed or run is not run_torch_pruning}
    sides = {name: timed(partial(run, encoder, batches)) for name, run in passes.items()}
    masks = [inputs["attention_mask"] for inputs in batches]
    counts = np.array([sum(int(mask.sum()) for mask in masks), sum(mask.numel() for mask in masks)])
    conditions = {**SHAPE, "padding": padding_share(counts), "dtype": "float32", "threads": torch.get_num_threads()}
    if not installed:
        conditions["left out"] = "Torch-Pruning, which is not installed: pip install 'secateur[bench]'"
    return [Comparison("saliency pass", sides, {"plain": 1.18, "Torch-Pruning": 1.18}, conditions)]

"""Rows of saliency: the scores of all heads and neurons against one plain pass."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from secateur import config
from secateur.comparisons import SEED, Comparison, Workshop, padding_share, timed
from secateur.encoder import Encoder, encode, load_encoder, pad
from secateur.saliency import accumulate_gates, frozen, pair_losses, similarity_scores

SHAPE = {"batches": 8, "pairs": 32, "shortest": 8, "longest": 32}  # of random word pieces, equal on both sides


def prepare_saliency(model: str) -> tuple[Encoder, list[dict[str, Tensor]]]:
    encoder = load_encoder(config.Teacher(model=model))
    generator = torch.Generator().manual_seed(SEED)
    vocabulary = encoder.transformer.config.vocab_size
    batches = []
    for number in range(SHAPE["batches"]):
        longest = SHAPE["shortest"] + number * (SHAPE["longest"] - SHAPE["shortest"]) // (SHAPE["batches"] - 1)
        lengths = torch.randint(longest - 3, longest + 1, (2 * SHAPE["pairs"],), generator=generator)
        rows = [torch.randint(5, vocabulary, (int(n),), generator=generator).tolist() for n in lengths]
        batches.append(pad(encoder, rows))
    return encoder, batches


def run_plain(encoder: Encoder, batches: list[dict[str, Tensor]]) -> None:
    """Forward and backward of the similarity loss to every weight."""
    encoder.model.requires_grad_(True)
    for inputs in batches:
        pair_losses(encode(encoder, inputs).vectors).sum().backward()
        encoder.model.zero_grad(set_to_none=True)


def run_saliency(encoder: Encoder, batches: list[dict[str, Tensor]]) -> None:
    with frozen(encoder):
        accumulate_gates(encoder, iter(batches), [similarity_scores])


PASSES: dict[str, Callable[[Encoder, list[dict[str, Tensor]]], None]] = {"saliency": run_saliency, "plain": run_plain}


def compare_saliency(shop: Workshop) -> list[Comparison]:
    """All heads' and neurons' saliency against a plain forward and backward pass over the same batches."""
    encoder, batches = prepare_saliency(shop.model)
    sides = {name: timed(lambda run=run: run(encoder, batches)) for name, run in PASSES.items()}  # type: ignore[misc]
    masks = [inputs["attention_mask"] for inputs in batches]
    counts = np.array([sum(int(mask.sum()) for mask in masks), sum(mask.numel() for mask in masks)])
    conditions = {**SHAPE, "padding": padding_share(counts), "dtype": "float32", "threads": torch.get_num_threads()}
    return [Comparison("saliency pass", sides, {"plain": 1.18}, conditions)]

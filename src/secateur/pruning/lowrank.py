"""Word embeddings of low rank: [tokens, rank] times [rank, hidden] in place of [tokens, hidden]."""

import numpy as np
import torch

from secateur.encoders.encoder import TorchEncoder
from secateur.encoders.modeling import POSITIONS, WORDS, count_heads, count_neurons
from secateur.encoders.surgery import fill_model, replace_transformer, resize_config

UNSEEN = 1e-3  # weight of a token that the text does not have, as a share of the mean weight


def floor_weights(weights: np.ndarray) -> np.ndarray:
    """Return weights of tokens, those that the text does not have a little above zero."""
    floored: np.ndarray = np.maximum(weights, UNSEEN * weights.mean())
    return floored


def factorise_words(encoder: TorchEncoder, rank: int, weights: np.ndarray) -> TorchEncoder:
    """Return an encoder whose word embeddings have `rank`; `weights` [tokens] say how often each token is met.

    With e_p the vectors, w_p the weights and m their weighted mean, the embedding of a token becomes
    m + B B^T (e_p - m), B [hidden, rank] the axes that lose least of sum_p w_p |e_p - m|^2 (Eckart & Young 1936).
    B^T (e_p - m) is what is kept for each token; m moves into the position embeddings, which all tokens get alike.
    Raises ValueError: the rank is not below the hidden width, or the embeddings are of low rank already.
    """
    transformer = encoder.transformer
    hidden = transformer.config.hidden_size
    if getattr(transformer.config, "embedding_rank", None) is not None:
        raise ValueError("the word embeddings are of low rank already")
    if not 0 < rank < hidden:
        raise ValueError(f"rank {rank} is not between 1 and {hidden - 1}")
    state = dict(transformer.state_dict())
    vectors = state.pop(f"{WORDS}.weight").double().cpu()  # [tokens, hidden]
    w = vectors.new_zeros(len(vectors))  # rows behind the last token stand for none
    w[: len(weights)] = torch.from_numpy(floor_weights(weights))
    mean = (w[:, None] * vectors).sum(dim=0) / w.sum()
    rest = vectors - mean
    _, axes = torch.linalg.eigh(rest.T @ (w[:, None] * rest))  # ascending
    B = axes[:, -rank:]
    positions = state[f"{POSITIONS}.weight"]
    state[f"{POSITIONS}.weight"] = positions + mean.to(positions)
    state[f"{WORDS}.weight"] = (rest @ B).to(positions)
    state[f"{WORDS}.widen.weight"] = B.to(positions).contiguous()
    shape = resize_config(
        transformer.config,
        count_heads(transformer),
        count_neurons(transformer),
        has_pooler=encoder.uses_pooler,
        rank=rank,
    )
    factorised = fill_model(shape, state, has_pooler=encoder.uses_pooler, like=transformer)
    return replace_transformer(encoder, factorised)

"""Similarity and output matching, one value per item; saliency and distillation share them and take the means.

Sentence vectors are unit rows. The names of the terms are those of the recipe: `similarity` pulls the two
vectors of a pair together, output matching pulls the student towards its teacher.
"""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy


def similarity_mse(en: Tensor, ru: Tensor) -> Tensor:
    """Return |en_i - ru_i|^2 = 2 (1 - <en_i, ru_i>) for each pair [B], from unit vectors [B, D]."""
    return (en - ru).square().sum(dim=-1)


def similarity_contrastive(en: Tensor, ru: Tensor, *, temperature: float) -> Tensor:
    """Return the symmetric InfoNCE loss of each pair [B], the other pairs of the batch as negatives.

    -1/2 (log softmax_j <en_i, ru_j>/t at j = i  +  log softmax_j <ru_i, en_j>/t at j = i),
    van den Oord et al. 2018, equation 4, both ways as in LaBSE (Feng et al. 2022) without its margin.
    """
    logits = en @ ru.T / temperature  # [B, B]
    own = torch.arange(len(en), device=en.device)
    forward = cross_entropy(logits, own, reduction="none")
    backward = cross_entropy(logits.T, own, reduction="none")
    return (forward + backward) / 2


def match_embedding(student: Tensor, teacher: Tensor) -> Tensor:
    """Return |s_i - t_i|^2 = 2 (1 - <s_i, t_i>) for each sentence [B], from unit vectors [B, D]."""
    return (student - teacher).square().sum(dim=-1)


def match_tokens(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """Return the mean over dimensions of (s - t)^2 for each real token [tokens]; padding is left out.

    student, teacher: last hidden states [B, T, H]; mask: [B, T], 1 at a token, 0 at padding.
    """
    return (student - teacher).square().mean(dim=-1)[mask.bool()]

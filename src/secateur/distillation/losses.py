"""Similarity and output matching, one value per item; saliency and distillation share them and take the means.

Sentence vectors are unit rows. The names of the terms are those of the recipe: `similarity` pulls the two
vectors of a pair together, output matching pulls the student towards its teacher.
"""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div


def similarity_mse(en: Tensor, ru: Tensor) -> Tensor:
    """Return |en_i - ru_i|^2 = 2 (1 - <en_i, ru_i>) for each pair [B], from unit vectors [B, D]."""
    return (en - ru).square().sum(dim=-1)


def similarity_contrastive(
    en: Tensor, ru: Tensor, *, temperature: float, pool: tuple[Tensor, Tensor] | None = None, first: int = 0
) -> Tensor:
    """Return the symmetric InfoNCE loss of each pair [B], the other pairs of the pool as negatives.

    -1/2 (log softmax_j <en_i, ru_j>/t at j = i  +  log softmax_j <ru_i, en_j>/t at j = i),
    van den Oord et al. 2018, equation 4, both ways as in LaBSE (Feng et al. 2022) without its margin.

    `pool`: both sides of all pairs [P, D], those given from row `first` on; none: the pairs given.
    """
    pool_en, pool_ru = (en, ru) if pool is None else pool
    own = first + torch.arange(len(en), device=en.device)
    forward = cross_entropy(en @ pool_ru.T / temperature, own, reduction="none")  # of logits [B, P]
    backward = cross_entropy(ru @ pool_en.T / temperature, own, reduction="none")
    return (forward + backward) / 2


def match_embedding(student: Tensor, teacher: Tensor) -> Tensor:
    """Return |s_i - t_i|^2 = 2 (1 - <s_i, t_i>) for each sentence [B], from unit vectors [B, D]."""
    return (student - teacher).square().sum(dim=-1)


def match_relations(student: Tensor, teacher: Tensor, *, temperature: float) -> Tensor:
    """Return, for each sentence i of a batch, KL(p_i || q_i) [B], from unit vectors [B, D].

    p_i = softmax over j of <t_i, t_j> / temperature, the teacher's, and q_i the student's, j any other sentence of the
    batch (relational distillation after Park et al. 2019, as distributions over neighbours after Hinton & Roweis 2002).
    Of a batch of one it is 0.
    """
    itself = torch.eye(len(student), dtype=torch.bool, device=student.device)
    lowest = -1e4  # far below any similarity over a temperature, and still a number in half precision
    wanted = (teacher @ teacher.T / temperature).masked_fill(itself, lowest).log_softmax(dim=-1)
    found = (student @ student.T / temperature).masked_fill(itself, lowest).log_softmax(dim=-1)
    return kl_div(found, wanted, reduction="none", log_target=True).sum(dim=-1)


def match_tokens(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """Return the mean over dimensions of (s - t)^2 for each real token [tokens]; padding is left out.

    student, teacher: last hidden states [B, T, H]; mask: [B, T], 1 at a token, 0 at padding.
    """
    return (student - teacher).square().mean(dim=-1)[mask.bool()]

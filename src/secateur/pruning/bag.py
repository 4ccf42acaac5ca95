"""The far end of pruning: no layer at all. A bag of token vectors is fitted to a teacher's sentence vectors.

The student is that of `encoders.static`: s(x) = W u(x) + b at unit length, u(x) = the sum of the vectors of a
sentence's tokens at unit length. With y_i the teacher's unit vector of sentence i and m their mean, d_i = (y_i - m) at
unit length is what tells it from others; the lengths before differ little (.46 +- .03 of multilingual-e5-small).

1. Tokens. X holds how often sentence i has token t, divided by sqrt(n_i), n_i its number of tokens: so long is a sum
   of n_i unit vectors without a common direction. Ridge regression towards what a token says alone:

       E = argmin  sum_i |X_i E - d_i|^2  +  ridge * sum_t |E_t - P_t|^2

   P_t is the teacher's vector of the token as a text of its own, less the mean, times a / (a + the token's share of the
   text) (Arora et al. 2017), and one factor for all that brings the bag of P nearest to d. So a token that the texts do
   not have keeps P_t. The system is solved by conjugate gradients, all columns side by side. `ridge` is the one of a
   few that does best on sentences kept back.
2. Rank. Of all subspaces of `rank` dimensions the one that holds most of the fitted u_i (Eckart & Young 1936; of fitted
   values: Izenman 1975).
3. W and b: least squares of y_i on u_i.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array
from tokenizers import Tokenizer

from secateur.encoders.forms import scale_rows
from secateur.encoders.rotation import find_axes
from secateur.pruning.unknown import encode

log = logging.getLogger(__name__)

RIDGES = (0.2, 0.5, 1.0, 2.0)
KEPT_BACK = 20  # every so many-th sentence judges the ridge
COMMON = 1e-4  # a: tokens with a larger share of the text count less
STEPS, EXACT = 50, 1e-4  # of conjugate gradients, at most; the residual at the end, of that in the beginning
READ = 4_096  # sentences at a time


@dataclass(frozen=True)
class Bag:
    """A student without layers, float32: `vectors` [tokens, rank], `widen` W [D, rank], `shift` b [D]."""

    vectors: np.ndarray
    widen: np.ndarray
    shift: np.ndarray
    ridge: float  # that was chosen
    energy: float  # of the fitted u, the share that the rank keeps


def count_matrix(tokenizer: Tokenizer, sentences: Sequence[str]) -> csr_array:
    """Return how often each sentence has each token, float32 [sentences, tokens], without special tokens."""
    blocks = (sentences[start : start + READ] for start in range(0, len(sentences), READ))
    rows = [row.ids for block in blocks for row in encode(tokenizer, block)]
    ends = np.cumsum([0, *map(len, rows)])
    numbers = np.fromiter((number for row in rows for number in row), np.int32, int(ends[-1]))
    shape = (len(rows), tokenizer.get_vocab_size())
    counts = csr_array((np.ones(len(numbers), np.float32), numbers, ends), shape=shape)
    counts.sum_duplicates()
    return counts


def fit_bag(counts: csr_array, targets: np.ndarray, alone: np.ndarray, rank: int) -> Bag:
    """Return the bag that comes nearest to a teacher.

    counts: [sentences, tokens]; targets: the teacher's unit vectors of the sentences [sentences, D]; alone: its unit
    vectors of the tokens [tokens, D], zeros where a token shall have none; rank: 1 to D. Sentences without a token are
    left out.
    """
    read = np.diff(counts.indptr) > 0
    counts, targets = counts[read], targets[read]
    d = scale_rows(targets - targets.mean(axis=0))  # [sentences, D]
    P = weaken_common(counts, alone)  # [tokens, D]
    ridge = choose_ridge(counts, d, P)
    E = fit_tokens(counts, d, P, ridge)  # [tokens, D]
    axes, energy = find_axes(scale_rows(counts @ E), rank)  # [D, rank]
    vectors = E @ axes
    W, b = fit_affine(scale_rows(counts @ vectors), targets)
    log.info("static: ridge %g; %d dimensions keep %.3f of what the tokens say", ridge, rank, energy)
    return Bag(vectors, W, b, ridge, energy)


def weaken_common(counts: csr_array, alone: np.ndarray) -> np.ndarray:
    """Return P but for its factor: what tokens say alone, less the mean over the text, common ones weakened."""
    shares = counts.sum(axis=0) / counts.sum()  # [tokens]
    mean = shares @ alone
    P: np.ndarray = (COMMON / (COMMON + shares))[:, None] * (alone - mean)
    P[~alone.any(axis=1)] = 0
    return P.astype(np.float32)


def choose_ridge(counts: csr_array, d: np.ndarray, P: np.ndarray) -> float:
    """Return the ridge whose fit to most sentences has the largest mean cosine to d on those kept back."""
    back = np.arange(len(d)) % KEPT_BACK == KEPT_BACK - 1
    if not back.any():
        return RIDGES[-1]
    found = {}
    for ridge in RIDGES:
        E = fit_tokens(counts[~back], d[~back], P, ridge)
        found[ridge] = float((scale_rows(counts[back] @ E) * d[back]).sum(axis=1).mean())
    log.info("static: cosine on sentences kept back by ridge: %s",
             ", ".join(f"{ridge:g}: {cosine:.4f}" for ridge, cosine in found.items()))  # fmt: skip
    return max(found, key=lambda ridge: found[ridge])


def fit_tokens(counts: csr_array, d: np.ndarray, P: np.ndarray, ridge: float) -> np.ndarray:
    """Return E, float32 [tokens, D]."""
    scaled = counts.data / np.repeat(np.sqrt(counts.sum(axis=1)), np.diff(counts.indptr))
    X = csr_array((scaled.astype(np.float32), counts.indices, counts.indptr), shape=counts.shape)
    bag = X @ P
    factor = float((bag * d).sum() / max((bag * bag).sum(), 1e-12))
    return solve_ridge(X, d, factor * P, ridge)


def solve_ridge(X: csr_array, Y: np.ndarray, P: np.ndarray, ridge: float) -> np.ndarray:
    """Return E = argmin |X E - Y|^2 + ridge |E - P|^2, [tokens, D], the columns side by side.

    Conjugate gradients from P, preconditioned by the diagonal (Hestenes & Stiefel 1952).
    """
    XT = X.T.tocsr()
    diagonal = X.power(2).sum(axis=0)[:, None] + np.float32(ridge)  # [tokens, 1]
    E = P
    R = XT @ (Y - X @ E)  # what is left of the normal equations
    Z = R / diagonal
    step = Z
    rz = (R * Z).sum(axis=0)  # [D]
    enough = EXACT**2 * float((R * R).sum())
    for _ in range(STEPS):
        A = XT @ (X @ step) + ridge * step
        share = rz / np.maximum((step * A).sum(axis=0), 1e-30)
        E = E + share * step
        R = R - share * A
        if float((R * R).sum()) <= enough:
            break
        Z = R / diagonal
        before, rz = rz, (R * Z).sum(axis=0)
        step = Z + (rz / np.maximum(before, 1e-30)) * step
    return E.astype(np.float32)


def fit_affine(u: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return W [D, rank] and b [D], the least squares of |W u_i + b - y_i|^2; of many the smallest W."""
    mean, centre = u.mean(axis=0), targets.mean(axis=0)
    rest = (u - mean).astype(np.float64)
    W = np.linalg.lstsq(rest.T @ rest, rest.T @ (targets - centre), rcond=1e-9)[0].T
    return W.astype(np.float32), (centre - W @ mean).astype(np.float32)

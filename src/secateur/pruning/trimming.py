"""Vocabulary trimming: keep the tokens that texts of the user's languages need, let others be spelt with them.

Which tokens stay: every token has a weight, its share of a language's text, averaged over the languages; cutting it
costs its weight times the squared distance from its vector to the mean of the vectors that then spell it. The tokens
that cost most stay. Special tokens stay, and so do all signs, digits and emoji, the single letters of every script that
the texts are written in, and whatever cannot be spelt with them: no text in these scripts gets an unknown token that it
did not have (the proof is in `spelling`). Letters of other scripts may become unknown.

What a cut token leaves: its vector is folded into those that now spell it. With K and C the kept and the cut tokens, w
their weights, e their vectors and A the matrix whose row c holds 1/k at each of the k tokens that spell c, the new
vectors x of the kept tokens are the weighted least squares

    min over x of  sum over k in K of w_k |x_k - e_k|^2  +  sum over c in C of w_c |(A x)_c - e_c|^2.

Without folding, sentences without unknown tokens whose tokens were all kept have bit for bit their old vector.
"""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from scipy.sparse import csr_array, diags_array
from scipy.sparse.linalg import splu
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from secateur.config.errors import InputError
from secateur.encoders.encoder import TorchEncoder
from secateur.encoders.modeling import first_position
from secateur.pruning.lowrank import floor_weights
from secateur.pruning.spelling import Pieces, find_needed, find_ours, find_unsafe, read_vocabulary
from secateur.pruning.tokenizer import fast_tokenizer, named_numbers, replace_pieces, tokenize
from secateur.pruning.unknown import check_known, unknown_number


@dataclass(frozen=True)
class Coverage:
    """What a trimmed vocabulary does to one language's text."""

    language: str
    pieces_before: float  # a word
    pieces_after: float
    unknown_before: int
    unknown_after: int
    survived: float  # share of the sentences that are read as before: all their tokens were kept


@dataclass(frozen=True)
class Trimmed:
    encoder: TorchEncoder
    kept: tuple[int, ...]  # numbers in the old vocabulary, ascending: new number i is old number kept[i]


def trim_vocabulary(
    encoder: TorchEncoder,
    texts: Mapping[str, Sequence[str]],
    size: int,
    *,
    fold: bool = True,
    weights: np.ndarray | None = None,
) -> Trimmed:
    """Return an encoder that reads with `size` tokens of its vocabulary, chosen for `texts`: sentences by language.

    `weights` are what `weigh_pieces` returns for them, where they are known; else texts that the tokenizer does not
    know are warned of or refused, as `check_known` does.

    Raises InputError: a language without text, a tokenizer that cannot be trimmed, a size that the letters of the texts
    alone exceed. A `size` that the vocabulary does not exceed returns the encoder as it is, without rows of its
    embeddings that stand for no token.
    """
    check_texts(texts)
    tokenizer = fast_tokenizer(encoder)
    pieces = read_vocabulary(tokenizer)
    vectors = word_vectors(encoder)
    check_rows(pieces, vectors)
    if weights is None:
        check_known(tokenizer, texts)
        weights = weigh_pieces(tokenizer, texts)
    if size >= len(tokenizer):
        every = tuple(range(len(tokenizer)))
        return Trimmed(encoder if size >= len(vectors) else replace_pieces(encoder, every, vectors[list(every)]), every)
    kept = choose_pieces(tokenizer, pieces, weights, vectors, texts, size, also=find_fixed(encoder))
    known = set(kept)
    parts = {piece: pieces.spell(piece, known) for piece in np.flatnonzero(weights).tolist() if piece not in known}
    rows = vectors[torch.tensor(kept)]
    if fold:
        rows = fold_vectors(vectors, weights, kept, parts)
    return Trimmed(replace_pieces(encoder, kept, rows), kept)


def least_size(encoder: TorchEncoder, texts: Mapping[str, Sequence[str]]) -> int:
    """Return the size of the smallest vocabulary that can read texts of these languages."""
    check_texts(texts)
    tokenizer = fast_tokenizer(encoder)
    pieces = read_vocabulary(tokenizer)
    check_rows(pieces, word_vectors(encoder))
    return len(find_needed(pieces, find_ours(tokenizer, pieces, texts).promised) | find_fixed(encoder))


def check_rows(pieces: Pieces, vectors: Tensor) -> None:
    if len(pieces.texts) > len(vectors):
        raise InputError(f"vocabulary: the tokenizer has {len(pieces.texts)} tokens, the embeddings {len(vectors)}")


def find_fixed(encoder: TorchEncoder) -> set[int]:
    """Return the tokens that the config names by number, and those before the padding where positions hang on it."""
    config = encoder.transformer.config
    count = len(encoder.tokenizer)
    return named_numbers(config.to_dict(), count) | set(range(min(first_position(config), count)))


def check_texts(texts: Mapping[str, Sequence[str]]) -> None:
    if not texts:
        raise InputError("vocabulary: name a text for at least one language")
    for language, sentences in texts.items():
        if not any(sentence.strip() for sentence in sentences):
            raise InputError(f"vocabulary: language {language} has no text")


def weigh_pieces(tokenizer: PreTrainedTokenizerFast, texts: Mapping[str, Sequence[str]]) -> np.ndarray:
    """Return each token's share of a language's tokens, averaged over the languages, float64 [tokens]."""
    weights = np.zeros(len(tokenizer))
    for sentences in texts.values():
        counts = count_pieces(tokenizer, sentences)
        weights += counts / max(counts.sum(), 1) / len(texts)
    return weights


def count_pieces(tokenizer: PreTrainedTokenizerFast, sentences: Sequence[str]) -> np.ndarray:
    counts = np.zeros(len(tokenizer), np.int64)
    for rows in tokenize(tokenizer, sentences):
        counts += np.bincount(np.fromiter((number for row in rows for number in row), np.int64), minlength=len(counts))
    return counts


def choose_pieces(
    tokenizer: PreTrainedTokenizerFast,
    pieces: Pieces,
    weights: np.ndarray,
    vectors: Tensor,
    texts: Mapping[str, Sequence[str]],
    size: int,
    *,
    also: Set[int] = frozenset(),
) -> tuple[int, ...]:
    """Return the numbers of the `size` tokens that are kept, `also` among them, ascending."""
    ours = find_ours(tokenizer, pieces, texts)
    needed = find_needed(pieces, ours.promised) | also
    if len(needed) > size:
        raise InputError(
            f"vocabulary: {size} tokens asked for, but {explain(pieces, ours.promised, texts)} are {len(needed)}"
        )
    by_weight = set(keep_best(weights, needed, size))
    costs = weights.copy()
    costs[[number for number in range(len(costs)) if number not in ours.written and not weights[number]]] = -1.0
    for piece in np.flatnonzero(weights):
        spelling = pieces.spell(int(piece), by_weight)
        if spelling:
            costs[piece] *= (vectors[piece] - vectors[list(spelling)].mean(dim=0)).square().sum().item()
    return keep_best(costs, needed, size)


def explain(pieces: Pieces, ours: Set[int], texts: Mapping[str, Sequence[str]]) -> str:
    """Return what must stay, in words."""
    unsafe = find_unsafe(pieces, ours)
    if unsafe is None:
        return f"special tokens and the letters of {', '.join(texts)} alone"
    letter, token = unsafe
    return (
        f"all in the scripts of {', '.join(texts)}, which must stay as {letter!r} of {token!r} has no token of its own,"
    )


def keep_best(costs: np.ndarray, needed: set[int], size: int) -> tuple[int, ...]:
    """Return what is needed and, up to `size`, the others that cost most; of equal ones the first."""
    order = (int(piece) for piece in np.argsort(-costs, kind="stable") if piece not in needed)
    return tuple(sorted([*needed, *(piece for piece, _ in zip(order, range(size - len(needed)), strict=False))]))


def word_vectors(encoder: TorchEncoder) -> Tensor:
    """Return the vector of every token, float64 [tokens, D]; of low-rank embeddings the narrow ones."""
    words = cast(nn.Embedding, encoder.transformer.get_input_embeddings())
    return words.weight.detach().double().cpu()


def fold_vectors(
    vectors: Tensor, weights: np.ndarray, kept: Sequence[int], parts: Mapping[int, tuple[int, ...]]
) -> Tensor:
    """Return the kept tokens' vectors [kept, D] after the least squares of the module's docstring."""
    place = {number: row for row, number in enumerate(kept)}
    spelt = {piece: spelling for piece, spelling in parts.items() if spelling}
    if not spelt:
        return vectors[torch.tensor(kept)]
    entries = [(row, place[number], 1 / len(s)) for row, s in enumerate(spelt.values()) for number in s]
    rows, columns, values = (np.array(each) for each in zip(*entries, strict=True))
    shape = (len(spelt), len(kept))
    A = csr_array((values, (rows, columns)), shape=shape)  # a token that comes twice adds up
    own = floor_weights(weights[list(kept)])
    lost = weights[list(spelt)]
    system = diags_array(own) + A.T @ diags_array(lost) @ A  # [kept, kept], sparse, symmetric, positive definite
    start = vectors[torch.tensor(kept)].numpy()  # [kept, D]
    wanted = own[:, None] * start + A.T @ (lost[:, None] * vectors[torch.tensor(list(spelt))].numpy())
    factors = splu(system.tocsc(), permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True})
    return torch.from_numpy(factors.solve(wanted))


def measure_coverage(
    before: PreTrainedTokenizerFast,
    after: PreTrainedTokenizerFast,
    texts: Mapping[str, Sequence[str]],
    kept: Sequence[int],
) -> tuple[Coverage, ...]:
    """Return what became of each language's text."""
    report = []
    for language, sentences in texts.items():
        words = sum(len(sentence.split()) for sentence in sentences)
        old = [row for rows in tokenize(before, sentences) for row in rows]
        new = [row for rows in tokenize(after, sentences) for row in rows]
        same = sum(a == [kept[number] for number in b] for a, b in zip(old, new, strict=True))
        report.append(
            Coverage(
                language,
                pieces_before=sum(map(len, old)) / max(words, 1),
                pieces_after=sum(map(len, new)) / max(words, 1),
                unknown_before=count_unknown(before, old),
                unknown_after=count_unknown(after, new),
                survived=same / max(len(old), 1),
            )
        )
    return tuple(report)


def count_unknown(tokenizer: PreTrainedTokenizerFast, rows: Sequence[Sequence[int]]) -> int:
    unknown = unknown_number(tokenizer)
    return 0 if unknown is None else sum(row.count(unknown) for row in rows)

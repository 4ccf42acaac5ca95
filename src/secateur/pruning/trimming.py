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

from collections.abc import Collection, Iterable, Mapping, Sequence, Set
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
from secateur.pruning.tokenizer import fast_tokenizer, named_numbers, replace_pieces
from secateur.pruning.units import count_tokens, count_units, read_units
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
        weights = weigh_pieces(tokenizer, texts, prompt=encoder.prompt)
    if size >= len(tokenizer):
        every = tuple(range(len(tokenizer)))
        return Trimmed(encoder if size >= len(vectors) else replace_pieces(encoder, every, vectors[list(every)]), every)
    kept = choose_pieces(tokenizer, pieces, weights, vectors, texts, size, also=find_fixed(encoder))
    known = set(kept)
    rows = vectors[torch.tensor(kept)]
    if fold:
        cut = (piece for piece in np.flatnonzero(weights).tolist() if piece not in known)
        rows = fold_vectors(vectors, weights, kept, spell_all(pieces, cut, known))
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
    """Return the tokens that the config names by number, those before the padding where positions hang on it, and those
    of the model's prompts."""
    config = encoder.transformer.config
    count = len(encoder.tokenizer)
    prompts = [prompt for prompt in encoder.model.prompts.values() if prompt]
    read = {number for prompt in prompts for number in encoder.tokenizer(prompt)["input_ids"]}
    return named_numbers(config.to_dict(), count) | set(range(min(first_position(config), count))) | read


def drop_unread(encoder: TorchEncoder, sentences: Iterable[str], weights: np.ndarray) -> TorchEncoder:
    """Return an encoder without the tokens that neither `sentences` nor any text of positive `weights` [tokens] have.

    Of a vocabulary for a hundred languages most tokens are none of the texts'. The vectors of these texts stay bit for
    bit: a text whose tokens are all kept is read as before. What a text may need (`find_needed`) stays as well.
    """
    tokenizer = fast_tokenizer(encoder)
    pieces = read_vocabulary(tokenizer)
    texts = {"": [encoder.prompt + sentence for sentence in sentences]}
    read = count_tokens(tokenizer, count_units([tokenizer], texts[""])) + weights
    ours = find_ours(tokenizer, pieces, texts)
    kept = tuple(sorted({*np.flatnonzero(read).tolist(), *find_needed(pieces, ours.promised), *find_fixed(encoder)}))
    return encoder if len(kept) == len(tokenizer) else replace_pieces(encoder, kept, word_vectors(encoder)[list(kept)])


def check_texts(texts: Mapping[str, Sequence[str]]) -> None:
    if not texts:
        raise InputError("vocabulary: name a text for at least one language")
    for language, sentences in texts.items():
        if not any(sentence.strip() for sentence in sentences):
            raise InputError(f"vocabulary: language {language} has no text")


def weigh_pieces(
    tokenizer: PreTrainedTokenizerFast, texts: Mapping[str, Sequence[str]], *, prompt: str = ""
) -> np.ndarray:
    """Return each token's share of a language's tokens, averaged over the languages, float64 [tokens].

    `prompt` stands before every sentence.
    """
    weights = np.zeros(len(tokenizer))
    for sentences in texts.values():
        read = [prompt + sentence for sentence in sentences] if prompt else sentences
        counts = count_tokens(tokenizer, count_units([tokenizer], read))
        weights += counts / max(counts.sum(), 1) / len(texts)
    return weights


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
    spelt = spell_all(pieces, np.flatnonzero(weights).tolist(), by_weight)
    costs = np.where(weights > 0, weights, -1.0)
    costs[list(ours.written)] = np.maximum(costs[list(ours.written)], 0.0)
    used = sorted({*spelt, *(number for spelling in spelt.values() for number in spelling)})
    rows = vectors[torch.tensor(used, dtype=torch.long)].double().numpy()  # [used, D]
    place = {number: row for row, number in enumerate(used)}
    gaps = rows[[place[number] for number in spelt]] - average_rows(spelt.values(), place) @ rows
    costs[list(spelt)] *= np.square(gaps).sum(axis=1)
    return keep_best(costs, needed, size)


def spell_all(pieces: Pieces, cut: Iterable[int], kept: set[int]) -> dict[int, tuple[int, ...]]:
    """Return the kept tokens that spell each token, without those that nothing spells."""
    found = {number: pieces.spell(number, kept) for number in cut}
    return {number: spelling for number, spelling in found.items() if spelling}


def average_rows(spellings: Collection[Sequence[int]], place: Mapping[int, int]) -> csr_array:
    """Return the matrix [spellings, places] that averages each spelling's rows; a token that comes twice adds up."""
    entries = [(row, place[number], 1 / len(s)) for row, s in enumerate(spellings) for number in s]
    rows, columns, values = zip(*entries, strict=True) if entries else ((), (), ())
    return csr_array((values, (rows, columns)), shape=(len(spellings), len(place)))


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
    """Return the vector of every token [tokens, D], not copied; of low-rank embeddings the narrow ones."""
    words = cast(nn.Embedding, encoder.transformer.get_input_embeddings())
    return words.weight.detach().cpu()


def fold_vectors(
    vectors: Tensor, weights: np.ndarray, kept: Sequence[int], spelt: Mapping[int, Sequence[int]]
) -> Tensor:
    """Return the kept tokens' vectors, float64 [kept, D], after the least squares of the module's docstring."""
    start = vectors[torch.tensor(kept)].double()
    if not spelt:
        return start
    A = average_rows(spelt.values(), {number: row for row, number in enumerate(kept)})
    own = floor_weights(weights[list(kept)])
    lost = weights[list(spelt)]
    system = diags_array(own) + A.T @ diags_array(lost) @ A  # [kept, kept], sparse, symmetric, positive definite
    wanted = own[:, None] * start.numpy() + A.T @ (lost[:, None] * vectors[torch.tensor(list(spelt))].double().numpy())
    factors = splu(system.tocsc(), permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True})
    return torch.from_numpy(factors.solve(wanted))


def measure_coverage(
    before: PreTrainedTokenizerFast,
    after: PreTrainedTokenizerFast,
    texts: Mapping[str, Sequence[str]],
    kept: Sequence[int],
) -> tuple[Coverage, ...]:
    """Return what became of each language's text."""
    old_number = np.array(kept)
    unknown = unknown_number(before), unknown_number(after)
    report = []
    for language, sentences in texts.items():
        units = count_units([before, after], sentences)
        changed: set[str] = set()
        pieces, lost = [0, 0], [0, 0]
        for (part, old), (_, new) in zip(read_units(before, units), read_units(after, units), strict=True):
            for unit, *rows in zip(part, old, new, strict=True):
                count = units.counts[unit]
                for side, row in enumerate(rows):
                    pieces[side] += count * len(row)
                    lost[side] += count * row.count(cast(int, unknown[side]))
                if rows[0] != old_number[rows[1]].tolist():
                    changed.add(unit)
        words = sum(len(sentence.split()) for sentence in sentences)
        same = sum(changed.isdisjoint(units.split(sentence)) for sentence in sentences)
        survived = same / max(len(sentences), 1)
        before_after = [each / max(words, 1) for each in pieces]
        report.append(Coverage(language, before_after[0], before_after[1], lost[0], lost[1], survived))
    return tuple(report)

"""Vocabulary trimming: keep the word pieces that texts of the user's languages need, let others be spelt with them.

Which pieces stay: every piece has a weight, its share of a language's text, averaged over the languages; cutting it
costs its weight times the squared distance from its vector to the mean of the vectors that then spell it. The pieces
that cost most stay. Special tokens stay, and so do the single letters of every script that the texts are written in and
whatever cannot be spelt with them: no text of these languages gets an unknown token that it did not have.

What a cut piece leaves: its vector is folded into those that now spell it. With K and C the kept and the cut pieces, w
their weights, e their vectors and A the matrix whose row c holds 1/k at each of the k pieces that spell c, the new
vectors x of the kept pieces are the weighted least squares

    min over x of  sum over k in K of w_k |x_k - e_k|^2  +  sum over c in C of w_c |(A x)_c - e_c|^2.

Without folding, sentences whose pieces were all kept have bit for bit the same vector as before.
"""

import json
import unicodedata
from collections.abc import Container, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import numpy as np
import torch
from scipy.sparse import csr_array, diags_array
from scipy.sparse.linalg import splu
from tokenizers import Tokenizer, models
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from secateur.config import InputError
from secateur.encoder import Encoder, replace_tokenizer, replace_transformer
from secateur.lowrank import floor_weights
from secateur.modeling import WORDS, count_heads, count_neurons, fill_model, resize_config
from secateur.vocabulary import INNER, split_mark

SPACE = "▁"  # Unigram: stands for the space before a word


@dataclass(frozen=True)
class Coverage:
    """What a trimmed vocabulary does to one language's text."""

    language: str
    pieces_before: float  # a word
    pieces_after: float
    unknown_before: int
    unknown_after: int
    survived: float  # share of the sentences whose pieces were all kept


@dataclass(frozen=True)
class Trimmed:
    encoder: Encoder
    kept: tuple[int, ...]  # numbers in the old vocabulary, ascending: new number i is old number kept[i]


def trim_vocabulary(
    encoder: Encoder,
    texts: Mapping[str, Sequence[str]],
    size: int,
    *,
    fold: bool = True,
    weights: np.ndarray | None = None,
) -> Trimmed:
    """Return an encoder that reads with `size` pieces of its vocabulary, chosen for `texts`: sentences by language.

    `weights` are what `weigh_pieces` returns for them, where they are known.

    Raises InputError: a language without text, a tokenizer that is neither WordPiece nor Unigram, a size that the
    letters of the texts alone exceed. A `size` that the vocabulary does not exceed returns the encoder as it is.
    """
    check_texts(texts)
    tokenizer = fast_tokenizer(encoder)
    pieces = read_vocabulary(tokenizer)
    if size >= len(tokenizer):
        return Trimmed(encoder, tuple(range(len(tokenizer))))
    weights = weigh_pieces(tokenizer, texts) if weights is None else weights
    vectors = word_vectors(encoder)
    kept = choose_pieces(tokenizer, pieces, weights, vectors, texts, size)
    known = set(kept)
    parts = {piece: pieces.spell(piece, known) for piece in np.flatnonzero(weights).tolist() if piece not in known}
    rows = vectors[torch.tensor(kept)]
    if fold:
        rows = fold_vectors(vectors, weights, kept, parts)
    return Trimmed(replace_pieces(encoder, kept, rows), kept)


def least_size(encoder: Encoder, texts: Mapping[str, Sequence[str]]) -> int:
    """Return the size of the smallest vocabulary that can read texts of these languages."""
    check_texts(texts)
    tokenizer = fast_tokenizer(encoder)
    pieces = read_vocabulary(tokenizer)
    return len(find_needed(tokenizer, pieces, find_ours(pieces, texts)))


def check_texts(texts: Mapping[str, Sequence[str]]) -> None:
    if not texts:
        raise InputError("vocabulary: name a text for at least one language")
    for language, sentences in texts.items():
        if not any(sentence.strip() for sentence in sentences):
            raise InputError(f"vocabulary: language {language} has no text")


def fast_tokenizer(encoder: Encoder) -> PreTrainedTokenizerFast:
    tokenizer = encoder.tokenizer
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise InputError(f"vocabulary: a {type(tokenizer).__name__} cannot be trimmed: it is not a fast tokenizer")
    return tokenizer


@dataclass(frozen=True)
class Pieces:
    """A vocabulary as its tokenizer's model holds it, and how it spells."""

    texts: tuple[str, ...]  # by number
    numbers: Mapping[str, int]
    scores: Mapping[int, float] | None  # log probabilities of Unigram; none: WordPiece

    def spell(self, piece: int, kept: set[int]) -> tuple[int, ...]:
        """Return the kept pieces, other than itself, that the tokenizer would write a piece with; none if it cannot."""
        text = self.texts[piece]
        if self.scores is not None:
            return spell_best(text, self.numbers, self.scores, kept, but=piece)
        return spell_greedily(text, self.numbers, kept, but=piece)

    def letters(self, piece: int) -> list[str]:
        """Return the single-letter pieces that spell a piece whatever else is kept, in the texts of the vocabulary."""
        text = self.texts[piece]
        if self.scores is not None:
            return list(text)
        bare, inner = split_mark(text)
        return [letter if number == 0 and not inner else INNER + letter for number, letter in enumerate(bare)]


def read_vocabulary(tokenizer: PreTrainedTokenizerFast) -> Pieces:
    """Return a WordPiece or Unigram vocabulary; raise InputError for another kind."""
    model = tokenizer.backend_tokenizer.model
    if not isinstance(model, models.WordPiece | models.Unigram):
        kind = type(model).__name__
        raise InputError(f"vocabulary: a tokenizer of kind {kind} cannot be trimmed, WordPiece and Unigram can")
    numbers = tokenizer.get_vocab()
    texts = [""] * len(tokenizer)
    for text, number in numbers.items():
        texts[number] = text
    scores = None
    if isinstance(model, models.Unigram):
        listed = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["vocab"]
        scores = {numbers[text]: float(score) for text, score in listed}
    return Pieces(tuple(texts), numbers, scores)


def spell_greedily(
    text: str, numbers: Mapping[str, int], allowed: Container[int], *, but: int | None = None
) -> tuple[int, ...]:
    """Return the longest allowed pieces from left to right, as WordPiece does (Wu et al. 2016), one of them barred."""
    bare, inner = split_mark(text)
    found: list[int] = []
    start = 0
    while start < len(bare):
        mark = INNER if inner or start > 0 else ""
        ends = range(len(bare), start, -1)
        tried = ((end, numbers.get(mark + bare[start:end], -1)) for end in ends)
        end, number = next(((end, number) for end, number in tried if number in allowed and number != but), (0, -1))
        if not end:
            return ()
        found.append(number)
        start = end
    return tuple(found)


def spell_best(
    text: str,
    numbers: Mapping[str, int],
    scores: Mapping[int, float],
    allowed: Container[int],
    *,
    but: int | None = None,
) -> tuple[int, ...]:
    """Return the allowed pieces whose scores have the largest sum, as Unigram does (Kudo 2018), one of them barred."""
    best: list[tuple[float, tuple[int, ...]] | None] = [(0.0, ())] + [None] * len(text)
    for end in range(1, len(text) + 1):
        for start in range(end):
            before, number = best[start], numbers.get(text[start:end], -1)
            if before is None or number not in allowed or number == but or number not in scores:
                continue
            total = before[0] + scores[number]
            known = best[end]
            if known is None or total > known[0]:
                best[end] = (total, (*before[1], number))
    last = best[-1]
    return last[1] if last else ()


def weigh_pieces(tokenizer: PreTrainedTokenizerFast, texts: Mapping[str, Sequence[str]]) -> np.ndarray:
    """Return each piece's share of a language's pieces, averaged over the languages, float64 [pieces]."""
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


def tokenize(
    tokenizer: PreTrainedTokenizerFast, sentences: Sequence[str], step: int = 4_096
) -> Iterable[list[list[int]]]:
    """Yield the pieces of sentences, whole and without special tokens, some thousand sentences at a time."""
    backend = deepcopy(tokenizer.backend_tokenizer)
    backend.no_truncation()
    backend.no_padding()
    for start in range(0, len(sentences), step):
        encoded = backend.encode_batch(list(sentences[start : start + step]), add_special_tokens=False)
        yield [row.ids for row in encoded]


def choose_pieces(
    tokenizer: PreTrainedTokenizerFast,
    pieces: Pieces,
    weights: np.ndarray,
    vectors: Tensor,
    texts: Mapping[str, Sequence[str]],
    size: int,
) -> tuple[int, ...]:
    """Return the numbers of the `size` pieces that are kept, ascending."""
    ours = find_ours(pieces, texts)
    needed = find_needed(tokenizer, pieces, ours)
    if len(needed) > size:
        raise InputError(
            f"vocabulary: {size} pieces asked for, but special tokens and the letters of "
            f"{', '.join(texts)} alone are {len(needed)}"
        )
    by_weight = set(keep_best(weights, needed, size))
    costs = weights.copy()
    costs[[number for number in range(len(costs)) if number not in ours and not weights[number]]] = -1.0
    for piece in np.flatnonzero(weights):
        spelling = pieces.spell(int(piece), by_weight)
        if spelling:
            costs[piece] *= (vectors[piece] - vectors[list(spelling)].mean(dim=0)).square().sum().item()
    return keep_best(costs, needed, size)


def keep_best(costs: np.ndarray, needed: set[int], size: int) -> tuple[int, ...]:
    """Return what is needed and, up to `size`, the others that cost most; of equal ones the first."""
    order = (int(piece) for piece in np.argsort(-costs, kind="stable") if piece not in needed)
    return tuple(sorted([*needed, *(piece for piece, _ in zip(order, range(size - len(needed)), strict=False))]))


def find_ours(pieces: Pieces, texts: Mapping[str, Sequence[str]]) -> set[int]:
    """Return the pieces whose letters are all of scripts that the texts are written in."""
    scripts = {None, *map(find_script, {letter for some in texts.values() for text in some for letter in text})}
    return {
        number
        for number, text in enumerate(pieces.texts)
        if scripts.issuperset(map(find_script, strip_mark(text, pieces)))
    }


def find_needed(tokenizer: PreTrainedTokenizerFast, pieces: Pieces, ours: set[int]) -> set[int]:
    """Return the pieces that must stay: special tokens, the single letters and signs among `ours`, and those of them
    that single letters cannot spell."""
    special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    if pieces.scores is not None and SPACE in pieces.numbers:
        special.add(pieces.numbers[SPACE])
    single = {number for number in ours if len(strip_mark(pieces.texts[number], pieces)) == 1}
    letters = {pieces.texts[number] for number in special | single}
    return special | single | {number for number in ours if not letters.issuperset(pieces.letters(number))}


def strip_mark(text: str, pieces: Pieces) -> str:
    """Return a piece's letters without the mark that says where in a word it stands."""
    if pieces.scores is not None:
        return text.replace(SPACE, "") or text
    return split_mark(text)[0]


def find_script(letter: str) -> str | None:
    """Return the script of a letter, the first word of its Unicode name; None for digits, signs and marks."""
    if not unicodedata.category(letter).startswith("L"):
        return None
    return unicodedata.name(letter, "NONE").split()[0]


def word_vectors(encoder: Encoder) -> Tensor:
    """Return the vector of every piece, float64 [pieces, D]; of low-rank embeddings the narrow ones."""
    words = cast(nn.Embedding, encoder.transformer.get_input_embeddings())
    return words.weight.detach().double().cpu()


def fold_vectors(
    vectors: Tensor, weights: np.ndarray, kept: Sequence[int], parts: Mapping[int, tuple[int, ...]]
) -> Tensor:
    """Return the kept pieces' vectors [kept, D] after the least squares of the module's docstring."""
    place = {number: row for row, number in enumerate(kept)}
    spelt = {piece: spelling for piece, spelling in parts.items() if spelling}
    if not spelt:
        return vectors[torch.tensor(kept)]
    entries = [(row, place[number], 1 / len(s)) for row, s in enumerate(spelt.values()) for number in s]
    rows, columns, values = (np.array(each) for each in zip(*entries, strict=True))
    shape = (len(spelt), len(kept))
    A = csr_array((values, (rows, columns)), shape=shape)  # a piece that comes twice adds up
    own = floor_weights(weights[list(kept)])
    lost = weights[list(spelt)]
    system = diags_array(own) + A.T @ diags_array(lost) @ A  # [kept, kept], sparse, symmetric, positive definite
    start = vectors[torch.tensor(kept)].numpy()  # [kept, D]
    wanted = own[:, None] * start + A.T @ (lost[:, None] * vectors[torch.tensor(list(spelt))].numpy())
    factors = splu(system.tocsc(), permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True})
    return torch.from_numpy(factors.solve(wanted))


def replace_pieces(encoder: Encoder, kept: Sequence[int], rows: Tensor) -> Encoder:
    """Return a new encoder that reads with these pieces of its vocabulary, with these vectors [kept, D]."""
    transformer = encoder.transformer
    tokenizer = cut_tokenizer(fast_tokenizer(encoder), kept)
    shape = resize_config(
        transformer.config,
        count_heads(transformer),
        count_neurons(transformer),
        has_pooler=encoder.uses_pooler,
        pieces=len(kept),
    )
    for role in ("pad", "bos", "eos"):
        number = getattr(shape, f"{role}_token_id", None)
        if isinstance(number, int) and number in kept:
            setattr(shape, f"{role}_token_id", list(kept).index(number))
    if shape.pad_token_id != transformer.config.pad_token_id:
        raise InputError("vocabulary: the padding token is not among the first pieces; its number cannot change")
    weights = dict(transformer.state_dict())
    name = f"{WORDS}.weight"
    weights[name] = rows.to(weights[name])
    trimmed = fill_model(shape, weights, has_pooler=encoder.uses_pooler, like=transformer)
    return replace_tokenizer(replace_transformer(encoder, trimmed), tokenizer)


def cut_tokenizer(tokenizer: PreTrainedTokenizerFast, kept: Sequence[int]) -> PreTrainedTokenizerFast:
    """Return a tokenizer of the same class with these pieces alone, numbered anew in their old order."""
    place = {number: row for row, number in enumerate(kept)}
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    content["model"] = cut_model(content["model"], tokenizer.get_vocab(), place)
    content["added_tokens"] = [token | {"id": place[token["id"]]} for token in content["added_tokens"]]
    content["post_processor"] = renumber(content["post_processor"], place)
    content["truncation"], content["padding"] = None, None
    with TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        for old in ("vocab.txt", "vocab.json", "sentencepiece.bpe.model", "spiece.model"):
            (Path(folder) / old).unlink(missing_ok=True)
        path = Path(folder) / "tokenizer_config.json"
        settings = json.loads(path.read_text(encoding="utf-8"))
        if "added_tokens_decoder" in settings:
            tokens = settings["added_tokens_decoder"].items()
            settings["added_tokens_decoder"] = {str(place[int(number)]): token for number, token in tokens}
            path.write_text(json.dumps(settings, ensure_ascii=False), encoding="utf-8")
        (Path(folder) / "tokenizer.json").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
        cut = AutoTokenizer.from_pretrained(folder)
    assert isinstance(cut, PreTrainedTokenizerFast), "what it was saved from is a fast one"
    expected = Tokenizer.from_str(json.dumps(content))
    if cut.get_vocab() != expected.get_vocab(with_added_tokens=True):
        raise InputError(f"vocabulary: a {type(tokenizer).__name__} cannot be trimmed: it changes what it reads back")
    cut.name_or_path = tokenizer.name_or_path
    return cut


def cut_model(model: dict[str, Any], numbers: Mapping[str, int], place: Mapping[int, int]) -> dict[str, Any]:
    """Return the JSON of a WordPiece or Unigram model with the kept pieces alone."""
    if model["type"] == "WordPiece":
        vocabulary = {text: place[number] for text, number in model["vocab"].items() if number in place}
        return model | {"vocab": vocabulary}
    listed = [(text, score) for text, score in model["vocab"] if numbers[text] in place]
    unknown = None if model["unk_id"] is None else place[model["unk_id"]]
    return model | {"vocab": listed, "unk_id": unknown}


def renumber(processor: Any, place: Mapping[int, int]) -> Any:
    """Return the JSON of a post-processor with the special tokens' new numbers, whatever its type."""
    if isinstance(processor, dict):
        changed = {key: renumber(value, place) for key, value in processor.items()}
        if "ids" in changed:  # a template's special token
            changed["ids"] = [place[number] for number in processor["ids"]]
        return changed
    if isinstance(processor, list):
        if len(processor) == 2 and isinstance(processor[0], str) and isinstance(processor[1], int):
            return [processor[0], place[processor[1]]]  # ["[SEP]", 102] of the older types
        return [renumber(value, place) for value in processor]
    return processor


def measure_coverage(
    before: PreTrainedTokenizerFast,
    after: PreTrainedTokenizerFast,
    texts: Mapping[str, Sequence[str]],
    kept: Sequence[int],
) -> tuple[Coverage, ...]:
    """Return what became of each language's text."""
    known = set(kept)
    report = []
    for language, sentences in texts.items():
        words = sum(len(sentence.split()) for sentence in sentences)
        old = [row for rows in tokenize(before, sentences) for row in rows]
        new = [row for rows in tokenize(after, sentences) for row in rows]
        report.append(
            Coverage(
                language,
                pieces_before=sum(map(len, old)) / max(words, 1),
                pieces_after=sum(map(len, new)) / max(words, 1),
                unknown_before=sum(row.count(before.unk_token_id) for row in old),
                unknown_after=sum(row.count(after.unk_token_id) for row in new),
                survived=sum(known.issuperset(row) for row in old) / max(len(old), 1),
            )
        )
    return tuple(report)

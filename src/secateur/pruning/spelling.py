"""A vocabulary as its tokenizer's model holds it: how it spells, which tokens must stay."""

import json
import unicodedata
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass

from tokenizers import models
from transformers import PreTrainedTokenizerFast

from secateur.config.errors import InputError
from secateur.encoders.vocabulary import INNER, split_mark

SPACE = "▁"  # Unigram: stands for the space before a word


@dataclass(frozen=True)
class Pieces:
    """A vocabulary as its tokenizer's model holds it, and how it spells."""

    texts: tuple[str, ...]  # by number
    numbers: Mapping[str, int]
    scores: Mapping[int, float] | None  # log probabilities of Unigram; none: WordPiece

    def spell(self, piece: int, kept: set[int]) -> tuple[int, ...]:
        """Return the kept tokens, other than itself, that the tokenizer would write a token with; none if it cannot."""
        text = self.texts[piece]
        if self.scores is not None:
            return spell_best(text, self.numbers, self.scores, kept, but=piece)
        return spell_greedily(text, self.numbers, kept, but=piece)

    def letters(self, piece: int) -> list[str]:
        """Return the single-letter tokens that spell a token whatever else is kept, in the texts of the vocabulary."""
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
    """Return the longest allowed tokens from left to right, as WordPiece does (Wu et al. 2016), one of them barred."""
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
    """Return the allowed tokens whose scores have the largest sum, as Unigram does (Kudo 2018), one of them barred."""
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


def find_ours(pieces: Pieces, texts: Mapping[str, Sequence[str]]) -> set[int]:
    """Return the tokens whose letters are all of scripts that the texts are written in."""
    scripts = {None, *map(find_script, {letter for some in texts.values() for text in some for letter in text})}
    return {
        number
        for number, text in enumerate(pieces.texts)
        if scripts.issuperset(map(find_script, strip_mark(text, pieces)))
    }


def find_needed(tokenizer: PreTrainedTokenizerFast, pieces: Pieces, ours: set[int]) -> set[int]:
    """Return the tokens that must stay: special tokens, the single letters and signs among `ours`, and those of them
    that single letters cannot spell."""
    special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    if pieces.scores is not None and SPACE in pieces.numbers:
        special.add(pieces.numbers[SPACE])
    single = {number for number in ours if len(strip_mark(pieces.texts[number], pieces)) == 1}
    letters = {pieces.texts[number] for number in special | single}
    return special | single | {number for number in ours if not letters.issuperset(pieces.letters(number))}


def strip_mark(text: str, pieces: Pieces) -> str:
    """Return a token's letters without the mark that says where in a word it stands."""
    if pieces.scores is not None:
        return text.replace(SPACE, "") or text
    return split_mark(text)[0]


def find_script(letter: str) -> str | None:
    """Return the script of a letter, the first word of its Unicode name; None for digits, signs and marks."""
    if not unicodedata.category(letter).startswith("L"):
        return None
    return unicodedata.name(letter, "NONE").split()[0]

"""A vocabulary as its tokenizer's model holds it: how it spells, which tokens must stay.

No new unknown tokens: let a text be written in letters of our scripts, as the tokenizer's normaliser and pre-tokenizer
leave them, and in signs, and let no word of it begin with the mark of inner tokens, ## (BERT's pre-tokenizer leaves no
such word). They and the added tokens are the same before and after, so both models get the same words.

WordPiece takes the longest token at each place, and gives the whole word up where none fits. All single letters that
the vocabulary has stay, first and inner ones. Where the old model reads a word and the new one comes to a place inside
it, the old token there either begins at this place, and then itself or its first letter is kept, or it spans the place.
A first token that spans it was cut, else the new model had taken it too, and only tokens whose letters all stay are
cut. An inner one is safe if all its letters but the first have tokens of their own.
Unigram takes the tokens with the largest sum of scores, and a letter without a token of its own may be unknown, at a
cost. Where every letter in a token has one, nothing that was known can become unknown. Byte tokens stay, and so does
the token of the lowest score, on which the cost of an unknown letter hangs.

Where that condition does not hold, every token of our scripts stays, and the text is read as before.
"""

import json
import re
import sys
import unicodedata
from collections.abc import Container, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any

from tokenizers import models
from transformers import PreTrainedTokenizerFast

from secateur.config.errors import InputError
from secateur.encoders.vocabulary import INNER, split_mark
from secateur.pruning.unknown import unknown_number

SPACE = "▁"  # Unigram: stands for the space before a word
BYTE = re.compile("<0x[0-9A-F]{2}>")
PROCESSORS = ("BertProcessing", "ByteLevel", "RobertaProcessing", "Sequence", "TemplateProcessing")


@dataclass(frozen=True)
class Pieces:
    """A vocabulary as its tokenizer's model holds it, and how it spells."""

    texts: tuple[str, ...]  # by number
    numbers: Mapping[str, int]
    scores: Mapping[int, float] | None  # log probabilities of Unigram; none: WordPiece
    mark: str = INNER  # WordPiece: begins a token that is not the first of its word
    stored: frozenset[int] = frozenset()  # tokens that the tokenizer cannot do without
    added: frozenset[int] = frozenset()  # tokens that are found in a text before the model is asked
    by_bytes: bool = False  # Unigram: what it does not know it writes in bytes, and has all 256

    def spell(self, piece: int, kept: set[int]) -> tuple[int, ...]:
        """Return the kept tokens, other than itself, that the tokenizer would write a token with; none if it cannot."""
        text = self.texts[piece]
        if self.scores is not None:
            return spell_best(text, self.numbers, self.scores, kept, but=piece)
        return spell_greedily(text, self.numbers, kept, but=piece, mark=self.mark)

    def letters(self, piece: int) -> list[str]:
        """Return the single-letter tokens that spell a token whatever else is kept, in the texts of the vocabulary."""
        text = self.texts[piece]
        if self.scores is not None:
            return list(text)
        bare, inner = split_mark(text, self.mark)
        return [letter if number == 0 and not inner else self.mark + letter for number, letter in enumerate(bare)]

    def bare(self, piece: int) -> str:
        """Return a token's letters without the mark that says where in a word it stands."""
        text = self.texts[piece]
        return text.replace(SPACE, "") or text if self.scores is not None else split_mark(text, self.mark)[0]

    @cached_property
    def singles(self) -> frozenset[str]:
        """The texts of the tokens of one letter."""
        return frozenset(text for number, text in enumerate(self.texts) if len(self.bare(number)) == 1)


def read_vocabulary(tokenizer: PreTrainedTokenizerFast) -> Pieces:
    """Return a WordPiece or Unigram vocabulary.

    Raises InputError: another kind; numbers that are not 0, 1, 2, ... without gaps; no unknown token; a mark of inner
    tokens that has letters; a part of the tokenizer that is of an unknown type or names tokens that are not there.
    """
    model = tokenizer.backend_tokenizer.model
    if not isinstance(model, models.WordPiece | models.Unigram):
        kind = type(model).__name__
        raise InputError(f"vocabulary: a tokenizer of kind {kind} cannot be trimmed, WordPiece and Unigram can")
    numbers, count = tokenizer.get_vocab(), len(tokenizer)
    if len(numbers) != count or set(numbers.values()) != set(range(count)):
        raise InputError(
            f"vocabulary: the tokenizer's {count} tokens are not numbered from 0 to {count - 1}, it cannot be trimmed"
        )
    texts = tuple(sorted(numbers, key=lambda text: numbers[text]))
    found = frozenset(number for number, token in tokenizer.added_tokens_decoder.items() if not token.single_word)
    if isinstance(model, models.Unigram):
        pieces = read_unigram(model, texts, numbers)
    else:
        pieces = Pieces(texts, numbers, None, model.continuing_subword_prefix)
        if any(letter.isalnum() for letter in pieces.mark):
            raise InputError(f"vocabulary: the mark of the tokenizer's inner tokens, {pieces.mark!r}, has letters")
    unknown = unknown_number(tokenizer)
    if unknown is None and not pieces.by_bytes:
        raise InputError("vocabulary: the tokenizer's model has no unknown token, so it cannot be trimmed")
    stored = {*pieces.stored, *find_stored(tokenizer), *([] if unknown is None else [unknown])}
    if max(stored) >= count:
        raise InputError(f"vocabulary: the tokenizer names the token {max(stored)}, but has {count} tokens")
    return replace(pieces, stored=frozenset(stored), added=found)


def read_unigram(model: models.Unigram, texts: tuple[str, ...], numbers: Mapping[str, int]) -> Pieces:
    """Return a Unigram vocabulary; its lowest score and its bytes, if it falls back on them, must stay."""
    content = json.loads(model.__getstate__())
    scores = {number: float(score) for number, (_, score) in enumerate(content["vocab"])}
    parts = {number for number in scores if content["byte_fallback"] and BYTE.fullmatch(texts[number])}
    lowest = min(scores, key=lambda number: scores[number])
    return Pieces(texts, numbers, scores, stored=frozenset({lowest, *parts}), by_bytes=len(parts) == 256)


def find_stored(tokenizer: PreTrainedTokenizerFast) -> Iterator[int]:
    """Yield the tokens that the tokenizer puts around a sentence, and those it has a role for."""
    yield from (number for number in tokenizer.all_special_ids if number is not None)
    yield from tokenizer.added_tokens_decoder
    yield from find_numbers(read_parts(tokenizer).get("post_processor", {}))


def read_parts(tokenizer: PreTrainedTokenizerFast) -> dict[str, dict[str, Any]]:
    """Return what a tokenizer's file says of its parts but the model. Raises InputError: one is made of Python code."""
    parts: dict[str, dict[str, Any]] = {}
    for name in ("normalizer", "pre_tokenizer", "post_processor", "decoder"):
        part = getattr(tokenizer.backend_tokenizer, name)
        try:
            parts |= {} if part is None else {name: json.loads(part.__getstate__())}
        except Exception:  # the library raises nothing narrower
            raise InputError(
                f"vocabulary: the tokenizer's {name} is made of Python code, no file can hold it"
            ) from None
    return parts


def find_numbers(processor: dict[str, Any]) -> Iterator[int]:
    """Yield the tokens that a post-processor's JSON names. Raises InputError: it is of an unknown type."""
    kind = processor.get("type", "ByteLevel")
    if kind not in PROCESSORS:
        raise InputError(f"vocabulary: the tokenizer's post-processor is a {kind}, which cannot be trimmed")
    for part in processor.get("processors", ()):
        yield from find_numbers(part)
    for role in ("cls", "sep"):
        if role in processor:
            yield processor[role][1]
    if kind == "TemplateProcessing":
        yield from (number for token in processor["special_tokens"].values() for number in token["ids"])


def spell_greedily(
    text: str, numbers: Mapping[str, int], allowed: Container[int], *, but: int | None = None, mark: str = INNER
) -> tuple[int, ...]:
    """Return the longest allowed tokens from left to right, as WordPiece does (Wu et al. 2016), one of them barred."""
    bare, inner = split_mark(text, mark)
    found: list[int] = []
    start = 0
    while start < len(bare):
        before = mark if inner or start > 0 else ""
        ends = range(len(bare), start, -1)
        tried = ((end, numbers.get(before + bare[start:end], -1)) for end in ends)
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


@dataclass(frozen=True)
class Ours:
    """Tokens of our scripts, by number."""

    written: frozenset[int]  # whose letters, as the tokenizer reads them, are all of the texts' scripts
    promised: frozenset[int]  # these, and those with letters that signs become: № may be read as No


def find_ours(tokenizer: PreTrainedTokenizerFast, pieces: Pieces, texts: Mapping[str, Sequence[str]]) -> Ours:
    """Return the tokens that texts in the scripts of these texts may need."""
    if has_byte_letters(tokenizer):
        everything = frozenset(range(len(pieces.texts)))
        return Ours(everything, everything)
    scripts = {None, *map(find_script, find_letters(tokenizer, texts))}
    signs = set(normalise(tokenizer, find_signs()))
    letters = {letter for text in pieces.texts for letter in text if find_script(letter) in scripts}
    written = frozenset(number for number in range(len(pieces.texts)) if letters.issuperset(pieces.bare(number)))
    letters |= signs
    return Ours(written, frozenset(n for n in range(len(pieces.texts)) if letters.issuperset(pieces.bare(n))))


def has_byte_letters(tokenizer: PreTrainedTokenizerFast) -> bool:
    """Return whether the tokenizer writes bytes as letters: then they say nothing of scripts."""
    parts = read_parts(tokenizer)
    return any("'type': 'ByteLevel'" in str(parts.get(name)) for name in ("normalizer", "pre_tokenizer"))


def find_letters(tokenizer: PreTrainedTokenizerFast, texts: Mapping[str, Sequence[str]]) -> set[str]:
    """Return the letters and signs that the tokenizer's model gets to see of the texts' words."""
    words = sorted({word for sentences in texts.values() for sentence in sentences for word in sentence.split()})
    splitter = tokenizer.backend_tokenizer.pre_tokenizer
    letters: set[str] = set()
    for start in range(0, len(words), WORDS):
        text = normalise(tokenizer, " ".join(words[start : start + WORDS]))
        letters.update(text if splitter is None else (c for word, _ in splitter.pre_tokenize_str(text) for c in word))
    return letters


WORDS = 5_000  # at a time


def normalise(tokenizer: PreTrainedTokenizerFast, text: str) -> str:
    normalizer = tokenizer.backend_tokenizer.normalizer
    return text if normalizer is None else str(normalizer.normalize_str(text))


@cache
def find_signs() -> str:
    """Return every character that is of no script, with spaces between."""
    every = map(chr, range(sys.maxunicode + 1))
    return " ".join(sign for sign in every if unicodedata.category(sign) not in (*LETTERS, "Cn", "Co", "Cs"))


def find_needed(pieces: Pieces, ours: Set[int]) -> set[int]:
    """Return the tokens that must stay: those the tokenizer cannot do without, the single letters and signs among
    `ours`, and those of them that single letters cannot spell; all of `ours` where one of these is unsafe."""
    if find_unsafe(pieces, ours) is not None:
        return {*pieces.stored, *ours}
    single = {number for number in ours if len(pieces.bare(number)) == 1}
    unspelt = {number for number in ours if not pieces.singles.issuperset(pieces.letters(number))}
    return {*pieces.stored, *single, *unspelt}


def find_unsafe(pieces: Pieces, ours: Set[int]) -> tuple[str, str] | None:
    """Return a letter and one of `ours` that has it where no text could be promised to be read without the other; see
    the module's docstring."""
    if pieces.by_bytes:
        return None
    for number in sorted(ours - pieces.added):
        letters = pieces.letters(number)
        if pieces.scores is None:
            letters = letters[1:] if split_mark(pieces.texts[number], pieces.mark)[1] else []
        missing = next((letter for letter in letters if letter not in pieces.singles), None)
        if missing is not None:
            return missing.removeprefix(pieces.mark), pieces.texts[number]
    return None


@cache
def find_script(letter: str) -> str | None:
    """Return the script of a letter: the first word of the Unicode name of what it decomposes into, such as LATIN for
    a full-width one; None for digits, signs, marks and the modifier letters that scripts share."""
    if unicodedata.category(letter) not in LETTERS:
        return None
    parts = unicodedata.normalize("NFKD", letter) + letter
    base = next(part for part in parts if unicodedata.category(part) in LETTERS)
    return unicodedata.name(base, "NONE").split()[0]


LETTERS = ("Lu", "Ll", "Lt", "Lo")

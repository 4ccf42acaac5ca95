"""A WordPiece vocabulary made for a corpus, and its first vectors, taken from the vocabulary that it replaces."""

import logging
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import BertTokenizer, PreTrainedTokenizerFast

from secateur.config.errors import InputError
from secateur.config.student import VocabularySettings
from secateur.data.sources import word_frequencies

log = logging.getLogger(__name__)

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
ROLES = ("pad_token_id", "unk_token_id", "cls_token_id", "sep_token_id", "mask_token_id")
INNER = "##"  # begins a token that is not the first of its word

MOST_PARTS = 3  # old tokens that a new one may be spelt with ...
PART_LETTERS = 2  # ... and letters that they have at the least, on average


def train_vocabulary(
    sentences: Iterable[str], settings: VocabularySettings, *, max_length: int
) -> PreTrainedTokenizerFast:
    """Return a BERT tokenizer with the `size` most useful tokens of the sentences, special tokens first.

    Text is normalised as BERT does, lower-cased if asked, but accents stay: й and ё are letters. Letters seen fewer
    than `min_frequency` times are unknown. The same counts of words give the same tokens with the same numbers, in
    any process and any order of the sentences. `max_length` is written into the tokenizer.
    Raises InputError: the sentences have too few tokens for `size`, or too many letters.
    """
    counts = count_words(sentences, lowercase=settings.lowercase)
    if settings.general:
        counts = blend(counts, settings.general)
    words = drop_rare_letters(counts, settings.min_frequency)
    pieces = learn_pieces(words, settings.size, settings.min_frequency)
    if len(pieces) > settings.size:
        raise InputError(
            f"student.vocabulary.size: {settings.size} tokens asked for, but the corpus needs {len(pieces)} for its "
            f"letters alone"
        )
    if len(pieces) < settings.size:
        raise InputError(
            f"student.vocabulary.size: {settings.size} tokens asked for, but the corpus fills only {len(pieces)} "
            f"(min_frequency: {settings.min_frequency})"
        )
    log.info("vocabulary: %d tokens from %d different words", len(pieces), len(words))
    return make_tokenizer(pieces, lowercase=settings.lowercase, max_length=max_length)


def make_tokenizer(pieces: Sequence[str], *, lowercase: bool, max_length: int) -> PreTrainedTokenizerFast:
    return BertTokenizer(
        vocab={piece: number for number, piece in enumerate(pieces)},
        do_lower_case=lowercase,
        strip_accents=False,
        model_max_length=max_length,
    )


def count_words(sentences: Iterable[str], *, lowercase: bool) -> Counter[str]:
    """Return how often each word occurs, split and normalised as the tokenizer will do it."""
    backend = make_tokenizer(SPECIAL, lowercase=lowercase, max_length=1).backend_tokenizer
    words: Counter[str] = Counter()
    for sentence in sentences:
        text = backend.normalizer.normalize_str(sentence)
        words.update(word for word, _ in backend.pre_tokenizer.pre_tokenize_str(text))
    return words


def blend(counts: Counter[str], general: float) -> Counter[str]:
    """Return the counts with those of general English and Russian added, each language half of the share `general`.

    General counts are rounded: a word that would be seen less than once in so much text is not there.
    """
    added = counts.total() * general / (1 - general) / 2
    blended = counts.copy()
    for language in ("en", "ru"):
        shares = word_frequencies(language)
        whole = sum(shares.values())
        blended.update({word: round(share / whole * added) for word, share in shares.items()})
    return +blended


def drop_rare_letters(words: Mapping[str, int], min_frequency: int) -> dict[str, int]:
    """Return the words without those that have a letter seen fewer than `min_frequency` times."""
    letters: Counter[str] = Counter()
    for word, count in words.items():
        for letter in word:
            letters[letter] += count
    rare = {letter for letter, count in letters.items() if count < min_frequency}
    return {word: count for word, count in words.items() if rare.isdisjoint(word)}


def learn_pieces(words: Mapping[str, int], size: int, min_frequency: int) -> list[str]:
    """Return special tokens, inner letters, first letters, and merges of tokens, the most frequent first."""
    inner = sorted({INNER + letter for word in words for letter in word[1:]})
    # The trainer breaks ties by the numbers of the letters, and numbers inner ones in the order of a hash table
    # that is another in every process, unless they are there before it starts.
    trainer = trainers.WordPieceTrainer(
        vocab_size=size,
        min_frequency=min_frequency,
        special_tokens=[*SPECIAL, *inner],
        continuing_subword_prefix=INNER,
        show_progress=False,
    )
    backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.train_from_iterator(repeat_words(words), trainer)
    vocabulary = backend.get_vocab()
    return sorted(vocabulary, key=lambda piece: vocabulary[piece])


def repeat_words(words: Mapping[str, int]) -> Iterator[str]:
    for word, count in words.items():
        yield " ".join([word] * count)


@dataclass(frozen=True)
class Transplant:
    """The vectors of a new vocabulary, [tokens, D], and the old rows that each was made of; drawn ones of none."""

    vectors: Tensor
    parts: tuple[tuple[int, ...], ...]

    @property
    def copied(self) -> int:
        return sum(len(rows) == 1 for rows in self.parts)

    @property
    def spelt(self) -> int:
        return sum(len(rows) > 1 for rows in self.parts)

    @property
    def drawn(self) -> int:
        return sum(len(rows) == 0 for rows in self.parts)


def transplant(vectors: Tensor, old: PreTrainedTokenizerFast, new: PreTrainedTokenizerFast, *, seed: int) -> Transplant:
    """Return vectors for the tokens of a new vocabulary, from those of an old one, [old tokens, D], of any kind.

    With m and s the mean and the standard deviation of each dimension of the old vectors, a new token gets

        v                               if the old vocabulary has it (copied),
        m + sum_i (v_i - m) / sqrt(k)   if k old tokens spell it (spelt),
        m + s * noise                   else, noise from N(0, 1) (drawn).

    A token is looked up at its place, first in its word or inner, then at the other place; as it stands, then as the
    old tokenizer normalises it (a cased token in a lower-cased vocabulary). Special tokens are matched by role.

    A token counts as spelt with at most 3 old tokens, of 2 letters or more on average. An English vocabulary spells
    nearly every Russian token letter by letter, and sums over the same few letters are alike: with the vectors of
    all-MiniLM-L6-v2 and 20,000 tokens of 50,000 pairs, two Russian tokens spelt at any length had a mean cosine of
    .75 (to the nearest of 2,000: .95), drawn ones .01 (.18), English ones spelt by this rule .12 (.65), old ones .02
    (.39). The root keeps the scale: norms of 1.23, where copied vectors have 1.24 and plain means .84.
    """
    parts = find_parts(old, new)
    old_vectors = vectors.detach().float().cpu()
    mean, spread = old_vectors.mean(dim=0), old_vectors.std(dim=0)  # [D]
    noise = torch.randn(len(parts), len(mean), generator=torch.Generator().manual_seed(seed))
    new_vectors = mean + spread * noise  # [tokens, D]
    for number, rows in enumerate(parts):
        if len(rows) == 1:
            new_vectors[number] = old_vectors[rows[0]]
        elif rows:
            new_vectors[number] = mean + (old_vectors[list(rows)] - mean).sum(dim=0) / math.sqrt(len(rows))
    result = Transplant(new_vectors, parts)
    log.info(
        "vectors of %d tokens: %d copied, %d spelt, %d drawn", len(parts), result.copied, result.spelt, result.drawn
    )
    return result


def find_parts(old: PreTrainedTokenizerFast, new: PreTrainedTokenizerFast) -> tuple[tuple[int, ...], ...]:
    """Return, for every new token in order, the old tokens it is made of."""
    table = read_pieces(old)
    parts = [
        find_spelling(text, inner, apply_normalizer(text, old), table)
        for text, inner in map(split_mark, new.convert_ids_to_tokens(list(range(len(new)))))
    ]
    for role in ROLES:
        number = getattr(old, role)
        parts[getattr(new, role)] = () if number is None else (number,)
    return tuple(parts)


Pieces = dict[tuple[str, bool], int]  # text, and whether it is inner: number


def read_pieces(tokenizer: PreTrainedTokenizerFast) -> Pieces:
    """Return the tokens of a WordPiece, SentencePiece or byte-level vocabulary by what they stand for."""
    model, vocabulary = tokenizer.backend_tokenizer.model, tokenizer.get_vocab()
    if isinstance(model, models.WordPiece):
        return {split_mark(piece, model.continuing_subword_prefix): number for piece, number in vocabulary.items()}
    if isinstance(model, models.BPE) and "Ġ" in vocabulary:
        decoder = decoders.ByteLevel()
        texts = {decoder.decode([piece]): number for piece, number in vocabulary.items()}
    else:
        texts = {piece.replace("▁", " "): number for piece, number in vocabulary.items()}
    return {(text.removeprefix(" "), not text.startswith(" ")): number for text, number in texts.items()}


def split_mark(piece: str, mark: str = INNER) -> tuple[str, bool]:
    """Return a token's text and whether it is inner; `##` alone is two signs."""
    inner = piece.startswith(mark) and piece != mark
    return (piece.removeprefix(mark), True) if inner else (piece, False)


def apply_normalizer(text: str, tokenizer: PreTrainedTokenizerFast) -> str:
    normalizer = tokenizer.backend_tokenizer.normalizer
    return normalizer.normalize_str(text).strip(" ▁") if normalizer else text


def find_spelling(text: str, inner: bool, normalised: str, table: Pieces) -> tuple[int, ...]:
    """Return the old token that is the text, else the few and long ones that spell it, else none."""
    forms = [form for form in (text, normalised) if form]
    for form in forms:
        for place in (inner, not inner):
            if (form, place) in table:
                return (table[form, place],)
    for form in forms:
        rows = spell(form, inner, table)
        if rows and len(form) >= PART_LETTERS * len(rows):
            return rows
    return ()


def spell(text: str, inner: bool, table: Pieces) -> tuple[int, ...]:
    """Return the longest tokens from left to right that make up the text; none if it takes over MOST_PARTS."""
    rows: list[int] = []
    start = 0
    while start < len(text) and len(rows) < MOST_PARTS:
        ends = range(len(text), start, -1)
        end = next((end for end in ends if (text[start:end], inner or start > 0) in table), None)
        if end is None:
            return ()
        rows.append(table[text[start:end], inner or start > 0])
        start = end
    return tuple(rows) if start == len(text) else ()

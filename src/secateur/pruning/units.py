"""What a tokenizer makes of many texts, word by word: a million sentences have some hundred thousand words.

Most tokenizers split a text at blanks before their model sees it, so that a word is read alike wherever it stands. That
is tried on some of the texts; where it does not hold, the units are whole sentences.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedTokenizerFast

from secateur.encoders.reading import copy_backend
from secateur.pruning.unknown import encode

TRIED = 512  # sentences on which words are read alone
STEP = 16_384  # units at a time


@dataclass(frozen=True)
class Units:
    """Texts as what is read at a time, each unit once with how often it comes."""

    counts: Mapping[str, int]
    by_word: bool

    def split(self, sentence: str) -> Sequence[str]:
        """Return the units that a sentence is made of."""
        return sentence.split() if self.by_word else (sentence,)


def count_units(tokenizers: Sequence[PreTrainedTokenizerFast], sentences: Iterable[str]) -> Units:
    """Return the words of sentences, or the sentences where one of the tokenizers does not read word by word."""
    sentences = sentences if isinstance(sentences, Sequence) else list(sentences)
    if all(reads_words_alone(tokenizer, sentences) for tokenizer in tokenizers):
        return Units(Counter(word for sentence in sentences for word in sentence.split()), by_word=True)
    return Units(Counter(sentences), by_word=False)


def reads_words_alone(tokenizer: PreTrainedTokenizerFast, sentences: Sequence[str]) -> bool:
    """Return whether some sentences, evenly over the text, have the tokens of their words one after the other."""
    tried = sentences[:: max(1, len(sentences) // TRIED)]
    words = [sentence.split() for sentence in tried]
    backend = copy_backend(tokenizer)
    whole = [row.ids for row in encode(backend, tried)]
    alone = iter([row.ids for row in encode(backend, [word for each in words for word in each])])
    return all(row == [number for _ in each for number in next(alone)] for row, each in zip(whole, words, strict=True))


def read_units(tokenizer: PreTrainedTokenizerFast, units: Units) -> Iterator[tuple[Sequence[str], list[list[int]]]]:
    """Yield units and their tokens, without special tokens, some thousand units at a time."""
    backend = copy_backend(tokenizer)
    names = list(units.counts)
    for start in range(0, len(names), STEP):
        part = names[start : start + STEP]
        yield part, [row.ids for row in encode(backend, part)]


def count_tokens(tokenizer: PreTrainedTokenizerFast, units: Units) -> np.ndarray:
    """Return how often each token comes in the texts, float64 [tokens]."""
    total = np.zeros(len(tokenizer))
    for part, rows in read_units(tokenizer, units):
        times = np.repeat([units.counts[unit] for unit in part], [len(row) for row in rows])
        numbers = np.fromiter((number for row in rows for number in row), np.int64, len(times))
        total += np.bincount(numbers, times, minlength=len(total))
    return total

"""Counting word by word comes to what counting sentence by sentence comes to."""

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from secateur.pruning.units import Units, count_tokens, count_units, read_units

TEXT = ["The cat sleeps on the warm roof.", "Кошка спит, кошка спит.", "the  CAT -- the cat?", "", "кошка"]


def byte_level() -> PreTrainedTokenizerFast:
    """A tokenizer that reads the first word of a text in another way than the same word behind a blank."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    model = models.BPE({letter: number for number, letter in enumerate(alphabet)}, [])
    backend = Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return PreTrainedTokenizerFast(tokenizer_object=backend)


def test_words_are_counted_as_sentences_are(tokenizer: PreTrainedTokenizerFast) -> None:
    words = count_units([tokenizer], TEXT)
    assert words.by_word
    assert words.counts["the"] == 3
    whole = Units(dict.fromkeys(TEXT, 1), by_word=False)
    np.testing.assert_array_equal(count_tokens(tokenizer, words), count_tokens(tokenizer, whole))


def test_a_tokenizer_that_looks_at_what_stands_before_a_word_reads_sentences() -> None:
    units = count_units([byte_level()], TEXT)
    assert not units.by_word
    assert units.split(TEXT[0]) == (TEXT[0],)
    rows = [row for _, part in read_units(byte_level(), units) for row in part]
    assert [len(row) for row in rows] == [len(sentence.encode()) for sentence in TEXT]


def test_one_of_two_tokenizers_decides(tokenizer: PreTrainedTokenizerFast) -> None:
    assert not count_units([tokenizer, byte_level()], TEXT).by_word


@pytest.mark.parametrize("text", [[], [""], ["   "]])
def test_no_text_has_no_tokens(tokenizer: PreTrainedTokenizerFast, text: list[str]) -> None:
    assert count_tokens(tokenizer, count_units([tokenizer], text)).sum() == 0

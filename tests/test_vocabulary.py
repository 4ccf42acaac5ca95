"""Vocabularies made for a corpus: what text becomes, the same tokens in any process, and where vectors come from."""

import json
import logging
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from conftest import SPECIAL
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from secateur.config.errors import InputError
from secateur.config.student import VocabularySettings
from secateur.encoders.vocabulary import blend, make_tokenizer, read_pieces, train_vocabulary, transplant

ANOTHER_PROCESS = """
import json, sys
from secateur.config.student import VocabularySettings
from secateur.encoders.vocabulary import train_vocabulary
tokenizer = train_vocabulary(json.load(sys.stdin), VocabularySettings(size=400, min_frequency=1), max_length=16)
print(tokenizer.backend_tokenizer.to_str())
"""


def train(sentences: list[str], **settings: object) -> PreTrainedTokenizerFast:
    return train_vocabulary(
        sentences, VocabularySettings(**{"size": 400, "min_frequency": 1, **settings}), max_length=16
    )


def wordpiece(*pieces: str, lowercase: bool = True) -> PreTrainedTokenizerFast:
    return make_tokenizer([*SPECIAL, *pieces], lowercase=lowercase, max_length=16)


def fast(model: models.Model, **parts: object) -> PreTrainedTokenizerFast:
    backend = Tokenizer(model)
    for name, part in parts.items():
        setattr(backend, name, part)
    return PreTrainedTokenizerFast(tokenizer_object=backend)


def number_of(tokenizer: PreTrainedTokenizerFast, *pieces: str) -> list[int]:
    return [tokenizer.get_vocab()[piece] for piece in pieces]


def join(pieces: list[str]) -> str:
    return "".join(piece.removeprefix("##") if piece.startswith("##") else f" {piece}" for piece in pieces).strip()


@pytest.mark.parametrize(("lowercase", "seen"), [(True, "ёжик и йод мой"), (False, "Ёжик и Йод мой")])
def test_accents_survive_in_either_case(sentences: list[str], lowercase: bool, seen: str) -> None:
    tokenizer = train([*sentences, "Ёжик и Йод мой"], lowercase=lowercase)
    assert join(tokenizer.tokenize("Ёжик и Йод мой")) == seen


def test_lower_casing_reads_both_cases_alike(sentences: list[str]) -> None:
    assert train(sentences).tokenize("КОШКА Спит") == train(sentences).tokenize("кошка спит")
    cased = train([*sentences, "КОШКА"], lowercase=False)
    assert cased.tokenize("КОШКА спит") != cased.tokenize("кошка спит")


def test_size_is_reached_exactly_with_special_tokens_first(sentences: list[str]) -> None:
    tokenizer = train(sentences, size=321)
    assert len(tokenizer) == len(tokenizer.get_vocab()) == 321
    assert tokenizer.convert_ids_to_tokens(range(5)) == SPECIAL
    assert [tokenizer.pad_token_id, tokenizer.cls_token_id, tokenizer.sep_token_id] == [0, 2, 3]
    assert tokenizer.model_max_length == 16
    assert tokenizer("")["input_ids"] == [2, 3]


def test_every_letter_of_the_corpus_can_be_read(sentences: list[str]) -> None:
    tokenizer = train(sentences)
    assert not [sentence for sentence in sentences if "[UNK]" in tokenizer.tokenize(sentence)]


def test_letters_rarer_than_asked_are_unknown(sentences: list[str]) -> None:
    tokenizer = train([*sentences, *sentences, "☃ ☃rose"], size=250, min_frequency=3)
    assert tokenizer.tokenize("☃ cat") == ["[UNK]", *tokenizer.tokenize("cat")]
    assert "☃" not in tokenizer.get_vocab()


def test_another_process_and_another_order_give_the_same_bytes(sentences: list[str]) -> None:
    result = subprocess.run(
        [sys.executable, "-c", ANOTHER_PROCESS],
        input=json.dumps(sentences[::-1]),
        env={**os.environ, "PYTHONHASHSEED": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.strip() == train(sentences).backend_tokenizer.to_str()


def test_a_saved_tokenizer_reloads_the_same_in_stock_libraries(sentences: list[str], tmp_path: Path) -> None:
    tokenizer = train([*sentences, "Ёж"], lowercase=False)
    tokenizer.save_pretrained(tmp_path)
    stock = AutoTokenizer.from_pretrained(tmp_path)
    bare = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert type(stock) is type(tokenizer)
    assert stock.get_vocab() == tokenizer.get_vocab()
    assert stock.model_max_length == 16
    for sentence in [*sentences, "Ёж, Йод и ёлка"]:
        assert stock(sentence)["input_ids"] == tokenizer(sentence)["input_ids"] == bare.encode(sentence).ids


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": 5000}, r"student.vocabulary.size: 5000 tokens asked for, but the corpus fills only \d+ \(min_fr"),
        ({"size": 20}, r"student.vocabulary.size: 20 tokens asked for, but the corpus needs 1\d\d for its letters"),
    ],
)
def test_a_size_that_the_corpus_cannot_meet_is_one_line(
    sentences: list[str], settings: dict[str, int], message: str
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        train(sentences, **settings)
    assert "\n" not in str(caught.value)


def test_general_words_are_read_whole_though_the_corpus_lacks_them(sentences: list[str]) -> None:
    pytest.importorskip("wordfreq", reason="the optional package wordfreq is not installed")
    own, blended = train(sentences * 50, size=800), train(sentences * 50, size=800, general=0.9)
    asked = "они сказали что никогда больше не будут"
    assert len(blended.tokenize(asked)) < len(own.tokenize(asked))
    counts = Counter({"cat": 600_000, "кот": 200_000})
    added = blend(counts, 0.6) - counts
    assert added.total() == pytest.approx(1_200_000, rel=0.1)
    assert sum(count for word, count in added.items() if word.isascii()) == pytest.approx(600_000, rel=0.1)


def test_no_sentences_fill_no_vocabulary() -> None:
    with pytest.raises(InputError, match=r"400 tokens asked for, but the corpus fills only 5 "):
        train([])


def test_pieces_of_the_old_vocabulary_are_copied_bit_for_bit(caplog: pytest.LogCaptureFixture) -> None:
    old = wordpiece("##s", "s", "cat", "dog")
    new = wordpiece("dog", "cat", "s", "##s", "##cat")
    vectors = torch.randn(len(old), 8)
    with caplog.at_level(logging.INFO):
        moved = transplant(vectors, old, new, seed=0)
    assert torch.equal(moved.vectors[5:9], vectors[number_of(old, "dog", "cat", "s", "##s")])
    assert torch.equal(moved.vectors[9], vectors[number_of(old, "cat")[0]])  # inner: only there as a first token
    assert (moved.copied, moved.spelt, moved.drawn) == (10, 0, 0)
    assert "vectors of 10 tokens: 10 copied, 0 spelt, 0 drawn" in caplog.text


def test_special_tokens_are_matched_by_role() -> None:
    old = make_tokenizer(["[MASK]", "[SEP]", "[CLS]", "[UNK]", "[PAD]", "cat"], lowercase=True, max_length=16)
    vectors = torch.randn(len(old), 8)
    assert torch.equal(transplant(vectors, old, wordpiece(), seed=0).vectors, vectors[[4, 3, 2, 1, 0]])


def test_a_spelt_piece_is_the_sum_of_deviations_over_the_root_of_their_number() -> None:
    old = wordpiece("tea", "##pot", "pot", "##s")
    new = wordpiece("teapot", "teapots", "##potpot")
    vectors = torch.randn(len(old), 8)
    moved = transplant(vectors, old, new, seed=0)
    tea, pot, s = number_of(old, "tea", "##pot", "##s")
    assert moved.parts[5:] == ((tea, pot), (tea, pot, s), (pot, pot))
    mean = vectors.mean(dim=0)
    expected = mean + (vectors[tea] - mean + vectors[pot] - mean) / 2**0.5
    torch.testing.assert_close(moved.vectors[5], expected)
    assert (moved.copied, moved.spelt, moved.drawn) == (5, 3, 0)


def test_letters_and_long_spellings_do_not_spell() -> None:
    old = wordpiece("к", "##о", "##т", "##ик", "ro", "##om", "##ba", "##nd", "##s")
    new = wordpiece("кот", "котик", "rooms", "roombands")
    parts = transplant(torch.randn(len(old), 8), old, new, seed=0).parts[5:]
    assert parts == ((), (), (), ())  # 3 parts of 3 letters; 4 parts; 3 parts of 5 letters; 5 parts


def test_cased_pieces_are_looked_up_as_the_old_tokenizer_normalises_them() -> None:
    old = wordpiece("cat", "##fish", "й", "и")
    new = wordpiece("Cat", "cat", "CatFish", "Й", "й", lowercase=False)
    cat, fish, short_i = number_of(old, "cat", "##fish", "й")
    assert transplant(torch.randn(len(old), 8), old, new, seed=0).parts[5:] == (
        (cat,), (cat,), (cat, fish), (short_i,), (short_i,),
    )  # fmt: skip


def test_drawn_rows_have_the_scale_of_the_old_ones_in_each_dimension() -> None:
    old = wordpiece("cat")
    new = wordpiece(*(f"ж{number}" for number in range(4000)))
    scale = torch.tensor([0.01, 0.1, 1, 10])
    vectors = torch.randn(len(old), 4) * scale + 3 * scale
    drawn = transplant(vectors, old, new, seed=0).vectors[5:]
    torch.testing.assert_close(drawn.mean(dim=0) / scale, vectors.mean(dim=0) / scale, atol=0.1, rtol=0)
    torch.testing.assert_close(drawn.std(dim=0), vectors.std(dim=0), atol=0, rtol=0.1)


def test_the_seed_decides_what_is_drawn_and_nothing_else() -> None:
    old, new = wordpiece("cat"), wordpiece("кот", "cat")
    vectors = torch.randn(len(old), 8)
    before = vectors.clone()
    first, again, other = (transplant(vectors, old, new, seed=seed).vectors for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first[5], other[5])
    assert torch.equal(first[6], other[6])
    assert torch.equal(vectors, before)


def test_sentencepiece_pieces_are_read_by_their_mark() -> None:
    pieces = ["<unk>", "▁cat", "s", "▁кот", ",", "▁"]
    old = fast(models.Unigram([(piece, -1.0) for piece in pieces], unk_id=0), normalizer=normalizers.Prepend("▁"))
    table = read_pieces(old)
    assert (table["cat", False], table["s", True], table["кот", False]) == (1, 2, 3)
    parts = transplant(torch.randn(6, 8), old, wordpiece("кот", "cats", ",", "##́"), seed=0).parts[5:]
    assert parts == ((3,), (1, 2), (4,), ())  # BERT's comma is always first, SentencePiece's mostly inner


def test_byte_level_pieces_are_read_as_text() -> None:
    texts = [" cat", "cat", " кот", "ик"]
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    pieces = ["Ġ", *(byte_level.pre_tokenize_str(text)[0][0] for text in texts), "Ñ"]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    old = fast(models.BPE(vocabulary, []), pre_tokenizer=byte_level, decoder=decoders.ByteLevel())
    table = read_pieces(old)
    assert [table["cat", False], table["cat", True], table["кот", False], table["ик", True]] == [1, 2, 3, 4]
    parts = transplant(torch.randn(6, 8), old, wordpiece("кот", "##cat", "котик"), seed=0).parts[5:]
    assert parts == ((3,), (2,), (3, 4))

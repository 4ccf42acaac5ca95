"""What a tokenizer does not know of a text: counted by letters, warned of, refused."""

import logging

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from secateur.config.errors import InputError
from secateur.encoders.encoder import TorchEncoder
from secateur.pruning.trimming import trim_vocabulary
from secateur.pruning.unknown import check_known, share_unknown, unknown_number


def fast(model: models.Model, splitter: pre_tokenizers.PreTokenizer | None = None) -> PreTrainedTokenizerFast:
    backend = Tokenizer(model)
    backend.pre_tokenizer = splitter or pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend)


def wordpiece() -> PreTrainedTokenizerFast:
    numbers = {token: number for number, token in enumerate([*"abc", "##a", "##b", "##c", "?"])}
    return fast(models.WordPiece(numbers, unk_token="?"))


def unigram(**options: bool) -> PreTrainedTokenizerFast:
    parts = [f"<0x{byte:02X}>" for byte in range(256)]
    listed = [(token, -2.0) for token in ["▁", *"abc", "?", *parts]]
    return fast(models.Unigram(listed, unk_id=4, **options), pre_tokenizers.Metaspace())


def test_the_share_is_that_of_the_letters_that_unknown_tokens_stand_for() -> None:
    assert share_unknown(wordpiece(), ["ab cx", " b "]) == 2 / 5  # a whole word is lost to one letter
    assert share_unknown(unigram(), ["ab cx", " b "]) == 1 / 5
    assert share_unknown(unigram(), ["дом и мир"]) == share_unknown(wordpiece(), ["дом и мир"]) == 1.0
    assert share_unknown(unigram(), ["", "  \n"]) == share_unknown(unigram(), []) == 0.0


def test_the_tokenizer_is_read_whole_and_left_as_it_is() -> None:
    tokenizer = wordpiece()
    tokenizer.backend_tokenizer.enable_truncation(1)
    assert share_unknown(tokenizer, ["a b c x"]) == 1 / 4
    assert tokenizer.backend_tokenizer.truncation["max_length"] == 1


def test_bytes_leave_nothing_unknown_and_no_role_is_needed() -> None:
    assert share_unknown(unigram(byte_fallback=True), ["дом 😀"]) == 0.0
    assert [unknown_number(wordpiece()), unknown_number(unigram())] == [6, 4]
    assert unknown_number(fast(models.BPE({"a": 0}, []))) is None
    assert share_unknown(fast(models.BPE({"a": 0}, [])), ["ab"]) == 0.0
    assert share_unknown(fast(models.BPE({"a": 0, "?": 1}, [], unk_token="?")), ["ab"]) == 1 / 2
    assert share_unknown(fast(models.WordLevel({"a": 0, "?": 1}, unk_token="?")), ["a b"]) == 1 / 2


def test_much_that_is_unknown_is_said_in_one_line_and_most_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        check_known(wordpiece(), {"en": ["abc"] * 20 + ["x"], "xx": ["a b c x"]})
    assert [each.message for each in caplog.records] == [
        "language xx: the model's tokenizer does not know 25.0% of its text"
    ]
    with pytest.raises(
        InputError, match=r"^language ru: the model's tokenizer does not know 100\.0% of its text: [^\n]*$"
    ):
        check_known(wordpiece(), {"en": ["abc"], "ru": ["дом"]})
    with pytest.raises(InputError, match=r"^language en: the tokenizer finds nothing to read in its text$"):
        check_known(wordpiece(), {"en": ["", " \t"]})


def test_a_tokenizer_that_stops_at_what_it_does_not_know_is_one_line() -> None:
    with pytest.raises(InputError, match=r"^the tokenizer cannot read the texts: [^\n]+$"):
        check_known(fast(models.Unigram([("a", -1.0)])), {"en": ["ab"]})


def test_a_vocabulary_is_not_trimmed_for_texts_that_the_model_does_not_know(
    teacher: TorchEncoder, sentences: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(InputError, match=r"language el: the model's tokenizer does not know 100\.0% of its text"):
        trim_vocabulary(teacher, {"en": sentences[:8], "el": ["καλημέρα κόσμε"]}, 150)
    with caplog.at_level(logging.WARNING):
        trim_vocabulary(teacher, {"en": [*sentences[:8], "καλημέρα κόσμε"]}, 150)
    assert sum("language en" in each.message for each in caplog.records) == 1

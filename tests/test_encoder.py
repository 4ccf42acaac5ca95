"""Sentences to unit vectors: against transformers' own output, in any batching, and bad folders refused by name."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import FAMILIES, MakeEncoder
from sentence_transformers import SentenceTransformer
from transformers import AutoModel, ElectraConfig, ElectraModel, PreTrainedTokenizerFast

from secateur.config.errors import InputError
from secateur.config.teacher import TeacherSettings
from secateur.encoders.encoder import TorchEncoder, average_pieces, embed, encode, pad, tokenize
from secateur.encoders.loading import load_encoder
from secateur.encoders.saving import save_encoder

MakeFolder = Callable[..., Path]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("pooling", ["pooler", "cls", "mean"])
def test_a_bare_transformer_gives_the_vectors_of_transformers_itself(
    make_folder: MakeFolder, tokenizer: PreTrainedTokenizerFast, sentences: list[str], family: str, pooling: str
) -> None:
    if family == "distilbert" and pooling == "pooler":
        pytest.skip("DistilBERT has no pooler")
    folder = make_folder(family)
    model = AutoModel.from_pretrained(folder).eval()
    inputs = tokenizer(sentences, padding=True, return_tensors="pt", return_token_type_ids=False)
    with torch.inference_mode():
        output = model(**inputs)
    tokens, mask = output.last_hidden_state, inputs["attention_mask"][:, :, None]
    expected = {
        "pooler": lambda: output.pooler_output,
        "cls": lambda: tokens[:, 0],
        "mean": lambda: (tokens * mask).sum(dim=1) / mask.sum(dim=1),
    }[pooling]()
    vectors = embed(load_encoder(TeacherSettings(model=str(folder), pooling=pooling)), sentences)
    np.testing.assert_allclose(vectors, torch.nn.functional.normalize(expected).numpy(), atol=1e-5)


def test_vectors_do_not_depend_on_batching_and_keep_the_order(teacher: TorchEncoder, sentences: list[str]) -> None:
    together = embed(teacher, sentences, batch_size=64)
    alone = np.concatenate([embed(teacher, [sentence]) for sentence in sentences])
    assert together.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(together, alone, atol=1e-5)


@pytest.mark.parametrize("pooling", ["mean", "pooler"])  # the pooler's own output is rounded to bfloat16
def test_bf16_vectors_are_unit_and_close_to_float32(
    make_encoder: MakeEncoder, sentences: list[str], pooling: str
) -> None:
    teacher = make_encoder(pooling=pooling)
    vectors = embed(teacher, sentences, precision="bf16")
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    cosines = (vectors * embed(teacher, sentences)).sum(axis=1)
    assert 0.999 < cosines.min() < cosines.max() < 1 + 1e-5
    assert not np.array_equal(vectors, embed(teacher, sentences))


def test_nothing_to_embed_is_an_empty_array(teacher: TorchEncoder) -> None:
    assert embed(teacher, []).shape == (0, teacher.dimension)


def test_the_embedded_teacher_gives_what_sentence_transformers_gives(
    embedded: TorchEncoder, sentences: list[str]
) -> None:
    stock = embedded.model.encode(sentences[::4], normalize_embeddings=True)
    np.testing.assert_allclose(embed(embedded, sentences[::4]), stock, atol=1e-5)
    assert (embed(embedded, [sentences[0]]) @ embed(embedded, [sentences[32]]).T).item() > 0.6


def test_max_length_cuts_sentences_and_survives_saving(
    make_folder: MakeFolder, sentences: list[str], tmp_path: Path
) -> None:
    encoder = load_encoder(TeacherSettings(model=str(make_folder()), max_length=6))
    assert max(map(len, tokenize(encoder, sentences))) == 6
    save_encoder(encoder, tmp_path / "saved")
    stock = SentenceTransformer(str(tmp_path / "saved"), device="cpu")
    np.testing.assert_allclose(stock.encode(sentences, normalize_embeddings=True), embed(encoder, sentences), atol=1e-5)


def test_poolings_are_the_models_own_parts(make_encoder: MakeEncoder, sentences: list[str]) -> None:
    encoder = make_encoder(pooling="pooler")
    pooled = encoder.poolings(sentences, batch_size=8)
    assert list(pooled) == ["own", "cls", "mean", "pooler"]
    np.testing.assert_allclose(pooled["own"], embed(encoder, sentences), atol=1e-5)
    unit = pooled["pooler"] / np.linalg.norm(pooled["pooler"], axis=1, keepdims=True)
    np.testing.assert_allclose(unit, pooled["own"], atol=1e-6)
    by_mean = make_encoder(pooling="mean").poolings(sentences)
    assert list(by_mean) == ["own", "cls", "mean"]
    np.testing.assert_allclose(by_mean["mean"], pooled["mean"], atol=1e-5)


def test_a_word_is_the_mean_of_its_pieces() -> None:
    states = np.array([[9.0, 9], [1, 2], [3, 4], [5, 5], [9, 9]])
    out = np.zeros((3, 2))
    average_pieces(states, [None, 0, 0, 1, None, None], out)
    assert out.tolist() == [[2, 3], [5, 5], [0, 0]]


def test_word_vectors_average_last_hidden_states(teacher: TorchEncoder) -> None:
    words = ["the", "gardener", "zzz"]  # the last falls into three tokens
    (vectors,) = teacher.word_vectors([words])
    pieces = [teacher.tokenizer.cls_token_id]
    spans = []
    for word in words:
        start = len(pieces)
        pieces += teacher.tokenizer(word, add_special_tokens=False)["input_ids"]
        spans.append(slice(start, len(pieces)))
    with torch.inference_mode():
        tokens = encode(teacher, pad(teacher, [[*pieces, teacher.tokenizer.sep_token_id]])).tokens[0].numpy()
    np.testing.assert_allclose(vectors, [tokens[span].mean(axis=0) for span in spans], atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_words_behind_the_last_position_are_zeros(make_folder: MakeFolder, family: str) -> None:
    encoder = load_encoder(TeacherSettings(model=str(make_folder(family)), max_length=4))  # 80 positions in all
    short, long = encoder.word_vectors([["cat"], ["cat"] * 100])
    assert (short.shape, long.shape) == ((1, 32), (100, 32))
    room = 78 if family in ("bert", "distilbert") else 77  # [CLS], [SEP]; RoBERTa's positions begin behind padding's
    assert [bool(row.any()) for row in long] == [True] * room + [False] * (100 - room)


def test_an_unused_pooler_is_not_counted(make_encoder: MakeEncoder) -> None:
    used, unused = make_encoder(pooling="pooler"), make_encoder(pooling="mean")
    extra = sum(p.numel() for p in used.model.parameters()) - sum(p.numel() for p in unused.model.parameters())
    assert extra == 32 * 32 + 32


def test_pooler_asked_of_a_model_that_has_none_is_refused(make_encoder: MakeEncoder, tmp_path: Path) -> None:
    for family in ("bert", "distilbert"):
        folder = tmp_path / family
        save_encoder(make_encoder(family, pooling="mean"), folder)
        with pytest.raises(InputError, match="pooling is pooler, but the model has none"):
            load_encoder(TeacherSettings(model=str(folder), pooling="pooler"))


def test_an_unsupported_model_type_is_refused_with_the_supported_ones(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    shape = {"num_hidden_layers": 1, "num_attention_heads": 2, "hidden_size": 8, "embedding_size": 8}
    ElectraModel(ElectraConfig(vocab_size=len(tokenizer), intermediate_size=8, **shape)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(InputError, match="model type 'electra' is not supported; supported are bert, "):
        load_encoder(TeacherSettings(model=str(tmp_path)))


def test_an_unknown_model_type_is_refused_with_the_supported_ones(make_folder: MakeFolder) -> None:
    folder = make_folder()
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**settings, "model_type": "nonesuch"}), encoding="utf-8")
    with pytest.raises(InputError, match="'nonesuch' is not supported; supported are bert, "):
        load_encoder(TeacherSettings(model=str(folder)))


def test_a_folder_that_is_no_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"{tmp_path}: not a model folder: it has no config.json"):
        load_encoder(TeacherSettings(model=str(tmp_path)))


def test_a_name_that_is_neither_folder_nor_hub_model_is_named() -> None:
    with pytest.raises(InputError, match="nobody/nothing: no such folder, and the model hub cannot be reached"):
        load_encoder(TeacherSettings(model="nobody/nothing"))


@pytest.mark.parametrize(
    ("name", "content"), [("config.json", "{"), ("model.safetensors", "x" * 100), ("tokenizer.json", "{}")]
)
def test_a_broken_file_of_a_model_is_one_line(make_folder: MakeFolder, name: str, content: str) -> None:
    folder = make_folder()
    (folder / name).write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=str(folder)) as caught:
        load_encoder(TeacherSettings(model=str(folder)))
    assert "\n" not in str(caught.value)


def test_a_model_with_missing_weights_is_refused(make_folder: MakeFolder) -> None:
    folder = make_folder(layers=2)
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**settings, "num_hidden_layers": 3}), encoding="utf-8")
    with pytest.raises(InputError, match=r"lack 16 weights of the model, the first is encoder\.layer\.2"):
        load_encoder(TeacherSettings(model=str(folder)))


def test_a_failed_save_leaves_the_old_folder(
    teacher: TorchEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_encoder(teacher, tmp_path / "saved", card="old")

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(teacher.model, "save_pretrained", fail)
    with pytest.raises(OSError, match="No space left"):
        save_encoder(teacher, tmp_path / "saved", card="new")
    assert (tmp_path / "saved" / "README.md").read_text(encoding="utf-8") == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["saved"]

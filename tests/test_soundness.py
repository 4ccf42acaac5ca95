"""Folders that load into something else than they say: refused in one line, or read as stock libraries read them."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import MakeEncoder, keep_all
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoConfig, AutoModel, PreTrainedModel, PreTrainedTokenizerFast

from secateur.config.errors import InputError
from secateur.config.teacher import TeacherSettings
from secateur.encoders.encoder import TorchEncoder, embed, tokenize
from secateur.encoders.loading import load_encoder, wrap_model
from secateur.encoders.saving import round_weights, save_encoder
from secateur.encoders.surgery import narrow_encoder, replace_tokenizer, replace_transformer
from secateur.pruning.selection import Kept
from secateur.pruning.slicing import slice_encoder

MakeFolder = Callable[..., Path]


def load(folder: Path, **settings: Any) -> TorchEncoder:
    return load_encoder(TeacherSettings(model=str(folder), **settings))


def set_keys(path: Path, **keys: Any) -> None:
    """Set keys of a JSON file; None takes one out."""
    data = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    data = {key: value for key, value in {**data, **keys}.items() if value is not None}
    path.write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8")


def save_stock(folder: Path, out: Path, **options: Any) -> Path:
    """Write a sentence-transformers folder with stock code, of mean pooling, and return its path."""
    transformer = Transformer(str(folder))
    pooling = Pooling(transformer.get_embedding_dimension(), pooling_mode="mean", **options.pop("pooling", {}))
    SentenceTransformer(modules=[transformer, pooling, Normalize()], device="cpu", **options).save(str(out))
    return out


@pytest.mark.parametrize(("family", "positions"), [("bert", 80), ("roberta", 79), ("distilbert", 80)])
def test_an_encoder_keeps_the_length_of_its_folder(
    make_folder: MakeFolder, tmp_path: Path, family: str, positions: int
) -> None:
    teacher = load(make_folder(family))
    assert teacher.max_length == positions  # the tokenizer names no length: the position embeddings do
    save_encoder(teacher, tmp_path / "student")
    assert SentenceTransformer(str(tmp_path / "student"), device="cpu").max_seq_length == positions
    long = " ".join(["кот"] * 200)
    assert len(tokenize(load(tmp_path / "student"), [long])[0]) == positions
    np.testing.assert_array_equal(embed(load(tmp_path / "student"), [long]), embed(teacher, [long]))


def test_a_shorter_length_is_asked_for_and_a_longer_one_is_not_invented(make_folder: MakeFolder) -> None:
    assert load(make_folder(), max_length=7).max_length == 7
    assert load(make_folder(), max_length=7_000).max_length == 80
    limited = load(make_folder()).limited(9)
    assert (limited.max_length, len(tokenize(limited, ["кот " * 50])[0])) == (9, 9)
    assert limited.model[0].max_seq_length == 80  # what is saved


@pytest.mark.parametrize("include_prompt", [True, False])
def test_every_reading_puts_the_default_prompt_first_as_stock_does(
    make_folder: MakeFolder, sentences: list[str], tmp_path: Path, include_prompt: bool
) -> None:
    prompts = {"query": "Where is: ", "passage": "Text: "}
    options = {"prompts": prompts, "default_prompt_name": "query", "pooling": {"include_prompt": include_prompt}}
    folder = save_stock(make_folder(), tmp_path / "teacher", **options)
    teacher = load(folder)
    stock = SentenceTransformer(str(folder), device="cpu").encode(sentences)
    np.testing.assert_allclose(embed(teacher, sentences), stock, atol=1e-5)
    assert np.abs(stock - SentenceTransformer(str(folder), device="cpu").encode(sentences, prompt="")).max() > 0.01


def test_a_student_carries_the_prompts_the_default_one_and_the_similarity(
    make_folder: MakeFolder, sentences: list[str], tmp_path: Path
) -> None:
    options = {"prompts": {"query": "Q: "}, "default_prompt_name": "query", "similarity_fn_name": "dot"}
    teacher = load(save_stock(make_folder(), tmp_path / "teacher", **options))
    rebuilt = {
        "transformer": replace_transformer(teacher, teacher.transformer),
        "tokenizer": replace_tokenizer(teacher, teacher.tokenizer),
        "wrapped": wrap_model(SentenceTransformer(str(tmp_path / "teacher"), device="cpu")),
    }
    for name, encoder in rebuilt.items():
        save_encoder(encoder, tmp_path / name)
        stock = SentenceTransformer(str(tmp_path / name), device="cpu")
        assert (stock.default_prompt_name, stock.prompts["query"], stock.similarity_fn_name) == ("query", "Q: ", "dot")
        np.testing.assert_allclose(stock.encode(sentences), embed(encoder, sentences), atol=1e-5)
    config = AutoConfig.from_pretrained(tmp_path / "teacher", hidden_size=16, num_attention_heads=2)
    assert narrow_encoder(teacher, AutoModel.from_config(config), range(16)).prompt == "Q: "


@pytest.mark.parametrize("pooling", ["cls", "mean", "pooler"])
def test_another_pooling_keeps_the_prompts_and_the_length(
    make_folder: MakeFolder, tmp_path: Path, pooling: str
) -> None:
    folder = save_stock(make_folder(), tmp_path / "teacher", prompts={"query": "Q: "}, default_prompt_name="query")
    set_keys(folder / "sentence_bert_config.json", max_seq_length=40)
    teacher = load(folder, pooling=pooling)
    assert (teacher.prompt, teacher.max_length, teacher.uses_pooler) == ("Q: ", 40, pooling == "pooler")


def misfit_dense(folder: Path) -> None:
    """Put a Dense behind a folder's pooling that takes vectors of another dimension."""
    dense = folder / "2_Dense"
    dense.mkdir()
    set_keys(dense / "config.json", in_features=9, out_features=4, bias=True, activation_function="torch.nn.Tanh")
    save_file({"linear.weight": torch.zeros(4, 9), "linear.bias": torch.zeros(4)}, dense / "model.safetensors")
    modules = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
    modules[2] = {"idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.models.Dense"}
    (folder / "modules.json").write_text(json.dumps(modules), encoding="utf-8")


def write_unigram(folder: Path) -> None:
    """Give a folder a Unigram tokenizer over letters, as XLM-R's, without saying the tokenizer's class."""
    letters = sorted(set("abcdefghijklmnopqrstuvwxyzабвгдежзийклмнопрстуфхцчшщъыьэюя"))
    pieces = [
        ("<s>", 0.0),
        ("<pad>", 0.0),
        ("</s>", 0.0),
        ("<unk>", 0.0),
        ("▁", -2.0),
        *((one, -3.0) for one in letters),
    ]
    backend = Tokenizer(models.Unigram(pieces, unk_id=3))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    ends = [("<s>", 0), ("</s>", 2)]
    backend.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=ends)
    names = {"pad_token": "<pad>", "unk_token": "<unk>", "cls_token": "<s>", "sep_token": "</s>"}
    PreTrainedTokenizerFast(tokenizer_object=backend, **names).save_pretrained(folder)


def test_a_tokenizer_that_reads_otherwise_than_its_file_is_refused(make_folder: MakeFolder) -> None:
    folder = make_folder()
    write_unigram(folder)
    load(folder)
    set_keys(folder / "tokenizer_config.json", tokenizer_class=None)
    with pytest.raises(InputError, match=r"unknown.*tokenizer_class") as caught:
        load(folder)
    assert "\n" not in str(caught.value)


def test_a_token_without_a_vector_is_refused(make_folder: MakeFolder, tmp_path: Path) -> None:
    folder = make_folder()
    path = folder / "model.safetensors"
    weights = load_file(path)
    words = weights["embeddings.word_embeddings.weight"][:-1].contiguous()
    save_file(weights | {"embeddings.word_embeddings.weight": words}, path, {"format": "pt"})
    set_keys(folder / "config.json", vocab_size=len(words))
    with pytest.raises(InputError, match="the model has vectors for the numbers 0 to"):
        load(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_weight_that_is_not_finite_is_named(make_folder: MakeFolder, value: float) -> None:
    folder = make_folder()
    path = folder / "model.safetensors"
    weights = load_file(path)
    weights["encoder.layer.1.output.dense.weight"][0, 0] = value
    save_file(weights, path, {"format": "pt"})
    with pytest.raises(InputError, match=r"1 of the 1,536 numbers of the weight \S*layer\.1\.output\.dense\.weight"):
        load(folder)


def test_a_student_with_weights_that_are_not_finite_is_not_saved(make_encoder: MakeEncoder, tmp_path: Path) -> None:
    encoder = slice_encoder(make_encoder(), keep_all(make_encoder()))
    with torch.no_grad():
        next(encoder.transformer.parameters())[3, 3] = float("nan")
    with pytest.raises(InputError, match="not finite"):
        save_encoder(encoder, tmp_path / "student")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_student_is_saved_in_its_teachers_number_format(
    make_folder: MakeFolder, sentences: list[str], tmp_path: Path, dtype: str
) -> None:
    folder = make_folder()
    AutoModel.from_pretrained(folder, dtype=getattr(torch, dtype)).save_pretrained(folder)
    teacher = load(folder)
    assert teacher.dtype == dtype
    student = replace_transformer(teacher, teacher.transformer)
    with torch.no_grad():
        next(student.transformer.parameters()).mul_(1.0001)  # no longer of that format
    round_weights(student)
    save_encoder(student, tmp_path / "student")
    saved = tmp_path / "student" / "model.safetensors"
    assert {value.dtype for value in load_file(saved).values()} == {getattr(torch, dtype)}
    assert saved.stat().st_size < 1.1 * (folder / "model.safetensors").stat().st_size
    again = load(tmp_path / "student")
    assert again.dtype == dtype
    np.testing.assert_array_equal(embed(again, sentences), embed(student, sentences))
    stock = SentenceTransformer(str(tmp_path / "student"), device="cpu").encode(sentences, normalize_embeddings=True)
    np.testing.assert_allclose(stock, embed(student, sentences), atol=1e-5)
    assert load(folder, dtype="float32").dtype == "float32"


def test_a_weight_that_a_number_format_cannot_hold_is_named(make_folder: MakeFolder, tmp_path: Path) -> None:
    large = replace(load(make_folder()), dtype="float16")
    with torch.no_grad():
        next(large.transformer.parameters())[0, 0] = 1e5
    with pytest.raises(InputError, match="float16 cannot hold the numbers of the weight"):
        save_encoder(large, tmp_path / "student")
    with pytest.raises(InputError, match="float16 cannot hold"):
        round_weights(large)


def test_a_ragged_student_saved_by_stock_code_still_loads_without_secateur(
    teacher: TorchEncoder, ragged: Kept, tmp_path: Path
) -> None:
    student = tmp_path / "student"
    save_encoder(slice_encoder(teacher, ragged), student)
    SentenceTransformer(str(student), device="cpu").save(str(tmp_path / "whole"))
    AutoModel.from_pretrained(student).save_pretrained(tmp_path / "bare")
    for name in ("whole", "bare"):
        config = json.loads((tmp_path / name / "config.json").read_text(encoding="utf-8"))
        file, dot, _ = config["auto_map"]["AutoModel"].partition(".")
        assert dot
        assert (tmp_path / name / f"{file}.py").is_file()


def test_a_model_is_read_once(make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = []
    original = PreTrainedModel.from_pretrained.__func__  # type: ignore[attr-defined]

    def count(cls: Any, *given: Any, **named: Any) -> Any:
        reads.append(cls)
        return original(cls, *given, **named)

    monkeypatch.setattr(PreTrainedModel, "from_pretrained", classmethod(count))
    load(make_folder())
    assert len(reads) == 1


def test_truncated_vectors_are_refused_not_pruned_as_whole_ones(make_folder: MakeFolder, tmp_path: Path) -> None:
    folder = save_stock(make_folder(), tmp_path / "teacher")
    with pytest.raises(InputError, match="truncate_dim"):
        wrap_model(SentenceTransformer(str(folder), device="cpu", truncate_dim=8))


BROKEN_CONFIG: dict[str, dict[str, Any]] = {
    "a text for a number": {"hidden_size": "many"},
    "a list for a number": {"num_hidden_layers": [3]},
    "no heads": {"num_attention_heads": 0},
    "heads that do not divide the width": {"num_attention_heads": 5},
    "negative neurons": {"intermediate_size": -3},
    "no layers": {"num_hidden_layers": 0},
    "a billion layers' worth of width": {"hidden_size": 2**40},
    "an activation that is none": {"hidden_act": "sing"},
    "positions that are none": {"max_position_embeddings": 0},
    "positions that are a text": {"max_position_embeddings": "80"},
    "padding out of range": {"pad_token_id": 10**6},
    "a vocabulary of another size": {"vocab_size": 3},
    "another model's type": {"model_type": "distilbert"},
    "a type that is a number": {"model_type": 7},
    "a type that is nothing": {"model_type": ""},
    "a norm that is a text": {"layer_norm_eps": "small"},
    "half a pruned config": {"model_type": "pruned-bert"},
    "a dtype that is none": {"dtype": "float7"},
    "code of its own": {"auto_map": {"AutoModel": "evil.Model", "AutoConfig": "evil.Config"}, "model_type": "evil"},
    "a quantisation": {"quantization_config": {"quant_method": "gptq", "bits": 4}},
}


@pytest.mark.parametrize("keys", BROKEN_CONFIG.values(), ids=BROKEN_CONFIG)
def test_a_broken_config_is_one_line(make_folder: MakeFolder, keys: dict[str, Any]) -> None:
    folder = make_folder()
    set_keys(folder / "config.json", **keys)
    refuse(folder)


def refuse(folder: Path) -> None:
    with pytest.raises(InputError) as caught:
        load(folder)
    message = str(caught.value)
    assert str(folder) in message
    assert "\n" not in message
    assert len(message) < 600


BROKEN_FILES: dict[str, dict[str, str | None]] = {
    "a config that is a list": {"config.json": "[]"},
    "a config that is a number": {"config.json": "7"},
    "a config of ten thousand brackets": {"config.json": "[" * 10_000},
    "a config that is empty": {"config.json": ""},
    "a config in another encoding": {"config.json": "\udcff\udcfe"},
    "weights that are a text": {"model.safetensors": "weights"},
    "weights that are empty": {"model.safetensors": ""},
    "no weights": {"model.safetensors": None},
    "an index to nowhere": {"model.safetensors": None, "model.safetensors.index.json": '{"weight_map": {"a": "b"}}'},
    "an index that is a list": {"model.safetensors": None, "model.safetensors.index.json": "[1]"},
    "a pickle that is none": {"model.safetensors": None, "pytorch_model.bin": "cos\nsystem\n(S'true'\ntR."},
    "a tokenizer that is a list": {"tokenizer.json": "[]"},
    "a tokenizer that is empty": {"tokenizer.json": ""},
    "no tokenizer": {"tokenizer.json": None, "tokenizer_config.json": None},
    "a tokenizer config that is a list": {"tokenizer_config.json": "[]"},
    "a length that is a text": {"tokenizer_config.json": '{"model_max_length": "long"}'},
    "a length that is negative": {"tokenizer_config.json": '{"model_max_length": -4}'},
    "modules that are a mapping": {"modules.json": "{}"},
    "no modules": {"modules.json": "[]"},
    "modules that are texts": {"modules.json": '["Pooling"]'},
    "a module that is none": {"modules.json": '[{"idx": 0, "name": "0", "path": "", "type": "os.path.join"}]'},
    "a module of no library": {"modules.json": '[{"idx": 0, "name": "0", "path": "", "type": "no.such.Thing"}]'},
    "an adapter": {"adapter_config.json": '{"base_model_name_or_path": "other", "peft_type": "LORA"}'},
}


@pytest.mark.parametrize("files", BROKEN_FILES.values(), ids=BROKEN_FILES)
def test_a_broken_file_is_one_line(make_folder: MakeFolder, files: dict[str, str | None]) -> None:
    folder = make_folder()
    for name, text in files.items():
        if text is None:
            (folder / name).unlink()
        else:
            (folder / name).write_bytes(text.encode("utf-8", "surrogateescape"))
    refuse(folder)


def test_a_link_in_a_circle_and_a_file_in_the_place_of_a_folder_are_one_line(
    make_folder: MakeFolder, tmp_path: Path
) -> None:
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    (tmp_path / "file").write_text("a model?", encoding="utf-8")
    folder = make_folder()
    (folder / "config.json").unlink()
    (folder / "config.json").symlink_to(folder / "config.json")
    for place in (tmp_path / "circle", tmp_path / "file", folder):
        refuse(place)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_may_not_be_read_is_one_line(make_folder: MakeFolder) -> None:
    folder = make_folder()
    (folder / "model.safetensors").chmod(0)
    refuse(folder)


def test_poolings_modules_that_do_not_fit_are_one_line(make_folder: MakeFolder, tmp_path: Path) -> None:
    folder = save_stock(make_folder(), tmp_path / "teacher")
    set_keys(folder / "1_Pooling" / "config.json", embedding_dimension=7, word_embedding_dimension=None)
    misfit_dense(folder)
    refuse(folder)

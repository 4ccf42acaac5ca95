"""Exported files compute what torch computes, for every shape that secateur makes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import FAMILIES, MakeEncoder, keep_all

from secateur.encoders.encoder import TorchEncoder, encode, pad, tokenize
from secateur.encoders.modeling import find_layers
from secateur.pruning.lowrank import factorise_words
from secateur.pruning.selection import Kept
from secateur.pruning.slicing import slice_encoder

onnxruntime = pytest.importorskip("onnxruntime", reason="the optional package onnxruntime is not installed")
onnx = pytest.importorskip("onnx")
from secateur.encoders.onnx_graph import build_graph, list_matrices, quantize  # noqa: E402


def assert_same(encoder: TorchEncoder, sentences: list[str], folder: Path) -> None:
    path = folder / "model.onnx"
    onnx.save(build_graph(encoder), path)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for some in (sentences, sentences[:1], sentences[3:5]):
        inputs = pad(encoder, tokenize(encoder, some))
        with torch.inference_mode():
            expected = encode(encoder, inputs)
        feeds = {name: inputs[name].numpy() for name in ("input_ids", "attention_mask")}
        tokens, vectors = session.run(["last_hidden_state", "sentence_embedding"], feeds)
        np.testing.assert_allclose(vectors, expected.vectors.numpy(), atol=1e-5)
        real = inputs["attention_mask"].bool().numpy()
        np.testing.assert_allclose(tokens[real], expected.tokens.numpy()[real], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("pooling", ["mean", "cls", "pooler"])
def test_a_whole_encoder(
    make_encoder: MakeEncoder, sentences: list[str], tmp_path: Path, family: str, pooling: str
) -> None:
    assert_same(make_encoder(family, pooling=pooling), sentences, tmp_path)


@pytest.mark.parametrize("family", FAMILIES)
def test_ragged_heads_and_layers_without_any(
    make_encoder: MakeEncoder, ragged: Kept, sentences: list[str], tmp_path: Path, family: str
) -> None:
    assert_same(slice_encoder(make_encoder(family), ragged), sentences, tmp_path)


@pytest.mark.parametrize("pooling", ["mean", "pooler"])
def test_fewer_layers_channels_and_a_low_rank(
    make_encoder: MakeEncoder, sentences: list[str], tmp_path: Path, pooling: str
) -> None:
    teacher = make_encoder(pooling=pooling)
    kept = replace(keep_all(teacher), heads=((0, 1, 2), (3,)), neurons=((0, 5), tuple(range(40))), layers=(0, 2))
    student = slice_encoder(teacher, replace(kept, hidden=tuple(range(0, 32, 2))))
    assert_same(factorise_words(student, 6, np.ones(len(teacher.tokenizer))), sentences, tmp_path)


@pytest.mark.parametrize("int8", [False, True])
def test_onnx_runtime_leaves_layer_normalization_as_it_is(
    make_encoder: MakeEncoder, ragged: Kept, tmp_path: Path, int8: bool
) -> None:
    """Its own fusion, into SkipLayerNormalization, would put a scalar loop in place of a vectorised kernel."""
    student = slice_encoder(make_encoder(), ragged)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3
    graph = build_graph(student, list_matrices(student) if int8 else []).SerializeToString()
    onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    kinds = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
    assert kinds.count("LayerNormalization") == 1 + 2 * len(find_layers(student.transformer))
    assert "SkipLayerNormalization" not in kinds


def test_int8_keeps_each_column_within_half_a_step(teacher: TorchEncoder) -> None:
    values = np.random.default_rng(0).normal(size=(6, 5)) * [1, 10, 0.1, 1, 0]
    whole, scales = quantize(values, axis=0, levels=127)
    assert whole.dtype == np.int8
    assert (np.abs(whole * scales - values) <= scales / 2 + 1e-9).all()
    assert np.abs(whole).max(axis=0).tolist() == [127, 127, 127, 127, 0]
    assert np.abs(quantize(values, axis=1, levels=63)[0]).max() == 63


@pytest.mark.parametrize("pooling", ["mean", "pooler"])
def test_an_int8_file_is_smaller_and_near_and_what_is_not_named_stays_float(
    make_encoder: MakeEncoder, sentences: list[str], tmp_path: Path, pooling: str
) -> None:
    encoder = make_encoder(pooling=pooling)
    matrices = list_matrices(encoder)
    assert matrices[:3] == ["words", "layer.0.attention.packed", "layer.0.attention.output"]
    sizes, cosines = {}, {}
    for name, chosen in {"float": [], "words": ["words"], "int8": matrices}.items():
        path = tmp_path / f"{name}.onnx"
        onnx.save(build_graph(encoder, chosen), path)
        sizes[name] = path.stat().st_size
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        inputs = pad(encoder, tokenize(encoder, sentences))
        feeds = {each: inputs[each].numpy() for each in ("input_ids", "attention_mask")}
        with torch.inference_mode():
            expected = encode(encoder, inputs).vectors.numpy()
        cosines[name] = (session.run(["sentence_embedding"], feeds)[0] * expected).sum(axis=1).mean()
    assert sizes["float"] > sizes["words"] > sizes["int8"]
    assert cosines["float"] == pytest.approx(1, abs=1e-6)
    assert cosines["words"] > 0.999
    assert cosines["int8"] > 0.99

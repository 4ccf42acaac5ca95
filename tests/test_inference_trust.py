"""However a folder asks to be read, `Encoder` gives stock vectors: by every backend, in any company, under threads."""

import json
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import SENTENCES, MakeEncoder
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling

from secateur import Encoder
from secateur.cli import main
from secateur.config.choices import RUNTIMES
from secateur.config.errors import InputError
from secateur.config.quality import QualitySettings
from secateur.encoders import inference
from secateur.encoders.encoder import TorchEncoder, encode, pad, tokenize
from secateur.encoders.machine import Processor
from secateur.encoders.saving import save_encoder
from secateur.runs.encode import encode_lines

onnxruntime = pytest.importorskip("onnxruntime", reason="the optional package onnxruntime is not installed")
onnx = pytest.importorskip("onnx", reason="the optional package onnx is not installed")
from secateur.encoders.onnx_graph import (  # noqa: E402
    FUSED,
    FUSED_OPSET,
    INPUTS,
    IR,
    OPSET,
    Graph,
    build_graph,
    list_matrices,
)
from secateur.encoders.padding import pad_rows  # noqa: E402
from secateur.encoders.sessions import open_file  # noqa: E402
from secateur.export.export import export  # noqa: E402

BACKENDS = [name for name in RUNTIMES if find_spec("openvino") or "openvino" not in name]
RUNNERS = [name for name in ("onnx", "openvino") if find_spec(name.replace("onnx", "onnxruntime"))]
OPEN = QualitySettings(min_cosine=0.5, min_low_cosine=0.0, sentences=8)
TEXTS = [side for pair in SENTENCES[:8] for side in pair]
ODD = ["", " ", "  The cat sleeps.\n", "КОШКА СПИТ", "ТЁПЛОЙ\tКРЫШЕ ", "The cat sleeps on the roof. " * 30]

Change = Callable[[Path], None]


def set_json(file: str, **values: Any) -> Change:
    def change(folder: Path) -> None:
        path = folder / file
        old = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        path.write_text(json.dumps(old | values, ensure_ascii=False), encoding="utf-8")

    return change


def drop_lowercase(folder: Path) -> None:
    """Have the tokenizer keep capitals, which it does not know, and the model ask for small letters."""
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    tokenizer["normalizer"]["lowercase"] = False
    path.write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")
    set_json("sentence_bert_config.json", do_lower_case=True)(folder)


PROMPTS = {"prompts": {"query": "the cat: ", "passage": "кошка: "}}
FOLDERS: dict[str, Change] = {
    "as saved": lambda folder: None,
    "prompts": set_json("config_sentence_transformers.json", **PROMPTS),
    "a default prompt": set_json("config_sentence_transformers.json", **PROMPTS, default_prompt_name="passage"),
    "an empty default": set_json("config_sentence_transformers.json", **PROMPTS, default_prompt_name="document"),
    "lowercase": drop_lowercase,
    "no length": set_json("sentence_bert_config.json", max_seq_length=None),
    "a short length": set_json("sentence_bert_config.json", max_seq_length=9),
    "truncated on the left": set_json("tokenizer_config.json", truncation_side="left", model_max_length=12),
    "padded on the left": set_json("tokenizer_config.json", padding_side="left"),
}


@pytest.fixture(scope="module", params=FOLDERS)
def folder(request: pytest.FixtureRequest, make_encoder: MakeEncoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("reading") / "toy"
    save_encoder(make_encoder(layers=2), path)
    FOLDERS[request.param](path)
    export(str(path), OPEN, threads=1, int8=False)
    return path


@pytest.fixture(scope="module")
def exported(make_encoder: MakeEncoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("exported") / "toy"
    save_encoder(make_encoder(layers=2), path)
    set_json("config_sentence_transformers.json", **PROMPTS, default_prompt_name="passage")(path)
    export(str(path), OPEN, threads=1)
    return path


@pytest.mark.parametrize("backend", [name for name in BACKENDS if not name.endswith("int8")])
def test_vectors_are_stock_vectors_however_a_folder_asks_to_be_read(folder: Path, backend: str) -> None:
    stock = SentenceTransformer(str(folder), device="cpu")
    encoder = Encoder(folder, backend=backend, threads=1)
    for asked in ({}, {"prompt_name": "query"}, {"prompt": "roof "}, {"prompt": ""}):
        if asked.get("prompt_name", "query") in stock.prompts:
            # one at a time: stock itself gives BERT other positions where it pads on the left
            expected = stock.encode([*TEXTS, *ODD], batch_size=1, normalize_embeddings=True, **asked)
            vectors = encoder.encode([*TEXTS, *ODD], **asked)
            np.testing.assert_allclose(vectors, expected, atol=1e-5, err_msg=str(asked))
            np.testing.assert_array_equal(np.concatenate([*encoder.stream([*TEXTS, *ODD], **asked)]), vectors)


@pytest.mark.parametrize("backend", ["torch", "onnx"])
def test_a_prompt_that_is_not_there_is_named_beside_those_that_are(exported: Path, backend: str) -> None:
    encoder = Encoder(exported, backend=backend, threads=1)
    with pytest.raises(InputError, match=r"prompt_name: other is none of the model's prompts: .*query.*passage"):
        encoder.encode("one", prompt_name="other")
    with pytest.raises(InputError, match="prompt: 3 is not a text"):
        encoder.encode("one", prompt=3)  # type: ignore[arg-type]
    np.testing.assert_array_equal(
        encoder.encode("one", prompt="a ", prompt_name="query"), encoder.encode("a one", prompt="")
    )


def test_the_command_takes_a_prompt(exported: Path, tmp_path: Path) -> None:
    (tmp_path / "s.txt").write_text("Кошка спит.\n", encoding="utf-8")
    stock = SentenceTransformer(str(exported), device="cpu")
    words = ["encode", str(exported), "--backend", "onnx", "--threads", "1", "--input", str(tmp_path / "s.txt")]
    for asked, expected in [
        ([], stock.encode(["Кошка спит."])),
        (["--prompt-name", "query"], stock.encode(["Кошка спит."], prompt_name="query")),
        (["--prompt", "a "], stock.encode(["Кошка спит."], prompt="a ")),
    ]:
        assert main([*words, "--out", str(tmp_path / "v.npy"), *asked]) == 0
        np.testing.assert_allclose(np.load(tmp_path / "v.npy"), expected, atol=1e-5)
    assert main([*words, "--out", str(tmp_path / "w.npy"), "--prompt-name", "other"]) == 2
    assert not (tmp_path / "w.npy").exists()


@pytest.mark.parametrize("default", [None, "passage"])
def test_a_prompt_that_the_pooling_leaves_out_is_left_out_or_refused(
    teacher: TorchEncoder, tmp_path: Path, default: str | None
) -> None:
    save_encoder(teacher, tmp_path / "toy")
    set_json("config_sentence_transformers.json", **PROMPTS, default_prompt_name=default)(tmp_path / "toy")
    set_json("1_Pooling/config.json", include_prompt=False)(tmp_path / "toy")
    stock = SentenceTransformer(str(tmp_path / "toy"), device="cpu")
    assert not next(module for module in stock if isinstance(module, Pooling)).include_prompt
    encoder = Encoder(tmp_path / "toy", threads=1)
    for asked in ({}, {"prompt_name": "query"}, {"prompt": "the old roof "}):
        np.testing.assert_allclose(encoder.encode(TEXTS, **asked), stock.encode(TEXTS, **asked), atol=1e-5)
    if default:
        with pytest.raises(InputError, match="include_prompt"):
            export(str(tmp_path / "toy"), OPEN, threads=1, int8=False)
        return
    export(str(tmp_path / "toy"), OPEN, threads=1, int8=False)
    file = Encoder(tmp_path / "toy", backend="onnx", threads=1)
    np.testing.assert_allclose(file.encode(TEXTS), stock.encode(TEXTS), atol=1e-5)
    with pytest.raises(InputError, match="leaves its prompt out"):
        file.encode(TEXTS, prompt_name="query")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (set_json("sentence_bert_config.json", processing_kwargs={"text": {"max_length": 5}}), "processing_kwargs"),
        (set_json("config_sentence_transformers.json", truncate_dim=8), "truncate_dim: 8"),
        (lambda folder: give_other_types(folder), "another type than 0"),
    ],
)
def test_what_is_read_in_another_way_is_refused(
    teacher: TorchEncoder, tmp_path: Path, change: Change, complaint: str
) -> None:
    save_encoder(teacher, tmp_path / "toy")
    change(tmp_path / "toy")
    with pytest.raises(InputError, match=complaint):
        Encoder(tmp_path / "toy", threads=1)
    with pytest.raises(InputError, match=complaint):
        export(str(tmp_path / "toy"), OPEN, threads=1, int8=False)


def give_other_types(folder: Path) -> None:
    """Have the tokenizer say that a sentence is the second one, and hand that to the model."""
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    tokenizer["post_processor"]["single"][1]["Sequence"]["type_id"] = 1
    path.write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")
    names = ["input_ids", "token_type_ids", "attention_mask"]
    set_json("tokenizer_config.json", model_input_names=names)(folder)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_vector_is_the_same_alone_and_in_any_company(exported: Path, backend: str) -> None:
    encoder = Encoder(exported, backend=backend, threads=1)
    texts = [*TEXTS, *ODD, *(" ".join(TEXTS[start : start + 4]) for start in range(8))]
    alone = np.stack([encoder.encode(text) for text in texts])
    most = 1e-6 if backend == "torch" else 2e-7
    for seed in range(4):
        order = np.random.default_rng(seed).permutation(len(texts))
        together = encoder.encode([texts[number] for number in order])
        np.testing.assert_allclose(together, alone[order], atol=most)


@pytest.mark.parametrize("pooling", ["mean", "pooler"])
def test_an_int8_file_gives_a_padded_batch_the_vectors_of_its_sentences_alone(
    make_encoder: MakeEncoder, sentences: list[str], pooling: str
) -> None:
    encoder = make_encoder(pooling=pooling)
    run, _ = open_file(build_graph(encoder, list_matrices(encoder)).SerializeToString(), 1)
    rows = tokenize(encoder, [*sentences, " ".join(sentences[:6])])
    alone = np.concatenate([run(*pad_rows([row], 0)) for row in rows])
    np.testing.assert_allclose(run(*pad_rows(rows, 0)), alone, atol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_threads_do_not_disturb_each_other(exported: Path, backend: str, caplog: pytest.LogCaptureFixture) -> None:
    encoder = Encoder(exported, backend=backend, threads=1)
    texts = [" ".join([one, *TEXTS[: number % 5]]) for number, one in enumerate(TEXTS * 8)]
    expected = np.stack([encoder.encode(text, prompt="") for text in texts])
    prompted = np.stack([encoder.encode(text) for text in texts])
    caplog.clear()

    def read(number: int) -> np.ndarray:
        vector: np.ndarray = encoder.encode([texts[number], "a " * 300], prompt="" if number % 2 else None)[0]
        return vector

    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(read, range(len(texts))))
    for number, vector in enumerate(found):
        np.testing.assert_allclose(vector, (expected if number % 2 else prompted)[number], atol=1e-6)
    assert sum("are truncated" in line for line in caplog.messages) == 1


def test_stock_calls_on_the_loaded_tokenizer_leave_truncation_as_it_is(
    exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[TorchEncoder] = []
    describe = inference.describe_reading
    monkeypatch.setattr(inference, "describe_reading", lambda each: loaded.append(each) or describe(each))
    encoder = Encoder(exported, threads=1, max_length=8)
    expected = encoder.encode("The cat sleeps on the roof " * 9)
    loaded[0].tokenizer("a " * 50, truncation=False)
    np.testing.assert_array_equal(encoder.encode("The cat sleeps on the roof " * 9), expected)


VNNI, PLAIN_X86 = Processor("new", ("avx2", "avx512_vnni"), 2), Processor("old", ("avx2",), 2)
ARM, UNKNOWN = Processor("arm", ("asimddp",), 2), Processor("unknown", (), 2)


@pytest.mark.parametrize(
    ("made", "here", "levels", "complaint"),
    [
        (VNNI, PLAIN_X86, 127, "sums overflow and vectors may be wrong"),
        (ARM, PLAIN_X86, 127, "sums overflow"),
        (VNNI, PLAIN_X86, 63, ""),  # made for it with --reduce-range
        (PLAIN_X86, VNNI, 63, "can do with finer ones"),
        (VNNI, VNNI, 63, ""),
        (VNNI, VNNI, 127, ""),
        (VNNI, ARM, 127, ""),
        (VNNI, UNKNOWN, 127, ""),
        (VNNI, PLAIN_X86, None, ""),  # a float file
    ],
)
def test_an_int8_file_of_another_processor_is_said_at_loading(
    exported: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    made: Processor,
    here: Processor,
    levels: int | None,
    complaint: str,
) -> None:
    path = exported / "parity.json"
    old = path.read_text(encoding="utf-8")
    record = json.loads(old)
    record["processor"] = {"name": made.name, "instructions": made.instructions}
    name = "onnx/model.onnx" if levels is None else "onnx/model_qint8.onnx"
    record["artefacts"][name]["levels"] = levels
    monkeypatch.setattr(inference, "read_processor", lambda: here)
    try:
        path.write_text(json.dumps(record), encoding="utf-8")
        Encoder(exported, backend="onnx" if levels is None else "onnx-int8", threads=1)
    finally:
        path.write_text(old, encoding="utf-8")
    said = [line for line in caplog.messages if "secateur export" in line]
    assert len(said) == bool(complaint)
    assert all(complaint in line for line in said)


@pytest.fixture(params=["mean", "cls", "pooler"])
def odd(request: pytest.FixtureRequest, make_encoder: MakeEncoder) -> Iterator[TorchEncoder]:
    return make_encoder(pooling=request.param)


@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("runner", RUNNERS)
def test_odd_masks_give_finite_vectors_and_torch_s_where_it_has_them(
    odd: TorchEncoder, sentences: list[str], runner: str, int8: bool
) -> None:
    inputs = pad(odd, tokenize(odd, sentences[:4]))
    mask = inputs["attention_mask"]
    mask[0] = 0
    mask[1, 2:4] = 0
    mask[2, 0] = 0
    graph = build_graph(odd, list_matrices(odd) if int8 else []).SerializeToString()
    run, _ = open_file(graph, 1, backend=runner)
    vectors = run(inputs["input_ids"].numpy(), mask.numpy())
    assert np.isfinite(vectors).all()
    with torch.inference_mode():
        expected = encode(odd, inputs).vectors.numpy()
    if not int8:
        np.testing.assert_allclose(vectors[1:], expected[1:], atol=1e-5)
    pooling = odd.model[1]
    if isinstance(pooling, Pooling) and pooling.pooling_mode == "mean":
        assert not vectors[0].any()
        assert not expected[0].any()


@pytest.mark.parametrize("runner", RUNNERS)
def test_a_product_in_int8_is_near_row_by_row_and_zeros_stay_zeros(runner: str) -> None:
    """Each row within its own rounding: half a step of 127 of each value, and of each weight."""
    generator = np.random.default_rng(0)
    matrix = generator.normal(size=(64, 32)).astype(np.float32)
    rows = generator.normal(size=(6, 64)).astype(np.float32) * np.array(
        [[1], [0], [1e-30], [1e30], [50], [0]], np.float32
    )
    graph = Graph(["matrix"])
    states = graph.multiply(graph.add("Gather", graph.weight("rows", rows), "input_ids"), "matrix", matrix)
    graph.add("Identity", "attention_mask", outputs=["mask"])
    graph.add("Squeeze", states, graph.weight("middle", [1]), outputs=["sentence_embedding"])
    inputs = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.INT64, ["B", "T"]) for name in INPUTS]
    output = onnx.helper.make_tensor_value_info("sentence_embedding", onnx.TensorProto.FLOAT, ["B", 32])
    opsets = [onnx.helper.make_opsetid("", OPSET), onnx.helper.make_opsetid(FUSED, FUSED_OPSET)]
    mask = onnx.helper.make_tensor_value_info("mask", onnx.TensorProto.INT64, ["B", "T"])  # runtimes drop unused inputs
    parts = onnx.helper.make_graph(graph.nodes, "product", inputs, [output, mask], graph.weights)
    model = onnx.helper.make_model(parts, opset_imports=opsets, ir_version=IR)
    run, _ = open_file(model.SerializeToString(), 1, backend=runner)
    numbers = np.arange(6)[:, np.newaxis]
    found = run(numbers, np.ones_like(numbers))
    largest, column = np.abs(rows).max(axis=1, keepdims=True), np.abs(matrix).max(axis=0)
    values, weights = np.abs(rows).sum(axis=1, keepdims=True), np.abs(matrix).sum(axis=0)
    most = (largest * weights + column * values + 64 * largest * column / 254) / 254 * 1.01
    assert (np.abs(found - rows @ matrix) <= most).all()
    assert not found[[1, 5]].any()


def test_the_first_output_is_the_sentence_vector(teacher: TorchEncoder, sentences: list[str]) -> None:
    for chosen in ([], list_matrices(teacher)):
        session = onnxruntime.InferenceSession(build_graph(teacher, chosen).SerializeToString())
        names = [each.name for each in session.get_outputs()]
        assert names == ["sentence_embedding", "last_hidden_state"]
        inputs = {name: value.numpy() for name, value in pad(teacher, tokenize(teacher, sentences[:3])).items()}
        first = session.run(None, inputs)[0]
        np.testing.assert_array_equal(first, session.run(["sentence_embedding"], inputs)[0])
        assert first.shape == (3, teacher.dimension)


def test_an_older_record_is_refused_with_what_to_do(exported: Path, tmp_path: Path) -> None:
    record = json.loads((exported / "parity.json").read_text(encoding="utf-8"))
    record["input"] = {"max_length": 80, "pad_id": 0}
    old = (exported / "parity.json").read_text(encoding="utf-8")
    try:
        (exported / "parity.json").write_text(json.dumps(record), encoding="utf-8")
        with pytest.raises(InputError, match=r"not a record of how .* writes it anew"):
            Encoder(exported, backend="onnx")
    finally:
        (exported / "parity.json").write_text(old, encoding="utf-8")


@pytest.mark.parametrize("line", ["Кошка\n".encode("utf-16-le"), b"\xff\xfe\x1a\x04", b"a\0b", b"\xed\xa0\x80"])
def test_lines_that_are_no_utf_8_text_are_named(exported: Path, tmp_path: Path, line: bytes) -> None:
    encoder = Encoder(exported, backend="onnx", threads=1)
    with pytest.raises(InputError, match="line 2"):
        encode_lines(encoder, BytesIO(b"one\n" + line), tmp_path / "v.npy")
    assert not (tmp_path / "v.npy").exists()
    encode_lines(encoder, BytesIO("\ufeffone\n".encode()), tmp_path / "v.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "v.npy")[0], encoder.encode("one"))


def test_a_length_that_holds_no_word_is_refused(exported: Path) -> None:
    with pytest.raises(InputError, match="max_length: 2 holds no more than the 2 special tokens"):
        Encoder(exported, backend="onnx", max_length=2)
    assert len(Encoder(exported, backend="onnx", max_length=3).read_pieces(["The cat sleeps."])[0]) == 3


def test_half_a_character_is_said(exported: Path) -> None:
    with pytest.raises(InputError, match="item 1 has half of a surrogate pair"):
        Encoder(exported, backend="onnx", threads=1).encode(["one", "two \ud83d"])


def test_nothing_is_said_of_a_file_made_here(exported: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        Encoder(exported, backend="onnx-int8", threads=1).encode(TEXTS)
    assert not caplog.messages

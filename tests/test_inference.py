"""Batched inference gives what sentence-transformers gives, in any order, from a stream, from the exported files."""

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

import secateur
from secateur.config.errors import InputError
from secateur.config.quality import QualitySettings
from secateur.encoders import inference
from secateur.encoders.encoder import TorchEncoder
from secateur.encoders.machine import Processor, read_processor, read_quota
from secateur.encoders.saving import save_encoder
from secateur.runs.encode import encode_lines

pytest.importorskip("onnxruntime", reason="the optional package onnxruntime is not installed")
from secateur.export.export import export

OPEN = QualitySettings(min_cosine=0.5, min_low_cosine=0.0, sentences=16)


@pytest.fixture(scope="module")
def folder(make_encoder, tmp_path_factory: pytest.TempPathFactory) -> Path:  # type: ignore[no-untyped-def]
    folder: Path = tmp_path_factory.mktemp("exported") / "toy"
    save_encoder(make_encoder(layers=2), folder)
    export(str(folder), OPEN, threads=1)
    return folder


@pytest.mark.parametrize(("backend", "most"), [("torch", 1e-6), ("onnx", 1e-5), ("onnx-int8", 0.3)])
def test_vectors_are_those_of_sentence_transformers(
    folder: Path, sentences: list[str], backend: str, most: float
) -> None:
    texts = [*sentences, "", "Кошка. " * 200, sentences[0]]
    expected = SentenceTransformer(str(folder), device="cpu").encode(texts)
    encoder = secateur.Encoder(folder, backend=backend, threads=1, batch_tokens=100)
    vectors = encoder.encode(texts)
    assert vectors.dtype == np.float32
    assert np.abs(vectors - expected).max() < most
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(encoder.encode(texts[3]), vectors[3], atol=1e-6)
    np.testing.assert_allclose(encoder.encode(iter(texts[::-1])), vectors[::-1], atol=1e-6)


def test_a_stream_comes_in_windows_and_that_sentences_were_truncated_is_said_once(
    folder: Path, sentences: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(inference, "WINDOW", 10)
    encoder = secateur.Encoder(folder, backend="onnx", threads=1)
    long = "a " * 50_000
    read: list[str] = []
    stream = encoder.stream(read.append(text) or text for text in [*sentences[:25], long, long])  # type: ignore[func-returns-value]
    first = next(stream)
    assert len(read) == 10, "no more is read than is encoded"
    whole = np.concatenate([first, *stream])
    np.testing.assert_allclose(whole[:25], encoder.encode(sentences[:25]), atol=1e-6)
    assert sum("are truncated" in line for line in caplog.messages) == 1
    assert list(inference.cut_windows(["a" * 5_000_000] * 3)) == [["a" * 5_000_000] * 2, ["a" * 5_000_000]]


def test_a_batch_holds_so_many_word_pieces_the_longest_first() -> None:
    rows = [[1] * length for length in (3, 7, 1, 7, 2, 20)]
    seen: list[tuple[int, ...]] = []

    def run(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        seen.append(ids.shape)
        assert mask.sum() == (ids == 1).sum()
        return np.zeros((len(ids), 2), np.float32)

    where = [number for batch, _ in inference.run_rows(run, rows, 0, batch_tokens=14) for number in batch]
    assert where == [5, 1, 3, 0, 4, 2]
    assert seen == [(1, 20), (2, 7), (3, 3)]


def test_an_array_of_no_sentences(folder: Path) -> None:
    assert secateur.Encoder(folder, backend="onnx", threads=1).encode([]).shape == (0, 32)


class Unseekable(io.BytesIO):
    def seekable(self) -> bool:
        return False

    def seek(self, *_: int) -> int:
        raise io.UnsupportedOperation


def test_lines_become_an_array_in_a_file_and_down_a_pipe(folder: Path, sentences: list[str], tmp_path: Path) -> None:
    encoder = secateur.Encoder(folder, backend="onnx", threads=1)
    text = "".join(f"{sentence}\r\n" for sentence in [*sentences[:5], ""]).encode()
    assert encode_lines(encoder, io.BytesIO(text), tmp_path / "v.npy") == 6
    pipe = Unseekable()
    encode_lines(encoder, io.BytesIO(text), pipe)
    assert pipe.getvalue() == (tmp_path / "v.npy").read_bytes()
    np.testing.assert_allclose(np.load(tmp_path / "v.npy"), encoder.encode([*sentences[:5], ""]), atol=1e-6)
    none = Unseekable()
    with pytest.raises(InputError, match="line 2 is not UTF-8"):
        encode_lines(encoder, io.BytesIO(b"one\n\xff\n"), none)
    assert none.getvalue() == b""


def test_onnx_needs_no_torch(folder: Path) -> None:
    code = f"""import sys, secateur
print(secateur.Encoder({str(folder)!r}, backend="onnx", threads=1).encode("Кошка").shape)
assert not {{"torch", "transformers"}} & set(sys.modules)"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "(32,)", done.stderr[-2000:]


def test_what_cannot_be_opened_is_named(folder: Path, teacher: TorchEncoder, tmp_path: Path) -> None:
    save_encoder(teacher, tmp_path / "plain")
    (tmp_path / "hollow").mkdir()
    for model, backend, complaint in [
        (folder, "tflite", "backend: tflite is none of torch, onnx, onnx-int8"),
        (tmp_path / "nowhere", "onnx", "nowhere: no such folder"),
        (tmp_path / "hollow", "torch", "not a model folder"),
        (tmp_path / "plain", "onnx-int8", r"model_qint8.onnx: no such file; `secateur export"),
    ]:
        with pytest.raises(InputError, match=complaint):
            secateur.Encoder(model, backend=backend)


def test_the_processor_is_read_from_linux_s_words(tmp_path: Path) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text("processor : 0\nmodel name : Old One\nflags : fpu avx2 fma\n\nprocessor : 1\nmodel name : x\n")
    old = read_processor(path)
    assert (old.name, old.instructions) == ("Old One", ("avx2",))
    assert Processor("new", ("avx2", "avx512_vnni"), 2).adds_int8_exactly
    (tmp_path / "max").write_text("150000 100000\n")
    (tmp_path / "none").write_text("max 100000\n")
    assert [read_quota(tmp_path / name) for name in ("max", "none", "absent")] == [1, None, None]

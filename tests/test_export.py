"""What export leaves behind is measured on the files, and nothing that falls short is left."""

import json
import re
import shutil
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from conftest import SENTENCES, MakeEncoder
from huggingface_hub import ModelCard

from secateur.cli import main
from secateur.config.corpus import CorpusSettings
from secateur.config.errors import InputError
from secateur.config.quality import QualitySettings
from secateur.config.teacher import TeacherSettings
from secateur.data.files import hash_file
from secateur.encoders.encoder import TorchEncoder, embed
from secateur.encoders.inference import Encoder
from secateur.encoders.loading import load_encoder
from secateur.encoders.saving import save_encoder
from secateur.evaluation.encodechka import score_encodechka
from secateur.export.card import BEGIN
from secateur.pruning.selection import Kept
from secateur.pruning.slicing import slice_encoder

pytest.importorskip("onnxruntime", reason="the optional package onnxruntime is not installed")
from secateur.encoders.onnx_graph import list_matrices
from secateur.export.quality import Quality, Reference, Search, Texts, choose_int8, compare, find_shortfall, pick_levels

LOOSE = ["--min-cosine", "0.5", "--min-low-cosine", "0", "--sentences", "16", "--held-out", "0.4", "--threads", "1"]


@pytest.fixture
def place(tmp_path: Path, teacher: TorchEncoder, ragged: Kept, monkeypatch: pytest.MonkeyPatch) -> Path:
    save_encoder(slice_encoder(teacher, ragged), tmp_path / "toy", card="# toy\n\nCut by hand.\n")
    (tmp_path / "pairs.tsv").write_text("".join(f"{en}\t{ru}\n" for en, ru in SENTENCES), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refuse(capsys: pytest.CaptureFixture[str], words: Sequence[str], code: int = 2) -> str:
    """Run a command that must fail; return its one line."""
    assert main(words) == code
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("secateur: ")]
    assert len(lines) == 1
    return lines[0]


def test_export_writes_what_it_measured(place: Path, capsys: pytest.CaptureFixture[str], teacher: TorchEncoder) -> None:
    assert main(["export", "toy", "--pairs", "pairs.tsv", "--max-retrieval-loss", "1", *LOOSE]) == 0
    assert "onnx/model_qint8.onnx" in capsys.readouterr().out
    record = json.loads((place / "toy" / "parity.json").read_text())
    torch, whole, small = (record["artefacts"][name] for name in ("torch", "onnx/model.onnx", "onnx/model_qint8.onnx"))
    assert whole["max_difference"] < 1e-5
    assert torch["retrieval"] == whole["retrieval"]
    assert 0.5 < small["cosine"] < 1
    assert small["bytes"] < whole["bytes"]
    for name in ("onnx/model.onnx", "onnx/model_qint8.onnx"):
        assert record["artefacts"][name]["sha256"] == hash_file(place / "toy" / name)
        onnx.checker.check_model(str(place / "toy" / name))
    assert torch["files"]["model.safetensors"] == hash_file(place / "toy" / "model.safetensors")
    assert not list(place.rglob("*.partial"))
    card = ModelCard.load(place / "toy" / "README.md")
    assert "Cut by hand." in card.text
    values = [each.metric_value for each in card.data.eval_results]
    assert values == [round(torch["retrieval"][way], 4) for way in ("en_ru", "ru_en")]
    run_the_card(card.text, place / "toy", teacher)
    assert main(["export", "toy", "--no-int8", *LOOSE]) == 0  # without pairs: no retrieval, and no stale file
    again = json.loads((place / "toy" / "parity.json").read_text())
    assert list(again["artefacts"]) == ["torch", "onnx/model.onnx"]
    assert "retrieval" not in again["artefacts"]["torch"]
    assert not (place / "toy" / "onnx" / "model_qint8.onnx").exists()
    assert (place / "toy" / "README.md").read_text(encoding="utf-8").count(BEGIN) == 1


def test_openvino_runs_the_same_files_behind_the_same_quality_gate(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("openvino", reason="the optional package openvino is not installed")
    words = ["export", "toy", "--pairs", "pairs.tsv", "--max-retrieval-loss", "1"]
    assert main([*words, *LOOSE]) == 0
    assert "onnx/model_qint8.onnx, OpenVINO" in capsys.readouterr().out
    artefacts = json.loads((place / "toy" / "parity.json").read_text())["artefacts"]
    assert artefacts["onnx/model.onnx"]["openvino"]["max_difference"] < 1e-5
    sentences = [side for pair in SENTENCES for side in pair]
    expected = Encoder("toy").encode(sentences)
    np.testing.assert_allclose(Encoder("toy", backend="openvino").encode(sentences), expected, atol=1e-5)
    vectors = Encoder("toy", backend="openvino-int8").encode(sentences)
    assert (vectors * expected).sum(axis=1).mean() == pytest.approx(
        artefacts["onnx/model_qint8.onnx"]["openvino"]["cosine"], abs=0.02
    )
    record = json.loads((place / "toy" / "parity.json").read_text())
    record["artefacts"]["onnx/model_qint8.onnx"]["openvino"]["refused"] = "mean cosine 0.9"
    (place / "toy" / "parity.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match=r"model_qint8\.onnx falls short with OpenVINO: mean cosine 0\.9"):
        Encoder("toy", backend="openvino-int8")
    del record["artefacts"]["onnx/model.onnx"]["openvino"]
    (place / "toy" / "parity.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match="has not been measured with OpenVINO"):
        Encoder("toy", backend="openvino")


def run_the_card(text: str, folder: Path, teacher: TorchEncoder) -> None:
    """Run the card's code for every library; the vectors must be those of the model."""
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 4
    for code, most in zip(blocks, (1e-5, None, 0.3, 1e-5), strict=True):
        names: dict[str, Any] = {}
        exec(code.replace("PATH", str(folder)), names)
        if most is not None:
            expected = embed(load_encoder(TeacherSettings(model=str(folder))), ["Hello, world", "Привет, мир"])
            assert np.abs(names["vectors"] - expected).max() < most
        else:
            assert names["states"].shape[-1] == 32


def test_a_quality_gate_that_cannot_be_met_leaves_the_float_file_alone(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", "toy", *LOOSE]) == 0
    assert (place / "toy" / "onnx" / "model_qint8.onnx").exists()
    line = refuse(capsys, ["export", "toy", *LOOSE, "--min-cosine", "1", "--min-low-cosine", "1"], code=1)
    assert "no int8 file is left" in line
    assert re.search(r"alone in int8: mean cosine 0\.99\d+, at least 1.0 asked", line)
    assert [path.name for path in (place / "toy" / "onnx").iterdir()] == ["model.onnx"]
    assert "onnx/model_qint8.onnx" not in json.loads((place / "toy" / "parity.json").read_text())["artefacts"]


def test_a_folder_changed_after_export_is_refused(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "s.txt").write_text("Кошка спит.\n", encoding="utf-8")
    assert main(["export", "toy", "--no-int8", *LOOSE]) == 0
    words = ["encode", "copy", "--backend", "onnx", "--threads", "1", "--input", "s.txt", "--out", "v.npy"]
    shutil.copytree(place / "toy", place / "copy")
    (place / "copy" / "model.safetensors").unlink()  # deployed without torch's weights
    assert main(words) == 0
    (place / "v.npy").unlink()
    with (place / "copy" / "tokenizer.json").open("a") as file:
        file.write(" ")
    assert "copy/tokenizer.json: not the file that parity.json records" in refuse(capsys, words)
    shutil.copyfile(place / "toy" / "tokenizer.json", place / "copy" / "tokenizer.json")
    (place / "copy" / "onnx" / "model.onnx").write_bytes(b"x")
    assert "onnx/model.onnx: not the file" in refuse(capsys, words)
    (place / "copy" / "parity.json").write_text("{}")
    assert "parity.json: not a record" in refuse(capsys, words)
    assert not (place / "v.npy").exists()


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["export", "nowhere"], "nowhere: no such folder"),
        (["export", "hollow"], "hollow: not a model folder"),
        (["export", "toy", "--pairs", "few.tsv"], "too few to judge"),
        (["export", "toy", "--pairs", "none.tsv"], "none.tsv: no such file"),
        (["export", "toy", "--min-cosine", "2"], "--min-cosine"),
        (["export", "toy", "--sentences", "0"], "--sentences"),
        (["export", "toy", "--data", "nodata"], "nodata"),
        (["export", "toy", "--out", "pairs.tsv"], "pairs.tsv is there already and is not a model folder"),
        (["cost", "hollow"], "hollow: not a model folder"),
        (["cost", "toy", "--length", "5000"], "--length: 5000"),
        (["push", "hollow", "me/toy", "--dry-run"], "hollow: not a model folder"),
        (["push", "toy", "toy", "--dry-run"], "'toy' is not of the form"),
        (["infer", "toy", "--tasks", "probe", "--backend", "onnx"], "no such file; `secateur export toy`"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(
    place: Path, capsys: pytest.CaptureFixture[str], words: list[str], complaint: str
) -> None:
    (place / "hollow").mkdir()
    (place / "few.tsv").write_text("one small cat\tодна маленькая кошка\n", encoding="utf-8")
    assert complaint in refuse(capsys, words)
    assert not (place / "toy" / "onnx").exists()
    assert not (place / "toy" / "parity.json").exists()
    assert (place / "toy" / "README.md").read_text() == "# toy\n\nCut by hand.\n"


def test_what_the_files_cost_stands_in_one_table(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "toy", *LOOSE]) == 0
    capsys.readouterr()
    assert main(["cost", "toy", "--threads", "1", "--length", "8", "--repeats", "3", "--warmup", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines[2:5]] == ["torch", "onnx", "onnx-int8"]
    rows = [line for line in lines[2:] if line.startswith("toy ")]
    disk = [float(line.split()[3]) for line in lines[2:5]]
    assert disk[2] < disk[1]
    assert "8 tokens a sentence" in lines[2 + len(rows)]


def test_an_exported_file_scores_as_its_model_does(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "toy", "--no-int8", *LOOSE]) == 0
    russian = [ru for _, ru in SENTENCES]
    rows = [f'"{one}","{other}",{number % 6}.0\n' for number, (one, other) in enumerate(pairwise(russian))]
    (place / "data").mkdir()
    (place / "data" / "stsb_dev.csv").write_text("sentence1,sentence2,similarity_score\n" + "".join(rows), "utf-8")
    words = ["infer", "toy", "--data", "data", "--tasks", "STS", "--backend", "onnx", "--threads", "1", "--runs", "."]
    assert main(words) == 0
    shown = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("toy, onnx, own vector"))
    model = load_encoder(TeacherSettings(model="toy"))  # in float32; infer's torch may compute in bfloat16
    expected = score_encodechka(model, place / "data", tasks=["STS"], own_only=True).own["STS"]
    assert float(shown.split()[4]) == pytest.approx(expected, abs=2e-3)


def test_a_dry_push_lists_files_and_sizes(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "toy" / ".model.onnx.1.partial").write_bytes(b"half")
    assert main(["push", "toy", "me/toy", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "model.safetensors" in out
    assert "partial" not in out


def test_similar_vectors_are_compared_row_by_row() -> None:
    angle = np.array([0.0, 0.1, 0.2, 0.3])
    reference = np.tile([[1.0, 0.0]], (4, 1))
    vectors = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    quality = compare(vectors, reference, 0)
    assert quality.cosine == pytest.approx(np.cos(angle).mean())
    assert quality.max_difference == pytest.approx(np.sin(0.3))
    assert quality.en_ru is None
    crossed = compare(np.array([[1, 0], [0, 1], [0, 1], [1, 0]], float), np.eye(4)[:, :2], 2)
    assert (crossed.en_ru, crossed.ru_en) == (0, 0)


def test_the_quality_gate_names_what_falls_short() -> None:
    whole = Quality(0, 1, 1, 0.9, 0.9)
    limits = QualitySettings()
    assert not find_shortfall(Quality(0.1, 0.995, 0.98, 0.89, 0.9), whole, limits)
    assert "mean cosine 0.9800000" in find_shortfall(Quality(0.1, 0.98, 0.98, 0.9, 0.9), whole, limits)
    assert "percentile" in find_shortfall(Quality(0.1, 0.995, 0.9, 0.9, 0.9), whole, limits)
    assert "ru→en 0.8800 of 0.9000" in find_shortfall(Quality(0.1, 0.995, 0.98, 0.9, 0.88), whole, limits)
    assert (pick_levels(limits, exact=True), pick_levels(limits, exact=False)) == (127, 63)
    assert pick_levels(QualitySettings(exact=False), exact=True) == 63


def test_the_matrices_that_hurt_most_go_back_first_and_as_few_as_will_do(make_encoder: MakeEncoder) -> None:
    encoder = make_encoder(layers=2)
    matrices = list_matrices(encoder)
    harm = dict.fromkeys(matrices, 1e-4) | {matrices[3]: 0.05, matrices[6]: 0.04, matrices[1]: 0.03}

    class Imagined(Search):
        def measure(self, int8: Sequence[str]) -> Quality:
            cosine = 1 - sum(harm[name] for name in int8)
            return Quality(0, cosine, cosine, None, None)

    search = Imagined(encoder, Reference([[1]], 0, np.ones((1, 1), np.float32), 0, 1), 127)
    int8, back = choose_int8(search, QualitySettings(min_cosine=0.965, min_low_cosine=0.0))
    assert {matrices[3], matrices[6]} <= set(back) <= {matrices[3], matrices[6], matrices[1]}
    assert sorted([*int8, *back]) == sorted(matrices)
    assert choose_int8(search, QualitySettings(min_cosine=0.5, min_low_cosine=0.0)) == (matrices, [])
    assert choose_int8(search, QualitySettings(min_cosine=1.0))[0] == []


def test_texts_are_pairs_that_a_run_holds_out(place: Path) -> None:
    from secateur.data.corpus import load_corpus
    from secateur.export.quality import read_pairs, read_probe_texts

    settings = CorpusSettings(files=("pairs.tsv",), held_out=0.3, min_words=3)
    corpus = load_corpus(settings, place)
    texts = read_pairs(place / "pairs.tsv", 1000, 0.3)
    assert texts.judged == [*corpus.held_out.en, *corpus.held_out.ru]
    assert set(texts.calibration) <= {*corpus.train.en, *corpus.train.ru}
    probe: Texts = read_probe_texts(10)
    assert len(probe.judged) == 10
    assert probe.pairs == 0
    assert not set(probe.judged) & set(probe.calibration)

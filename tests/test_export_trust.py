"""What export judges by was never trained on, and no accident leaves a file that parity.json does not know."""

import errno
import json
import os
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import SENTENCES, MakeEncoder
from safetensors.torch import load_file, save_file

from secateur import Encoder
from secateur.cli import main
from secateur.config.corpus import CorpusSettings
from secateur.config.errors import InputError, QualityError
from secateur.config.quality import QualitySettings
from secateur.data.corpus import load_corpus
from secateur.data.files import hash_file
from secateur.encoders.saving import save_encoder

pytest.importorskip("onnxruntime", reason="the optional package onnxruntime is not installed")
from secateur.export import export as module
from secateur.export.export import export
from secateur.export.quality import Quality, choose_held_out, find_shortfall, read_pairs

OPEN = QualitySettings(min_cosine=0.5, min_low_cosine=0.0, sentences=8)
FILES = ("onnx/model.onnx", "onnx/model_qint8.onnx")


@pytest.fixture
def toy(make_encoder: MakeEncoder, tmp_path: Path) -> Path:
    save_encoder(make_encoder(layers=2), tmp_path / "toy", card="# toy\n")
    return tmp_path / "toy"


def write_pairs(path: Path, count: int) -> Path:
    """Write pairs, some of which share a sentence with others, some too short for a pair."""
    choose = random.Random(0)
    en, ru = ([side.rstrip(".?").split() for side in sides] for sides in zip(*SENTENCES, strict=True))
    rows = []
    for number in range(count):
        words = [*choose.choice(en), *choose.choice(en), str(number if number % 7 else number // 20)]
        other = [*choose.choice(ru), *choose.choice(ru), str(number if number % 11 else number // 30)]
        rows.append((" ".join(words), " ".join(other)) if number % 13 else (f"Cat {number}.", f"Кошка {number}."))
    path.write_text("".join(f"{one}\t{other}\n" for one, other in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize("count", [200, 1_000, 4_000])
@pytest.mark.parametrize("share", [None, 0.02, 0.3])
def test_no_pair_judged_by_was_trained_on(tmp_path: Path, count: int, share: float | None) -> None:
    path = write_pairs(tmp_path / "pairs.tsv", count)
    default = choose_held_out(tmp_path, None)
    assert default == CorpusSettings().held_out, "the share of a run that names none"
    settings = CorpusSettings(files=(str(path),), **({} if share is None else {"held_out": share}))
    corpus = load_corpus(settings, tmp_path)
    if len(corpus.held_out) < 4:
        with pytest.raises(InputError, match=f"{len(corpus.held_out)} of the .* too few"):
            read_pairs(path, 1000, share or default)
        return
    texts = read_pairs(path, 1000, share or default)
    trained = {*corpus.train.en, *corpus.train.ru}
    assert not trained & set(texts.judged)
    assert texts.judged == [*corpus.held_out.en[:1000], *corpus.held_out.ru[:1000]]
    assert set(texts.calibration) <= trained
    assert texts.pairs == min(1000, len(corpus.held_out))
    assert f"{texts.pairs} pairs of pairs.tsv, a share of {share or default} that was held out by hash" in texts.origin


def test_few_pairs_are_said_with_the_error_that_they_mean(
    toy: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_pairs(tmp_path / "pairs.tsv", 800)
    export(str(toy), OPEN, pairs=path, threads=1, int8=False)
    count = read_pairs(path, 8, 0.05).pairs
    assert count == 8
    said = next(line for line in caplog.messages if "are held out" in line)
    assert said.startswith("8 of the ")
    assert "accuracy@1 has a standard error of up to 0.18" in said
    judged_by = json.loads((toy / "parity.json").read_text(encoding="utf-8"))["judged_by"]
    error = "standard error of accuracy@1 up to 0.18"
    assert judged_by == f"8 pairs of pairs.tsv, a share of 0.05 that was held out by hash ({error})"
    assert judged_by in (toy / "README.md").read_text(encoding="utf-8")


def test_a_file_that_the_model_never_saw_is_judged_by_wholly(tmp_path: Path) -> None:
    path = write_pairs(tmp_path / "pairs.tsv", 100)
    texts = read_pairs(path, 1000, 1.0)
    settings = CorpusSettings(files=(str(path),), held_out=0.999999)
    assert texts.pairs == len(load_corpus_held_out(settings, tmp_path))
    assert not set(texts.judged) & set(texts.calibration)
    assert len(texts.calibration) >= 4
    assert texts.calibration_pairs == 0


def load_corpus_held_out(settings: CorpusSettings, cache: Path) -> Any:
    from secateur.data.cleaning import clean_rows, drop_duplicates
    from secateur.data.corpus import split_rows
    from secateur.data.sources import read_table

    rows = clean_rows(read_table(Path(str(settings.files[0])), 0.01), min_words=3, max_words=64)
    return split_rows(drop_duplicates(rows, {}), settings.held_out).held_out


def is_consistent(folder: Path) -> bool:
    """Return whether every exported file is one that parity.json knows, and the other way round."""
    there = {name for name in FILES if (folder / name).exists()}
    if not (folder / "parity.json").exists():
        return not there
    known = json.loads((folder / "parity.json").read_text(encoding="utf-8"))["artefacts"]
    hashed = {name: each["sha256"] for name, each in known.items() if name != "torch"}
    return hashed == {name: hash_file(folder / name) for name in there}


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("broken", ["write_float", "write_int8", "describe_export", "write_record", "try_openvino"])
def test_a_full_disk_leaves_what_was_there(
    toy: Path, monkeypatch: pytest.MonkeyPatch, broken: str, before: bool
) -> None:
    if broken == "try_openvino":
        pytest.importorskip("openvino", reason="the optional package openvino is not installed")
    if before:
        export(str(toy), OPEN, threads=1)
    old = {path: path.read_bytes() for path in toy.rglob("*") if path.is_file()}
    weights = load_file(toy / "model.safetensors")
    real = getattr(module, broken)

    def fail(*arguments: Any, **named: Any) -> Any:
        real(*arguments, **named)  # all of it is written, and then there is no room
        raise OSError(errno.ENOSPC, "No space left on device", str(toy / "onnx"))

    monkeypatch.setattr(module, broken, fail)
    assert main(["export", str(toy), "--min-cosine", "0.5", "--min-low-cosine", "0", "--threads", "1"]) == 2
    assert {path: path.read_bytes() for path in toy.rglob("*") if path.is_file()} == old
    assert is_consistent(toy)
    assert weights.keys() == load_file(toy / "model.safetensors").keys()


@pytest.mark.parametrize("steps", [0, 1, 2, 3])
def test_a_process_killed_between_two_names_is_found_out_and_mended(
    toy: Path, make_encoder: MakeEncoder, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    export(str(toy), OPEN, threads=1)
    other = make_encoder(layers=2, seed=7)
    save_encoder(other, toy.parent / "other")
    shutil.copyfile(toy.parent / "other" / "model.safetensors", toy / "model.safetensors")
    real, done = os.replace, []

    def replace(source: Any, target: Any) -> None:
        if "partial" in str(source) and Path(target).parent in (toy, toy / "onnx"):
            if len(done) == steps:
                raise KeyboardInterrupt
            done.append(target)
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(module.os, "replace", replace)
        with pytest.raises(KeyboardInterrupt):
            export(str(toy), OPEN, threads=1)
    if steps < 3:  # the fourth name is the card's
        with pytest.raises(InputError, match="secateur export"):
            Encoder(toy, backend="onnx", threads=1)
    export(str(toy), OPEN, threads=1)
    assert is_consistent(toy)
    expected = Encoder(toy, threads=1).encode("The cat sleeps.")
    np.testing.assert_allclose(Encoder(toy, backend="onnx", threads=1).encode("The cat sleeps."), expected, atol=1e-5)
    assert not list(toy.rglob("*.partial"))


def test_a_file_that_falls_short_leaves_the_one_before(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export(str(toy), OPEN, threads=1)
    monkeypatch.setattr(module, "TOLERANCE", 0.0)
    with pytest.raises(QualityError, match=r"onnx/model\.onnx: differs from torch"):
        export(str(toy), OPEN, threads=1)
    assert is_consistent(toy)
    assert (toy / FILES[1]).exists()


def test_other_files_beside_the_exported_ones_stay(toy: Path) -> None:
    (toy / "onnx").mkdir()
    (toy / "onnx" / "model_O3.onnx").write_bytes(b"another's")
    export(str(toy), OPEN, threads=1, int8=False)
    assert (toy / "onnx" / "model_O3.onnx").read_bytes() == b"another's"


def test_a_copy_goes_beside_the_model_or_nowhere(toy: Path, tmp_path: Path) -> None:
    before = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*"))
    for out, complaint in [
        (toy / "inside", "lies in"),
        (toy / "1_Pooling", "not a model folder"),
        (tmp_path, "not a model"),
    ]:
        with pytest.raises(InputError, match=complaint):
            export(str(toy), OPEN, out=out, threads=1, int8=False)
        assert sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*")) == before
    export(str(toy), OPEN, out=tmp_path / "." / "toy", threads=1, int8=False)  # the model itself
    assert is_consistent(toy)
    export(str(toy), OPEN, out=tmp_path / "copy", threads=1)
    assert is_consistent(tmp_path / "copy")
    assert {path.name for path in toy.iterdir()} == {path.name for path in (tmp_path / "copy").iterdir()}


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser writes anywhere")
def test_a_read_only_folder_is_said_before_the_work(toy: Path) -> None:
    toy.chmod(0o555)
    try:
        with pytest.raises(InputError, match="cannot be written"):
            export(str(toy), OPEN, threads=1)
    finally:
        toy.chmod(0o755)


def test_a_place_that_cannot_be_written_is_said_before_the_work(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (toy / "onnx").write_text("a file")
    monkeypatch.setattr(module, "load_encoder", lambda *_: pytest.fail("work began"))
    with pytest.raises(InputError, match="onnx"):
        export(str(toy), OPEN, threads=1)


def test_drift_is_measured_recorded_and_gated(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export(str(toy), OPEN, threads=1)
    artefacts = json.loads((toy / "parity.json").read_text(encoding="utf-8"))["artefacts"]
    for name in FILES:
        assert artefacts[name]["drift"] <= 1e-6
        assert artefacts[name]["padded_drift"] <= 1e-6
    assert "drift" not in artefacts["torch"]
    whole, limits = Quality(0, 1, 1, None, None), QualitySettings()
    assert "in other company" in find_shortfall(Quality(0, 1, 1, None, None, 0.01, 0.01), whole, limits)
    assert "in other company" in find_shortfall(Quality(0, 1, 1, None, None, float("nan"), 0), whole, limits)
    assert not find_shortfall(Quality(0, 1, 1, None, None, 1e-7, 0.01), whole, limits)


def test_parity_is_measured_with_the_default_prompt_on(toy: Path) -> None:
    path = toy / "config_sentence_transformers.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    settings |= {"prompts": {"query": "the old roof "}, "default_prompt_name": "query"}
    path.write_text(json.dumps(settings), encoding="utf-8")
    export(str(toy), OPEN, threads=1)
    record = json.loads((toy / "parity.json").read_text(encoding="utf-8"))
    assert record["artefacts"][FILES[0]]["max_difference"] < 1e-5
    assert record["input"]["default_prompt_name"] == "query"
    assert record["input"]["prompts"]["query"] == "the old roof "
    (toy / "config_sentence_transformers.json").unlink()  # a copy without it still knows
    vectors = Encoder(toy, backend="onnx", threads=1).encode("cat")
    plain = Encoder(toy, backend="onnx", threads=1).encode("the old roof cat", prompt="")
    np.testing.assert_array_equal(vectors, plain)


def test_a_float16_model_has_a_float32_file_and_both_are_recorded(toy: Path) -> None:
    path = toy / "model.safetensors"
    save_file({name: value.half() for name, value in load_file(path).items()}, path, {"format": "pt"})
    export(str(toy), OPEN, threads=1, int8=False)
    record = json.loads((toy / "parity.json").read_text(encoding="utf-8"))
    assert record["model"]["dtype"] == "float16"
    assert record["artefacts"][FILES[0]]["max_difference"] < 1e-5
    expected = Encoder(toy, threads=1).encode(["The cat sleeps."])
    np.testing.assert_allclose(Encoder(toy, backend="onnx", threads=1).encode(["The cat sleeps."]), expected, atol=1e-5)
    assert load_file(path)["embeddings.word_embeddings.weight"].dtype == torch.float16


def test_a_tokenizer_that_keeps_capitals_does_so_in_the_exported_files(toy: Path) -> None:
    path = toy / "tokenizer.json"
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    tokenizer["normalizer"]["lowercase"] = False
    path.write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")
    stock = Encoder(toy, threads=1).encode("The Cat SLEEPS.")
    export(str(toy), OPEN, threads=1, int8=False)
    np.testing.assert_allclose(Encoder(toy, backend="onnx", threads=1).encode("The Cat SLEEPS."), stock, atol=1e-5)


def test_pairs_are_held_out_by_the_share_of_the_run_that_made_the_model(tmp_path: Path) -> None:
    """A card says how much was held out; a larger share would be judged on pairs that were trained on."""
    (tmp_path / "README.md").write_text("---\nsecateur: {held_out: 0.01}\n---\n# model\n", encoding="utf-8")
    assert choose_held_out(tmp_path, None) == choose_held_out(tmp_path, 0.01) == 0.01
    assert choose_held_out(tmp_path, 1.0) == 1.0  # the user says that the file is new to the model
    with pytest.raises(InputError, match=r"held out 0\.01 of its pairs"):
        choose_held_out(tmp_path, 0.05)
    (tmp_path / "README.md").unlink()
    assert choose_held_out(tmp_path, None) == 0.05

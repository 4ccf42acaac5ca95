"""What a user may get wrong: one line that names it, exit code 2, nothing left behind."""

import gzip
import json
import re
import subprocess
import sys
import time
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import SENTENCES
from tokenizers import Tokenizer, models
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from secateur.cli import main
from secateur.config.places import default_cache
from secateur.config.teacher import Wheel
from secateur.data.catalogs import find_kept
from secateur.data.files import write_json
from secateur.encoders.encoder import TorchEncoder
from secateur.encoders.saving import save_encoder
from secateur.evaluation.benchmark_data import DownloadError

GOOD: dict[str, Any] = {
    "teacher": {"model": "teacher"},
    "corpus": {"files": ["pairs.tsv"], "held_out": 0.3, "min_words": 2},
    "saliency": {"pairs": 8},
    "budget": {"heads": 0.5, "neurons": 0.5},
    "repair": {"sentences": 8},
    "distillation": {"steps": 0},
    "validation": {"pairs": 8},
    "encodechka": {"tasks": []},
    "tracking": {"to": "none"},
}


@pytest.fixture
def place(tmp_path: Path, teacher: TorchEncoder, monkeypatch: pytest.MonkeyPatch) -> Path:
    save_encoder(teacher, tmp_path / "teacher")
    (tmp_path / "pairs.tsv").write_text("".join(f"{en}\t{ru}\n" for en, ru in SENTENCES), encoding="utf-8")
    (tmp_path / "run.yaml").write_text(json.dumps(GOOD), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def refuse(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Run a command that must fail; return its one line."""
    assert main(words) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("secateur: ")]
    assert len(lines) == 1
    return lines[0]


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("budget.head=0.5", "budget.head: is not a known key"),
        ("budget.heads=1.5", "budget.heads"),
        ("budget.heads=half", "budget.heads"),
        ("distillation.steps=2.5", "distillation.steps"),
        ("distillation.steps=2", "distillation.batch_size: 128 exceeds the corpus's "),
        ("saliency.criterion=hope", "saliency.criterion"),
        ("teacher={}", "teacher.model: is missing"),
        ("budget.heads=0.01", "budget.heads: 0 of 12 heads leaves none"),
        ("corpus.files=[nowhere.tsv]", "nowhere.tsv"),
        ("corpus.files=[empty.tsv]", "empty.tsv"),
        ("corpus.files=[latin.tsv]", "latin.tsv"),
        ("corpus.files=[ragged.tsv]", "ragged.tsv"),
        ("corpus.files=[[a.en, a.ru]]", "a.ru"),
        ("teacher.model=hollow", "hollow: not a model folder"),
        ("teacher.model=other", "supported are bert"),
        pytest.param(
            "device=cuda", "device: cuda", marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
        ),
        ("encodechka={data: nowhere}", "nowhere"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    place: Path, capsys: pytest.CaptureFixture[str], override: str, complaint: str
) -> None:
    (place / "empty.tsv").touch()
    (place / "latin.tsv").write_bytes("cat\tкот\n".encode("cp1251"))
    (place / "ragged.tsv").write_text("one two three\n" * 9 + "a cat sleeps\tкот спит дома\n")
    (place / "a.en").write_text("One line.\nAnother line.\n")
    (place / "a.ru").write_text("Одна строка.\n")
    (place / "hollow").mkdir()
    (place / "other").mkdir()
    (place / "other" / "config.json").write_text('{"model_type": "t5"}')
    assert complaint in refuse(capsys, "train", "run.yaml", override)
    assert not (place / "models").exists()
    assert not list(place.rglob("*.partial"))


def test_a_recipe_that_is_not_there(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "missing.yaml: no such recipe" in refuse(capsys, "train", "missing.yaml")
    assert "teacher: a folder, not a recipe" in refuse(capsys, "train", "teacher")


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("", "secateur: the following arguments are required: COMMAND; see secateur --help"),
        ("train", "secateur train: the following arguments are required: recipe; see secateur train --help"),
        ("trian run.yaml", "invalid choice: 'trian'"),
        ("cost teacher --threads none", "argument --threads: invalid int value: 'none'"),
    ],
)
def test_a_word_of_no_use_is_one_line(capsys: pytest.CaptureFixture[str], words: str, complaint: str) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(words.split())
    (line,) = capsys.readouterr().err.splitlines()
    assert complaint in line


def test_resuming_nothing_and_resuming_another_run(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "nothing to resume" in refuse(capsys, "train", "run.yaml", "--resume")
    assert main(["train", "run.yaml"]) == 0
    line = refuse(capsys, "train", "run.yaml", "--resume", "budget.heads=0.75")
    assert "another run: budget.heads was 0.5, is now 0.75" in line


def test_a_failed_start_keeps_the_last_run(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "run.yaml"]) == 0
    before = (place / "models" / "run" / "model.safetensors").read_bytes()
    refuse(capsys, "train", "run.yaml", "budget.heads=2.0")
    assert (place / "run" / "scores.json").exists()
    assert (place / "models" / "run" / "model.safetensors").read_bytes() == before


def test_prune_writes_a_student_and_refuses_what_it_cannot_do(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["prune", "teacher", "--keep-heads", "0.5", "--keep-neurons", "0.5", "--pairs", "pairs.tsv", "--out"]
    assert main([*words, "small", "--held-out", "0.3"]) == 0
    assert "repaired" in capsys.readouterr().out
    assert (place / "small" / "modeling.py").is_file()
    for fraction in ("50", "0"):
        refused = refuse(capsys, *words, "x", "--held-out", "0.3", "--keep-heads", fraction)
        assert "--keep-heads: " in refused
        assert "budget" not in refused
    assert "--held-out: 0.05 of" in refuse(capsys, *words, "x")
    (place / "mine").mkdir()
    (place / "mine" / "notes.txt").write_text("keep me")
    assert "say what to keep: --keep-heads, " in refuse(capsys, "prune", "teacher", "--pairs", "pairs.tsv", "--dry-run")
    count = refuse(capsys, "prune", "teacher", "--max-params", "12MB", "--pairs", "pairs.tsv", "--dry-run")
    assert count.endswith('--max-params: should be a count, as in 12800000, 12.8M or 85k, not "12MB"')
    assert "mine is there already" in refuse(capsys, *words, "mine")
    assert (place / "mine" / "notes.txt").exists()


def test_pairs_may_be_compressed(place: Path) -> None:
    with gzip.open(place / "pairs.tsv.gz", "wt", encoding="utf-8") as file:
        file.write((place / "pairs.tsv").read_text(encoding="utf-8"))
    words = ["prune", "teacher", "--keep-neurons", "0.5", "--pairs", "pairs.tsv.gz", "--out", "small"]
    assert main([*words, "--held-out", "0.3"]) == 0


def test_pairs_may_be_a_list_of_catalogs(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wheel = Wheel("toy", "1.0", "0" * 64)
    write_json(place / "catalogs.yaml", {"wheels": [asdict(wheel)]})
    write_json(find_kept(wheel, default_cache()), SENTENCES)
    words = ["prune", "teacher", "--keep-neurons", "0.5", "--held-out", "0.3", "--out", "small", "--pairs"]
    assert main([*words, "catalogs.yaml"]) == 0
    assert (place / "small" / "modules.json").is_file()
    assert "a list of catalogs has the key wheels" in refuse(capsys, *words, "run.yaml")
    assert "one .tsv or two aligned texts, not 3 files" in refuse(capsys, *words, "a", "b", "c", "catalogs.yaml")


def test_a_family_is_a_folder_of_models_with_a_picture(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["prune", "teacher", "--held-out", "0.3", "--repair-sentences", "16", "--pairs", "pairs.tsv", "--family"]
    assert main([*words, "0.5,0.8", "--out", "family"]) == 0
    assert "at most 0.5 of the teacher's parameters" in (place / "family" / "0.5" / "README.md").read_text("utf-8")
    stages = json.loads((place / "family" / "family.json").read_text())
    assert [row["stage"] for row in stages] == ["teacher", "0.8", "0.5"]
    assert (place / "family" / "family.png").stat().st_size > 10_000
    assert "name no other" in refuse(capsys, *words, "0.5", "--keep-params", "0.5", "--dry-run")
    assert "is not a list of fractions" in refuse(capsys, *words, "50%", "--dry-run")


def test_a_limit_that_nothing_reaches_is_one_line_and_nothing_is_written(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["prune", "teacher", "--held-out", "0.3", "--pairs", "pairs.tsv", "--out", "small"]
    line = refuse(capsys, *words, "--max-params", "100")
    assert re.search(
        r"100 parameters cannot be reached; the smallest student has [\d,]+ parameters, \d+\.\d+ MB$", line
    )
    (least,) = re.findall(r"student has ([\d,]+)", line)
    contradictory = ["--max-params", least.replace(",", ""), "--layers", "3"]
    assert "cannot be reached; the smallest student has" in refuse(capsys, *words, *contradictory)
    assert "--layers: 9 asked for, at most 3 can be kept" in refuse(capsys, *words, "--layers", "9")
    assert not (place / "small").exists()


def test_a_vocabulary_is_trimmed_and_what_cannot_be_is_one_line(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for language, side in zip(("en", "ru"), zip(*SENTENCES, strict=True), strict=True):
        (place / f"{language}.txt").write_text("\n".join(side), encoding="utf-8")
    (place / "blank.txt").write_text(" \n\n", encoding="utf-8")
    words = ["vocabulary", "teacher", "--corpus", "en=en.txt", "--out", "small"]
    refused = {
        "blank.txt: empty": [*words, "--corpus", "ru=blank.txt", "--size", "200"],
        "ru.tx: no such file": [*words, "--corpus", "ru=ru.tx", "--size", "200"],
        "each language once": [*words, "--corpus", "en=ru.txt", "--size", "200"],
        "3 tokens asked for, but special tokens and the letters": [*words, "--corpus", "ru=ru.txt", "--size", "3"],
    }
    for complaint, asked in refused.items():
        assert complaint in refuse(capsys, *asked)
    assert not (place / "small").exists()
    assert main([*words, "--corpus", "ru=ru.txt", "--size", "200"]) == 0
    assert len(AutoTokenizer.from_pretrained(place / "small")) == 200
    card = (place / "small" / "README.md").read_text(encoding="utf-8")
    assert "teacher with 200 of its 224 tokens, those that texts in en, ru need" in card
    backend = Tokenizer(models.BPE({"a": 0, "b": 1, "[PAD]": 2}, []))
    PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]").save_pretrained(place / "teacher")
    assert "of kind BPE cannot be trimmed" in refuse(capsys, *words, "--size", "2", "--out", "other")
    assert not (place / "other").exists()


def test_encode_names_the_line_that_is_not_text(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "mixed.txt").write_bytes("кот\n".encode() + b"\xff\xfe\n")
    line = refuse(capsys, "encode", "teacher", "--input", "mixed.txt", "--out", "v.npy")
    assert "line 2 is not UTF-8" in line
    assert not (place / "v.npy").exists()


def test_a_full_disk_is_one_line(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_space(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", "somewhere")

    monkeypatch.setattr("secateur.runs.start.save_encoder", no_space)
    assert "somewhere: the disk is full" in refuse(capsys, "train", "run.yaml")


@pytest.fixture
def scored(place: Path) -> Path:
    """A folder with one small task of the benchmark."""
    russian = [ru for _, ru in SENTENCES]
    rows = [f'"{one}","{other}",{number % 6}.0\n' for number, (one, other) in enumerate(pairwise(russian))]
    (place / "data").mkdir()
    (place / "data" / "stsb_dev.csv").write_text("sentence1,sentence2,similarity_score\n" + "".join(rows), "utf-8")
    return place


def test_the_benchmark_stands_in_the_table_and_as_a_curve(scored: Path, capsys: pytest.CaptureFixture[str]) -> None:
    steps = ["distillation={steps: 4, batch_size: 4, evaluate_every: 2}", "tracking={to: none, encodechka_every: 2}"]
    assert main(["train", "run.yaml", "encodechka={data: data, tasks: [STS]}", *steps]) == 0
    table = capsys.readouterr().out
    assert "teacher, own vector" in table
    assert "distilled, best pooling" in table
    assert "cointegrated/LaBSE-en-ru, published" in table
    lines = [json.loads(line) for line in (scored / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "encodechka/STS" in line] == [2, 4]
    assert main(["infer", "--data", "data", "--tasks", "STS", "--runs", "."]) == 0
    assert "run, own vector" in capsys.readouterr().out


def test_infer_without_data_shows_what_the_run_kept(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*_: object) -> Path:
        raise DownloadError("no such host")

    monkeypatch.setattr("secateur.runs.infer.find_data", unreachable)
    assert main(["train", "run.yaml"]) == 0
    table = capsys.readouterr().out.strip()
    assert main(["infer", "--runs", "."]) == 0
    assert capsys.readouterr().out.strip() == table
    assert "no such host; --data FOLDER" in refuse(capsys, "infer", "teacher", "--runs", ".")


def test_infer_without_a_run_says_what_to_do(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "name a model" in refuse(capsys, "infer")


@pytest.mark.parametrize("command", ["", "train", "infer", "prune", "encode", "export", "cost", "push"])
def test_help_answers_at_once(command: str) -> None:
    words = [sys.executable, "-X", "importtime", "-m", "secateur.cli", *command.split(), "--help"]
    started = time.monotonic()
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert "usage: secateur" in done.stdout
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert not imported & {"torch", "transformers", "numpy", "sklearn"}
    assert time.monotonic() - started < 20  # a stuck import; what is promised is held by the line above


def test_a_shortened_option_is_not_guessed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["prune", "teacher", "--pairs", "pairs.tsv", "--out", "small", "--keep-head", "0.5"])
    assert "unrecognized arguments: --keep-head 0.5; did you mean --keep-heads" in capsys.readouterr().err

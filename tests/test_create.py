"""Whole runs that make an encoder from the vectors of others, on a toy, as a user starts them."""

import json
import signal
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import QUIET, command, put_teacher_and_pairs, quiet_environment, read_curve, run, wait_for
from conftest import SENTENCES
from safetensors.numpy import load_file
from sentence_transformers import SentenceTransformer

from secateur.encoders.encoder import TorchEncoder, embed

RECIPE: dict[str, Any] = {
    "teacher": {"model": "teacher"},
    "student": {"shape": {"layers": 2, "heads": 2, "hidden": 24, "neurons": 32}, "vocabulary": {"size": 150}},
    "corpus": {"files": ["pairs.tsv"], "held_out": 0.3, "min_words": 2},
    "distillation": {
        "steps": 60, "batch_size": 8, "learning_rate": 3e-3, "embedding_learning_rate": 1e-2, "w_similarity": 0.0,
        "w_output": 1.0, "evaluate_every": 20,
    },
    **QUIET,
}  # fmt: skip


@pytest.fixture
def bench(tmp_path: Path, teacher: TorchEncoder) -> Path:
    """A folder with a toy teacher of 32 dimensions, a corpus, and recipes for a student of 24."""
    put_teacher_and_pairs(tmp_path, teacher)
    write_recipe(tmp_path, "toy")
    return tmp_path


def write_recipe(folder: Path, name: str, **changes: Any) -> None:
    (folder / "runs").mkdir(exist_ok=True)
    (folder / "runs" / f"{name}.yaml").write_text(json.dumps(RECIPE | changes), encoding="utf-8")


def refuse(folder: Path, *words: str) -> str:
    """Run a command that must fail; return its one line."""
    done = subprocess.run(
        command(*words), cwd=folder, env=quiet_environment(folder), capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stderr[-2000:]
    assert "Traceback" not in done.stderr
    return done.stderr.strip().splitlines()[-1]


def test_a_run_makes_an_encoder_that_comes_nearer_to_its_teacher(bench: Path) -> None:
    done = run(bench, command("train", "runs/toy.yaml"))
    assert [line.split()[0] for line in done.stdout.splitlines() if line][-3:-1] == ["teacher", "student"]
    assert "32 dimensions rotated to 24" in done.stderr
    curve = read_curve(bench / "runs" / "toy", "train/loss")
    assert curve[-1] < curve[0] / 2
    stages = json.loads((bench / "runs" / "toy" / "scores.json").read_text())["stages"]
    measured = {name: stages[0][name] for name in ("en_ru", "ru_en", "pairs")}
    assert stages[0] == {"stage": "teacher", "cosine": 1.0} | measured
    card = (bench / "models" / "toy" / "README.md").read_text()
    assert "a new vocabulary of 150 tokens" in card


def test_a_student_saved_as_float16_is_the_one_that_was_scored_and_loads_in_float32(bench: Path) -> None:
    done = run(bench, command("train", "runs/toy.yaml", "distillation.steps=20", "student.saved_as=float16"))
    weights = load_file(bench / "models" / "toy" / "model.safetensors")
    assert {value.dtype for value in weights.values()} == {np.dtype(np.float16)}
    stock = SentenceTransformer(str(bench / "models" / "toy"), device="cpu")
    assert next(stock.parameters()).dtype == torch.float32
    assert "student" in done.stdout


def test_vectors_from_elsewhere_teach_what_the_encoder_itself_teaches(bench: Path, teacher: TorchEncoder) -> None:
    sentences = [sentence for pair in SENTENCES for sentence in pair]
    np.save(bench / "vectors.npy", embed(teacher, sentences))
    (bench / "sentences.txt").write_text("\n".join(sentences) + "\n", encoding="utf-8")
    write_recipe(bench, "files", teacher={"vectors": "vectors.npy", "sentences": "sentences.txt"})
    for name in ("toy", "files"):
        run(bench, command("train", f"runs/{name}.yaml", "distillation.steps=20"))
    one, other = (read_curve(bench / "runs" / name, "train/loss") for name in ("toy", "files"))
    assert other == pytest.approx(one, rel=1e-2)


def test_a_killed_run_resumes_to_the_weights_of_one_never_killed(bench: Path) -> None:
    settings = RECIPE["distillation"] | {"steps": 300}
    for name in ("toy", "whole"):
        write_recipe(bench, name, distillation=settings)
    run(bench, command("train", "runs/whole.yaml"))
    process = subprocess.Popen(
        command("train", "runs/toy.yaml"), cwd=bench, env=quiet_environment(bench), stderr=subprocess.DEVNULL
    )
    wait_for(lambda: (bench / "runs/toy/checkpoints/checkpoint-60/trainer_state.json").exists(), process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (bench / "models" / "toy").exists(), "killed too late to show anything"
    run(bench, command("train", "runs/toy.yaml", "--resume"))
    expected = load_file(bench / "models" / "whole" / "model.safetensors")
    resumed = load_file(bench / "models" / "toy" / "model.safetensors")
    assert all(np.array_equal(value, resumed[name]) for name, value in expected.items())


def test_what_cannot_teach_is_refused_in_one_line(bench: Path) -> None:
    np.save(bench / "v.npy", np.ones((2, 4), np.float32))
    (bench / "s.txt").write_text("one\ntwo\nthree\n")
    recipe = "runs/toy.yaml"
    assert "teacher.dimension: 7, but" in refuse(bench, "train", recipe, "teacher.dimension=7")
    assert "v.npy" in refuse(bench, "train", recipe, "teacher={vectors: v.npy, sentences: s.txt}")
    assert "teacher.0.foo: is not a known key" in refuse(bench, "train", recipe, "teacher.foo=7")
    assert "student.vocabulary.size" in refuse(bench, "train", recipe, "student.vocabulary.size=90000")
    assert "distillation.matching" in refuse(bench, "train", recipe, "distillation.matching=tokens")
    assert not (bench / "models").exists()

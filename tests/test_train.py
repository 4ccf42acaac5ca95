"""Whole runs on a toy, as a user starts them: the command line in a process of its own."""

import json
import signal
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import QUIET, command, put_teacher_and_pairs, quiet_environment, read_curve, run, wait_for
from safetensors.numpy import load_file

from secateur.encoders.encoder import TorchEncoder
from secateur.evaluation.drift import load_drift

RECIPE: dict[str, Any] = {
    "corpus": {"held_out": 0.3, "min_words": 2},
    "saliency": {"pairs": 8, "batch_size": 4},
    "budget": {"heads": 0.5, "neurons": 0.5},
    "repair": {"sentences": 16},
    "distillation": {
        "steps": 50, "batch_size": 8, "learning_rate": 1e-3, "w_similarity": 0.1, "w_output": 1.0,
        "evaluate_every": 10,
    },
    **QUIET,
}  # fmt: skip


@pytest.fixture
def bench(tmp_path: Path, teacher: TorchEncoder) -> Path:
    """A folder with a toy teacher, a corpus and a recipe."""
    put_teacher_and_pairs(tmp_path, teacher)
    recipe = RECIPE | {"teacher": {"model": "teacher"}, "corpus": RECIPE["corpus"] | {"files": ["pairs.tsv"]}}
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "toy.yaml").write_text(json.dumps(recipe), encoding="utf-8")
    return tmp_path


def test_a_run_leaves_its_record_its_student_and_a_table(bench: Path) -> None:
    done = run(bench, command("train", "runs/toy.yaml"))
    table = [line.split()[0] for line in done.stdout.splitlines() if line]
    assert table[-5:-1] == ["teacher", "pruned", "repaired", "distilled"]
    stages = json.loads((bench / "runs" / "toy" / "scores.json").read_text())["stages"]
    assert [stage["stage"] for stage in stages] == ["teacher", "pruned", "repaired", "distilled"]
    assert stages[0]["cosine"] == pytest.approx(1, abs=1e-5)
    assert stages[1]["parameters"] == stages[3]["parameters"] < stages[0]["parameters"]
    assert stages[2]["cosine"] > stages[1]["cosine"]
    assert (bench / "models" / "toy" / "model.safetensors").is_file()
    drift = load_drift(bench / "runs" / "toy" / "drift.json")
    assert list(drift.stages) == ["teacher", "pruned", "repaired", "distilled"]
    assert drift.stages["distilled"].means.cosine == pytest.approx(stages[3]["cosine"], abs=1e-5)
    assert "sentences that drifted farthest" in (bench / "runs" / "toy" / "report.html").read_text(encoding="utf-8")
    assert (bench / "models" / "toy-pruned" / "model.safetensors").is_file()
    files = [path.name for path in (bench / "models").rglob("*") if path.is_file()]
    assert not [name for name in files if name.endswith((".bin", ".pt", ".pkl", ".partial"))]
    sentences = "The cat sleeps.\nКошка спит.\n\n"
    vectors = subprocess.run(
        command("encode", "models/toy", "--out", "vectors.npy"), cwd=bench, env=quiet_environment(bench),
        input=sentences.encode(), capture_output=True, check=False,
    )  # fmt: skip
    assert vectors.returncode == 0, vectors.stderr
    assert b"vectors.npy: 3 vectors of 32 dimensions" in vectors.stderr
    found = np.load(bench / "vectors.npy")
    assert found.shape == (3, 32)
    assert np.linalg.norm(found, axis=1) == pytest.approx(1, abs=1e-5)


def test_a_killed_run_resumes_to_the_weights_of_one_never_killed(bench: Path) -> None:
    recipe = json.loads((bench / "runs" / "toy.yaml").read_text())
    recipe["distillation"] |= {"steps": 300, "evaluate_every": 20}
    (bench / "runs" / "toy.yaml").write_text(json.dumps(recipe))
    (bench / "runs" / "whole.yaml").write_text(json.dumps(recipe))
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
    assert read_curve(bench / "runs" / "toy", "train/loss") == read_curve(bench / "runs" / "whole", "train/loss")


def test_a_run_under_a_limit_with_training_between_rounds_fits_and_resumes(bench: Path) -> None:
    budget = "budget={params: 20000, rounds: 3, gradual_steps: 20}"
    run(bench, command("train", "runs/toy.yaml", budget, "name=whole"))
    plan = json.loads((bench / "runs" / "whole" / "plan.json").read_text())
    stages = json.loads((bench / "runs" / "whole" / "scores.json").read_text())["stages"]
    assert stages[-1]["parameters"] == plan["params"] <= 20_000 < stages[0]["parameters"]
    process = subprocess.Popen(
        command("train", "runs/toy.yaml", budget), cwd=bench, env=quiet_environment(bench), stderr=subprocess.DEVNULL
    )
    wait_for(lambda: (bench / "runs/toy/round-1/kept.json").exists(), process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (bench / "models" / "toy").exists(), "killed too late to show anything"
    run(bench, command("train", "runs/toy.yaml", budget, "--resume"))
    expected = load_file(bench / "models" / "whole" / "model.safetensors")
    resumed = load_file(bench / "models" / "toy" / "model.safetensors")
    assert all(np.array_equal(value, resumed[name]) for name, value in expected.items())


def test_two_processes_give_the_loss_curve_of_one(bench: Path) -> None:
    (bench / "runs" / "two.yaml").write_text((bench / "runs" / "toy.yaml").read_text())
    run(bench, command("train", "runs/toy.yaml"))
    launcher = ("-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone", "-m", "secateur.cli")
    run(bench, command("train", "runs/two.yaml", launcher=launcher))
    one, two = (read_curve(bench / "runs" / name, "train/loss") for name in ("toy", "two"))
    assert len(one) == 5
    assert two == pytest.approx(one, rel=1e-4)


def test_ctrl_c_says_how_to_resume(bench: Path) -> None:
    process = subprocess.Popen(
        command("train", "runs/toy.yaml", "distillation.steps=100000"), cwd=bench, env=quiet_environment(bench),
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    wait_for(lambda: any((bench / "runs/toy/checkpoints").glob("checkpoint-*")), process)
    process.send_signal(signal.SIGINT)
    _, words = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "secateur train runs/toy.yaml distillation.steps=100000 --resume" in words
    assert "Traceback" not in words

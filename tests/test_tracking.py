"""Tracking: metrics.jsonl is always whole, ClearML never stops a run, an offline session holds what was reported."""

import json
import logging
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from zipfile import ZipFile

import pytest

from secateur.config.reading import build_pruning_recipe, dump_recipe
from secateur.config.recipe import PruningRecipe
from secateur.runs import tracking
from secateur.runs.tracking import RunLog, open_log, read_metrics


def make_recipe(to: str) -> PruningRecipe:
    stages: dict[str, Any] = {
        "teacher": {"model": "toy"},
        "corpus": {},
        "saliency": {"pairs": 8},
        "budget": {"heads": 0.5, "neurons": 0.5},
        "repair": {"sentences": 0},
        "distillation": {"steps": 1, "batch_size": 2, "learning_rate": 1e-3},
        "tracking": {"to": to},
    }
    return build_pruning_recipe({"name": "toy"} | stages, origin="toy")


def test_each_call_is_one_line_on_disk_before_the_log_is_closed(tmp_path: Path) -> None:
    with open_log(make_recipe("none"), tmp_path) as log:
        log.metrics({"train/output": 0.5, "train/similarity": float("nan")}, step=1)
        log.metrics({"validation/cosine": 0.9}, step=2)
        first, second = read_metrics(tmp_path / "metrics.jsonl")
    assert first.pop("seconds") >= 0
    assert first == {"step": 1, "train/output": 0.5, "train/similarity": None}
    assert second["step"] == 2


def test_a_resumed_run_continues_the_curve_behind_its_checkpoint(tmp_path: Path) -> None:
    recipe = make_recipe("none")
    with open_log(recipe, tmp_path) as log:
        for step in (10, 20, 30):
            log.metrics({"train/output": 1 / step}, step)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 40, "sec')  # killed while it wrote
    with open_log(recipe, tmp_path, resume_steps={"": 20}) as log:
        log.metrics({"train/output": 0.0}, 21)
    lines = read_metrics(tmp_path / "metrics.jsonl")
    assert [line["step"] for line in lines] == [10, 20, 21]
    assert lines == sorted(lines, key=lambda line: line["seconds"])


def test_a_resumed_run_is_reported_from_its_first_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reported: list[tuple[str, str, float, int]] = []
    board = SimpleNamespace(report_scalar=lambda *scalar: reported.append(scalar))
    monkeypatch.setattr(tracking, "start_task", lambda *_: SimpleNamespace(get_logger=lambda: board))
    monkeypatch.setattr(tracking, "close_task", lambda *_, **__: None)
    with open_log(make_recipe("none"), tmp_path) as log:
        log.metrics({"train/output": 0.5, "train/similarity": float("inf")}, 1)
        log.metrics({"train/output": 0.4}, 2)
    assert reported == []
    with open_log(make_recipe("clearml"), tmp_path, resume_steps={"": 1}) as log:
        log.metrics({"train/output": 0.3}, 2)
    assert reported == [("train", "output", 0.5, 1), ("train", "output", 0.3, 2)]


def test_a_new_run_starts_a_new_file(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 7, "seconds": 1.0}\n')
    with open_log(make_recipe("none"), tmp_path):
        pass
    assert read_metrics(tmp_path / "metrics.jsonl") == []


def test_other_processes_than_the_first_write_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    with open_log(make_recipe("clearml"), tmp_path) as log:
        log.metrics({"train/output": 0.5}, step=1)
        log.table("scores", [{"task": "STS"}])
    assert list(tmp_path.iterdir()) == []


def test_a_failing_tracker_is_said_once_and_the_run_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def refuse() -> None:
        raise ConnectionError("the server is gone")

    with (tmp_path / "metrics.jsonl").open("w") as file, caplog.at_level(logging.WARNING):
        log = RunLog(file, task=SimpleNamespace(get_logger=refuse))
        log.metrics({"train/output": 0.5}, step=1)
        log.metrics({"train/output": 0.4}, step=2)
        log.table("scores", [{"task": "STS"}])
    assert [record.getMessage() for record in caplog.records] == [
        "ClearML: ConnectionError: the server is gone; the run goes on with metrics.jsonl"
    ]
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 2


def test_an_error_of_the_run_passes_through(tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="cosine"), open_log(make_recipe("none"), tmp_path):
        raise KeyError("cosine")


def test_a_silent_server_is_given_up_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "SERVER_TIMEOUT", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as server:  # takes the connection and never answers
        start = time.monotonic()
        assert not tracking.answers(f"http://127.0.0.1:{server.getsockname()[1]}", verify=True)
    assert time.monotonic() - start < 2


RUN = """
import json, logging, signal, sys, time
from pathlib import Path
import numpy as np
from secateur.config.reading import build_recipe
from secateur.runs.tracking import open_log

recipe, folder = build_recipe(json.loads(sys.argv[1]), origin="toy"), Path(sys.argv[2])
logging.basicConfig(level=logging.INFO)
with open_log(recipe, folder) as log:
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL  # the run can still be stopped
    for step in range(1, 151):
        log.metrics({"train/output": 1 / step}, step)
    log.heatmap("saliency", np.eye(3), rows="layer", columns="head")
    log.table("scores", [{"task": "STS", "S": 0.8}, {"task": "PI"}])
    log.model(folder / "model")
    closing = time.monotonic()
print(f"close: {time.monotonic() - closing} s; imported: {'yes' if 'clearml' in sys.modules else 'no'}")
"""


def run_apart(recipe: PruningRecipe, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run RUN in its own process, where no ClearML account is to be found."""
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text("{}")
    return subprocess.run(
        [sys.executable, "-c", RUN, json.dumps(dump_recipe(recipe)), str(folder)],
        env={"PATH": "/usr/bin:/bin", "HOME": str(folder), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )


def test_without_an_account_a_session_holds_all_that_was_reported(tmp_path: Path) -> None:
    result = run_apart(make_recipe("clearml"), tmp_path)

    (line,) = result.stdout.splitlines()  # ours: ClearML leaves the terminal alone
    assert float(line.split()[1]) < 5  # its default, a reporter in a process of its own, takes 10 s to close
    assert result.stderr.count("offline session in") == 1
    (session,) = (tmp_path / "clearml").rglob("offline-*")  # the zip file alone
    assert str(session) in result.stderr
    with ZipFile(session) as archive:
        task = json.loads(archive.read("task.json"))
        events = [event for line in archive.read("metrics.jsonl").splitlines() for event in json.loads(line)]
        assert any(name.endswith("model.tar") for name in archive.namelist())
    assert (task["name"], task["project_name"]) == ("toy", "secateur")
    assert "learning_rate = 0.001" in task["configuration"]["experiment"]["value"]
    assert [artifact["key"] for artifact in task["execution"]["artifacts"]] == ["model"]
    curve = {event["iter"]: event["value"] for event in events if event.get("variant") == "output"}
    assert curve == {step: 1 / step for step in range(1, 151)}
    assert {"saliency", "scores"} <= {event["metric"] for event in events}
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 150


def test_no_tracking_imports_no_clearml(tmp_path: Path) -> None:
    result = run_apart(make_recipe("none"), tmp_path)
    assert "imported: no" in result.stdout
    assert not (tmp_path / "clearml").exists()
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 150

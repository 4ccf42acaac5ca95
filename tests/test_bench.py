"""The bench: each row runs on toys and names what it compared; numbers of toys mean nothing."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from secateur.bench.__main__ import CHECKS, ROWS, main, measure
from secateur.bench.comparisons import Comparison


@pytest.mark.parametrize("name", ROWS)
def test_a_row_runs_or_says_why_it_does_not(
    name: str,
    make_folder: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = str(make_folder(hidden=32, heads=4))
    out = tmp_path / "bench.json"
    monkeypatch.setattr(
        "sys.argv", ["bench", "--toy", "--rounds", "1", "--model", model, "--rows", name, "--out", str(out)]
    )
    monkeypatch.setattr("secateur.bench.__main__.measure_peak", lambda model, side: 1)  # in processes of its own
    main()
    rows = json.loads(out.read_text())["rows"][name]
    assert rows
    for row in rows:
        if "left_out" in row:
            assert re.search(r"CUDA|optimum|ONNX|OpenVINO", row["left_out"])
            continue
        assert len(row["seconds"]) == len(row["ratio"]) + 1 >= 2
        assert {"dtype", "threads"} <= row["conditions"].keys()
    shown = capsys.readouterr().out
    assert all(side in shown for row in rows for side in row.get("seconds", {}))


def test_what_budgets_come_to_stands_beside_rows_measured_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "bench.json"
    monkeypatch.setitem(CHECKS, "latency", lambda model: {"teacher": model})
    monkeypatch.setitem(CHECKS, "labse", lambda model: {"seconds": 1})
    for name in ("latency", "labse"):
        monkeypatch.setattr("sys.argv", ["bench", "--model", "toy", "--rows", name, "--out", str(out)])
        main()
    assert json.loads(out.read_text())["budgets"] == {"latency": {"teacher": "toy"}, "labse": {"seconds": 1}}
    assert '"teacher": "toy"' in capsys.readouterr().out


def test_a_ratio_is_the_peers_seconds_over_ours_round_by_round_without_the_warm_up() -> None:
    ours, theirs = iter([9.0, 1.0, 2.0, 4.0]), iter([9.0, 2.0, 2.0, 16.0])
    compared = Comparison("toy", {"ours": ours.__next__, "peer": theirs.__next__}, warmup=1)
    row = measure(compared, 3)
    assert row["seconds"]["ours"] == {"median": 2.0, "least": 1.0, "most": 4.0}
    assert row["ratio"] == {"peer": {"median": 2.0, "least": 1.0, "most": 4.0}}

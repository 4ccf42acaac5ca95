"""A record that is damaged is shown as far as it can be read, and a line names each file that cannot."""

import json
import logging
import math
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from records import write_record

from secateur import cli
from secateur.config.errors import InputError
from secateur.reports.figures.curves import find_curves
from secateur.reports.figures.drawings import draw_figures
from secateur.reports.page import build_page, report_runs, say_step
from secateur.reports.record import FILES, read_record
from secateur.reports.tables import say_state

RUBBISH = bytes(random.Random(21).randrange(256) for _ in range(3000))
JSON = [file for file in FILES if file.endswith(".json")]


def edit(path: Path, change: Any) -> None:
    plain = json.loads(path.read_text(encoding="utf-8"))
    change(plain)
    path.write_text(json.dumps(plain), encoding="utf-8")


def pickle_draws(folder: Path) -> None:
    with (folder / "draws.npz").open("wb") as file:
        np.savez(file, **{"teacher/STS": np.array([{"not": "numbers"}], dtype=object)})


def shorten_draws(folder: Path) -> None:
    with (folder / "draws.npz").open("wb") as file:
        np.savez(file, **{"teacher/STS": np.ones(3), "distilled/STS": np.ones(4)})


CASES: list[tuple[str, Any]] = [
    *((file, RUBBISH) for file in FILES if file != "metrics.jsonl"),
    *((file, b"") for file in FILES if file != "metrics.jsonl"),
    *((file, b"[1, 2]") for file in JSON),
    *((file, b"null") for file in JSON),
    *((file, b'{"a": ' * 5000) for file in JSON),
    *((file, b"half") for file in FILES if file != "metrics.jsonl"),  # b"half": cut in the middle
    *((file, b"{}") for file in JSON if file != "recipe.json"),
    ("metrics.jsonl", RUBBISH + b"\n"),
    ("metrics.jsonl", b'{"step": "one"}\n[]\n{"step": 5, "train/loss": 1.0}\n'),
    ("draws.npz", pickle_draws),
    ("draws.npz", shorten_draws),
    ("scores.json", lambda folder: edit(folder / "scores.json", lambda of: of["stages"][0].pop("stage"))),
    ("scores.json", lambda folder: edit(folder / "scores.json", lambda of: of.update(stages=[]))),
    ("scores.json", lambda folder: edit(folder / "scores.json", lambda of: of.update(step="last"))),
    ("scores.json", lambda folder: edit(folder / "scores.json", lambda of: of["stages"][1].update(cosine=math.nan))),
    ("scores.json", lambda folder: edit(folder / "scores.json", lambda of: of["stages"][1].update(parameters="many"))),
    ("scores.json", lambda folder: edit(folder / "scores.json", lambda of: of["stages"][1].update(ms=10**400))),
    ("scores.json", lambda folder: edit(folder / "scores.json", lambda of: of["benchmark"].update(teacher=7))),
    ("scores.json",
     lambda folder: edit(folder / "scores.json", lambda of: of["benchmark"]["teacher"]["tasks"].update(SA={}))),
    ("drift.json", lambda folder: edit(folder / "drift.json", lambda of: of["en"].pop())),
    ("drift.json", lambda folder: edit(folder / "drift.json", lambda of: of.update(en=[1] * len(of["en"])))),
    ("drift.json",
     lambda folder: edit(folder / "drift.json", lambda of: of["stages"]["distilled"]["cosine_en"].append(None))),
    ("kept.json", lambda folder: edit(folder / "kept.json", lambda of: of["heads"].pop())),
    ("kept.json", lambda folder: edit(folder / "kept.json", lambda of: of["heads"].__setitem__(0, [99]))),
    ("kept.json", lambda folder: edit(folder / "kept.json", lambda of: of.update(layers=[0, 77]))),
    ("plan.json", lambda folder: edit(folder / "plan.json", lambda of: of["sizes"].update(heads=-4))),
    ("whole.json", lambda folder: edit(folder / "whole.json", lambda of: of.update(neurons=10**400))),
]  # fmt: skip


@pytest.mark.parametrize("file", FILES)
def test_a_page_is_made_of_what_can_be_read_and_one_line_names_the_rest(
    file: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Each damaged file in turn: the page shows the others, and says once what it leaves out."""
    for number, (damaged, how) in enumerate(CASES):
        if damaged != file:
            continue
        folder = write_record(tmp_path, f"run{number}")
        whole = (folder / file).read_bytes()
        if callable(how):
            how(folder)
        else:
            (folder / file).write_bytes(whole[: len(whole) // 2] if how == b"half" else how)
        caplog.clear()
        record = read_record(folder)
        partly = file == "metrics.jsonl" or (file == "scores.json" and record.stages)
        page = build_page([record], draw_figures([record]) if partly or how == RUBBISH else [])
        warnings = [each.message for each in caplog.records if each.levelno >= logging.WARNING]
        assert len(warnings) == 1, (how, warnings)
        assert warnings[0].startswith(f"{folder / file}: ")
        assert f"{file}: " in page
        assert not re.search(r"\bnan\b", page[page.index("<main>") : page.index("</main>")]), how
        for section, needs in {"Heads in numbers": "saliency.safetensors", "By language, in n": "drift.json"}.items():
            assert (section in page) == (needs != file), how


def test_every_file_may_be_missing_and_any_two_damaged(tmp_path: Path) -> None:
    choose = random.Random(5)
    for number in range(4):
        folder = write_record(tmp_path, f"run{number}")
        for file in choose.sample(FILES, 2):
            (folder / file).write_bytes(RUBBISH)
        (folder / choose.choice(FILES)).unlink()
        record = read_record(folder)
        assert build_page([record], draw_figures([record]))


def test_random_damage_never_stops_a_page(tmp_path: Path) -> None:
    """80 records, a few bytes of one file changed or cut off: each makes a page, or has nothing to show."""
    choose = random.Random(8)
    folder = write_record(tmp_path, "one")
    sound = {file: (folder / file).read_bytes() for file in FILES}
    for _ in range(80):
        file = choose.choice(FILES)
        content = bytearray(sound[file])
        for _ in range(choose.randrange(1, 6)):
            content[choose.randrange(len(content))] = choose.randrange(256)
        (folder / file).write_bytes(content[: choose.randrange(1, len(content) + 1)])
        record = read_record(folder)
        assert "<h1>" in build_page([record], [])
        (folder / file).write_bytes(sound[file])


@pytest.mark.parametrize("rubbish", [True, False])
def test_a_record_with_nothing_makes_no_page(rubbish: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_record(tmp_path, "one")
    for file in FILES:
        if rubbish:
            (folder / file).write_bytes(RUBBISH)
        elif file != "recipe.json":
            (folder / file).unlink()
    assert cli.main(["report", "one", "--runs", str(tmp_path)]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("secateur: ")]
    assert lines[-1] == (
        f"secateur: {folder}: the record has nothing to show: "
        + ("nothing of it can be read" if rubbish else "nothing was measured yet")
    )
    assert not (folder / "report.html").exists()


def test_a_record_without_its_recipe_is_shown(tmp_path: Path) -> None:
    folder = write_record(tmp_path, "one")
    (folder / "recipe.json").unlink()
    page = report_runs(["one"], tmp_path, None).read_text(encoding="utf-8")
    assert "a teacher that is not known" in page
    assert "<h1>one</h1>" in page


def test_a_run_whose_scores_are_damaged_is_not_said_to_go_on(tmp_path: Path) -> None:
    folder = write_record(tmp_path, "one")
    (folder / "scores.json").write_text("{")
    record = read_record(folder)
    assert say_state(record) == "ended, its scores cannot be read"
    page = build_page([record], [])
    assert "has not ended" not in page
    assert "The checkpoint of step" not in page


def test_lines_written_twice_or_out_of_order_are_drawn_once(tmp_path: Path) -> None:
    folder = write_record(tmp_path, "one", ended=False)
    path = folder / "metrics.jsonl"
    lines = path.read_text().splitlines()
    (expected,) = find_curves([read_record(folder)], "validation/cosine")
    late = json.dumps({"step": 20, "validation/cosine": 0.5})  # an earlier life of the run; what came later counts
    path.write_text("\n".join([late, *lines[::-1], *lines]) + "\n")
    (found,) = find_curves([read_record(folder)], "validation/cosine")
    assert found.steps.tolist() == expected.steps.tolist() == [0, 10, 20]
    assert found.values.tolist() == expected.values.tolist()


def test_names_in_a_record_cannot_break_pictures_or_the_page(tmp_path: Path) -> None:
    folder = write_record(tmp_path, "one")
    edit(folder / "recipe.json", lambda of: of.update(name="a\x00b $\\frac{$ \ud800 <b>"))
    edit(folder / "scores.json", lambda of: of["stages"][2].update(stage="\x08 $x^$ <i>"))
    edit(folder / "drift.json", lambda of: of["en"].__setitem__(0, "half \ud83d & <u>"))
    page = report_runs(["one"], tmp_path, None).read_text(encoding="utf-8")
    assert not {"<b>", "<i>", "<u>"} & set(page[page.index("<main>") :].split())
    assert "$x^$ &lt;i&gt;" in page
    assert report_runs(["one", str(write_record(tmp_path, "two"))], tmp_path, None).is_file()


@pytest.mark.parametrize(
    ("step", "steps", "keep", "words"),
    [
        (0, 0, "best", "asks for no distillation."),
        (0, 40, "best", "No step improved the student on held-out pairs: the student before training was kept."),
        (40, 40, "last", "The checkpoint of step 40, the last, was kept."),
        (20, 40, "last", "The checkpoint of step 20, the last that was sound, was kept."),
        (20, 40, "best", "The checkpoint of step 20, the best on held-out pairs, was kept."),
    ],
)
def test_the_rule_by_which_a_step_was_kept_is_said(step: int, steps: int, keep: str, words: str) -> None:
    said = say_step(step, steps, keep=keep)
    assert said.endswith(words)
    assert ("on held-out pairs" in said) == (keep == "best" and steps > 0)


def test_no_such_place_is_still_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such run"):
        report_runs(["none"], tmp_path, None)

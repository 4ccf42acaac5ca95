"""The page of a run: whole, honest about what is missing, and fine in a real browser."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from browser import DESK, PHONE, open_page
from records import write_record

from secateur import cli
from secateur.pruning.selection import Kept
from secateur.reports.cells import difference
from secateur.reports.figures.curves import find_curves
from secateur.reports.figures.drawing import make_figure, note_start
from secateur.reports.figures.drawings import draw_figures
from secateur.reports.figures.saliency import draw_heads, keep_by_layer
from secateur.reports.page import COLOURS, build_page, report_runs
from secateur.reports.record import Record, read_record
from secateur.reports.tables import flatten_recipe, tabulate_benchmark, tabulate_held_out, tabulate_worst
from secateur.reports.verdict import say_verdict
from secateur.runs.bookkeeping import log_figures
from secateur.runs.tracking import RunLog

TITLES = ["Scores", "Quality against cost", "Head saliency", "Neuron saliency", "What was cut", "Training", "Drift",
          "Recipe"]  # fmt: skip


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a run that ended; not to be written to."""
    runs = tmp_path_factory.mktemp("runs")
    write_record(runs, "one")
    return report_runs(["one"], runs, None)


@pytest.fixture(scope="module")
def record(page: Path) -> Record:
    return read_record(page.parent)


def show(folder: Path) -> str:
    records = [read_record(folder)]
    return build_page(records, draw_figures(records))


def test_a_run_that_ended_has_every_section_and_nothing_is_missing(page: Path) -> None:
    assert (page.parent.name, page.name) == ("one", "report.html")
    text = page.read_text(encoding="utf-8")
    assert re.findall(r"<h2[^>]*>([^<]+)</h2>", text) == TITLES
    assert 'class="empty"' not in text
    assert len(text) < 1_500_000
    assert [path.name for path in page.parent.iterdir() if "partial" in path.name] == []


def test_a_page_names_no_address_and_allows_none(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert set(re.findall(r"https?://[^\"' <]+", text)) <= {"http://www.w3.org/2000/svg"}  # a name, not an address
    assert "default-src 'none'" in text


def test_what_a_record_says_is_never_markup(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; the worst of all" in text


def test_a_run_in_progress_says_so_and_shows_what_there_is(tmp_path: Path) -> None:
    record = read_record(write_record(tmp_path, "one", ended=False))
    drawings = draw_figures([record])
    text = build_page([record], drawings)
    assert "not ended: step 20 of 40" in text
    assert "This run has not ended" in text
    assert "The table of scores is not there yet" in text
    assert "Heads, by layer" in text
    assert len(drawings) == 8
    (loss,) = find_curves([record], "train/output")
    assert loss.steps.tolist() == [10]  # a value that was not finite is left out


def test_a_run_without_metrics_or_with_its_recipe_alone_has_a_page(tmp_path: Path) -> None:
    folder = write_record(tmp_path, "one")
    (folder / "metrics.jsonl").unlink()
    assert "No losses were recorded." in show(folder)
    for path in folder.iterdir():
        if path.name != "recipe.json":
            path.unlink()
    assert "not ended: not yet training" in show(folder)


def test_a_run_that_made_an_encoder_has_a_page(tmp_path: Path) -> None:
    folder = write_record(tmp_path, "one", ended=True)
    recipe = json.loads((folder / "recipe.json").read_text())
    recipe["teacher"] = [{"model": "some/teacher"}, {"vectors": "v.npy"}]
    recipe["student"] = {}
    (folder / "recipe.json").write_text(json.dumps(recipe))
    for name in ("saliency.safetensors", "kept.json", "plan.json", "whole.json"):
        (folder / name).unlink()
    scores = json.loads((folder / "scores.json").read_text())
    scores["stages"] = [{"stage": "teacher", "cosine": 1.0, "en_ru": 0.9, "ru_en": 0.9}, scores["stages"][-1]]
    (folder / "scores.json").write_text(json.dumps(scores))
    text = show(folder)
    assert "nothing was cut" in text
    assert "teacher, v.npy" in text


def test_several_runs_are_compared(tmp_path: Path) -> None:
    write_record(tmp_path, "one", seed=1)
    write_record(
        tmp_path, "two", seed=2, ended=False, distillation={"steps": 99, "batch_size": 8, "learning_rate": 0.5}
    )
    page = report_runs(["one", str(tmp_path / "two"), "one"], tmp_path, None)
    assert page == tmp_path / "one+two.html"
    text = page.read_text(encoding="utf-8")
    assert "What differs" in text
    assert "two: The table of scores is not there yet" in text
    assert "distillation.learning_rate" in text
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))


def test_a_page_opens_with_what_the_student_costs_and_keeps(page: Path, record: Record) -> None:
    """The toy's numbers: half the parameters, 1.1 ms of 2, .96 of every task's .7; NLI alone is made to keep .9."""
    assert record.scores is not None
    tasks = record.scores["distilled"].tasks | {"NLI": {"own": 0.63}}
    scores = {**record.scores, "distilled": replace(record.scores["distilled"], tasks=tasks)}
    assert say_verdict(replace(record, scores=scores)) == (
        "The student has 50% of the teacher's parameters, takes about 55% of its time for a sentence and keeps 95.2% "
        "of its mean score on the probe (0.667 of 0.700); the weakest task, NLI, keeps 90.0%."
    )
    text = page.read_text(encoding="utf-8")
    opening = text[text.index("<h1>") : text.index("<dl")]
    assert "keeps 96.0% of its mean score on the probe (0.672 of 0.700)" in opening


def test_without_a_benchmark_a_page_opens_with_held_out_pairs(record: Record) -> None:
    rows = ({"stage": "teacher", "cosine": 1.0, "en_ru": 0.9, "ru_en": 0.8},
            {"stage": "student", "parameters": 1000, "mb": 4.0, "ms": 1.1, "cosine": 0.96, "en_ru": 0.7, "ru_en": 0.6},
            )  # fmt: skip
    assert say_verdict(replace(record, stages=rows, scores={})) == (
        "The student has 1,000 parameters, takes about 1.10 ms for a sentence and has vectors of held-out sentences "
        "with a mean cosine of 0.960 to the teacher's; its retrieval accuracy@1 is 0.700 (teacher 0.900) from English "
        "to Russian and 0.600 (teacher 0.800) from Russian to English."
    )


def test_a_page_says_where_no_step_improved_the_student(record: Record) -> None:
    page = build_page([replace(record, step=0)], [])
    assert "the student before training was kept" in page
    assert "step 0" not in page


def test_a_run_in_progress_opens_with_its_last_held_out_scores(tmp_path: Path) -> None:
    record = read_record(write_record(tmp_path, "one", ended=False))
    assert say_verdict(record).startswith("So far, at step 20 of 40,")
    assert "cosine of 0.920 to the teacher's; its retrieval accuracy@1 is 0.850 from English" in say_verdict(record)
    assert say_verdict(replace(record, metrics=[])).startswith("Nothing has been measured yet")


def test_a_picture_whose_axis_does_not_start_at_zero_says_so(page: Path, record: Record) -> None:
    figure, axes = make_figure(2)
    axes.set(xlim=(0.25, 1), ylim=(0.85, 1))
    assert note_start(figure) == "The vertical axis starts at 0.85, not at zero."
    assert note_start(figure, "horizontal") == "The horizontal axis starts at 0.25, not at zero."
    axes.set_ylim(-0.1, 1)
    assert note_start(figure) == ""
    for drawing in draw_figures([record]):
        if drawing.section in ("cost", "training"):
            assert ("vertical axis starts at" in drawing.note) == (drawing.figure.axes[0].get_ylim()[0] > 0)
    assert "The vertical axis starts at 0." in page.read_text(encoding="utf-8")


def test_differences_and_intervals_are_those_of_the_pairs(record: Record) -> None:
    assert record.drift is not None
    assert record.scores is not None
    row = tabulate_held_out(record).rows[-1]
    teacher, student = record.drift.stages["teacher"].en_ru, record.drift.stages["distilled"].en_ru
    gaps = student.astype(float) - teacher.astype(float)
    margin = 1.96 * gaps.std(ddof=1) / len(gaps) ** 0.5
    assert row[3].value == pytest.approx(gaps.mean())
    assert f"{gaps.mean() - margin:+.3f}".replace("-", "−") in row[3].text
    task = tabulate_benchmark(record.scores, "").rows[0]
    drawn = record.scores["distilled"].draws["STS"] - record.scores["teacher"].draws["STS"]
    low, high = np.quantile(drawn, [0.025, 0.975])
    assert task[3].text == f"{0.7 * 0.96 - 0.7:+.3f} [{low:+.3f}, {high:+.3f}]".replace("-", "−")
    assert task[4].text == "96.0%"


@pytest.mark.parametrize(("low", "high", "tone"), [(-0.2, -0.1, "bad"), (-0.1, 0.1, ""), (0.1, 0.2, "good")])
def test_only_a_difference_that_is_sure_has_a_colour(low: float, high: float, tone: str) -> None:
    assert difference(0.0, low, high).tone == tone


def test_the_worst_sentences_stand_first(record: Record) -> None:
    assert record.drift is not None
    rows = tabulate_worst(record.drift).rows
    assert len(rows) == 20
    assert rows[0][1].value == -0.25
    assert [row[1].value for row in rows] == sorted(row[1].value for row in rows)


def test_a_layer_that_was_cut_keeps_nothing_and_its_heads_are_crossed(record: Record) -> None:
    assert record.kept is not None
    assert record.saliency is not None
    assert keep_by_layer(record.kept, "heads", 3) == [(0, 2), (), (1, 3)]
    crosses = [line for line in draw_heads(record.saliency, record.kept).axes[0].lines if line.get_marker() == "x"]
    assert len(crosses) == 3 * 4 - 4


def test_every_colour_of_a_drawing_follows_the_theme(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    body = text[text.index("</head>") :]
    assert not [colour for colour in COLOURS if colour in body]


def test_a_recipe_is_flat_and_in_words() -> None:
    recipe = {"a": {"b": None, "c": [1, 2]}, "d": [{"e": True}], "f": {}}
    assert flatten_recipe(recipe) == {"a.b": "none", "a.c": "1, 2", "d.0.e": "yes", "f": "none"}


def test_a_run_that_is_not_there_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_record(tmp_path, "one")
    assert cli.main(["report", "other", "--runs", str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"other: no such run in {tmp_path}; there: one" in line
    assert not (tmp_path / "one" / "report.html").exists()


def test_a_place_that_cannot_be_written_to_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_record(tmp_path, "one")
    (tmp_path / "file").touch()
    assert cli.main(["report", "one", "--runs", str(tmp_path), "--out", str(tmp_path / "file" / "page.html")]) == 2
    assert "page.html: cannot be written to" in capsys.readouterr().err


def test_in_a_browser_every_section_shows_and_nothing_is_fetched(page: Path) -> None:
    with open_page(page) as watched:
        titles = [each.inner_text() for each in watched.page.query_selector_all("main section:visible h2")]
        assert titles == TITLES
        heights = watched.page.evaluate("[...document.querySelectorAll('main section')].map(s => s.offsetHeight)")
        assert min(heights) > 100
        drawn = watched.page.evaluate("[...document.querySelectorAll('figure svg')].map(s => s.clientWidth)")
        assert len(drawn) == 14
        assert min(drawn) > 300
        watched.keep_screenshot("report-desk-light")
        watched.page.click("#theme")
        assert watched.page.evaluate("document.documentElement.dataset.theme") == "dark"
        dark = watched.page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert dark == "rgb(17, 22, 20)"
        head = watched.page.locator("#drift table").last.locator("thead button").nth(1)
        head.click()
        head.click()
        first = watched.page.locator("#drift table").last.locator("tbody th").first.inner_text()
        assert first.startswith("<script>alert(1)</script>")
        watched.page.locator("[data-tip*='layer 0, head 2']").hover()
        assert "kept" in watched.page.inner_text("#tip")
        assert watched.errors == []
        assert watched.requests == [page.as_uri()]


def test_on_a_phone_nothing_is_wider_than_the_screen(tmp_path: Path) -> None:
    write_record(tmp_path, "one", seed=1)
    write_record(tmp_path, "two", seed=2, ended=False)
    page = report_runs(["one", "two"], tmp_path, None)
    with open_page(page, viewport=PHONE, scheme="dark") as watched:
        assert watched.page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
        assert watched.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(17, 22, 20)"
        watched.keep_screenshot("compare-phone-dark")
        watched.page.set_viewport_size(DESK)
        watched.keep_screenshot("compare-desk-dark")
        assert watched.errors == []
        assert watched.requests == [page.as_uri()]


def test_the_log_is_handed_the_same_pictures(record: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    titles: list[str] = []
    monkeypatch.setattr(RunLog, "figure", lambda self, title, figure: titles.append(title))
    drawings = draw_figures([record])
    log_figures(drawings, RunLog())
    assert titles == [drawing.title for drawing in drawings]
    assert len(set(titles)) == 14


def test_kept_of_every_layer_needs_no_list_of_layers() -> None:
    assert keep_by_layer(Kept(heads=((0,), (1,)), neurons=((), ())), "heads", 2) == [(0,), (1,)]

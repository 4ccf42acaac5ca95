"""What a run never does: lose a record, replace what it did not make, go on with other data, say what is not so."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from commands import QUIET, put_teacher_and_pairs
from records import RECIPE as RECORDED

from secateur.cli import main
from secateur.config.distillation import DistillationSettings
from secateur.config.errors import InputError
from secateur.config.reading import build_recipe
from secateur.data import files
from secateur.data.files import write_json
from secateur.data.locks import hold
from secateur.data.pairs import Pairs, ParallelCorpus
from secateur.distillation.distillation import Distilled
from secateur.encoders.encoder import TorchEncoder, embed
from secateur.encoders.saving import save_encoder
from secateur.pruning import cutting
from secateur.runs.bookkeeping import Places, say_kept_step
from secateur.runs.distill import distill_student
from secateur.runs.start import begin, check_made, check_name, check_recipe, identify, open_run, save_model
from secateur.runs.tracking import find_steps, is_kept, open_log, read_metrics
from secateur.runs.training import load_weights, save_weights

RECIPE: dict[str, Any] = {
    "teacher": {"model": "teacher"},
    "corpus": {"files": ["pairs.tsv"], "held_out": 0.3, "min_words": 2},
    "saliency": {"pairs": 8, "batch_size": 4},
    "budget": {"heads": 0.5, "neurons": 0.5},
    "repair": {"sentences": 16},
    "distillation": {"steps": 6, "batch_size": 8, "learning_rate": 1e-3, "evaluate_every": 3},
    "device": "cpu",
    **QUIET,
}


@pytest.fixture
def bench(tmp_path: Path, teacher: TorchEncoder, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with a toy teacher, a corpus and a recipe."""
    put_teacher_and_pairs(tmp_path, teacher)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "toy.yaml").write_text(json.dumps(RECIPE), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*words: str) -> None:
    assert main(["train", "runs/toy.yaml", "--cache", "cache", *words]) == 0


@pytest.fixture
def refuse(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Return a function that runs what must fail, and returns its one line."""

    def refuse(*words: str, code: int = 2) -> str:
        capsys.readouterr()
        assert main(["train", "runs/toy.yaml", "--cache", "cache", *words]) == code
        (line,) = [line for line in capsys.readouterr().err.splitlines() if "secateur: " in line]
        return line

    return refuse


def list_files(folder: Path) -> dict[str, bytes]:
    found = (path for path in folder.rglob("*") if path.is_file() and "cache" not in path.parts)
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def read_stages(folder: Path, name: str = "toy") -> list[dict[str, Any]]:
    record = json.loads((folder / "runs" / name / "scores.json").read_text())
    return [{key: value for key, value in row.items() if key != "ms"} for row in record["stages"]]


@pytest.mark.parametrize(
    "name",
    [".", "..", "", "a/b", "/abs", "..\\up", "-o", ".hidden", "a b", "a\nb", "a\0b", "a\u202eb", "a:b", "~",
     "toy.previous", "toy.previous-2", "toy-pruned", "toy.partial", "toy.lock", "x" * 201, "ж" * 101],
)  # fmt: skip
def test_a_name_that_is_no_part_of_a_path_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="name: "):
        check_name(name)


@pytest.mark.parametrize("name", ["mini-en-ru", "v1.2_b", "мой-прогон", "й", "हिन्दी", "学生", "x" * 200])
def test_a_name_in_letters_of_any_script_is_taken(name: str) -> None:
    check_name(name)


@pytest.mark.parametrize("name", [".", "..", "../models", "theirs", "catalogs", "/tmp"])
def test_a_run_replaces_nothing_that_it_did_not_make(bench: Path, refuse: Callable[..., str], name: str) -> None:
    shutil.copytree("teacher", "models/theirs")
    (bench / "runs" / "catalogs").mkdir()
    (bench / "runs" / "catalogs" / "list.yaml").touch()
    before = list_files(bench)
    refuse(f"name={name}")
    assert list_files(bench) == before


def test_a_run_does_not_replace_the_model_it_starts_from(bench: Path, refuse: Callable[..., str]) -> None:
    run("distillation.steps=0")
    before = list_files(bench)
    assert "would replace the model that it starts from" in refuse("teacher.model=models/toy")
    assert list_files(bench) == before


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("distillation.batch_size=4096", "distillation.batch_size: 4096 exceeds"),
        ("distillation.accumulation=3", "is not divisible"),
        ("teacher.model=nowhere", "no such folder"),
        ("corpus.files=[nowhere.tsv]", "nowhere.tsv"),
        ("distillation.source_weights={x: 2}", "no source x"),
        ("distillation.max_length=2", "distillation.max_length"),
        ("--models=/sys/models", "cannot be written"),
        ("--models=pairs.tsv", "cannot be written"),
        ("--models=runs", "would share a folder"),
    ],
)
def test_a_start_that_is_refused_touches_nothing(bench: Path, refuse: Callable[..., str], word: str, said: str) -> None:
    for name in ("toy", "toy.previous"):
        write_json(bench / "runs" / name / "recipe.json", {"name": name})
        write_json(bench / "runs" / name / "scores.json", [name])
    before = list_files(bench)
    assert said in refuse(word)
    assert list_files(bench) == before


def test_a_disk_too_small_is_said_before_anything_is_touched(
    bench: Path, refuse: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = list_files(bench)
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    assert "are free there" in refuse("budget={params: 20000}")
    assert list_files(bench) == before


def make_places(folder: Path) -> Places:
    return Places(folder / "toy", folder / "models", folder / "cache")


def test_no_start_deletes_a_record(tmp_path: Path) -> None:
    recipe, places = build_recipe(RECORDED | {"name": "toy"}, origin="toy"), make_places(tmp_path)
    for number in range(4):
        begin(recipe, places, {"number": number}, resume=False)
        if number % 2:
            (places.run / "scores.json").write_text("{}")  # finished or not
    found = {path.name: json.loads((path / "identity.json").read_text())["number"] for path in tmp_path.iterdir()}
    assert found == {"toy.previous": 0, "toy.previous-2": 1, "toy.previous-3": 2, "toy": 3}


def test_a_second_run_of_a_name_replaces_its_own_student_and_no_other(
    tmp_path: Path, teacher: TorchEncoder, make_encoder: Callable[..., TorchEncoder]
) -> None:
    recipe, places = build_recipe(RECORDED | {"name": "toy"}, origin="toy"), make_places(tmp_path)
    folder = places.models / "toy"
    for encoder in (teacher, make_encoder(seed=1)):
        begin(recipe, places, {}, resume=False)
        save_model(encoder, folder, places.run)
    (folder / "onnx").mkdir()  # as `export` does
    check_made(folder, places.run)
    save_encoder(make_encoder(seed=2), folder)
    with pytest.raises(InputError, match="no record of a run toy says that it made this model"):
        save_model(teacher, folder, places.run)
    shutil.rmtree(folder)
    save_model(teacher, folder, places.run)


def test_a_record_of_an_earlier_release_owns_its_student(tmp_path: Path, teacher: TorchEncoder) -> None:
    places = make_places(tmp_path)
    save_encoder(teacher, places.models / "toy")
    write_json(places.run / "recipe.json", {})
    with pytest.raises(
        InputError, match="no record of a run toy says that it made this model"
    ):  # a start that left nothing but its recipe
        check_made(places.models / "toy", places.run)
    write_json(places.run / "scores.json", {})
    check_made(places.models / "toy", places.run)


def test_a_run_that_goes_on_refuses_other_rows_and_another_teacher(
    bench: Path, refuse: Callable[..., str], make_encoder: Callable[..., TorchEncoder]
) -> None:
    run()
    pairs, before = (bench / "pairs.tsv").read_text(encoding="utf-8"), list_files(bench)
    (bench / "pairs.tsv").write_text(pairs + "A new line of text.\tНовая строка текста.\n", encoding="utf-8")
    line = refuse("--resume")
    assert "cannot go on with" in line
    assert "pairs than it began with" in line
    (bench / "pairs.tsv").write_text(pairs.replace("salty", "sweet"), encoding="utf-8")
    assert "pairs than it began with" in refuse("--resume")
    (bench / "pairs.tsv").write_text(pairs, encoding="utf-8")
    save_encoder(make_encoder(seed=1), bench / "teacher")
    assert "another teacher than it began with" in refuse("--resume")
    after = list_files(bench)
    assert all(after[name] == content for name, content in before.items() if not name.startswith("teacher"))
    assert "identity.json" in [path.name for path in (bench / "runs" / "toy").iterdir()]


def test_rows_are_told_apart_by_every_column_and_missing_wheels_are_recorded() -> None:
    row = Pairs(["a b"], ["c"], ["x"], [True])
    others = [replace(row, en=["a"]), replace(row, ru=["d"]), replace(row, source=["y"]), replace(row, paired=[False])]
    found = [identify(ParallelCorpus(pairs, row), "t")["train"]["sha256"] for pairs in (row, row, *others)]
    assert found[0] == found[1]
    assert len(set(found)) == 5
    assert identify(ParallelCorpus(row, row, missing=("wheel 1.0",)), "t")["missing_wheels"] == ["wheel 1.0"]


def test_a_record_that_does_not_say_its_rows_goes_on_and_says_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recipe, places = build_recipe(RECORDED | {"name": "toy"}, origin="toy"), make_places(tmp_path)
    begin(recipe, places, {}, resume=False)
    (places.run / "identity.json").unlink()
    identity = {"teacher": "t", "train": {"rows": 1}, "held_out": {"rows": 1}}
    begin(recipe, places, identity, resume=True)
    assert "no record of the pairs" in caplog.text
    begin(recipe, places, identity, resume=True)
    with pytest.raises(InputError, match=r"other training pairs than it began with \(1 row then\)"):
        begin(recipe, places, identity | {"train": {"rows": 2}}, resume=True)


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "\x00"])
def test_a_damaged_record_does_not_go_on(tmp_path: Path, content: str) -> None:
    recipe = build_recipe(RECORDED | {"name": "toy"}, origin="toy")
    (tmp_path / "recipe.json").write_text(content)
    with pytest.raises(InputError, match="damaged; the run cannot go on"):
        check_recipe(recipe, tmp_path)


@pytest.mark.parametrize("part", ["saliency.safetensors", "plan.json", "kept.json", "repaired.safetensors"])
def test_a_damaged_part_of_a_run_is_named(bench: Path, refuse: Callable[..., str], part: str) -> None:
    run("distillation.steps=0")
    (bench / "runs" / "toy" / part).write_bytes(b"{")
    assert f"toy/{part}: damaged" in refuse("distillation.steps=0", "--resume")


def test_a_run_is_one_process_s_at_a_time(bench: Path, refuse: Callable[..., str]) -> None:
    with hold(bench / "runs" / "toy"):
        for words in ((), ("--resume",)):
            assert "is at work on it" in refuse(*words)
    assert not (bench / "runs" / "toy").exists()
    run("distillation.steps=0")
    assert not [path for path in bench.rglob(".*") if path.name.endswith((".lock", ".partial"))]


def test_a_folder_of_checkpoints_is_one_training_s_at_a_time(
    tmp_path: Path, teacher: TorchEncoder, pairs: Pairs
) -> None:
    corpus = ParallelCorpus(pairs.take(range(24)), pairs.take(range(24, 32)))
    settings = DistillationSettings(steps=1, batch_size=8)
    with hold(tmp_path / "mine"), pytest.raises(InputError, match="is at work on it"):
        distill_student(teacher, teacher, corpus, settings, minutes=None, folder=tmp_path / "mine", cache=tmp_path)
    with pytest.raises(InputError, match="cannot be written"):
        distill_student(teacher, teacher, corpus, settings, minutes=None, folder=Path("/sys/mine"), cache=tmp_path)


def test_nothing_is_checked_by_changing_it(tmp_path: Path) -> None:
    recipe, places = build_recipe(RECORDED | {"name": "toy"}, origin="toy"), make_places(tmp_path)
    with pytest.raises(InputError, match="nothing to resume"), open_run(recipe, places, resume=True):
        pass
    with open_run(recipe, places, resume=False):
        assert [path.name for path in tmp_path.iterdir()] == [".toy.lock"]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("word", ["budget.initialization=random", "repair.sentences=16"])
def test_a_resumed_run_has_the_table_and_the_files_of_the_first(bench: Path, word: str) -> None:
    run(word)
    stages, first = read_stages(bench), list_files(bench)
    run(word, "--resume")
    assert read_stages(bench) == stages
    again = list_files(bench)
    assert again.keys() == first.keys()
    assert {name for name in first if name.startswith("models/") and again[name] != first[name]} <= {
        "models/toy/README.md"  # its milliseconds
    }
    names = [(line["step"], *sorted(line)) for line in read_metrics(bench / "runs" / "toy" / "metrics.jsonl")]
    assert len(names) == len(set(names)), "a line came twice"


def test_repair_that_loses_is_not_kept_and_shown_as_such(bench: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repair = cutting.repair

    def spoil(*given: Any, **named: Any) -> TorchEncoder:
        repaired = repair(*given, **named)
        with torch.no_grad():
            for weight in repaired.transformer.parameters():
                weight.mul_(-1)
        return repaired

    monkeypatch.setattr(cutting, "repair", spoil)
    run("distillation.steps=0")
    stages = read_stages(bench)
    assert [row["stage"] for row in stages] == ["teacher", "repaired, not kept", "pruned"]
    weights = list_files(bench)["models/toy/model.safetensors"]
    assert weights == list_files(bench)["models/toy-pruned/model.safetensors"]
    run("distillation.steps=0", "--resume")
    assert read_stages(bench) == stages
    assert list_files(bench)["models/toy/model.safetensors"] == weights


def test_distillation_that_loses_leaves_no_row(bench: Path) -> None:
    run("distillation.learning_rate=0")
    assert [row["stage"] for row in read_stages(bench)] == ["teacher", "pruned", "repaired"]
    saved = list_files(bench)
    assert saved["models/toy/model.safetensors"] == saved["models/toy-pruned/model.safetensors"]


def test_training_that_diverges_ends_in_a_line_and_a_record_that_goes_on(
    bench: Path, refuse: Callable[..., str]
) -> None:
    words = ("distillation.learning_rate=1e30", "distillation.steps=9")
    assert "step" in refuse(*words, code=1)
    assert not (bench / "models" / "toy").exists()
    assert (bench / "models" / "toy-pruned" / "model.safetensors").is_file()
    assert "diverged" in refuse(*words, "--resume", code=1)
    assert not [path for path in bench.rglob(".*") if path.name.endswith((".lock", ".partial"))]


def test_which_student_is_kept_is_said_as_it_was_chosen(teacher: TorchEncoder) -> None:
    recipe = build_recipe(RECIPE | {"name": "toy"}, origin="toy")
    best, last = (replace(recipe.distillation, keep=keep) for keep in ("best", "last"))
    kept = Distilled(teacher, 6, 0.9, 0.8, 6)
    assert say_kept_step(kept, best) == "the student of step 6, the best on held-out pairs, is kept"
    assert say_kept_step(kept, last) == "the student of the last step, 6, is kept"
    assert say_kept_step(replace(kept, step=0), best) == "the student before distillation is kept"


def test_a_run_that_goes_on_keeps_each_rounds_metrics_up_to_its_checkpoint_and_no_scores(tmp_path: Path) -> None:
    recipe = build_recipe(RECIPE | {"name": "toy"}, origin="toy")
    lines: list[tuple[str, int]] = [
        ("round-1/train/loss", 10), ("round-1/train/loss", 20), ("round-2/train/loss", 10), ("round-2/train/loss", 20),
        ("train/loss", 10), ("validation/cosine", 20), ("encodechka/STS", 20), ("held-out/cosine", 20),
        ("encodechka, distilled/STS", 20),
    ]  # fmt: skip
    with open_log(recipe, tmp_path) as log:
        for name, step in lines:
            log.metrics({name: 0.5}, step)
    (tmp_path / "round-1").mkdir()
    (tmp_path / "round-1" / "kept.json").touch()
    (tmp_path / "round-2").mkdir()
    steps = find_steps(tmp_path)
    assert steps == {"": -1, "round-1/": float("inf"), "round-2/": -1}
    for known, count in ((steps, 2), (steps | {"round-2/": 10}, 3), ({**steps, "round-2/": 99, "": 10}, 5)):
        assert [line for line in lines if is_kept({"step": line[1], line[0]: 0.5}, known)] == lines[:count]
    assert [line for line in lines if is_kept({"step": line[1], line[0]: 0.5}, dict.fromkeys(steps, 99))] == lines[:7]
    with open_log(recipe, tmp_path, resume_steps=steps):
        pass
    assert [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [10, 20]


def test_weights_that_a_run_goes_on_from_are_those_in_memory_whatever_the_models_format(
    tmp_path: Path, teacher: TorchEncoder, make_encoder: Callable[..., TorchEncoder]
) -> None:
    half = replace(teacher, dtype="float16")
    save_weights(half, tmp_path / "weights.safetensors")
    other = replace(make_encoder(seed=1), dtype="float16")
    before = embed(other, ["The cat sleeps."])
    loaded = load_weights(other, tmp_path / "weights.safetensors")
    assert (loaded.dtype, loaded.device) == (other.dtype, other.device)
    assert (embed(loaded, ["The cat sleeps."]) == embed(teacher, ["The cat sleeps."])).all()
    assert (embed(other, ["The cat sleeps."]) == before).all(), "the encoder given is not written to"

"""Scores stand beside the model that they are of: folders of one name are not one model; a hub teacher is not lost."""

import json
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import SENTENCES, MakeEncoder
from records import write_record

from secateur.config.errors import InputError
from secateur.config.evaluation import EncodechkaSettings
from secateur.data.files import write_json
from secateur.encoders.encoder import TorchEncoder, embed
from secateur.encoders.saving import save_encoder
from secateur.evaluation.benchmark_data import DownloadError
from secateur.evaluation.validation import retrieval
from secateur.runs import infer as module
from secateur.runs.infer import find_record, find_teacher, infer, name_apart, rank_models, retrieve
from secateur.runs.start import MODELS, hash_weights

PROBE = EncodechkaSettings(tasks=("STS",))


@pytest.fixture
def two(make_encoder: MakeEncoder, tmp_path: Path) -> tuple[Path, Path]:
    """Two folders of one name, each with a model of its own; a run made the first."""
    folders = tmp_path / "a" / "student", tmp_path / "b" / "student"
    for seed, folder in enumerate(folders):
        save_encoder(make_encoder(seed=seed), folder)
    return folders


@pytest.fixture
def run(two: tuple[Path, Path], make_folder: Callable[..., Path], tmp_path: Path) -> Path:
    run = write_record(tmp_path / "runs", "student", teacher={"model": str(make_folder(seed=7))})
    write_json(run / MODELS, {"student": [hash_weights(two[0])], "student-pruned": ["another"]})
    (run / "table.txt").write_text("kept by the run", encoding="utf-8")
    return run


def test_a_record_is_found_by_weights_not_by_a_folders_name(two: tuple[Path, Path], run: Path, tmp_path: Path) -> None:
    assert find_record(str(two[0]), run.parent) == run
    assert find_record(str(two[1]), run.parent) is None
    two[0].rename(tmp_path / "renamed")
    assert find_record(str(tmp_path / "renamed"), run.parent) == run
    assert find_record("great/model", run.parent) is None


def test_what_was_cut_on_the_way_has_the_runs_teacher_but_not_its_scores(two: tuple[Path, Path], run: Path) -> None:
    write_json(run / MODELS, {"student": ["another"], "student-pruned": [hash_weights(two[1])]})
    assert find_record(str(two[1]), run.parent) is None
    teacher = find_teacher(str(two[1]), run.parent)
    assert teacher is not None


def test_another_model_of_the_name_has_no_teacher_no_table_and_leaves_the_record_alone(
    two: tuple[Path, Path], run: Path, tmp_path: Path
) -> None:
    table = infer(str(two[1]), PROBE, on=("probe",), cache=tmp_path, runs=run.parent, device="cpu")
    assert "teacher" not in table
    assert not (run / "probe.json").exists()
    own = infer(str(two[0]), PROBE, on=("probe",), cache=tmp_path, runs=run.parent, device="cpu")
    assert "\nteacher" in own
    assert json.loads((run / "probe.json").read_text()).keys() == {"teacher", "student"}


def test_the_table_that_a_run_kept_is_shown_for_its_own_student_alone(
    two: tuple[Path, Path], run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*_: object) -> Path:
        raise DownloadError("no such host")

    monkeypatch.setattr(module, "find_data", unreachable)
    monkeypatch.setattr(module, "find_teacher", lambda *_: None)
    how = {"on": ("encodechka",), "cache": tmp_path, "runs": run.parent, "device": "cpu"}
    assert infer(str(two[0]), PROBE, **how) == "kept by the run"  # type: ignore[arg-type]
    with pytest.raises(InputError, match="no such host"):
        infer(str(two[1]), PROBE, **how)  # type: ignore[arg-type]


def test_a_hubs_teacher_is_scored_or_said_to_be_missing(
    two: tuple[Path, Path], run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = json.loads((run / "recipe.json").read_text())
    write_json(run / "recipe.json", recipe | {"teacher": recipe["teacher"] | {"model": "great/teacher"}})
    load = module.load_encoder

    def load_hub(settings: object, **how: object) -> TorchEncoder:
        if settings.model == "great/teacher":  # type: ignore[attr-defined]
            return load(type(settings)(model=str(two[1])))  # type: ignore[call-arg]
        return load(settings, **how)  # type: ignore[arg-type]

    how = {"on": ("probe",), "cache": tmp_path, "runs": run.parent, "device": "cpu"}
    with monkeypatch.context() as patched:
        patched.setattr(module, "load_encoder", load_hub)
        assert "\nteacher" in infer(str(two[0]), PROBE, **how)  # type: ignore[arg-type]
    with caplog.at_level(logging.WARNING):
        assert "\nteacher" not in infer(str(two[0]), PROBE, **how)  # type: ignore[arg-type]
    assert any("the teacher is not scored: great/teacher" in each.message for each in caplog.records)


@pytest.mark.parametrize("content", ["{", "[]", '{"name": "student"}'])
def test_a_damaged_recipe_leaves_the_teacher_out(two: tuple[Path, Path], run: Path, content: str) -> None:
    (run / "recipe.json").write_text(content)
    assert find_teacher(str(two[0]), run.parent) is None


def test_names_tell_models_apart() -> None:
    assert name_apart(["x/one", "x/two"]) == ["one", "two"]
    assert name_apart(["a/student", "b/student/"]) == ["a/student", "b/student"]
    assert name_apart(["x/teacher"], taken=["teacher"]) == ["x/teacher"]
    with pytest.raises(InputError, match="named twice"):
        name_apart(["x/one", "x/../x/one"])


def test_retrieve_has_a_row_for_each_of_two_models_of_one_name(two: tuple[Path, Path], tmp_path: Path) -> None:
    file = tmp_path / "pairs.tsv"
    file.write_text("\n".join(f"{en}\t{ru}" for en, ru in SENTENCES), encoding="utf-8")
    table = retrieve([str(each) for each in two], [file], use=False, precision="float32", device="cpu").splitlines()
    rows = {line.split()[0]: line.split()[1:] for line in table[2:4]}
    assert rows.keys() == {"a/student", "b/student"}
    for folder in two:
        encoder = module.load_encoder(module.TeacherSettings(model=str(folder)))
        en, ru = (embed(encoder, [pair[side] for pair in SENTENCES]) for side in (0, 1))
        assert rows[f"{folder.parent.name}/student"] == [f"{retrieval(en, ru):.4f}", f"{retrieval(ru, en):.4f}"]
    assert "pairs: 32 pairs alone, a share of them may be off by 0.16" in table[-1]


def test_a_model_named_twice_is_refused(two: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="named twice"):
        rank_models([str(two[0])] * 2, PROBE, baselines=False, use=False, cache=tmp_path, device="cpu")


def test_the_share_of_few_is_off_by_what_the_interval_says() -> None:
    draws = np.random.default_rng(0).binomial(32, 0.5, 100_000) / 32
    assert np.mean(np.abs(draws - 0.5) <= 0.17) == pytest.approx(0.95, abs=0.02)

"""`import secateur` in Python: one call, a model back; the same students, scores and complaints as the commands."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import SENTENCES
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from torch import Tensor

import secateur
from secateur.cli import main
from secateur.config.distillation import DistillationSettings
from secateur.data.pairs import Pairs
from secateur.encoders.encoder import TorchEncoder
from secateur.runs import distill as distilling

HALF = {"keep_heads": 0.5, "keep_neurons": 0.5, "held_out": 0.3, "saliency_pairs": 8, "repair_sentences": 16}
FLAGS = ["--keep-heads", "0.5", "--keep-neurons", "0.5", "--held-out", "0.3", "--saliency-pairs", "8"]
FLAGS += ["--repair-sentences", "16"]


def weights(student: secateur.Student) -> dict[str, Tensor]:
    return student.encoder.transformer.state_dict()


def same(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(value, two[name]) for name, value in one.items())


def test_one_call_prunes_one_distils_and_the_student_is_saved_scored_and_exported(place: Path) -> None:
    student = secateur.prune("teacher", "pairs.tsv", **HALF)  # type: ignore[arg-type]
    better = secateur.distill(student, "teacher", "pairs.tsv", steps=4, batch_size=8, held_out=0.3)
    assert better.plan is student.plan
    assert [row["stage"] for row in better.table.rows] == ["teacher", "before", "distilled"]
    evaluation = secateur.evaluate(better, "probe", tasks=["STS", "IC"])
    assert set(evaluation.own) == {"STS", "IC"}
    assert evaluation.mean is None  # of eight tasks two were asked for
    better.save("mine")
    assert "# mine" in (place / "mine" / "README.md").read_text(encoding="utf-8")
    stock = SentenceTransformer("mine", device="cpu")
    sentences = [side for pair in SENTENCES for side in pair]
    np.testing.assert_allclose(better.encode(sentences), stock.encode(sentences, normalize_embeddings=True), atol=1e-6)
    assert better.encode("Кошка спит.").shape == (better.encoder.dimension,)
    rows = secateur.export("mine", int8=False, sentences=20).rows
    assert [row["artefact"] for row in rows][:2] == ["torch", "onnx/model.onnx"]
    assert secateur.load("mine").parameters == better.parameters < secateur.load("teacher").parameters
    assert "files would go to me/mine" in better.push("me/mine", dry_run=True)


def test_prune_gives_the_weights_of_the_command(place: Path) -> None:
    student = secateur.prune("teacher", "pairs.tsv", rounds=2, **HALF)  # type: ignore[arg-type]
    assert main(["prune", "teacher", "--pairs", "pairs.tsv", "--out", "told", "--rounds", "2", *FLAGS]) == 0
    told = load_file(place / "told" / "model.safetensors")
    assert same({name: value for name, value in weights(student).items() if name in told}, told)


GIVEN: dict[str, Callable[[], Any]] = {
    "a path": lambda: Path("pairs.tsv"),
    "two aligned texts": lambda: ["texts.en", "texts.ru"],
    "a list of tuples": lambda: list(SENTENCES),
    "a generator": lambda: (pair for pair in SENTENCES),
    "a data set": lambda: datasets.Dataset.from_list([{"id": 1, "en": en, "ru": ru} for en, ru in SENTENCES]),
    "a frame": lambda: pd.DataFrame(SENTENCES, columns=["english", "russian"]),
}


@pytest.mark.parametrize("given", GIVEN)
def test_pairs_in_every_form_give_the_same_student(place: Path, given: str) -> None:
    for language, side in zip(("en", "ru"), zip(*SENTENCES, strict=True), strict=True):
        (place / f"texts.{language}").write_text("\n".join(side), encoding="utf-8")
    expected = secateur.prune("teacher", "pairs.tsv", **HALF)  # type: ignore[arg-type]
    assert same(weights(secateur.prune("teacher", GIVEN[given](), **HALF)), weights(expected))  # type: ignore[arg-type]


def test_a_model_may_be_in_memory_and_stays_as_it_was(place: Path) -> None:
    stock = SentenceTransformer("teacher", device="cpu").train()
    before = {name: value.clone() for name, value in stock.state_dict().items()}
    student = secateur.prune(stock, "pairs.tsv", **HALF)  # type: ignore[arg-type]
    assert same(dict(stock.state_dict()), before)
    assert stock.training
    assert same(weights(student), weights(secateur.prune("teacher", "pairs.tsv", **HALF)))  # type: ignore[arg-type]
    again = secateur.prune(student, "pairs.tsv", layers=2, held_out=0.3, saliency_pairs=8, repair_sentences=16)
    assert again.parameters < student.parameters


def test_the_plan_says_what_was_kept_as_text_and_as_a_table(place: Path) -> None:
    student = secateur.prune("teacher", "pairs.tsv", max_params=9000, held_out=0.3, saliency_pairs=8)
    assert student.parameters <= 9000
    assert student.plan.kept is not None
    said = str(student.plan).partition("heads kept in each layer, the lowest first: ")[2].splitlines()[0]
    assert [len(layer) for layer in student.plan.kept.heads] == [int(count) for count in said.split()]
    html = student.plan._repr_html_()
    assert html.count("<tr>") == 1 + 6  # a header, and an axis a row
    assert "<th>predicted loss</th>" in html
    named = secateur.prune("teacher", "pairs.tsv", **HALF)  # type: ignore[arg-type]
    assert "predicted loss" not in str(named.plan)  # nothing was predicted: no column of dashes


def test_a_training_in_a_folder_is_gone_on_with_and_another_is_refused(place: Path) -> None:
    student = secateur.prune("teacher", "pairs.tsv", **HALF)  # type: ignore[arg-type]
    keys: dict[str, Any] = {"steps": 6, "batch_size": 8, "held_out": 0.3, "folder": "run"}
    whole = secateur.distill(student, "teacher", "pairs.tsv", **keys)
    steps = sorted(path.name for path in (place / "run" / "checkpoints").iterdir())
    again = secateur.distill(student, "teacher", "pairs.tsv", **keys)
    assert same(weights(again), weights(whole))
    assert sorted(path.name for path in (place / "run" / "checkpoints").iterdir()) == steps
    with pytest.raises(secateur.InputError, match=r"run: holds another training: learning_rate was 0\.0003"):
        secateur.distill(student, "teacher", "pairs.tsv", learning_rate=1e-3, **keys)


def test_minutes_become_as_many_steps_as_fit(
    teacher: TorchEncoder, pairs: Pairs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distilling, "measure_step", lambda *_, **__: 2.0)
    clock = iter([100.0, 106.0])  # a validation takes six seconds
    monkeypatch.setattr(distilling.time, "perf_counter", lambda: next(clock))
    settings = DistillationSettings(steps=1, batch_size=4)
    fitted = distilling.set_steps(teacher, teacher, pairs, settings, lambda _: {"cosine": 1.0}, 10, tmp_path, seed=0)
    assert fitted.steps == (600 - 5 * 6 - 12 * 2) / 2
    assert (fitted.warmup_steps, fitted.evaluate_every) == (27, 69)


WRONG: list[tuple[list[str], Callable[[], object]]] = [
    (["prune", "nowhere", "--pairs", "pairs.tsv", "--layers", "2", "--dry-run"],
     lambda: secateur.prune("nowhere", "pairs.tsv", layers=2)),
    (["prune", "teacher", "--pairs", "none.tsv", "--layers", "2", "--dry-run"],
     lambda: secateur.prune("teacher", "none.tsv", layers=2)),
    (["prune", "teacher", "--pairs", "pairs.tsv", "--keep-heads", "1.5", "--dry-run"],
     lambda: secateur.prune("teacher", "pairs.tsv", keep_heads=1.5)),
    (["prune", "teacher", "--pairs", "pairs.tsv", "--layers", "9", "--held-out", "0.3", "--dry-run"],
     lambda: secateur.prune("teacher", "pairs.tsv", layers=9, held_out=0.3)),
    (["prune", "teacher", "--pairs", "pairs.tsv", "--max-params", "12MB", "--dry-run"],
     lambda: secateur.prune("teacher", "pairs.tsv", max_params="12MB")),
    (["prune", "teacher", "--pairs", "pairs.tsv", "--max-params", "9", "--held-out", "0.3", "--dry-run"],
     lambda: secateur.prune("teacher", "pairs.tsv", max_params=9, held_out=0.3)),
    (["infer", "teacher/pooling", "--tasks", "probe"], lambda: secateur.evaluate("teacher/pooling")),
    (["export", "teacher", "--min-cosine", "2"], lambda: secateur.export("teacher", min_cosine=2.0)),
]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "call"), WRONG, ids=lambda case: " ".join(case[:6]) if isinstance(case, list) else ""
)
def test_bad_input_is_the_line_of_the_command(
    place: Path, capsys: pytest.CaptureFixture[str], words: list[str], call: Callable[[], object]
) -> None:
    assert main(words) == 2
    line = [line for line in capsys.readouterr().err.splitlines() if line.startswith("secateur: ")][-1]
    with pytest.raises(secateur.InputError) as caught:
        call()
    assert isinstance(caught.value, ValueError)
    said = line.removeprefix("secateur: ")
    for flag in {word for word in said.replace(":", " ").split() if word.startswith("--")}:
        said = said.replace(flag, flag.removeprefix("--").replace("-", "_"))  # an option, as Python spells it
    assert str(caught.value) == said


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: secateur.prune("teacher", "pairs.tsv"), "say what to keep: keep_heads, .*max_ms"),
    (lambda: secateur.prune("teacher", [("one", "two", "three")], layers=2), r"item 0 is \('one', 'two', 'three'\)"),
        (lambda: secateur.prune("teacher", [("one", 2)], layers=2), "item 0 is .*not a pair of texts"),
        (lambda: secateur.prune("teacher", 7, layers=2), "pairs: int is not a file, a list of pairs or a table"),
        (lambda: secateur.prune("teacher", pd.DataFrame({"en": ["a"]}), layers=2), "two columns of text are needed"),
        (lambda: secateur.prune("teacher", [], layers=2), "pairs: there are none"),
        (lambda: secateur.prune(3, "pairs.tsv", layers=2), "model: int is not a folder"),
        (lambda: secateur.distill("teacher", "teacher", "pairs.tsv"), "name one of minutes and steps"),
        (lambda: secateur.distill("teacher", "teacher", "pairs.tsv", minutes=-1), "minutes: .*not -1"),
        (lambda: secateur.evaluate("teacher", "prob"), "on: 'prob' is neither probe nor encodechka"),
        (lambda: secateur.evaluate("teacher", tasks=["XX"]), "tasks: 'XX' is none of"),
        (lambda: secateur.load("teacher").save("pairs.tsv"), "pairs.tsv is there already and is not a model folder"),
        (lambda: secateur.export(secateur.load("teacher")), "out: name a folder"),
        (lambda: secateur.export("teacher", threads=0), "threads: .*greater than 0"),
        (lambda: secateur.load(""), "model: '' is not the name of a file or folder"),
        (lambda: secateur.load("teacher", pooling="x"), "pooling: .*not 'x'"),
        (lambda: secateur.load("teacher", device="x"), "device: .*not 'x'"),
        (lambda: secateur.load(secateur.load("teacher"), pooling="cls"), "pooling: cls is named for a model in memory"),
        (lambda: secateur.load("a" * 5000), "a name has at most 4096"),
        (lambda: secateur.Encoder(secateur.load("teacher")), "model: Student is not a model folder"),
        (lambda: secateur.Encoder("teacher", threads="1"), "threads: '1' is not a whole number"),
        (lambda: secateur.Encoder("teacher").encode(["a", None]), "sentences: item 1 is None, not a text"),
        (lambda: secateur.load("teacher").encode(None), "sentences: None is not a text"),
        (lambda: secateur.load("teacher").save(None), "folder: None is not the name"),
        (lambda: secateur.distill("teacher", "teacher", "pairs.tsv", minutes="5"), "minutes: .*not '5'"),
        (lambda: secateur.distill("teacher", "teacher", "pairs.tsv", steps="5"), 'steps: .*not "5"'),
        (lambda: secateur.distill("teacher", "teacher", "pairs.tsv", steps=5, seed=-1), "seed: .*not -1"),
        (lambda: secateur.distill("teacher", "teacher", "pairs.tsv", steps=5, batch_size=None), "batch_size: "),
        (lambda: secateur.distill("teacher", "teacher", "pairs.tsv", steps=5, w_output=0, w_similarity=0), "are 0"),
        (lambda: secateur.prune("teacher", "pairs.tsv", max_params="²"), "max_params: should be a count"),
        (lambda: secateur.prune("teacher", "pairs.tsv", layers=2, cache=3), "cache: 3 is not the name"),
        (lambda: secateur.prune("teacher", [{"en": "a", "ru": "b"}], layers=2), "item 0 is .*not a pair of texts"),
        (lambda: secateur.evaluate("teacher", tasks="NE1"), "tasks: 'NE1' is none of STS"),
        (lambda: secateur.evaluate("teacher", tasks=[]), "tasks: '' is none of STS"),
        (lambda: secateur.evaluate("teacher", data="x"), "data: names encodechka's files"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_said_in_one_line(place: Path, call: Callable[[], object], message: str) -> None:
    with pytest.raises(secateur.InputError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
    assert (place / "pairs.tsv").read_text(encoding="utf-8").count("\n") == len(SENTENCES)


NEVER: list[tuple[str, Callable[[], object]]] = [
    ("thesis is there already and is not a model folder", lambda: secateur.export("teacher", out="thesis", int8=False)),
    ("pairs.tsv is there already and is not", lambda: secateur.export("teacher", out="pairs.tsv", int8=False)),
    ("mine is there already and holds notes.txt", lambda: secateur.load("teacher").save("mine")),
    ("pairs.tsv/sub: cannot be written", lambda: secateur.load("teacher").save("pairs.tsv/sub")),
    ("teacher: is a model folder",
     lambda: secateur.distill("teacher", "teacher", "pairs.tsv", steps=2, folder="teacher")),
    ("folder: '' is not the name", lambda: secateur.distill("teacher", "teacher", "pairs.tsv", steps=2, folder="")),
    ("strange: holds checkpoints of a training that is not known",
     lambda: secateur.distill("teacher", "teacher", "pairs.tsv", steps=2, held_out=0.3, folder="strange")),
    ("no such file", lambda: secateur.export(secateur.load("teacher"), out="new", pairs="none.tsv")),
]  # fmt: skip


@pytest.mark.parametrize(("message", "call"), NEVER, ids=[message for message, _ in NEVER])
def test_nothing_that_is_no_model_is_replaced_and_nothing_half_written(
    place: Path, message: str, call: Callable[[], object]
) -> None:
    (place / "thesis").mkdir()
    (place / "thesis" / "chapter.txt").write_text("mine")
    secateur.load("teacher").save("mine")
    (place / "mine" / "notes.txt").write_text("mine")
    (place / "strange" / "checkpoints" / "checkpoint-3").mkdir(parents=True)
    (place / "strange" / "checkpoints" / "checkpoint-3" / "trainer_state.json").write_text("{}")
    before = sorted(path for path in place.rglob("*") if "cache" not in path.parts)
    with pytest.raises(secateur.InputError, match=message):
        call()
    assert sorted(path for path in place.rglob("*") if "cache" not in path.parts) == before
    assert (place / "mine" / "notes.txt").read_text() == (place / "thesis" / "chapter.txt").read_text() == "mine"


def test_a_student_saved_again_keeps_the_card_of_its_folder(place: Path) -> None:
    (place / "teacher" / "README.md").write_text("# mine\n", encoding="utf-8")
    secateur.load("teacher").save("teacher")
    assert (place / "teacher" / "README.md").read_text(encoding="utf-8") == "# mine\n"


def test_the_callers_random_numbers_and_numpy_numbers_are_as_ever(place: Path) -> None:
    torch.manual_seed(3)
    np.random.seed(3)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    numbers = {"layers": np.int64(2), "keep_heads": np.float32(0.5), "saliency_pairs": np.int32(8)}
    student = secateur.prune("teacher", "pairs.tsv", held_out=0.3, repair_sentences=16, **numbers)  # type: ignore[arg-type]
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()
    plain = secateur.prune(
        "teacher", "pairs.tsv", held_out=0.3, repair_sentences=16, layers=2, keep_heads=0.5, saliency_pairs=8
    )
    assert same(weights(student), weights(plain))


def test_a_student_of_low_rank_is_pruned_again_at_its_rank(place: Path) -> None:
    few = {"held_out": 0.3, "saliency_pairs": 8, "repair_sentences": 16}
    student = secateur.prune("teacher", "pairs.tsv", rank=8, **few)  # type: ignore[arg-type]
    again = secateur.prune(student, "pairs.tsv", layers=2, **few)  # type: ignore[arg-type]
    assert again.encoder.transformer.config.embedding_rank == 8
    with pytest.raises(secateur.InputError, match="rank: the word embeddings have rank 8 already"):
        secateur.prune(student, "pairs.tsv", rank=4, **few)  # type: ignore[arg-type]


def test_another_corpus_of_the_same_size_is_another_training(place: Path) -> None:
    keys: dict[str, Any] = {"steps": 2, "batch_size": 8, "held_out": 0.3, "folder": "run"}
    secateur.distill("teacher", "teacher", list(SENTENCES), **keys)
    changed = [(en, f"{ru} Да.") for en, ru in SENTENCES]
    with pytest.raises(secateur.InputError, match="run: holds another training: pairs was"):
        secateur.distill("teacher", "teacher", changed, **keys)


ALONE = """
import sys
for name in {blocked!r}:
    sys.modules[name] = None
{code}
"""
TRAINING = (
    "torch", "transformers", "sentence_transformers", "accelerate", "datasets", "safetensors", "scipy", "sklearn",
    "pandas", "pydantic", "ruamel", "ruamel.yaml", "polib", "matplotlib", "razdel", "jinja2", "onnx", "clearml",
)  # fmt: skip


def run_alone(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run code where nothing but the core's packages can be imported."""
    text = ALONE.format(blocked=TRAINING, code=code)
    environment = {**os.environ, "XDG_CACHE_HOME": str(folder / "cache")}
    return subprocess.run([sys.executable, "-c", text], cwd=folder, env=environment, capture_output=True, text=True)


def test_the_core_encodes_exported_files_without_any_package_of_training(place: Path) -> None:
    secateur.export("teacher", int8=False, sentences=20)
    expected = secateur.load("teacher").encode(["Кошка спит."])
    code = """
import json
import secateur
vectors = secateur.Encoder("teacher", backend="onnx").encode(["Кошка спит."])
from secateur.cli import main
from pathlib import Path
Path("s.txt").write_text("Кошка спит.\\n", encoding="utf-8")
assert main(["encode", "teacher", "--backend", "onnx", "--input", "s.txt", "--out", "v.npy"]) == 0
print(json.dumps(vectors.tolist()))
"""
    done = run_alone(code, place)
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(np.array(json.loads(done.stdout)), expected, atol=1e-5)
    np.testing.assert_allclose(np.load(place / "v.npy"), expected, atol=1e-5)


def test_without_the_packages_of_training_the_rest_says_how_to_get_them(place: Path) -> None:
    code = """
import secateur
from secateur.cli import main
assert main(["prune", "teacher", "--pairs", "pairs.tsv", "--layers", "2", "--out", "x"]) == 2
assert main(["infer", "teacher"]) == 2
assert main(["encode", "teacher", "--input", "pairs.tsv", "--out", "x"]) == 2
try:
    secateur.prune
except secateur.InputError as error:
    print(error)
"""
    done = run_alone(code, place)
    assert done.returncode == 0, done.stderr
    lines = [*done.stderr.splitlines(), *done.stdout.splitlines()]
    assert len(lines) == 4
    assert all("which is not installed: pip install 'secateur[train]'" in line for line in lines), lines


def test_importing_loads_nothing_heavy_and_help_no_settings() -> None:
    code = """
import sys
import secateur
heavy = {"torch", "transformers", "numpy", "pydantic", "tqdm"} & set(sys.modules)
assert not heavy, heavy
from secateur.cli import main
try:
    main(["--help"])
except SystemExit:
    pass
heavy = {"torch", "transformers", "numpy", "pydantic"} & set(sys.modules)
assert not heavy, heavy
assert {"prune", "distill", "evaluate", "export", "load", "Encoder", "Student", "InputError"} <= set(dir(secateur))
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)

"""What a cut rests on: pairs to judge by, a teacher that knows them, finite numbers, measured once and not twice."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import MakeEncoder
from test_planning import collect_inputs

import secateur
from secateur.cli import main
from secateur.config.errors import InputError
from secateur.config.pruning import RepairSettings
from secateur.config.teacher import TeacherSettings
from secateur.data.pairs import Pairs, ParallelCorpus
from secateur.encoders.encoder import TorchEncoder, embed
from secateur.encoders.loading import load_encoder
from secateur.encoders.modeling import find_layers
from secateur.encoders.saving import save_encoder
from secateur.encoders.surgery import rebuild
from secateur.evaluation.scores import HeldOut
from secateur.pruning import cache as caching
from secateur.pruning import inputs as measuring
from secateur.pruning import trials
from secateur.pruning.inputs import measure_on_corpus
from secateur.pruning.layers import score_layers
from secateur.pruning.least_squares import Moments, multiply, solve_exactly
from secateur.pruning.plan import make_plan
from secateur.pruning.predictions import Limits
from secateur.pruning.repair import repair
from secateur.pruning.saliency import measure_saliency
from secateur.pruning.scores import Saliency, list_tensors
from secateur.pruning.selection import Kept
from secateur.runs import prune as pruning
from secateur.runs.evidence import check_corpus, check_teacher
from secateur.runs.prune import adapt, say_costs

HALF: dict[str, Any] = {"keep_heads": 0.5, "held_out": 0.3, "saliency_pairs": 8, "repair_sentences": 16}


def forbid(what: str) -> Callable[..., Any]:
    def fail(*_: Any, **__: Any) -> Any:
        raise AssertionError(f"{what}, which should not happen")

    return fail


def same(one: Saliency, other: Saliency) -> bool:
    tensors, others = list_tensors(one), list_tensors(other)
    return tensors.keys() == others.keys() and all(torch.equal(value, others[name]) for name, value in tensors.items())


def repeat(pairs: Pairs, count: int) -> Pairs:
    return pairs.take([row % len(pairs) for row in range(count)])


def test_few_pairs_are_said_with_the_error_that_they_leave(
    teacher: TorchEncoder, pairs: Pairs, caplog: pytest.LogCaptureFixture
) -> None:
    check_corpus(teacher, ParallelCorpus(repeat(pairs, 38), repeat(pairs, 2)))
    (line,) = caplog.messages
    assert line.startswith("2 held-out pairs to judge by, 38 pairs to measure and fit on: too few to rely on.")
    assert "a standard error of up to 0.35 (100 pairs: 0.05)" in line  # 1 / (2 sqrt(2))
    caplog.clear()
    check_corpus(teacher, ParallelCorpus(repeat(pairs, 200), repeat(pairs, 100)))
    assert not caplog.messages


def hold_out(en: np.ndarray, ru: np.ndarray) -> HeldOut:
    names = [str(row) for row in range(len(en))]
    return HeldOut(names, names, en.astype(np.float32), ru.astype(np.float32))


def test_a_teacher_that_does_not_find_translations_is_said(caplog: pytest.LogCaptureFixture) -> None:
    en, ru = (np.random.default_rng(seed).normal(size=(50, 16)) for seed in (0, 1))
    check_teacher(hold_out(en, en))
    check_teacher(hold_out(en[:1], ru[:1]))
    check_teacher(hold_out(en, np.concatenate([en[:30], ru[30:]])))  # three of five and more: not told apart from half
    assert not caplog.messages
    check_teacher(hold_out(en, ru))
    (line,) = caplog.messages
    assert line.startswith(
        "the teacher finds less than half of the translations of 50 held-out pairs (accuracy@1: en→ru"
    )
    with pytest.raises(InputError, match="the teacher's vectors of the held-out sentences are not finite"):
        check_teacher(hold_out(en, ru * np.nan))


def test_a_language_that_the_tokenizer_does_not_know_is_refused(teacher: TorchEncoder, pairs: Pairs) -> None:
    corpus = ParallelCorpus(repeat(pairs, 200), repeat(pairs, 100))
    for side in (corpus.train, corpus.held_out):
        side.ru[:] = [f"ქართული ენა {number}" for number in range(len(side))]
    with pytest.raises(InputError, match=r"language ru: the model's tokenizer does not know \d\d"):
        check_corpus(teacher, corpus)


def test_saliency_is_measured_once_for_the_same_content(
    teacher: TorchEncoder, pairs: Pairs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = collect_inputs(teacher, pairs, heads=0.5).recipe
    calls = []

    def count(*arguments: Any, **named: Any) -> Saliency:
        calls.append(1)
        return measure_saliency(*arguments, **named)

    monkeypatch.setattr(measuring, "measure_saliency", count)

    def measure(encoder: TorchEncoder = teacher, rows: Pairs = pairs, **changed: Any) -> Saliency:
        return measure_on_corpus(encoder, rows, replace(recipe, **changed), cache=tmp_path)

    first = measure()
    assert same(measure(), first)
    assert len(calls) == 1
    other = rebuild(teacher, list(teacher.model))
    other.model.prompts, other.model.default_prompt_name = {"query": "query: "}, "query"
    for number, named in enumerate(
        (
            {"rows": pairs.take(range(12))}, {"seed": 1}, {"saliency": replace(recipe.saliency, criterion="output")},
            {"encoder": other}, {"encoder": teacher.limited(5)},
        ),
        start=2,
    ):  # fmt: skip
        assert not same(measure(**named), first)  # type: ignore[arg-type]
        assert len(calls) == number
    weight = find_layers(teacher.transformer)[0].output.dense.weight
    with torch.no_grad():
        old = weight[0, 0].item()
        weight[0, 0] += 1e-3
    measure()
    assert len(calls) == 7
    with torch.no_grad():
        weight[0, 0] = old
    assert same(measure(), first)
    assert len(calls) == 7


@pytest.mark.parametrize("damage", ["cut", "flipped", "rubbish", "another's"])
def test_a_damaged_entry_is_measured_anew(
    teacher: TorchEncoder, pairs: Pairs, tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    recipe = collect_inputs(teacher, pairs, heads=0.5).recipe
    first = measure_on_corpus(teacher, pairs, recipe, cache=tmp_path)
    (path,) = (tmp_path / "saliency").glob("*.safetensors")
    content = path.read_bytes()
    if damage == "another's":
        measure_on_corpus(teacher, pairs.take(range(8)), recipe, cache=tmp_path)
        caching.save_saliency(replace(first, hidden=first.hidden[:8]), path, digest="0" * 64)
    else:
        flipped = content[:-5] + bytes([content[-5] ^ 1]) + content[-4:]
        path.write_bytes({"cut": content[:-16], "flipped": flipped, "rubbish": b"{}"}[damage])
    assert same(measure_on_corpus(teacher, pairs, recipe, cache=tmp_path), first)
    assert sum("saliency is measured anew" in line for line in caplog.messages) == 1
    assert path.read_bytes() == content


def test_a_cache_that_cannot_be_written_is_said_and_nothing_is_lost(
    teacher: TorchEncoder, pairs: Pairs, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = collect_inputs(teacher, pairs, heads=0.5).recipe
    (tmp_path / "saliency").write_text("a file")
    measure_on_corpus(teacher, pairs, recipe, cache=tmp_path)
    assert sum("it will be measured again" in line for line in caplog.messages) == 1


def test_trial_cuts_are_tried_once_and_another_limit_needs_none(
    teacher: TorchEncoder, pairs: Pairs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = replace(
        collect_inputs(teacher, pairs, share=0.6, layers=3, hidden=1.0, heads=0.5, vocabulary=200), cache=tmp_path
    )
    plan = make_plan(inputs)
    bare = make_plan(replace(inputs, cache=None))
    with monkeypatch.context() as patched:
        patched.setattr(trials, "try_cut", forbid("a cut is tried again"))
        assert make_plan(inputs) == plan == bare
        budget = replace(inputs.budget, share=0.7)
        assert make_plan(replace(inputs, recipe=replace(inputs.recipe, budget=budget))).params > plan.params
    (path,) = (tmp_path / "trials").iterdir()
    path.write_text(path.read_text().replace("0.", "1.", 1))
    assert make_plan(inputs) == plan


def test_a_second_dry_run_measures_nothing(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["prune", "teacher", "--pairs", "pairs.tsv", "--held-out", "0.3", "--keep-params", "0.6", "--layers", "3"]
    words += ["--keep-hidden", "1", "--vocabulary", "200", "--repair-sentences", "8", "--dry-run"]
    assert main(words) == 0
    first = capsys.readouterr().out
    monkeypatch.setattr(measuring, "measure_saliency", forbid("saliency is measured again"))
    monkeypatch.setattr(trials, "try_cut", forbid("a cut is tried again"))
    assert main(words) == 0
    assert capsys.readouterr().out == first


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 32}, "rank: 32 asked for, at most 31 can be kept"),
        ({"rank": 16, "keep_hidden": 0.5}, "rank: 16 asked for, at most 15 can be kept"),
        ({"layers": 9}, "layers: 9 asked for, at most 3 can be kept"),
        ({"vocabulary": 7}, "vocabulary: 7 asked for, but special tokens and the letters"),
        ({"max_params": 50}, "50 parameters cannot be reached"),
        ({"max_mb": 0.001}, "0.001 MB cannot be reached"),
        ({"max_ms": 1e-6}, "the teacher itself"),
    ],
)
def test_what_costs_nothing_to_check_comes_before_what_takes_minutes(
    place: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], message: str
) -> None:
    for name in ("embed_held_out", "measure_on_corpus"):
        monkeypatch.setattr(pruning, name, forbid("work begins"))
    with pytest.raises(InputError, match=message):
        secateur.prune("teacher", "pairs.tsv", held_out=0.3, **options)


def refuse(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(list(words)) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


def test_a_folder_that_is_not_there_is_said_before_anything_is_read(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("secateur.data.sources.name_sources", forbid("pairs are read"))
    words = ["--keep-heads", "0.5", "--pairs", "pairs.tsv", "--out", "small"]
    for name in ("/no/such/folder", "./none", "../none", "a/b/c"):
        assert f"{name}: no such folder\n" in refuse(capsys, "prune", name, *words)
    words = ["--corpus", "en=none.txt", "--size", "200", "--out", "small"]
    assert "/no/such/folder: no such folder\n" in refuse(capsys, "vocabulary", "/no/such/folder", *words)


def test_a_student_never_takes_the_place_of_its_teacher_or_of_what_is_no_model(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (place / "teacher" / "model.safetensors").read_bytes()
    (place / "link").symlink_to(place / "teacher")
    words = ["prune", "teacher", "--keep-heads", "0.5", "--pairs", "pairs.tsv", "--held-out", "0.3", "--out"]
    for out in ("teacher", "link", "teacher/../teacher", str(place / "teacher")):
        assert "is the model itself; name another folder" in refuse(capsys, *words, out)
    for out in (".", "teacher/..", "pairs.tsv"):
        assert "is there already and is not a model folder" in refuse(capsys, *words, out)
    assert (place / "teacher" / "model.safetensors").read_bytes() == before


def test_a_family_may_take_the_place_of_a_family_alone(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["prune", "teacher", "--pairs", "pairs.tsv", "--held-out", "0.3", "--repair-sentences", "8"]
    words += [
        "--vocabulary",
        "200",
        "--layers",
        "3",
        "--keep-hidden",
        "1",
        "--family",
        "0.8,0.6",
        "--out",
        "family",
        "--no-check",
    ]
    assert main(words) == 0
    assert main(words) == 0
    (place / "family" / "0.6" / "notes.txt").write_text("keep me")
    assert "0.6 is there already and holds notes.txt" in refuse(capsys, *words)
    (place / "family" / "0.6" / "notes.txt").unlink()
    (place / "family" / "more").symlink_to(place / "teacher")
    assert "a link, which is no part of a family" in refuse(capsys, *words)


def test_a_student_reads_and_is_saved_as_asked_and_scored_as_it_is_saved(place: Path, pairs: Pairs) -> None:
    student = secateur.prune("teacher", "pairs.tsv", max_length=6, dtype="float16", **HALF)
    assert "the student reads at most 6 tokens of a sentence, its teacher 64" in str(student.plan)
    student.save("small")
    read = load_encoder(TeacherSettings(model="small"))
    assert (read.max_length, read.dtype) == (6, "float16")
    assert np.array_equal(embed(read, pairs.ru), embed(student.encoder, pairs.ru))
    assert student.table is not None
    again = secateur.load("small")
    assert student.table.rows[-1]["mb"] == pytest.approx(again.mb) == pytest.approx(2 * student.parameters / 1e6)
    plain = secateur.prune("teacher", "pairs.tsv", **HALF)
    assert (plain.encoder.max_length, plain.encoder.dtype) == (64, "float32")
    assert "the student reads" not in str(plain.plan)


def test_a_float16_teacher_has_float16_students_of_half_the_megabytes(place: Path, teacher: TorchEncoder) -> None:
    half, _ = adapt(teacher, TeacherSettings(model="-", dtype="float16"))
    save_encoder(half, place / "half")
    sizes = {}
    for name in ("teacher", "half"):
        secateur.prune(name, "pairs.tsv", **HALF).save(f"{name}-student")
        sizes[name] = (place / f"{name}-student" / "model.safetensors").stat().st_size
    assert sizes["half"] < 0.6 * sizes["teacher"]


def test_what_was_asked_stands_beside_what_was_measured(teacher: TorchEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pruning, "time_cuts", lambda *_: [2.1])
    limits = Limits(params=100_000, mb=0.5, ms=2.0)
    (line,) = say_costs(teacher, limits, "torch", 1.9, ["one"])
    assert "parameters of 100,000, 0." in line
    assert line.endswith(" MB of 0.5, 1.90 ms a sentence of 2")
    assert len(say_costs(teacher, limits, "torch", 2.2, ["one"])) == 1  # by no more than two measurements differ
    assert say_costs(teacher, limits, "torch", 2.15, ["one"])[1].startswith("slower than was allowed: 2.15 and 2.10 ms")
    assert say_costs(teacher, Limits(), "torch", 1.0, []) == ()


def break_weight(encoder: TorchEncoder, layer: int, value: float) -> TorchEncoder:
    with torch.no_grad():
        find_layers(encoder.transformer)[layer].output.dense.weight[0, 0] = value
    return encoder


def test_scores_that_are_not_finite_are_named(make_encoder: MakeEncoder, pairs: Pairs) -> None:
    teacher = break_weight(make_encoder(), 1, np.nan)
    settings = collect_inputs(make_encoder(), pairs, heads=0.5).recipe.saliency
    with pytest.raises(
        InputError, match=r"saliency: the scores of the heads of layer 0 are not finite; criterion both"
    ):
        measure_saliency(teacher, pairs, settings, seed=0)
    with pytest.raises(InputError, match=r"saliency: the scores of the neurons of layer 1 are not finite"):
        measure_saliency(teacher, pairs, replace(settings, criterion="magnitude"), seed=0)
    with pytest.raises(InputError, match=r"layers: without layer 0 the vectors are not finite"):
        score_layers(teacher, pairs.en)


def test_a_repair_of_what_is_not_finite_names_the_layer(
    make_encoder: MakeEncoder, sentences: list[str], ragged: Kept
) -> None:
    teacher = break_weight(make_encoder(), 1, np.inf)
    student = secateur.pruning.slicing.slice_encoder(make_encoder(), ragged)
    with pytest.raises(InputError, match=r"repair: the .* layer [12] are not finite"):
        repair(student, teacher, ragged, sentences, RepairSettings(sentences=16))


def test_least_squares_of_huge_equal_and_empty_inputs_are_finite() -> None:
    generator = torch.Generator().manual_seed(0)
    one = torch.randn(4, 5, 1, generator=generator)
    for inputs in (one.expand(4, 5, 6), torch.zeros(4, 5, 6), 1e25 * one.expand(4, 5, 6), 1e30 * one.expand(4, 5, 40)):
        for systems in ((), (3,)):
            moments = Moments.empty(inputs.shape[-1], 2, systems=systems)
            rows = inputs if not systems else inputs.expand(3, *inputs.shape)
            moments.add(rows, rows[..., :2].clone())
            weight, bias = moments.solve(RepairSettings(sentences=4, ridge=1e-9))
            assert torch.isfinite(weight).all()
            assert torch.isfinite(bias).all()
    huge = torch.full((2, 3), 1e30)
    assert torch.equal(multiply(huge, huge.T), huge.double() @ huge.double().T)
    gram = torch.tensor([[2.0, 2.0], [2.0, 2.0]], dtype=torch.float64)
    assert torch.allclose(
        solve_exactly(gram, torch.tensor([[4.0], [4.0]], dtype=torch.float64)), torch.ones(2, 1).double()
    )

"""Training that cannot work or ceases to: what is refused before it, what is kept, what the result says of itself."""

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import MakeEncoder
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from secateur.config.distillation import DistillationSettings
from secateur.config.errors import InputError, QualityError
from secateur.config.reading import build_settings
from secateur.data.pairs import Pairs
from secateur.distillation import trainer
from secateur.distillation.batches import PairDataset
from secateur.distillation.checkpoints import find_checkpoint
from secateur.distillation.checks import check_distillation
from secateur.distillation.distillation import Distilled, distill
from secateur.distillation.losses import match_embedding
from secateur.distillation.targets import embed_corpus
from secateur.distillation.teachers import EncoderSource
from secateur.encoders.encoder import TorchEncoder, embed, tokenize
from secateur.pruning.selection import Kept
from secateur.pruning.slicing import slice_encoder

SETTINGS = DistillationSettings(steps=8, batch_size=8, learning_rate=1e-3, evaluate_every=2, schedule="constant")

Run = Callable[..., Distilled]


@pytest.fixture
def student(teacher: TorchEncoder, ragged: Kept) -> TorchEncoder:
    return slice_encoder(teacher, ragged)


@pytest.fixture
def run(teacher: TorchEncoder, student: TorchEncoder, pairs: Pairs, tmp_path: Path) -> Run:
    targets = embed_corpus(EncoderSource(teacher), [*pairs.en, *pairs.ru], tmp_path / "targets")
    wanted = embed(teacher, pairs.en)

    def judge(encoder: TorchEncoder) -> dict[str, float]:
        return {"cosine": float((embed(encoder, pairs.en) * wanted).sum(axis=1).mean())}

    def start(settings: DistillationSettings = SETTINGS, pupil: TorchEncoder = student, **changes: Any) -> Distilled:
        options: dict[str, Any] = {
            "folder": tmp_path / "run", "seed": 0, "validate": judge, "log_metrics": lambda values, step: None,
            "teacher": teacher,
        }  # fmt: skip
        return distill(pupil, pairs, targets, settings, **(options | changes))

    return start


def spoil_loss(monkeypatch: pytest.MonkeyPatch, *, step: int, by: float) -> None:
    calls = iter(range(1, 1000))

    def match(own: Tensor, wanted: Tensor) -> Tensor:
        return match_embedding(own, wanted) * (by if next(calls) == step else 1.0)

    monkeypatch.setattr(trainer, "match_embedding", match)


@pytest.mark.parametrize("by", [math.nan, math.inf])
def test_a_loss_that_diverges_names_its_step_and_keeps_the_last_good_checkpoint(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: float
) -> None:
    spoil_loss(monkeypatch, step=5, by=by)
    good = r"the loss of step 5 is not a finite number; the last good checkpoint is that of step 4; a lower"
    with pytest.raises(QualityError, match=good) as refused:
        run()
    assert "\n" not in str(refused.value)
    last = find_checkpoint(tmp_path / "run" / "checkpoints")
    assert last is not None
    assert last.endswith("checkpoint-4")
    weights = load_file(Path(last) / "model.safetensors")
    assert all(weight.isfinite().all() for weight in weights.values())


@pytest.mark.parametrize("keep", ["best", "last"])
def test_a_learning_rate_beyond_all_measure_ends_in_one_line(run: Run, keep: Any) -> None:
    with pytest.raises(
        QualityError, match=r"distillation diverged: .*step \d.* is not finite|.*step \d.* not a finite"
    ):
        run(replace(SETTINGS, learning_rate=1e38, keep=keep))


def test_weights_that_the_last_update_spoils_are_not_kept(run: Run) -> None:
    """The loss of one step is finite, as is its gradient; what it makes of the student is not."""
    with pytest.raises(QualityError, match="distillation diverged: after step 1 the student's vectors are not finite"):
        run(replace(SETTINGS, steps=1, learning_rate=3.4e38, keep="last"))


def test_a_score_that_is_not_finite_stops_training_before_its_checkpoint(run: Run, tmp_path: Path) -> None:
    scores = iter([0.5, 0.6, math.nan])

    def validate(encoder: TorchEncoder) -> Mapping[str, float]:
        return {"cosine": next(scores)}

    with pytest.raises(QualityError, match=r"after step 4 .* not finite; the last good checkpoint is that of step 2"):
        run(validate=validate)
    assert not (tmp_path / "run" / "checkpoints" / "checkpoint-4").exists()


def test_a_student_that_is_not_finite_is_not_trained(run: Run, student: TorchEncoder, tmp_path: Path) -> None:
    with torch.no_grad():
        next(student.transformer.parameters())[:] = math.nan
    with pytest.raises(QualityError, match="the vectors of the student that it starts from are not finite"):
        run()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("keep", "scores", "step", "cosine"),
    [
        ("best", [0.9, 0.5, 0.8], 0, 0.9),
        ("best", [0.4, 0.5, 0.8], 4, 0.8),
        ("best", [0.4, 0.8, 0.5], 2, 0.8),
        ("last", [0.4, 0.8, 0.5, 0.5], 4, 0.5),
        ("last", [0.9, 0.8, 0.5, 0.5], 4, 0.5),
    ],
)
def test_the_result_says_what_happened(
    run: Run, student: TorchEncoder, keep: Any, scores: list[float], step: int, cosine: float, caplog: Any
) -> None:
    left = iter(scores)
    kept = run(replace(SETTINGS, steps=4, keep=keep), validate=lambda _: {"cosine": next(left)})
    assert (kept.step, kept.cosine, kept.start_cosine, kept.trained_steps) == (step, cosine, scores[0], 4)
    assert kept.thrown_away == (kept.encoder is student) == (step == 0)
    assert kept.lost == (cosine < scores[0]) == ("made the student worse" in caplog.text)


def test_no_distillation_is_not_one_thrown_away(run: Run) -> None:
    kept = run(replace(SETTINGS, steps=0))
    assert (kept.step, kept.trained_steps, kept.thrown_away, kept.lost) == (0, 0, False, False)


FAILURES = {
    "the system's": OSError(28, "No space left on device"),
    "of safetensors": SafetensorError("I/O error: No space left on device (os error 28)"),
    "of torch": RuntimeError("[enforce fail at inline_container.cc:664] . PytorchStreamWriter failed writing file"),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_a_checkpoint_that_cannot_be_written_is_one_line_and_leaves_those_before(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: str
) -> None:
    written, calls = torch.save, iter(range(1000))

    def save(content: Any, path: Any, **keys: Any) -> None:
        if next(calls) >= 3:  # the three files of step 2 are written
            Path(path).write_bytes(b"half")
            raise FAILURES[failure]
        written(content, path, **keys)

    monkeypatch.setattr(torch, "save", save)
    with pytest.raises(InputError, match=r"checkpoint-4: the checkpoint cannot be written: .*") as refused:
        run()
    assert "\n" not in str(refused.value)
    folder = tmp_path / "run" / "checkpoints"
    assert [path.name for path in folder.iterdir()] == ["checkpoint-2"]
    assert find_checkpoint(folder) == str(folder / "checkpoint-2")


def test_checkpoints_follow_the_umask(run: Run, tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        run(replace(SETTINGS, steps=2))
    finally:
        os.umask(before)
    files = [path for path in (tmp_path / "run" / "checkpoints").rglob("*") if path.is_file()]
    assert len(files) > 3
    assert {path.stat().st_mode & 0o777 for path in files} == {0o644}


def test_training_reads_as_the_encoder_limited_and_the_student_keeps_its_length(
    run: Run, student: TorchEncoder, pairs: Pairs
) -> None:
    student.model.prompts["query"], student.model.default_prompt_name = "The cat: ", "query"
    try:
        read = PairDataset(student, pairs, None, 9).pieces
        wanted = tokenize(student.limited(9), [*pairs.en, *pairs.ru])
        assert [row.tolist() for row in read] == wanted
        prompt = student.tokenizer("The cat:", add_special_tokens=False)["input_ids"]
        assert all(row.tolist()[1 : 1 + len(prompt)] == prompt for row in read)
        assert max(map(len, read)) == 9 < max(map(len, tokenize(student, [*pairs.en, *pairs.ru])))
    finally:
        student.model.default_prompt_name = None
    kept = run(replace(SETTINGS, steps=2, keep="last", max_length=9))
    assert kept.encoder.max_length == student.max_length == 64
    long = " ".join(pairs.en)
    assert len(tokenize(kept.encoder, [long])[0]) == 64


def test_a_length_beyond_the_encoders_is_the_encoders(student: TorchEncoder, pairs: Pairs) -> None:
    long = replace(pairs, en=[" ".join(pairs.en)] * len(pairs))
    assert max(map(len, PairDataset(student, long, None, 500).pieces)) == 64


REFUSALS: dict[str, tuple[dict[str, Any], str]] = {
    "a batch over the corpus": ({"batch_size": 4096}, r"distillation\.batch_size: 4096 exceeds the corpus's 32 rows"),
    "a batch over what weights leave": (
        {"batch_size": 32, "source_weights": {"toy": 0.5}},
        r"distillation\.batch_size: 32 exceeds the corpus's 16 rows",
    ),
    "a batch in uneven parts": ({"accumulation": 3}, r"batch_size: 8 is not divisible by 1 processes x 3"),
    "a source that is not there": (
        {"source_weights": {"news": 2.0}},
        r"distillation\.source_weights: no source news; there are toy",
    ),
    "no room for a token": ({"max_length": 2}, r"distillation\.max_length: 2 leaves no token to a sentence beside 2"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_cannot_work_is_refused_before_anything_is_touched(case: str, pairs: Pairs, student: TorchEncoder) -> None:
    changes, complaint = REFUSALS[case]
    check_distillation(pairs, SETTINGS, student=student, teacher=student)
    with pytest.raises(InputError, match=complaint) as refused:
        check_distillation(pairs, replace(SETTINGS, **changes), student=student, teacher=student)
    assert "\n" not in str(refused.value)


def test_matching_needs_what_it_compares(
    run: Run, pairs: Pairs, student: TorchEncoder, make_encoder: MakeEncoder, tmp_path: Path
) -> None:
    tokens = replace(SETTINGS, matching="tokens")
    with pytest.raises(InputError, match=r"distillation\.matching: tokens needs a teacher's hidden states"):
        run(tokens, teacher=None)
    wide = make_encoder(hidden=40)
    with pytest.raises(
        InputError, match=r"distillation\.matching: tokens needs hidden states of one width; .* 32, .* 40"
    ):
        check_distillation(pairs, tokens, student=student, teacher=wide)
    with pytest.raises(InputError, match=r"distillation\.matching: the student's vectors have 32 dimensions, .* 40"):
        check_distillation(pairs, SETTINGS, student=student, teacher=wide)
    wide.tokenizer.add_tokens(["newword"])
    with pytest.raises(InputError, match=r"distillation\.matching: tokens needs one vocabulary"):
        check_distillation(pairs, tokens, student=make_encoder(hidden=40), teacher=wide)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "values",
    [{"temperature": math.inf}, {"temperature": 0.0}, {"source_weights": {"toy": 1e300}}, {"learning_rate": math.nan}],
    ids=lambda values: "-".join(values),
)
def test_numbers_beyond_sense_are_refused_by_their_key(values: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(values))):
        build_settings(DistillationSettings, {"steps": 1, **values}, origin="recipe")


def test_a_contrastive_loss_in_parts_says_how_many_it_compares(run: Run, caplog: Any) -> None:
    run(replace(SETTINGS, steps=1, similarity="contrastive", accumulation=2))
    assert "a pair is compared with the 4 pairs of its part of the batch, of 8" in caplog.text


def test_targets_of_another_length_are_filed_elsewhere(teacher: TorchEncoder, pairs: Pairs, tmp_path: Path) -> None:
    whole = embed_corpus(EncoderSource(teacher), pairs.en, tmp_path)
    short = embed_corpus(EncoderSource(teacher.limited(5)), pairs.en, tmp_path)
    rows = range(len(pairs))
    np.testing.assert_allclose(short[rows], embed(teacher.limited(5), pairs.en), atol=2**-11)
    assert np.abs(whole[rows] - short[rows]).max() > 0.01

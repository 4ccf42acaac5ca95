"""Distillation on toys: what the loss is a mean over, what is kept, what a checkpoint must be."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from secateur.config.distillation import DistillationSettings
from secateur.config.errors import InputError
from secateur.data.pairs import Pairs
from secateur.distillation import trainer
from secateur.distillation.batches import LengthSampler, PairDataset
from secateur.distillation.checkpoints import find_checkpoint
from secateur.distillation.distillation import Distilled, distill
from secateur.distillation.targets import Targets, embed_corpus
from secateur.distillation.teachers import EncoderSource
from secateur.distillation.trainer import VectorModel
from secateur.encoders.encoder import TorchEncoder, embed
from secateur.encoders.padding import split_by_length
from secateur.pruning.selection import Kept
from secateur.pruning.slicing import slice_encoder
from secateur.runs.bookkeeping import rows_to_train

SETTINGS = DistillationSettings(
    steps=20, batch_size=8, learning_rate=1e-3, w_similarity=0.1, w_output=1.0, evaluate_every=10, schedule="constant"
)


class Curve:
    """A log that keeps its lines."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []

    def __call__(self, values: Any, step: int) -> None:
        self.lines.append({"step": step, **values})

    def of(self, name: str) -> list[float]:
        return [line[name] for line in self.lines if name in line]


@pytest.fixture
def student(teacher: TorchEncoder, ragged: Kept) -> TorchEncoder:
    return slice_encoder(teacher, ragged)


@pytest.fixture
def targets(teacher: TorchEncoder, pairs: Pairs, tmp_path: Path) -> Targets:
    return embed_corpus(EncoderSource(teacher), [*pairs.en, *pairs.ru], tmp_path / "targets")


@pytest.fixture
def judge(teacher: TorchEncoder, pairs: Pairs) -> Callable[[TorchEncoder], dict[str, float]]:
    wanted = embed(teacher, pairs.en)
    return lambda encoder: {"cosine": float((embed(encoder, pairs.en) * wanted).sum(axis=1).mean())}


@pytest.fixture
def run(
    teacher: TorchEncoder, student: TorchEncoder, pairs: Pairs, targets: Targets, judge: Any, tmp_path: Path
) -> Callable[..., tuple[Distilled, Curve]]:
    def start(
        settings: DistillationSettings = SETTINGS, rows: Pairs = pairs, pupil: TorchEncoder = student, **changes: Any
    ) -> tuple[Distilled, Curve]:
        curve = Curve()
        options: dict[str, Any] = {
            "folder": tmp_path / "run", "seed": 0, "validate": judge, "log_metrics": curve, "teacher": teacher,
        }  # fmt: skip
        wanted = None if settings.matching == "tokens" else targets
        return distill(pupil, rows, wanted, settings, **(options | changes)), curve

    return start


@pytest.mark.parametrize(
    "changes",
    [{}, {"matching": "tokens"}, {"similarity": "contrastive"}, {"optimizer": "muon"}],
    ids=["embedding", "tokens", "contrastive", "muon"],
)
def test_twenty_steps_lower_the_loss(run: Any, changes: dict[str, Any]) -> None:
    _, curve = run(replace(SETTINGS, steps=40, evaluate_every=20, **changes))
    losses = curve.of("train/loss")
    assert losses[-1] < losses[0]


def test_the_loss_is_the_weighted_sum_of_its_logged_terms(run: Any) -> None:
    _, curve = run()
    for line in curve.lines:
        if "train/loss" in line:
            expected = 0.1 * line["train/similarity"] + 1.0 * line["train/output"]
            assert line["train/loss"] == pytest.approx(expected, rel=1e-5)


def test_accumulated_batches_give_the_curve_of_one_batch(run: Any, tmp_path: Path, pairs: Pairs) -> None:
    uneven = replace(pairs, paired=[number % 3 != 0 for number in range(len(pairs))])
    whole, curve = run(rows=uneven, folder=tmp_path / "whole")
    parts, other = run(replace(SETTINGS, accumulation=4), rows=uneven, folder=tmp_path / "parts")
    assert other.of("train/loss") == pytest.approx(curve.of("train/loss"), rel=1e-4)
    assert parts.cosine == pytest.approx(whole.cosine, abs=1e-4)


def test_the_student_given_is_not_touched(run: Any, student: TorchEncoder) -> None:
    before = {name: value.clone() for name, value in student.transformer.state_dict().items()}
    run()
    after = student.transformer.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_the_best_held_out_checkpoint_is_returned(run: Any, judge: Any) -> None:
    result, curve = run(replace(SETTINGS, learning_rate=3e-3, steps=40))
    assert result.cosine == max(curve.of("validation/cosine"))
    assert judge(result.encoder)["cosine"] == pytest.approx(result.cosine, abs=1e-6)


def test_a_student_that_training_spoils_is_kept_as_it_was(run: Any, teacher: TorchEncoder, caplog: Any) -> None:
    result, curve = run(pupil=teacher)  # the similarity term leads away from the teacher
    assert result.step == 0
    assert result.encoder is teacher
    assert curve.of("validation/cosine")[0] == pytest.approx(1, abs=1e-5)
    assert "did not improve" in caplog.text


def test_the_last_checkpoint_is_kept_where_the_recipe_says_so(run: Any, judge: Any, teacher: TorchEncoder) -> None:
    result, curve = run(replace(SETTINGS, keep="last"), pupil=teacher)  # which training spoils
    assert result.step == SETTINGS.steps
    assert result.cosine == judge(result.encoder)["cosine"] == curve.of("validation/cosine")[-1] < 0.999


def test_no_steps_return_the_student(run: Any, student: TorchEncoder) -> None:
    result, curve = run(replace(SETTINGS, steps=0))
    assert result.encoder is student
    assert [line["step"] for line in curve.lines] == [0]


def test_a_batch_that_cannot_be_split_is_refused(run: Any) -> None:
    with pytest.raises(InputError, match=r"distillation.batch_size: 8 is not divisible by 1 processes x 3"):
        run(replace(SETTINGS, accumulation=3))


def test_a_corpus_smaller_than_a_batch_is_refused(run: Any) -> None:
    with pytest.raises(InputError, match="exceeds the corpus's 32 rows"):
        run(replace(SETTINGS, batch_size=64))


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_resuming_gives_the_weights_of_a_run_never_stopped(run: Any, tmp_path: Path, optimizer: str) -> None:
    settings = replace(SETTINGS, steps=40, optimizer=optimizer, embedding_learning_rate=2e-3)
    whole, _ = run(settings, folder=tmp_path / "whole")
    run(settings, folder=tmp_path / "stopped")
    for late in (tmp_path / "stopped" / "checkpoints").glob("checkpoint-[34]0"):
        (late / "trainer_state.json").unlink()  # as if killed while this one was written
    resumed, _ = run(settings, folder=tmp_path / "stopped", resume=True)
    expected = whole.encoder.transformer.state_dict()
    for name, value in resumed.encoder.transformer.state_dict().items():
        assert torch.equal(value, expected[name]), name


def test_a_half_written_checkpoint_is_passed_over(run: Any, tmp_path: Path) -> None:
    run(replace(SETTINGS, steps=4, evaluate_every=2))
    folder = tmp_path / "run" / "checkpoints"
    assert find_checkpoint(folder) == str(folder / "checkpoint-4")
    names = ("trainer_state.json", "model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth")
    for number, name in enumerate(names):
        late = folder / f"checkpoint-{10 + number}"
        shutil.copytree(folder / "checkpoint-4", late)
        content = (late / name).read_bytes()
        (late / name).write_bytes(content[: len(content) * 2 // 3])
    (folder / "checkpoint-140").mkdir()
    (folder / "checkpoint-of-mine").mkdir()
    assert find_checkpoint(folder) == str(folder / "checkpoint-4")
    assert find_checkpoint(tmp_path / "nothing") is None


def test_checkpoints_hold_weights_as_safetensors(run: Any, tmp_path: Path) -> None:
    run(folder=tmp_path / "run")
    (folder, *_) = (tmp_path / "run" / "checkpoints").glob("checkpoint-*")
    names = {path.name for path in folder.iterdir()}
    assert "model.safetensors" in names
    assert "training_args.bin" not in names
    assert json.loads((folder / "trainer_state.json").read_text())["global_step"] in (10, 20)


def test_global_batches_do_not_depend_on_how_they_are_split() -> None:
    lengths = np.random.default_rng(0).integers(3, 40, 1000)
    order = list(LengthSampler(lengths, 16, seed=1))
    assert len(order) == len(set(order)) == 992
    batches = np.array(order).reshape(-1, 16)
    spread = np.mean([np.ptp(lengths[batch]) for batch in batches])
    assert spread < np.ptp(lengths) / 4
    again, later = LengthSampler(lengths, 16, seed=1), LengthSampler(lengths, 16, seed=1)
    later.set_epoch(1)
    assert list(again) == order
    assert list(later) != order


def test_a_batch_in_parts_gives_what_it_gives_whole(
    student: TorchEncoder, pairs: Pairs, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = PairDataset(student, pairs, None, 16).collate(list(range(8)))
    mask = batch["attention_mask"]
    assert len(set(mask.sum(dim=1).tolist())) > 2
    given = []
    for pieces, kept in ((10_000, 10_000), (20, 10_000), (20, 0)):  # whole, in parts, in parts that are run again
        monkeypatch.setattr(trainer, "PART_PIECES", pieces)
        monkeypatch.setattr(trainer, "KEPT_PIECES", kept)
        student.model.zero_grad()
        vectors, tokens = VectorModel(student)(batch["input_ids"], mask)
        assert tokens.shape[:2] == mask.shape
        (vectors[:, 0].sum() + tokens[mask.bool()].square().mean()).backward()
        gradients = [weight.grad for weight in student.model.parameters() if weight.grad is not None]
        given.append([vectors, tokens[mask.bool()], *(gradient.clone() for gradient in gradients)])
    for whole, *others in zip(*given, strict=True):
        for other in others:
            torch.testing.assert_close(other, whole, rtol=1e-4, atol=1e-6)


def test_of_a_batch_of_long_texts_little_is_kept_for_the_way_back(
    student: TorchEncoder, pairs: Pairs, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = PairDataset(student, pairs, None, 16).collate(list(range(8)))
    monkeypatch.setattr(trainer, "PART_PIECES", 20)
    weights = {weight.data_ptr() for weight in student.model.parameters()}
    kept: list[int] = []

    def count(value: torch.Tensor) -> torch.Tensor:
        kept[-1] += value.nbytes if value.data_ptr() not in weights else 0
        return value

    for pieces in (10_000, 0):
        monkeypatch.setattr(trainer, "KEPT_PIECES", pieces)
        kept.append(0)
        with torch.autograd.graph.saved_tensors_hooks(count, lambda value: value):
            VectorModel(student)(batch["input_ids"], batch["attention_mask"])
    assert 0 < kept[1] < kept[0] / 10


def test_parts_hold_every_row_once_and_no_more_pieces_than_allowed() -> None:
    lengths = np.array([3, 9, 4, 9, 2, 30, 4])
    parts = split_by_length(lengths, 18)
    assert [longest for _, longest in parts] == [30, 9, 4]  # a row longer than a part is one by itself
    assert [rows.tolist() for rows, _ in parts] == [[5], [1, 3], [2, 6, 0, 4]]


def test_an_epoch_draws_rows_by_their_weights() -> None:
    lengths, weights = np.full(1000, 7), np.repeat([0.0, 0.25, 1.0, 2.5], 250)
    sampler = LengthSampler(lengths, 1, seed=1, weights=weights)
    drawn = np.zeros(1000)
    for epoch in range(40):
        sampler.set_epoch(epoch)
        times = np.bincount(list(sampler), minlength=1000)
        assert times.sum() == 937  # of 937.5
        assert (np.abs(times - weights) >= 1).sum() <= 1  # the last row drawn may be cut short
        drawn += times
    assert np.abs(drawn.reshape(4, 250).mean(axis=1) / 40 - [0, 0.25, 1, 2.5]).max() < 0.02


def test_as_many_rows_are_kept_as_the_weights_let_the_steps_see() -> None:
    pairs = Pairs(["a"] * 100, ["б"] * 100, ["rare", "common"] * 50, [True] * 100)
    settings = replace(SETTINGS, steps=5, batch_size=8)
    assert len(rows_to_train(pairs, settings)) == 40
    assert len(rows_to_train(pairs, replace(settings, source_weights={"rare": 3, "common": 0.5}))) == 23
    assert len(rows_to_train(pairs, replace(settings, source_weights={"common": 0}))) == 79
    with pytest.raises(InputError, match="source_weights: no source typo; there are common, rare"):
        rows_to_train(pairs, replace(settings, source_weights={"typo": 1}))


def test_a_batch_holds_both_sides_with_their_targets(student: TorchEncoder, pairs: Pairs, targets: Targets) -> None:
    dataset = PairDataset(student, pairs, targets, max_length=16)
    batch = dataset.collate([3, 5])
    assert batch["input_ids"].shape[0] == 4
    assert batch["attention_mask"].sum(dim=1).max() <= 16
    wanted = targets[[3, 5, 3 + len(pairs), 5 + len(pairs)]]
    assert torch.equal(batch["targets"], torch.from_numpy(wanted))

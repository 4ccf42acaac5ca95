"""Limits: what is saved costs no more than was asked, counted and weighed in the file that was asked for."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import MakeEncoder
from sentence_transformers.base.modules import Dense
from test_planning import collect_inputs
from torch import nn

from secateur.config.errors import InputError, QualityError
from secateur.config.pruning import BudgetSettings
from secateur.data.pairs import Pairs
from secateur.encoders.cost import count_parameters as count_real
from secateur.encoders.encoder import TorchEncoder, embed
from secateur.encoders.loading import load_encoder
from secateur.encoders.saving import save_encoder
from secateur.encoders.students import draw_weights
from secateur.encoders.surgery import rebuild
from secateur.pruning import cutting, latency, plan
from secateur.pruning.budget import make_grid, name_sizes
from secateur.pruning.cutting import cut_and_repair, cut_nested_family
from secateur.pruning.inputs import PlanningInputs
from secateur.pruning.limits import check_limits, weigh
from secateur.pruning.plan import check_budget, make_plan, prepare_solver
from secateur.pruning.predictions import Limits, Losses
from secateur.pruning.selection import Kept, choose_by_layer
from secateur.pruning.sizes import Sizes, count_parameters, describe
from secateur.pruning.slicing import slice_encoder


def add_dense(encoder: TorchEncoder, *widths: int, bias: bool = True) -> TorchEncoder:
    """Return an encoder with these `Dense` modules behind its pooling, or its pooler."""
    torch.manual_seed(0)
    modules = list(encoder.model)
    at = 1 if encoder.uses_pooler else 2
    width, added = encoder.dimension, []
    for each in widths:
        added.append(Dense(width, each, bias=bias, activation_function=nn.Tanh()))
        width = each
    return rebuild(encoder, [*modules[:at], *added, *modules[at:]])


def weigh_folder(encoder: TorchEncoder, folder: Path) -> int:
    save_encoder(encoder, folder)
    return sum(path.stat().st_size for path in folder.rglob("*.safetensors"))


@pytest.mark.parametrize("widths", [(), (16,), (24, 40)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("pooling", ["mean", "pooler"])
def test_everything_behind_the_layers_is_counted_at_every_width(
    make_encoder: MakeEncoder, pooling: str, widths: tuple[int, ...], bias: bool
) -> None:
    teacher = add_dense(make_encoder(pooling=pooling), *widths, bias=bias)
    shape = describe(teacher)
    assert count_parameters(shape.whole, shape) == count_real(teacher)
    for hidden in (None, tuple(range(8, 24))):
        kept = Kept(((0,), (1, 2), ()), ((1, 2), (), (5,)), hidden=hidden)
        student = slice_encoder(teacher, kept)
        sizes = Sizes(3, 3, 3, 16 if hidden else 32, shape.whole.pieces, None)
        assert count_parameters(sizes, shape) == count_real(student)
        again = describe(student)
        assert count_parameters(again.whole, again) == count_real(student)
        assert count_parameters(replace(again.whole, hidden=8), again) == count_real(
            slice_encoder(student, Kept(((0,), (0, 1), ()), ((0, 1), (), (0,)), hidden=tuple(range(8))))
        )


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("family", ["bert", "distilbert", "xlm-roberta"])
def test_a_folder_is_weighed_without_writing_it(
    make_encoder: MakeEncoder, ragged: Kept, tmp_path: Path, family: str, dtype: Any
) -> None:
    teacher = replace(add_dense(make_encoder(family), 16), dtype=dtype)
    for number, encoder in enumerate((teacher, slice_encoder(teacher, replace(ragged, hidden=tuple(range(16)))))):
        found = weigh_folder(encoder, tmp_path / str(number))
        assert found <= weigh(encoder, "torch") <= found + 128


@pytest.fixture
def known_losses(monkeypatch: pytest.MonkeyPatch) -> None:
    """What axes lose is given, not tried: limits are kept whatever it is."""
    curve = {0.5: 0.1, 0.25: 0.3}
    losses = Losses(dict.fromkeys(("layers", "heads", "neurons", "hidden", "pieces", "rank"), curve))
    monkeypatch.setattr(plan, "measure_losses", lambda *_: losses)


@pytest.mark.usefixtures("known_losses")
@pytest.mark.parametrize("seed", range(16))
def test_no_student_costs_more_than_was_asked(
    make_encoder: MakeEncoder, pairs: Pairs, tmp_path: Path, seed: int
) -> None:
    draw = np.random.default_rng(seed)
    teacher = make_encoder(
        str(draw.choice(["bert", "distilbert", "roberta"])), layers=int(draw.integers(2, 5)), heads=4, hidden=32,
        neurons=int(draw.integers(20, 90)), pooling="mean",
    )  # fmt: skip
    if draw.random() < 0.6:
        teacher = add_dense(teacher, *draw.integers(8, 48, int(draw.integers(1, 3))).tolist())
    if draw.random() < 0.5:
        layers = describe(teacher).whole.layers
        heads = tuple(tuple(range(int(draw.integers(1, 5)))) for _ in range(layers))
        neurons = tuple(tuple(range(int(draw.integers(1, 20)))) for _ in range(layers))
        teacher = slice_encoder(teacher, Kept(heads, neurons))
    teacher = replace(teacher, dtype=str(draw.choice(["float32", "float16", "bfloat16"])))
    budget: dict[str, Any] = {"ranking": str(draw.choice(["global", "layer"])), "rounds": int(draw.integers(1, 3))}
    share = float(draw.uniform(0.35, 0.9))
    by_mb = seed % 2 == 0
    limit = share * weigh(teacher, "torch") / 1e6 if by_mb else int(share * count_real(teacher))
    inputs = collect_inputs(teacher, pairs, **{"mb" if by_mb else "params": limit}, **budget)
    student = cut_and_repair(inputs, make_plan(inputs).sizes).repaired
    found = weigh_folder(student, tmp_path / "student")
    assert (found / 1e6 if by_mb else count_real(student)) <= limit
    read = load_encoder(replace(inputs.recipe.teacher, model=str(tmp_path / "student")))
    assert read.dtype == teacher.dtype
    assert np.allclose(embed(read, pairs.ru[:4]), embed(student, pairs.ru[:4]), atol=1e-6)  # scored as it is saved


@pytest.mark.usefixtures("known_losses")
@pytest.mark.parametrize("runtime", ["onnx", "onnx-int8"])
def test_megabytes_are_those_of_the_file_that_was_asked_for(
    make_encoder: MakeEncoder, pairs: Pairs, runtime: str
) -> None:
    pytest.importorskip("onnxruntime")
    teacher = make_encoder(layers=4, hidden=32, neurons=256)
    limit = 0.6 * weigh(teacher, runtime) / 1e6
    inputs = collect_inputs(teacher, pairs, mb=limit, runtime=runtime)
    found = make_plan(inputs)
    student = cut_and_repair(inputs, found.sizes).repaired
    assert found.mb == weigh(student, runtime) / 1e6 <= limit
    assert found.mb > 0.75 * limit
    if runtime == "onnx-int8":
        assert weigh(student, "torch") / 1e6 > limit  # the floats may weigh more: they were not asked for


def test_what_costs_more_than_allowed_is_not_kept(teacher: TorchEncoder, pairs: Pairs) -> None:
    allowed = count_real(teacher) - 1
    with pytest.raises(QualityError, match=rf"{allowed + 1:,} parameters, {allowed:,} were allowed: it is not kept"):
        check_limits(teacher, Limits(params=allowed), "torch")
    with pytest.raises(QualityError, match=r"MB, 0\.01 MB were allowed: it is not kept"):
        check_limits(teacher, Limits(mb=0.01), "torch")
    inputs = collect_inputs(teacher, pairs, share=0.5)
    with pytest.raises(QualityError, match="were allowed"):
        cut_and_repair(inputs, describe(teacher).whole)


@pytest.mark.parametrize("count", range(1, 13))
def test_the_same_share_of_each_layer_is_exactly_what_was_asked(count: int) -> None:
    layers = [torch.rand(size, generator=torch.Generator().manual_seed(size)) for size in (4, 4, 3, 1)]
    kept = choose_by_layer(layers, count)
    assert sum(map(len, kept)) == count
    for scores, chosen in zip(layers, kept, strict=True):
        assert abs(len(chosen) - count * len(scores) / 12) < 1
        assert scores[list(chosen)].sum() == scores.topk(len(chosen)).values.sum()


@pytest.mark.usefixtures("known_losses")
def test_each_of_a_family_keeps_to_its_own_share(make_encoder: MakeEncoder, pairs: Pairs) -> None:
    teacher = add_dense(make_encoder(), 24)
    inputs = collect_inputs(teacher, pairs, share=0.8, ranking="layer")
    limits = [Limits(params=int(share * count_real(teacher))) for share in (0.8, 0.5, 0.35)]
    solver = prepare_solver(inputs, limits)
    sizes = []
    for each in limits:
        sizes.append(solver.solve(each, within=sizes[-1] if sizes else None).sizes)
    for each, student in zip(limits, cut_nested_family(inputs, sizes), strict=True):
        check_limits(student.repaired, each, "torch")


def test_rows_that_stand_for_no_token_are_no_vocabulary_to_choose_from(teacher: TorchEncoder) -> None:
    shape = describe(teacher)
    more = replace(shape, whole=replace(shape.whole, pieces=shape.whole.pieces + 60), tokens=shape.whole.pieces)
    sizes = make_grid(more, least_pieces=100).pieces
    assert all(each <= shape.whole.pieces or each == more.whole.pieces for each in sizes)
    assert name_sizes(BudgetSettings(vocabulary=shape.whole.pieces + 9), more).pieces == shape.whole.pieces


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        ({"rank": 16, "hidden": 0.5}, r"budget\.rank: 16 asked for, at most 15 can be kept"),
        ({"rank": 32}, r"budget\.rank: 32 asked for, at most 31 can be kept"),
        ({"heads": 0.01}, r"budget\.heads: 0 of 12 heads leaves none"),
        ({"neurons": 0.001, "layers": 2}, r"budget\.neurons: 0 of 96 neurons leaves none"),
        ({"vocabulary": 10**6}, r"budget\.vocabulary: 1000000 asked for, at most"),
        ({"vocabulary": 9}, r"budget\.vocabulary: 9 asked for, but special tokens and the letters of en, ru alone are"),
        ({"params": 100}, r"100 parameters cannot be reached; the smallest student has"),
        ({"mb": 1e-4}, r"0\.0001 MB cannot be reached; the smallest student has"),
        ({"ms": 1e-3}, r"0\.001 ms .* cannot be reached; .* the fastest takes .* ms a sentence, the teacher itself"),
    ],
)
def test_what_cannot_be_met_is_refused_before_saliency_is_measured(
    teacher: TorchEncoder, pairs: Pairs, monkeypatch: pytest.MonkeyPatch, budget: dict[str, Any], message: str
) -> None:
    monkeypatch.setattr(latency, "time_encoders", lambda encoders, *_, runtime: [1.0] * len(encoders))
    with pytest.raises(InputError, match=message):
        check_budget(teacher, {"en": pairs.en, "ru": pairs.ru}, pairs.en, BudgetSettings(**budget))


@pytest.mark.usefixtures("known_losses")
def test_the_times_that_a_check_measured_are_not_measured_again(
    teacher: TorchEncoder, pairs: Pairs, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = collect_inputs(teacher, pairs, ms=50.0)
    times = check_budget(teacher, inputs.texts, inputs.judged, inputs.budget)
    monkeypatch.delattr(plan, "measure_times")
    assert make_plan(replace(inputs, times=times)).ms is not None


@pytest.mark.usefixtures("known_losses")
def test_a_rank_that_a_narrow_student_cannot_have_is_not_planned(teacher: TorchEncoder, pairs: Pairs) -> None:
    inputs = collect_inputs(teacher, pairs, params=int(0.5 * count_real(teacher)), rank=20)
    cut_result = cut_and_repair(inputs, make_plan(inputs).sizes)
    assert count_real(cut_result.repaired) <= 0.5 * count_real(teacher)


def test_a_repair_that_loses_on_held_out_sentences_is_not_kept(
    teacher: TorchEncoder, pairs: Pairs, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    inputs = collect_inputs(teacher, pairs, heads=0.75)
    sizes = make_plan(inputs).sizes
    good = cut_and_repair(inputs, sizes)
    assert good.rejected is None

    def spoil(student: TorchEncoder, *arguments: Any, **named: Any) -> TorchEncoder:
        return draw_weights(student, seed=1)

    monkeypatch.setattr(cutting, "repair", spoil)
    bad = cut_and_repair(inputs, sizes)
    assert bad.repaired is bad.pruned
    assert bad.rejected is not None
    assert np.array_equal(embed(bad.repaired, pairs.en), embed(good.pruned, pairs.en))
    assert "the repair is not kept: on 64 held-out sentences the cosine to the teacher is" in caplog.text


def test_ordinary_cuts_are_not_changed_by_a_check(teacher: TorchEncoder, pairs: Pairs) -> None:
    inputs = collect_inputs(teacher, pairs, heads=0.5, neurons=0.5)
    sizes = make_plan(inputs).sizes
    stays = cut_and_repair(inputs, sizes)
    bare = cut_and_repair(inputs, sizes, sentences=inputs.recipe.repair.sentences)
    for one, other in zip(stays.repaired.model.parameters(), bare.repaired.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_without_held_out_sentences_a_repair_is_kept(teacher: TorchEncoder, pairs: Pairs) -> None:
    inputs = collect_inputs(teacher, pairs, heads=0.5)
    empty = PlanningInputs(teacher, inputs.saliency, pairs, [], inputs.recipe)
    assert cut_and_repair(empty, make_plan(empty).sizes).rejected is None

"""Plans: what a budget names, what a limit leaves, cuts in rounds; everything on toys, cut for real."""

import gc
import weakref
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from conftest import MakeEncoder

from secateur.config.errors import InputError
from secateur.config.reading import build_pruning_recipe
from secateur.data.pairs import Pairs
from secateur.encoders.cost import count_parameters
from secateur.encoders.encoder import TorchEncoder, embed
from secateur.pruning import cutting, latency
from secateur.pruning.cutting import (
    choose_layers,
    cut_and_repair,
    cut_nested_family,
    interpolate_cubically,
    interpolate_geometrically,
)
from secateur.pruning.inputs import PlanningInputs
from secateur.pruning.plan import make_plan, prepare_solver
from secateur.pruning.predictions import Limits, Plan
from secateur.pruning.repair import repair
from secateur.pruning.saliency import measure_saliency
from secateur.pruning.selection import Kept
from secateur.pruning.sizes import Sizes, describe
from secateur.reports.figures.costs import pareto_front


def collect_inputs(teacher: TorchEncoder, pairs: Pairs, **budget: object) -> PlanningInputs:
    recipe = build_pruning_recipe(
        {
            "name": "toy",
            "teacher": {"model": "toy"},
            "corpus": {"files": ["pairs.tsv"]},
            "saliency": {"pairs": 16},
            "budget": budget,
            "repair": {"sentences": 64, "ridge": 1e-2},
            "distillation": {"steps": 0, "batch_size": 1, "learning_rate": 0.0},
        },
        origin="test",
    )
    saliency = measure_saliency(teacher, pairs, recipe.saliency, seed=0)
    return PlanningInputs(teacher, saliency, pairs, [*pairs.en, *pairs.ru], recipe)


def test_without_a_limit_named_axes_are_cut_and_the_rest_stays_whole(teacher: TorchEncoder, pairs: Pairs) -> None:
    inputs = collect_inputs(teacher, pairs, heads=0.5, hidden=0.75, layers=2)
    plan = make_plan(inputs)
    assert plan.sizes == Sizes(2, 4, 96, 24, len(teacher.tokenizer), None)
    cut_result = cut_and_repair(inputs, plan.sizes)
    assert describe(cut_result.repaired).whole == plan.sizes
    assert count_parameters(cut_result.repaired) == plan.params


def test_a_vocabulary_is_trimmed_for_the_sources_that_training_draws(teacher: TorchEncoder, pairs: Pairs) -> None:
    half = len(pairs) // 2
    named = replace(pairs, source=["drawn"] * half + ["left"] * (len(pairs) - half))
    inputs = collect_inputs(teacher, named, heads=0.5)
    distillation = replace(inputs.recipe.distillation, source_weights={"left": 0.0})
    inputs = replace(inputs, recipe=replace(inputs.recipe, distillation=distillation))
    assert inputs.texts == {"en": pairs.en[:half], "ru": pairs.ru[:half]}


@pytest.mark.parametrize("share", [0.8, 0.5, 0.25])
def test_what_is_planned_under_a_limit_fits_and_all_axes_are_cut_where_it_is_tight(
    teacher: TorchEncoder, pairs: Pairs, share: float
) -> None:
    limit = int(share * count_parameters(teacher))
    inputs = collect_inputs(teacher, pairs, share=share, params=limit + 1000)
    plan = make_plan(inputs)
    cut_result = cut_and_repair(inputs, plan.sizes)
    assert count_parameters(cut_result.repaired) == plan.params <= limit
    assert embed(cut_result.repaired, pairs.en).shape == (len(pairs), 32)


def test_an_axis_that_is_named_stays_as_named_under_a_limit(teacher: TorchEncoder, pairs: Pairs) -> None:
    plan = make_plan(collect_inputs(teacher, pairs, params=int(0.5 * count_parameters(teacher)), layers=3, hidden=0.5))
    assert (plan.sizes.layers, plan.sizes.hidden) == (3, 16)


def test_a_rank_that_is_named_stays_as_named_under_a_limit_and_all_named_sizes_need_no_trial(
    teacher: TorchEncoder, pairs: Pairs, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = int(0.5 * count_parameters(teacher))
    assert make_plan(collect_inputs(teacher, pairs, params=limit, rank=7)).sizes.rank == 7
    monkeypatch.delattr(cutting, "repair")
    named = {"layers": 2, "heads": 0.5, "neurons": 0.5, "hidden": 1.0, "vocabulary": 200, "rank": 7}
    plan = make_plan(collect_inputs(teacher, pairs, params=limit, **named))
    assert plan.sizes == Sizes(2, 4, 48, 32, 200, 7)


def test_trial_cuts_do_not_pile_up_in_memory(
    teacher: TorchEncoder, pairs: Pairs, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, alive = [], []

    def watched(*arguments: Any, **named: Any) -> TorchEncoder:
        alive.append(sum(model() is not None for model in made))
        student = repair(*arguments, **named)
        made.append(weakref.ref(student.transformer))
        return student

    monkeypatch.setattr(cutting, "repair", watched)
    gc.disable()  # which would hide it: toys are many small objects
    try:
        make_plan(collect_inputs(teacher, pairs, share=0.5))
    finally:
        gc.enable()
    assert len(alive) > 10
    assert not any(alive)


def time_layers(*, student: float = 1.0) -> Callable[..., list[float]]:
    """Return the clock of a machine where a layer takes a millisecond and nothing else any time; a layer of a student
    that is timed beside its teacher takes `student` of them."""

    def run(encoders: list[TorchEncoder], sentences: list[str], *, runtime: str) -> list[float]:
        factors = [1.0, student] if len(encoders) == 2 else [1.0] * len(encoders)
        layers = [describe(encoder).whole.layers for encoder in encoders]
        return [factor * count for factor, count in zip(factors, layers, strict=True)]

    return run


def test_milliseconds_are_measured_and_limited(
    make_encoder: MakeEncoder, pairs: Pairs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latency, "time_encoders", time_layers())
    teacher = make_encoder(layers=8, hidden=32, neurons=256)
    whole = make_plan(collect_inputs(teacher, pairs, ms=1e6))
    assert whole.sizes == describe(teacher).whole
    assert whole.ms == pytest.approx(8)
    half = make_plan(collect_inputs(teacher, pairs, ms=4.5))
    assert half.ms == pytest.approx(half.sizes.layers) == 4
    assert half.sizes.heads == whole.sizes.heads // 2


def test_a_plan_that_takes_longer_than_predicted_is_made_anew_under_a_lower_limit(
    make_encoder: MakeEncoder, pairs: Pairs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latency, "time_encoders", time_layers(student=1.5))
    teacher = make_encoder(layers=8, hidden=32, neurons=256)
    plan = make_plan(collect_inputs(teacher, pairs, ms=6.8))
    assert 1.5 * plan.sizes.layers <= 6.8 < 1.5 * (plan.sizes.layers + 1)
    monkeypatch.setattr(latency, "time_encoders", lambda encoders, *_, runtime: [1.0] * len(encoders))
    monkeypatch.delattr(cutting, "repair")  # refused before the trial cuts
    with pytest.raises(InputError, match=r"0\.5 ms \(8% of it left free\) cannot be reached"):
        make_plan(collect_inputs(teacher, pairs, ms=0.5))


def test_a_plan_that_takes_less_than_predicted_is_made_anew_with_more_kept(
    make_encoder: MakeEncoder, pairs: Pairs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latency, "time_encoders", time_layers(student=0.5))
    teacher = make_encoder(layers=8, hidden=32, neurons=256)
    plan = make_plan(collect_inputs(teacher, pairs, ms=2.2))
    assert plan.ms == pytest.approx(0.5 * plan.sizes.layers) == 2.0


@pytest.mark.parametrize("runtime", ["onnx", "onnx-int8"])
def test_milliseconds_are_those_of_the_runtime_that_will_serve(
    teacher: TorchEncoder, pairs: Pairs, runtime: str
) -> None:
    pytest.importorskip("onnxruntime")
    plan = make_plan(collect_inputs(teacher, pairs, ms=50.0, runtime=runtime, params=20_000))
    assert plan.ms is not None
    assert 0 < plan.ms < 50


def test_impossible_budgets_are_refused_before_anything_is_measured(teacher: TorchEncoder, pairs: Pairs) -> None:
    with pytest.raises(InputError, match="100 parameters cannot be reached; the smallest student has"):
        make_plan(collect_inputs(teacher, pairs, params=100))
    with pytest.raises(InputError, match=r"budget\.layers: 9 asked for, at most 3"):
        make_plan(collect_inputs(teacher, pairs, layers=9))
    with pytest.raises(InputError, match="name a limit"):
        collect_inputs(teacher, pairs)


def test_rounds_end_at_the_same_sizes_and_each_keeps_of_what_was_left(teacher: TorchEncoder, pairs: Pairs) -> None:
    inputs = collect_inputs(teacher, pairs, heads=0.25, neurons=0.25, hidden=0.5, rounds=3)
    plan = make_plan(inputs)
    cut_result = cut_and_repair(inputs, plan.sizes)
    assert describe(cut_result.repaired).whole == plan.sizes
    shape = describe(teacher)
    sizes = [interpolate_geometrically(shape, plan.sizes, share) for share in (0, 1 / 3, 2 / 3, 1)]
    assert replace(sizes[0], pieces=0) == replace(shape.whole, pieces=0)
    assert replace(sizes[-1], rank=None) == replace(plan.sizes, rank=None)
    assert [each.heads for each in sizes] == sorted((each.heads for each in sizes), reverse=True)


def test_evenly_spaced_layers_are_the_named_baseline(make_encoder: MakeEncoder, pairs: Pairs) -> None:
    teacher = make_encoder(layers=4)
    inputs = collect_inputs(teacher, pairs, layers=2, layer_choice="even")
    assert choose_layers(teacher, 2, inputs, first=True) == (0, 3)
    assert cut_and_repair(inputs, make_plan(inputs).sizes).kept.layers == (0, 3)


def test_a_smaller_vocabulary_and_rank_are_part_of_the_cut(teacher: TorchEncoder, pairs: Pairs) -> None:
    inputs = collect_inputs(teacher, pairs, vocabulary=200, rank=8)
    cut_result = cut_and_repair(inputs, make_plan(inputs).sizes)
    assert len(cut_result.repaired.tokenizer) == 200
    assert describe(cut_result.repaired).whole.rank == 8
    assert np.isfinite(embed(cut_result.repaired, pairs.ru)).all()


def test_a_family_is_nested_and_falls_in_size(teacher: TorchEncoder, pairs: Pairs) -> None:
    inputs = collect_inputs(teacher, pairs, share=0.8)
    whole = count_parameters(teacher)
    limits = [Limits(params=int(fraction * whole)) for fraction in (0.8, 0.5, 0.3)]
    solver = prepare_solver(inputs, limits)
    plans: list[Plan] = []
    for each in limits:
        plans.append(solver.solve(each, within=plans[-1].sizes if plans else None))
    family = list(cut_nested_family(inputs, [plan.sizes for plan in plans]))
    for plan, limit, student in zip(plans, limits, family, strict=True):
        assert count_parameters(student.repaired) == plan.params <= (limit.params or 0)
    for larger, smaller in pairwise(family):
        assert set(channels(smaller.kept)) <= set(channels(larger.kept))
        assert set(smaller.base.tokenizer.get_vocab()) <= set(larger.base.tokenizer.get_vocab())


def channels(kept: Kept) -> list[tuple[str, int, int]]:
    """Return every layer, head, neuron and channel that is kept."""
    layers = range(3) if kept.layers is None else kept.layers
    hidden = range(32) if kept.hidden is None else kept.hidden
    heads = [("head", layer, each) for layer, row in zip(layers, kept.heads, strict=True) for each in row]
    neurons = [("neuron", layer, each) for layer, row in zip(layers, kept.neurons, strict=True) for each in row]
    return [*heads, *neurons, *(("layer", layer, 0) for layer in layers), *(("channel", each, 0) for each in hidden)]


def test_the_pareto_front_is_what_nothing_beats() -> None:
    points = [(4.0, 0.9), (2.0, 0.8), (3.0, 0.7), (1.0, 0.5), (2.0, 0.6), (5.0, 0.9)]
    assert pareto_front(points) == [(1.0, 0.5), (2.0, 0.8), (4.0, 0.9)]


def test_gradual_sizes_follow_the_cubic_schedule(teacher: TorchEncoder) -> None:
    shape = describe(teacher)  # 12 heads, 144 neurons
    final = replace(shape.whole, heads=4, neurons=16)
    sizes = [interpolate_cubically(shape, final, number / 4) for number in range(5)]
    assert [each.neurons for each in sizes] == [144, 70, 32, 18, 16]  # 16 + 128 (1 - k/4)^3
    assert [each.heads for each in sizes] == [12, 7, 5, 4, 4]

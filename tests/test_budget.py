"""Budgets: costs counted exactly, curves through what was measured, the solver against brute force."""

from dataclasses import replace
from itertools import pairwise, product

import numpy as np
import pytest
from conftest import MakeEncoder, keep_all

from secateur.config.errors import InputError
from secateur.encoders.cost import count_parameters as count_real
from secateur.encoders.encoder import TorchEncoder
from secateur.pruning.budget import Grid, make_grid, solve
from secateur.pruning.lowrank import factorise_words
from secateur.pruning.predictions import Limits, Losses, Times, fit_times, predict, work
from secateur.pruning.selection import Kept
from secateur.pruning.sizes import EncoderShape, Sizes, columns, count_parameters, describe, kept_fractions
from secateur.pruning.slicing import slice_encoder

FRAME = EncoderShape(Sizes(4, 16, 64, 32, 200, None), head_size=8, positions=80, types=2, output=32, has_pooler=False)
LOSSES = Losses(
    {
        "layers": {0.5: 0.2, 0.25: 0.5},
        "heads": {0.5: 0.05, 0.25: 0.2},
        "neurons": {0.5: 0.04, 0.25: 0.1},
        "hidden": {0.75: 0.02, 0.5: 0.3},
        "pieces": {0.5: 0.01, 0.1: 0.4},
        "rank": {0.5: 0.03, 0.25: 0.1},
    }
)


@pytest.mark.parametrize("pooling", ["mean", "pooler"])
@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert"])
def test_parameters_are_counted_exactly_for_every_cut(make_encoder: MakeEncoder, family: str, pooling: str) -> None:
    teacher = make_encoder(family, pooling=pooling)
    shape = describe(teacher)
    assert shape.whole == Sizes(3, 12, 144, 32, len(teacher.tokenizer), None)
    whole = keep_all(teacher)
    cuts = [
        whole,
        Kept(heads=((0, 2), (), (1, 2, 3)), neurons=(tuple(range(16)), (1,), ())),
        Kept(heads=((0,), (1, 2)), neurons=((1, 2), ()), layers=(0, 2), hidden=tuple(range(16))),
        replace(whole, hidden=tuple(range(24))),
    ]
    for kept in cuts:
        student = slice_encoder(teacher, kept)
        hidden = 32 if kept.hidden is None else len(kept.hidden)
        heads, neurons = (sum(map(len, each)) for each in (kept.heads, kept.neurons))
        sizes = Sizes(len(kept.heads), heads, neurons, hidden, len(teacher.tokenizer), None)
        assert count_parameters(sizes, shape) == count_real(student)
        narrow = factorise_words(student, 5, np.ones(sizes.pieces))
        assert count_parameters(replace(sizes, rank=5), shape) == count_real(narrow)
        assert describe(narrow).whole == replace(sizes, rank=5)


def test_times_are_recovered_from_exact_measurements_and_never_negative() -> None:
    true = Times((0.5, 0.1, 2.0, 0.0, 1.5, 0.3, 0.0, 4.0))
    generator = np.random.default_rng(0)
    some = [
        Sizes(*(int(generator.integers(1, top)) for top in (13, 144, 36_864, 768, 50_000)), rank=int(rank) or None)
        for rank in generator.integers(0, 200, 40)
    ]
    shape = replace(FRAME, whole=Sizes(12, 144, 36_864, 768, 50_000, None), head_size=64)
    found = fit_times({sizes: true.predict(sizes, shape) for sizes in some}, shape)
    assert found.shares == pytest.approx(true.shares, abs=1e-6)
    noisy = {sizes: true.predict(sizes, shape) * generator.uniform(0.8, 1.2) for sizes in some}
    assert min(fit_times(noisy, shape).shares) >= 0
    assert work(columns(some), shape).shape == (40, 8)


def test_a_curve_goes_through_its_points_and_never_gains_by_keeping_less() -> None:
    assert LOSSES.predict("heads", 1) == 0
    assert LOSSES.predict("heads", 0.5) == pytest.approx(0.05)
    assert LOSSES.predict("heads", 0.25) == pytest.approx(0.2)
    assert LOSSES.predict("heads", 0.125) == pytest.approx(0.35)  # along the last slope, in the logarithm
    assert LOSSES.predict("unmeasured", 0.5) == 0
    bent = Losses({"heads": {0.75: 0.3, 0.5: 0.2, 0.25: 0.4}})
    values = [bent.predict("heads", kept) for kept in np.linspace(1, 0.05, 60)]
    assert all(one <= other + 1e-12 for one, other in pairwise(values))


SMALL = Grid((1, 2, 4), (0.25, 0.5, 1.0), (0.25, 1.0), (8, 16, 32), (50, 200), (0.25, 1.0))
TIMES = Times((0.1, 0.2, 30.0, 1.0, 20.0, 1.0, 2.0, 1.0))


def every_plan() -> list:
    plans = []
    for layers, heads, neurons, hidden, pieces, rank in product(*SMALL.choices):
        sizes = Sizes(
            layers, int(heads * 4 * layers), int(neurons * 16 * layers), hidden, pieces,
            None if rank == 1 else int(rank * hidden),
        )  # fmt: skip
        plans.append(predict(sizes, FRAME, LOSSES, TIMES))
    return plans


@pytest.mark.parametrize(
    "limits",
    [
        Limits(),
        Limits(params=20_000),
        Limits(params=9_000),
        Limits(mb=0.05),
        Limits(ms=0.6),
        Limits(params=15_000, ms=0.9),
    ],
)
def test_the_solver_finds_what_brute_force_finds(limits: Limits) -> None:
    fitting = [
        each
        for each in every_plan()
        if (limits.params is None or each.params <= limits.params)
        and (limits.mb is None or each.mb <= limits.mb)
        and (limits.ms is None or each.ms <= limits.ms)
    ]
    best = min(fitting, key=lambda each: (round(each.loss, 9), each.params))
    found = solve(SMALL, FRAME, limits, LOSSES, TIMES)
    assert found.loss == pytest.approx(best.loss, abs=1e-9)
    assert found.params <= best.params
    assert count_parameters(found.sizes, FRAME) == found.params


def test_an_impossible_budget_names_the_smallest_that_can_be_reached() -> None:
    least = min(each.params for each in every_plan())
    with pytest.raises(InputError, match=rf"1,000 parameters cannot be reached; the smallest student has {least:,} "):
        solve(SMALL, FRAME, Limits(params=1_000), LOSSES, None)
    with pytest.raises(InputError, match=r"1 ms cannot be reached.*; the fastest takes \d"):
        solve(SMALL, FRAME, Limits(params=20_000, ms=0.01), LOSSES, TIMES)


def test_the_grid_reaches_from_the_least_vocabulary_to_the_whole() -> None:
    grid = make_grid(FRAME, least_pieces=60)
    assert (grid.pieces[0], grid.pieces[-1]) == (60, 200)
    assert grid.hidden == (8, 16, 24, 32)
    assert grid.layers == (1, 2, 3, 4)
    assert make_grid(FRAME, least_pieces=900).pieces == (200,)


def test_fractions_of_heads_and_neurons_are_those_of_the_kept_layers() -> None:
    kept = kept_fractions(Sizes(2, 4, 32, 16, 50, 4), FRAME)
    assert kept == {"layers": 0.5, "heads": 0.5, "neurons": 1.0, "hidden": 0.5, "pieces": 0.25, "rank": 0.25}


def test_an_encoder_is_described_by_its_weights(teacher: TorchEncoder, ragged: Kept) -> None:
    shape = describe(slice_encoder(teacher, ragged))
    assert (shape.whole.heads, shape.whole.neurons, shape.head_size, shape.output) == (5, 21, 8, 32)

"""Budgets solved by hand."""

import numpy as np
import pytest
import torch
from conftest import keep_all

from secateur.config.errors import InputError
from secateur.config.pruning import BudgetSettings
from secateur.encoders.encoder import TorchEncoder, embed
from secateur.pruning.scores import Saliency
from secateur.pruning.selection import Kept, choose_kept, compose, say_kept, spread_layers
from secateur.pruning.sizes import Sizes
from secateur.pruning.slicing import slice_encoder

# Two layers of four heads and of six neurons.
SALIENCY = Saliency(
    heads=(torch.tensor([9.0, 1.0, 8.0, 7.0]), torch.tensor([2.0, 6.0, 3.0, 4.0])),
    neurons=(torch.tensor([0.1, 0.9, 0.2, 0.8, 0.3, 0.7]), torch.tensor([0.6, 0.0, 0.5, 0.05, 0.4, 0.01])),
    hidden=torch.tensor([3.0, 1.0, 2.0, 4.0]),
)


def choose(heads: float, neurons: float, **keys: object) -> Kept:
    budget = BudgetSettings(layer_scaling="none", heads=heads, neurons=neurons, **keys)
    sizes = Sizes(2, round(heads * 8), round(neurons * 12), 4, 10, None)
    return choose_kept(SALIENCY, sizes, (0, 1), budget)


def test_global_ranking_keeps_the_best_of_all_layers_together() -> None:
    kept = choose(0.5, 0.5)
    assert kept.heads == ((0, 2, 3), (1,))
    assert kept.neurons == ((1, 3, 5), (0, 2, 4))


def test_layer_ranking_keeps_the_best_of_each_layer() -> None:
    kept = choose(0.5, 1 / 3, ranking="layer")
    assert kept.heads == ((0, 2), (1, 3))
    assert kept.neurons == ((1, 3), (0, 2))


@pytest.mark.parametrize("ranking", ["global", "layer"])
def test_a_fraction_is_what_is_kept(ranking: str) -> None:
    kept = choose(0.75, 1.0, ranking=ranking)
    assert sum(map(len, kept.heads)) == 6
    assert kept.neurons == (tuple(range(6)), tuple(range(6)))


@pytest.mark.parametrize(
    ("fraction", "multiple", "expected"),
    [
        (5 / 12, 1, ((1, 3, 5), (0, 2))),
        (5 / 12, 2, ((1, 3), (0, 2))),  # 3 and 2; the one left over is too little for a layer
        (4 / 12, 2, ((1, 3, 4, 5), ())),  # 3 and 1: of equal remainders the first is filled
        (10 / 12, 4, ((0, 1, 2, 3, 4, 5), (0, 2, 3, 4))),  # a whole layer stays whole
        (2 / 12, 2, ((1, 3), ())),  # a layer without neurons is not revived
        (5 / 12, 8, ((1, 3, 5), (0, 2))),  # layers smaller than the multiple: as they are
    ],
)
def test_each_layer_keeps_a_multiple_of_neurons_all_together_no_more_than_asked(
    fraction: float, multiple: int, expected: tuple[tuple[int, ...], ...]
) -> None:
    assert choose(1.0, fraction, round_neurons_to=multiple).neurons == expected


def test_of_equal_scores_the_first_are_kept() -> None:
    level = Saliency((torch.ones(4), torch.ones(4)), (torch.ones(3), torch.ones(3)), torch.ones(4))
    budget = BudgetSettings(layer_scaling="none", heads=0.75, neurons=2 / 3)
    kept = choose_kept(level, Sizes(2, 6, 4, 4, 10, None), (0, 1), budget)
    assert kept == Kept(heads=((0, 1, 2, 3), (0, 1)), neurons=((0, 1, 2), (0,)))


def test_a_layer_that_loses_all_its_heads_is_reported() -> None:
    kept = choose(0.375, 1.0)
    assert kept.heads == ((0, 2, 3), ())
    assert say_kept(kept, whole=2)[:2] == [
        "heads kept in each layer, the lowest first: 3 0",
        "layers that keep none of their heads: 1",
    ]


@pytest.mark.parametrize(
    ("heads", "neurons", "ranking", "message"),
    [
        (0.0, 0.5, "global", "budget.heads: 0 of 8 heads leaves none"),
        (0.5, 0.01, "global", "budget.neurons: 0 of 12 neurons leaves none"),
        (0.01, 0.5, "layer", "budget.heads: 0 of 8 heads leaves none"),
    ],
)
def test_a_budget_that_leaves_nothing_is_refused(heads: float, neurons: float, ranking: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        choose(heads, neurons, ranking=ranking)


def test_heads_and_neurons_are_those_of_the_kept_layers_and_channels_the_best() -> None:
    budget = BudgetSettings(layer_scaling="none", layers=1, heads=0.5, neurons=0.5, hidden=0.5)
    kept = choose_kept(SALIENCY, Sizes(1, 2, 3, 2, 10, None), (1,), budget)
    assert kept == Kept(heads=((1, 3),), neurons=((0, 2, 4),), layers=(1,), hidden=(0, 3))


@pytest.mark.parametrize(
    ("whole", "count", "layers"), [(6, 3, (0, 2, 5)), (6, 1, (0,)), (12, 4, (0, 4, 7, 11)), (3, 3, (0, 1, 2))]
)
def test_evenly_spaced_layers(whole: int, count: int, layers: tuple[int, ...]) -> None:
    assert spread_layers(whole, count) == layers


def test_two_cuts_are_one(teacher: TorchEncoder, sentences: list[str]) -> None:
    first = Kept(heads=((0, 2), (1, 2, 3)), neurons=((0, 5, 9), (1, 2)), layers=(0, 2), hidden=tuple(range(0, 32, 2)))
    second = Kept(heads=((0, 2),), neurons=((1,),), layers=(1,), hidden=tuple(range(8)))
    assert compose(first, second) == Kept(((1, 3),), ((2,),), (2,), tuple(range(0, 16, 2)))
    twice = slice_encoder(slice_encoder(teacher, first), second)
    once = slice_encoder(teacher, compose(first, second))
    assert np.array_equal(embed(twice, sentences), embed(once, sentences))
    whole = keep_all(teacher)
    assert compose(whole, first) == first
    assert compose(first, Kept(heads=((0, 1), (0, 1, 2)), neurons=((0, 1, 2), (0, 1)))) == first


def test_each_layer_keeps_as_many_as_another_choice_has_there_and_the_best_make_up_what_is_lacking() -> None:
    heads = (torch.tensor([1.0, 3.0, 2.0]), torch.tensor([9.0]), torch.tensor([8.0, 6.0, 7.0]))
    saliency = Saliency(heads, tuple(torch.ones(2) for _ in heads), torch.ones(8))
    like = Kept(heads=((0,), (0, 1), (2,)), neurons=((1,), (0,), (0, 1)))
    kept = choose_kept(
        saliency, Sizes(3, 4, 4, 8, 100, None), range(3), BudgetSettings(heads=0.5, neurons=0.5), like=like
    )
    assert kept.heads == ((1,), (0,), (0, 2))  # the layer in the middle has one head of the two asked for
    assert [len(layer) for layer in kept.neurons] == [1, 1, 2]

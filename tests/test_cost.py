"""Costs: the reference work's parameter counts on LaBSE-en-ru's exact shape, bytes, times."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import MakeEncoder
from transformers import BertConfig, BertModel

from secateur.config.pruning import BudgetSettings, SaliencySettings
from secateur.data.pairs import Pairs
from secateur.encoders import cost, machine
from secateur.encoders.cost import count_bytes, count_flops, count_parameters, time_encoders
from secateur.encoders.encoder import TorchEncoder
from secateur.encoders.machine import count_cores
from secateur.encoders.modeling import count_heads, count_neurons
from secateur.encoders.saving import save_encoder
from secateur.encoders.surgery import replace_transformer
from secateur.pruning.budget import name_sizes
from secateur.pruning.saliency import measure_saliency
from secateur.pruning.selection import Kept, choose_kept
from secateur.pruning.sizes import describe
from secateur.pruning.slicing import slice_encoder


@pytest.fixture
def labse(make_encoder: MakeEncoder) -> TorchEncoder:
    """Random weights in LaBSE-en-ru's shape: 55,083 tokens, 12 layers x 12 heads, 768 wide, pooler used."""
    return replace_transformer(make_encoder(pooling="pooler"), BertModel(BertConfig(vocab_size=55_083)))


def test_half_of_labse_en_ru_is_the_reference_works_size(labse: TorchEncoder, pairs: Pairs) -> None:
    assert round(count_parameters(labse) / 1e6, 1) == 128.3
    saliency = measure_saliency(labse, pairs, SaliencySettings(pairs=1, criterion="random"), seed=0)
    budget = BudgetSettings(heads=0.5, neurons=0.5)
    kept = choose_kept(saliency, name_sizes(budget, describe(labse)), range(12), budget)
    student = slice_encoder(labse, kept)
    assert len(set(map(len, kept.heads))) > 1  # ragged
    assert sum(count_heads(student.transformer)) == 72
    assert sum(count_neurons(student.transformer)) == 18_432
    assert round(count_parameters(student) / 1e6, 1) == 85.8
    assert count_bytes(student) == 4 * count_parameters(student)


def test_bytes_are_those_of_the_saved_weights(teacher: TorchEncoder, ragged: Kept, tmp_path: Path) -> None:
    student = slice_encoder(teacher, ragged)
    save_encoder(student, tmp_path / "student")
    size = (tmp_path / "student" / "model.safetensors").stat().st_size
    header = size - count_bytes(student)
    assert 0 < header < 20_000  # names and shapes


def test_a_slower_encoder_takes_longer(make_encoder: MakeEncoder, sentences: list[str]) -> None:
    slow, fast = make_encoder(layers=12), make_encoder(layers=1)
    first, second = time_encoders([slow, fast], sentences[:10], warmup=2)
    assert first > 2 * second > 0


def test_an_encoder_is_timed_with_its_own_weights_in_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    now, last = [0.0], [""]

    def serve(name: str, runtime: str) -> Callable[[str], None]:
        def run(sentence: str) -> None:
            now[0] += 1.0 if last[0] == name else 100.0  # which the other one has left no room for
            last[0] = name

        return run

    monkeypatch.setattr(cost, "serve", serve)
    monkeypatch.setattr(cost, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    assert time_encoders(["one", "other"], ["a", "b", "c"]) == [1000.0, 1000.0]  # type: ignore[list-item]
    assert now[0] > 200.0


def test_flops_are_those_of_the_matrix_products(teacher: TorchEncoder, ragged: Kept) -> None:
    length, hidden, neurons, layers = 10, 32, 48, 3
    projections = 2 * length * 4 * hidden * hidden
    products = 2 * 2 * length * length * hidden  # queries with keys, weights with values
    ffn = 2 * 2 * length * hidden * neurons
    assert count_flops(teacher, length) == layers * (projections + products + ffn)
    assert count_flops(slice_encoder(teacher, ragged), length) < count_flops(teacher, length) / 2


@pytest.mark.parametrize(
    ("usable", "quota", "asked", "cores"),
    [
        ({0, 1, 2, 3}, "max 100000", "", 2),  # two hyper-threads of a core count once
        ({0, 1}, "max 100000", "", 1),  # within an affinity too, where joblib counts both
        ({0, 2}, "150000 100000", "", 1),  # a core and a half does the work of one at full speed
        ({0, 2}, "max 100000", "1", 1),
    ],
)
def test_a_hyper_thread_is_no_core_and_a_quota_is_rounded_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, usable: set[int], quota: str, asked: str, cores: int
) -> None:
    for number in range(4):
        (tmp_path / str(number)).write_text(f"{number // 2 * 2}-{number // 2 * 2 + 1}\n")
    (tmp_path / "quota").write_text(f"{quota}\n")
    monkeypatch.setattr(machine, "SIBLINGS", str(tmp_path / "{}"))
    monkeypatch.setattr(machine, "QUOTA", tmp_path / "quota")
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda _: usable, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    assert count_cores() == cores

"""Training in two processes: the loss, its candidates and its gradients are those of one process."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

# What each process runs: a training step of a toy by either loss, on eight pairs, three of which are no translations.
STEP = """
import sys
from pathlib import Path
import numpy as np
from accelerate import PartialState
from safetensors.torch import save_file
from transformers import TrainerCallback
from secateur.config.distillation import DistillationSettings
from secateur.config.teacher import TeacherSettings
from secateur.data.pairs import Pairs
from secateur.distillation.distillation import distill
from secateur.distillation.targets import Targets
from secateur.encoders.loading import load_encoder

class KeepGradients(TrainerCallback):
    def __init__(self, path):
        self.path = path

    def on_pre_optimizer_step(self, args, state, control, model=None, **others):
        named = model.named_parameters()
        grads = {name.removeprefix("module."): each.grad.contiguous() for name, each in named if each.grad is not None}
        save_file(grads, self.path)

model, out = Path(sys.argv[1]), Path(sys.argv[2])
state = PartialState(cpu=True)
words = ["roof", "cat", "garden", "roses", "bread", "milk", "school", "river"]
pairs = Pairs([f"the {word} is old" for word in words], [f"{word} кошка" for word in words], ["toy"] * 8,
              [number not in (0, 3, 5) for number in range(8)])
vectors = np.random.default_rng(0).normal(size=(16, 32))
vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)
for similarity in ("mse", "contrastive"):
    settings = DistillationSettings(steps=1, batch_size=8, similarity=similarity, keep="last", evaluate_every=1)
    losses = []
    distill(
        load_encoder(TeacherSettings(model=str(model))), pairs, Targets(vectors, np.arange(16)), settings,
        folder=out / f"run-{similarity}", seed=0, validate=lambda _: {"cosine": 0.5},
        log_metrics=lambda values, step: losses.append(values.get("train/loss")),
        callbacks=(KeepGradients(out / f"{similarity}-{state.process_index}.safetensors"),),
    )
    if state.is_main_process:
        (out / f"{similarity}.loss").write_text(str([loss for loss in losses if loss is not None][0]))
"""


def train(model: Path, out: Path, *, processes: int) -> None:
    """Run STEP in so many processes at once, and wait for them."""
    out.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = []
    for rank in range(processes):
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        if processes > 1:
            environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(processes)}
            environment |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        started.append(subprocess.Popen([sys.executable, "-c", STEP, str(model), str(out)], env=environment))
    try:
        assert [process.wait(timeout=240) for process in started] == [0] * processes
    finally:
        for process in started:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def trained(make_folder: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    model, out = make_folder(), tmp_path_factory.mktemp("processes")
    for processes in (1, 2):
        train(model, out / str(processes), processes=processes)
    return out


@pytest.mark.parametrize("similarity", ["mse", "contrastive"])
def test_two_processes_have_the_loss_and_the_gradients_of_one(trained: Path, similarity: str) -> None:
    whole = load_file(trained / "1" / f"{similarity}-0.safetensors")
    assert sum(float(gradient.abs().sum()) for gradient in whole.values()) > 1
    for rank in range(2):
        split = load_file(trained / "2" / f"{similarity}-{rank}.safetensors")
        for name, gradient in whole.items():
            torch.testing.assert_close(split[name], gradient, rtol=1e-4, atol=1e-6, msg=lambda text, of=name: of + text)
    losses = [float((trained / number / f"{similarity}.loss").read_text()) for number in "12"]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)

"""What plans promise and what they come to, measured: LaBSE-en-ru's shape cut tenfold, and predicted milliseconds.

`labse` draws an encoder of LaBSE-en-ru's exact shape at random (128.3M parameters; what costs depend on is the shape),
cuts it to 12.8M by `secateur prune` in a process of its own, and loads what comes out in stock classes. `latency` plans
six budgets in milliseconds for a teacher, cuts to each and times all of them and the teacher in turn.
"""

import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from transformers import BertConfig, BertModel, BertTokenizer

from secateur.config.reading import build_pruning_recipe
from secateur.config.teacher import TeacherSettings
from secateur.data.pairs import Pairs
from secateur.encoders.cost import count_parameters, time_encoders
from secateur.encoders.loading import load_encoder
from secateur.encoders.modeling import find_layers, find_linear, head_size, layer_names
from secateur.evaluation.probe import FOLDER, read_parts
from secateur.pruning.cutting import cut_and_repair
from secateur.pruning.inputs import PlanningInputs
from secateur.pruning.latency import TIMED_PASSES, plan_within_latency
from secateur.pruning.limits import MARGIN
from secateur.pruning.plan import prepare_solver
from secateur.pruning.predictions import Limits
from secateur.pruning.saliency import measure_saliency
from secateur.pruning.sizes import describe

LABSE: dict[str, Any] = {"vocab_size": 55_083, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
         "intermediate_size": 3_072, "max_position_embeddings": 512}  # fmt: skip
LIMIT = 12_800_000
LETTERS = {"en": "abcdefghijklmnopqrstuvwxyz", "ru": "абвгдежзийклмнопрстуфхцчшщъыьэюя"}
BUDGETS = (0.8, 0.65, 0.5, 0.4, 0.3, 0.2)  # of the teacher's milliseconds, of which a model without layers takes .14


def cut_labse(_: str = "") -> dict[str, Any]:
    """Return what `secateur prune --max-params 12.8M` took and gave on LaBSE-en-ru's shape."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        draw_labse(folder / "teacher")
        write_pairs(folder / "pairs.tsv", count=4_000)
        words = [sys.executable, "-m", "secateur.cli", "prune", str(folder / "teacher"), "--pooling", "pooler"]
        words += ["--pairs", str(folder / "pairs.tsv"), "--max-params", str(LIMIT), "--out", str(folder / "student")]
        seconds, peak = run_measured(words)
        teacher = load_encoder(TeacherSettings(model=str(folder / "teacher"), pooling="pooler"))
        student = load_encoder(TeacherSettings(model=str(folder / "student")))
        whole, kept = (asdict(describe(encoder).whole) for encoder in (teacher, student))
        return {
            "parameters": {"teacher": count_parameters(teacher), "student": count_parameters(student), "limit": LIMIT},
            "sizes": {axis: [whole[axis], kept[axis]] for axis in whole},
            "seconds": round(seconds, 1),
            "peak GiB": round(peak / 2**30, 2),
            "vectors of stock classes alone": load_alone(folder / "student"),
        }


def draw_labse(folder: Path) -> None:
    """Write a BERT of LaBSE-en-ru's shape with random weights, and a WordPiece vocabulary of made-up words for it."""
    torch.manual_seed(0)
    model = BertModel(BertConfig(**LABSE))
    make_uneven(model)
    model.save_pretrained(folder)
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = [letter for alphabet in LETTERS.values() for letter in alphabet]
    pieces = [*special, *letters, *(f"##{letter}" for letter in letters)]
    en, ru = make_words()
    pieces += [word for pair in zip(en, ru, strict=True) for word in pair][: LABSE["vocab_size"] - len(pieces)]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    BertTokenizer(vocab=vocabulary, strip_accents=False, model_max_length=512).save_pretrained(folder)


@torch.no_grad()
def make_uneven(model: BertModel) -> None:
    """Scale random weights so that, as in a trained encoder, sentences differ and some parts matter more than others.

    As they are drawn, all parts matter alike and all sentences have nearly the same vector: there is nothing to choose
    by. Here attention looks at single tokens, what each layer, head, neuron and channel adds is scaled by a log-normal
    factor, every third layer adds next to nothing, and the vectors of words are of low rank but for a little noise.
    """
    shape, embeddings = model.config, model.embeddings

    def draw_scales(count: int, spread: float) -> torch.Tensor:
        scales = torch.exp(spread * torch.randn(count))
        return scales / scales.square().mean().sqrt()

    channels = draw_scales(shape.hidden_size, 1.3)
    words, rank = embeddings.word_embeddings.weight, shape.hidden_size // 6
    axes = torch.randn(rank, shape.hidden_size) / rank**0.5
    words.copy_(0.06 * torch.randn(len(words), rank) @ axes + 0.3 * words)
    for table in (words, embeddings.position_embeddings.weight, embeddings.token_type_embeddings.weight):
        table *= channels
    names = layer_names(shape)
    for number, layer in enumerate(find_layers(model)):
        for path in (names.query, names.key):
            find_linear(layer, path).weight *= 2
        strength = torch.exp(torch.randn(1)) * channels.unsqueeze(1) * (0.02 if number % 3 == 2 else 1)
        heads = draw_scales(shape.num_attention_heads, 1.2).repeat_interleave(head_size(shape))
        find_linear(layer, names.attention_output).weight *= 6 * strength * heads
        find_linear(layer, names.contract).weight *= strength * draw_scales(shape.intermediate_size, 1.3)


def make_words(count: int = 28_000) -> tuple[list[str], list[str]]:
    """Return as many made-up words of each alphabet, in the order of their rank."""
    generator = np.random.default_rng(0)
    both = []
    for alphabet in LETTERS.values():
        words: dict[str, None] = {}
        while len(words) < count:
            words["".join(generator.choice(list(alphabet), generator.integers(3, 10)))] = None
        both.append(list(words))
    return both[0], both[1]


def write_pairs(path: Path, *, count: int) -> None:
    """Write pairs of 4 to 20 words each, drawn by Zipf's law, word for word of the same rank in both languages."""
    generator = np.random.default_rng(1)
    en, ru = (np.array(words) for words in make_words())
    shares = 1 / np.arange(1, len(en) + 1)
    with path.open("w", encoding="utf-8") as file:
        for length in generator.integers(4, 21, size=count):
            ranks = generator.choice(len(en), length, p=shares / shares.sum())
            file.write(f"{' '.join(en[ranks])}\t{' '.join(ru[ranks])}\n")


def run_measured(words: list[str]) -> tuple[float, int]:
    """Return the seconds and the peak resident bytes of a command; raise RuntimeError where it fails."""
    started = time.monotonic()
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"exit code {process.returncode}: {' '.join(words)}")
    return time.monotonic() - started, 1024 * usage.ru_maxrss


def load_alone(folder: Path) -> list[int]:
    """Return the shape of two vectors from sentence-transformers in a process that never imports secateur."""
    program = (
        "import sys; from sentence_transformers import SentenceTransformer as S; "
        "v = S(sys.argv[1], trust_remote_code=True, device='cpu').encode(['one', 'two']); "
        "assert not any(name.split('.')[0] == 'secateur' for name in sys.modules); print(*v.shape)"
    )
    words = [sys.executable, "-c", program, str(folder)]
    done = subprocess.run(words, capture_output=True, text=True, check=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    return [int(word) for word in done.stdout.split()]


def check_latency(model: str) -> dict[str, Any]:
    """Return predicted and measured milliseconds of six budgets, each as a share of the teacher's.

    Plans are made on every other sentence pair of the probe; what they come to is timed on those in between.
    """
    teacher = load_encoder(TeacherSettings(model=model))
    en, ru = probe_pairs()
    recipe = build_pruning_recipe(
        {
            "name": "latency",
            "teacher": {"model": model},
            "corpus": {"files": ["-"]},
            "saliency": {"pairs": 256},
            "budget": {"ms": 1.0},
            "repair": {"sentences": 300},
            "distillation": {"steps": 0, "batch_size": 1, "learning_rate": 0.0},
        },
        origin="bench",
    )
    pairs = Pairs(en, ru, ["probe"] * len(en), [True] * len(en))
    saliency = measure_saliency(teacher, pairs, recipe.saliency, seed=0)
    planned, others = ([side for pair in zip(en[n:200:2], ru[n:200:2], strict=True) for side in pair] for n in (0, 1))
    inputs = PlanningInputs(teacher, saliency, pairs, planned, recipe)
    solver = prepare_solver(inputs, [Limits(ms=math.inf)])
    assert solver.times is not None, "milliseconds are limited"
    predicted = solver.times.predict(solver.shape.whole, solver.shape)
    limits = [share * predicted for share in BUDGETS]
    plans = [plan_within_latency(inputs, solver, Limits(ms=limit, free=MARGIN)) for limit in limits]
    students = [cut_and_repair(inputs, plan.sizes, sentences=0).repaired for plan in plans]
    measured = time_encoders([teacher, *students], others * TIMED_PASSES)
    rows = []
    for share, plan, ms in zip(BUDGETS, plans, measured[1:], strict=True):
        expected, found = (plan.ms or 0) / predicted, ms / measured[0]
        rows.append(
            {
                "limit, of the teacher": share,
                "predicted": round(expected, 4),
                "measured": round(found, 4),
                "off by": round(expected / found - 1, 4),
                "fits": found <= share,
            }
        )
    return {"teacher, ms": round(measured[0], 3), "margin": MARGIN, "threads": torch.get_num_threads(), "budgets": rows}


def probe_pairs() -> tuple[list[str], list[str]]:
    """Return sentences of the package's own probe, premises beside hypotheses: a text of real lengths."""
    (examples,) = read_parts(FOLDER, "NLI")
    return examples.texts[0], examples.texts[1]


CHECKS: dict[str, Callable[[str], dict[str, Any]]] = {"labse": cut_labse, "latency": check_latency}

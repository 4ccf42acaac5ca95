"""What the saliency pass costs: its time and peak memory against a plain forward and backward pass.

Both run over the same batches in turn (A B A B ...), in one process; peak memory is measured in a process for each.
`python -m secateur.bench`
"""

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from secateur import config
from secateur.encoder import Encoder, encode, load_encoder, pad
from secateur.saliency import accumulate_gates, frozen, pair_losses, similarity_scores

SHAPE = {"batches": 8, "pairs": 32, "shortest": 8, "longest": 32}  # of random word pieces, equal on both sides


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m secateur.bench", description=__doc__)
    parser.add_argument("--model", default="models/teacher-mini-en-ru")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--peak", choices=tuple(PASSES), help="run one pass and print its peak memory in bytes")
    options = parser.parse_args()
    encoder = load_encoder(config.Teacher(model=options.model))
    batches = random_batches(encoder)
    if options.peak:
        print(peak_memory(lambda: PASSES[options.peak](encoder, batches)))
        return
    seconds = take_turns(encoder, batches, options.rounds)
    peaks = {name: measure_peak(options.model, name) for name in PASSES}
    ratios = [s / p for s, p in zip(seconds["saliency"], seconds["plain"], strict=True)]
    print(f"{SHAPE['batches']} batches of {SHAPE['pairs']} pairs, {torch.get_num_threads()} threads, float32")
    for name in PASSES:
        print(f"{name:>9}: {statistics.median(seconds[name]):.2f} s, {peaks[name] / 1e6:.0f} MB above the model")
    print(f"    ratio: {statistics.median(ratios):.2f} of the time ({min(ratios):.2f} to {max(ratios):.2f}), "
          f"{peaks['saliency'] / peaks['plain']:.2f} of the memory")  # fmt: skip


def random_batches(encoder: Encoder) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    vocabulary = encoder.transformer.config.vocab_size
    batches = []
    for number in range(SHAPE["batches"]):
        longest = SHAPE["shortest"] + number * (SHAPE["longest"] - SHAPE["shortest"]) // (SHAPE["batches"] - 1)
        lengths = torch.randint(longest - 3, longest + 1, (2 * SHAPE["pairs"],), generator=generator)
        rows = [torch.randint(5, vocabulary, (int(n),), generator=generator).tolist() for n in lengths]
        batches.append(pad(encoder, rows))
    return batches


def run_plain(encoder: Encoder, batches: list[dict[str, Tensor]]) -> None:
    """Forward and backward of the similarity loss to every weight."""
    encoder.model.requires_grad_(True)
    for inputs in batches:
        pair_losses(encode(encoder, inputs).vectors).sum().backward()
        encoder.model.zero_grad(set_to_none=True)


def run_saliency(encoder: Encoder, batches: list[dict[str, Tensor]]) -> None:
    with frozen(encoder):
        accumulate_gates(encoder, iter(batches), [similarity_scores])


PASSES: dict[str, Callable[[Encoder, list[dict[str, Tensor]]], None]] = {"plain": run_plain, "saliency": run_saliency}


def take_turns(encoder: Encoder, batches: list[dict[str, Tensor]], rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each pass in each round, one warm-up round left out."""
    seconds: dict[str, list[float]] = {name: [] for name in PASSES}
    for _ in range(rounds + 1):
        for name, run in PASSES.items():
            started = time.perf_counter()
            run(encoder, batches)
            seconds[name].append(time.perf_counter() - started)
    return {name: values[1:] for name, values in seconds.items()}


def measure_peak(model: str, name: str) -> int:
    words = [sys.executable, "-m", "secateur.bench", "--model", model, "--peak", name]
    return int(subprocess.run(words, capture_output=True, text=True, check=True).stdout)


def peak_memory(run: Callable[[], None]) -> int:
    """Return by how many bytes a pass raises the process's resident memory at its peak (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew from what is resident now
    before = read_status("VmRSS")
    run()
    return read_status("VmHWM") - before


def read_status(field: str) -> int:
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return 1024 * int(line.split()[1])


if __name__ == "__main__":
    main()

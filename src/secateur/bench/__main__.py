"""Every claim of speed beside its peer, the sides in turns (A B A B ...) in one process: one table, bench.json.

`python -m secateur.bench` runs all rows and what budgets come to, `--rows encode int8 latency` some. A row's ratio is
the peer's seconds over ours, taken round by round: its median, least and most. Warm-up rounds are left out. Peak memory
is measured in a process of its own for each side.
"""

import argparse
import json
import logging
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from secateur.bench.budgets import CHECKS
from secateur.bench.comparisons import FULL, SEED, TOY, Comparison, Sizes, Workshop
from secateur.bench.encoding import compare_benchmark, compare_encoding, compare_file
from secateur.bench.saliency import PASSES, compare_saliency, prepare_saliency
from secateur.bench.shapes import compare_int8, compare_students, compare_students_on_gpu
from secateur.bench.training import compare_distillation, compare_matmul
from secateur.config.errors import InputError
from secateur.data.files import write_json
from secateur.encoders.machine import read_memory, read_processor
from secateur.reports.text import format_table

log = logging.getLogger(__name__)

PACKAGES = ("torch", "transformers", "sentence-transformers", "onnxruntime", "tokenizers", "numpy")


def compare_on_gpu(shop: Workshop) -> list[Comparison]:
    """Rows of a CUDA device, in bf16. Raises InputError where there is none."""
    if not torch.cuda.is_available():
        raise InputError("torch sees no CUDA device")
    return [*compare_students_on_gpu(shop), *compare_distillation(shop, "cuda")]


ROWS: dict[str, Callable[[Workshop], list[Comparison]]] = {
    "encode": compare_encoding,
    "onnx": partial(compare_file, backend="onnx"),
    "openvino": partial(compare_file, backend="openvino"),
    "student": compare_students,
    "int8": compare_int8,
    "saliency": compare_saliency,
    "distillation": compare_distillation,
    "matmul": compare_matmul,
    "tasks": compare_benchmark,
    "gpu": compare_on_gpu,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m secateur.bench", description=__doc__)
    parser.add_argument("--model", default="models/teacher-mini-en-ru")
    parser.add_argument("--rows", nargs="+", choices=(*ROWS, *CHECKS), help="(all)")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, default=Path("bench.json"), help="rows measured before stay (%(default)s)")
    parser.add_argument(
        "--toy", action="store_true", help="tiny sizes, to see that rows run; their numbers mean nothing"
    )
    parser.add_argument("--peak", choices=tuple(PASSES), help="run one pass and print its peak memory")
    options = parser.parse_args()
    sizes = TOY if options.toy else FULL
    if options.peak:
        encoder, batches = prepare_saliency(options.model)
        print(peak_memory(lambda: PASSES[options.peak](encoder, batches)))
        return
    record = open_record(options.out, sizes)
    with Workshop(options.model, sizes) as workshop:
        for name in options.rows or (*ROWS, *CHECKS):
            if name in CHECKS:
                record["budgets"][name] = CHECKS[name](options.model)
                write_json(options.out, record)
                print(json.dumps({name: record["budgets"][name]}, indent=2), end="\n\n", flush=True)
                continue
            try:
                compared = ROWS[name](workshop)
            except (InputError, ImportError) as error:
                reason = str(error).strip().splitlines()[0]
                record["rows"][name] = [{"left_out": reason}]
                print(f"{name}: left out: {reason}", flush=True)
                continue
            record["rows"][name] = [measure(each, options.rounds) for each in compared]
            if name == "saliency":
                (row,) = record["rows"][name]
                row["peak_bytes"] = {side: measure_peak(options.model, side) for side in row["seconds"]}
            write_json(options.out, record)
            print(format_rows(record["rows"][name]), end="\n\n", flush=True)
    write_json(options.out, record)


def open_record(path: Path, sizes: Sizes) -> dict[str, Any]:
    """Return what bench.json says: this machine and these versions; rows measured on the same stay."""
    processor = read_processor()
    about = {
        "processor": {"name": processor.name, "instructions": list(processor.instructions), "cores": processor.cores},
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "versions": {name: find_version(name) for name in PACKAGES},
        "seed": SEED,
        "sizes": json.loads(json.dumps(asdict(sizes))),
    }
    old = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    same = all(old.get(key) == value for key, value in about.items())
    return {**about, **{part: old.get(part, {}) if same else {} for part in ("rows", "budgets")}}


def find_version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def measure(compared: Comparison, rounds: int) -> dict[str, Any]:
    """Run a comparison's sides in turns; return each side's seconds a unit of work, and the ratio with its spread."""
    rounds = min(rounds, compared.rounds or rounds)
    seconds: dict[str, list[float]] = {name: [] for name in compared.sides}
    for _ in range(compared.warmup + rounds):
        for name, run in compared.sides.items():
            seconds[name].append(run())
    seconds = {name: values[compared.warmup :] for name, values in seconds.items()}
    ours = next(iter(compared.sides))
    ratios = {
        name: [peer / own for peer, own in zip(values, seconds[ours], strict=True)]
        for name, values in seconds.items()
        if name != ours
    }
    return {
        "claim": compared.claim,
        "aim": compared.aims,
        "conditions": {key: value() if callable(value) else value for key, value in compared.conditions.items()},
        "rounds": rounds,
        "seconds": {name: spread(values) for name, values in seconds.items()},
        "ratio": {name: spread(values) for name, values in ratios.items()},
    }


def spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}


def format_rows(rows: list[dict[str, Any]]) -> str:
    """Return measured rows as a table: of each side its median, of each peer the ratio, its spread and what was aimed
    at; under it the conditions."""
    cells = [["comparison", "side", "ms", "times ours", "least", "most", "aim"]]
    for row in rows:
        for name, seconds in row["seconds"].items():
            ratio = row["ratio"].get(name)
            shown = [f"{ratio[key]:.2f}" for key in ("median", "least", "most")] if ratio else ["-"] * 3
            aim = row["aim"].get(name)
            cells.append(
                [row["claim"], name, f"{1000 * seconds['median']:.3f}", *shown, "-" if aim is None else f"{aim}"]
            )
    conditions = [f"{row['claim']}: {say(row['conditions'])}" for row in rows]
    return "\n".join([format_table(cells), *conditions])


def say(conditions: Mapping[str, Any]) -> str:
    return "; ".join(f"{name} {value}" for name, value in conditions.items())


def measure_peak(model: str, name: str) -> int:
    words = [sys.executable, "-m", "secateur.bench", "--model", model, "--peak", name]
    return int(subprocess.run(words, capture_output=True, text=True, check=True).stdout)


def peak_memory(run: Callable[[], None]) -> int:
    """Return by how many bytes a pass raises the process's resident memory at its peak (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew from what is resident now
    before = read_memory("VmRSS") or 0
    run()
    return (read_memory("VmHWM") or 0) - before


if __name__ == "__main__":
    main()

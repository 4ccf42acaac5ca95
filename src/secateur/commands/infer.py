"""secateur infer: what a saved model scores on encodechka or on the probe."""

import argparse
import difflib
from pathlib import Path

from secateur.commands.options import MODELS, RUNS, Parser, add_backend, check_positive, new_command
from secateur.config.choices import TASKS
from secateur.config.errors import InputError

HELP = "Score a saved model on encodechka, or on the probe that comes with secateur."
BENCHMARKS = {"encodechka": ("encodechka",), "probe": ("probe",), "all": ("encodechka", "probe")}


def add(parser: Parser) -> None:
    """Add the command's options."""
    new_command(parser, HELP, "secateur infer models/mini-en-ru --tasks probe")
    parser.add_argument("model", nargs="?", help="a model folder or a hub name (the model of the last run)")
    parser.add_argument("--data", metavar="FOLDER", help="a folder with encodechka's files (they are downloaded once)")
    parser.add_argument(
        "--tasks", default="encodechka", metavar="TASKS",
        help=f"encodechka, probe, all (both), or some of {','.join(TASKS)} (%(default)s)",
    )  # fmt: skip
    parser.add_argument("--models", type=Path, default=Path("models"), metavar="DIR", help=MODELS)
    parser.add_argument("--runs", type=Path, default=Path("experiments"), metavar="DIR", help=RUNS)
    add_backend(parser)
    parser.set_defaults(command=run)


def run(options: argparse.Namespace) -> None:
    """Print the model's scores."""
    from secateur.config.evaluation import EncodechkaSettings
    from secateur.config.reading import build_settings

    check_positive("threads", options.threads)
    on, tasks = read_tasks(options.tasks)
    settings = build_settings(EncodechkaSettings, {"data": options.data, "tasks": tasks}, origin="")
    from torch import set_num_threads

    from secateur.encoders.device import pick_device
    from secateur.runs.infer import infer, infer_file, last_model

    model = options.model or last_model(options.runs, options.models)
    if options.backend != "torch":
        print(
            infer_file(
                model, settings, on=on, cache=options.cache, runs=options.runs, backend=options.backend,
                device=options.device, threads=options.threads,
            )
        )  # fmt: skip
        return
    if options.threads is not None:
        set_num_threads(options.threads)
    device = pick_device(options.device)
    print(infer(model, settings, on=on, cache=options.cache, runs=options.runs, device=device))


def read_tasks(text: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the benchmarks to score and the tasks of each. Raises InputError for a word that is neither."""
    if text in BENCHMARKS:
        return BENCHMARKS[text], TASKS
    tasks = tuple(text.split(","))
    for task in tasks:
        if task not in TASKS:
            close = difflib.get_close_matches(task, (*BENCHMARKS, *TASKS), n=1)
            hint = f"; did you mean {close[0]}" if close else ""
            raise InputError(f"--tasks: {task!r} is not encodechka, probe, all or one of {', '.join(TASKS)}{hint}")
    return BENCHMARKS["encodechka"], tasks

"""secateur cost: parameters, megabytes, FLOPs and milliseconds of models beside each other."""

import argparse

from secateur.commands.options import MODEL, Parser, check_positive, new_command
from secateur.config.errors import InputError

HELP = "Measure what models cost beside each other: parameters, MB, FLOPs, milliseconds."


def add(parser: Parser) -> None:
    """Add the command's options."""
    new_command(
        parser, f"{HELP}\nBoth torch and the ONNX files of a folder are measured; the models take turns.",
        "secateur cost models/teacher-mini-en-ru models/mini-en-ru",
    )  # fmt: skip
    parser.add_argument("models", nargs="+", metavar="MODEL", help=MODEL)
    parser.add_argument(
        "--length", type=int, default=16, metavar="N", help="how many tokens a sentence has (%(default)s)"
    )
    parser.add_argument(
        "--repeats", type=int, default=100, metavar="N", help="how many runs are measured at batch 1 (%(default)s)"
    )
    parser.add_argument("--warmup", type=int, default=10, metavar="N", help="how many runs come before (%(default)s)")
    parser.add_argument(
        "--threads", type=int, nargs="+", metavar="N", help="how many threads compute (1 and every core)"
    )
    parser.set_defaults(command=run)


def run(options: argparse.Namespace) -> None:
    """Print the costs."""
    for name, low in {"length": 2, "repeats": 1, "warmup": 0}.items():
        if getattr(options, name) < low:
            raise InputError(f"--{name}: {getattr(options, name)} is less than {low}")
    for name, values in {"threads": options.threads or (), "repeats": [options.repeats]}.items():
        for value in values:
            check_positive(name, value)
    from secateur.encoders.cost import Timing, measure_costs
    from secateur.reports.text import format_costs

    timing = Timing(options.length, options.repeats, options.warmup, tuple(options.threads or ()))
    print(format_costs(measure_costs(options.models, timing, device=options.device), timing))

"""secateur retrieve: how often models find a sentence's translation."""

import argparse
from pathlib import Path

from secateur.commands.options import USE, Parser, new_command

HELP = "Measure retrieval accuracy@1: how often a sentence's nearest neighbour is its own translation."


def add(parser: Parser) -> None:
    """Add the command's options."""
    new_command(
        parser, f"{HELP}\nThe candidates are all translations in the file; both directions are measured.",
        "secateur retrieve models/teacher-mini-en-ru models/mini-en-ru --pairs tatoeba1000.tsv.gz",
    )  # fmt: skip
    parser.add_argument("models", nargs="*", metavar="MODEL", help="model folders or hub names")
    parser.add_argument("--pairs", nargs="+", required=True, type=Path, metavar="FILE", help=".tsv files of test pairs")
    parser.add_argument("--use", action="store_true", help=USE)
    parser.add_argument(
        "--precision", default="auto", choices=("auto", "float32", "bf16"),
        help="the number format; auto: bf16 where the processor computes in it (%(default)s)",
    )  # fmt: skip
    parser.set_defaults(command=run)


def run(options: argparse.Namespace) -> None:
    """Print the table."""
    from secateur.encoders.device import pick_device
    from secateur.runs.infer import retrieve

    device = pick_device(options.device)
    print(retrieve(options.models, options.pairs, use=options.use, precision=options.precision, device=device))

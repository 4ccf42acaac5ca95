"""secateur report: a run's page."""

import argparse
from pathlib import Path

from secateur.commands.options import RUNS, Parser, new_command

HELP = "Make a run's page from its record, or one page that compares several runs."


def add(parser: Parser) -> None:
    """Add the command's options."""
    new_command(
        parser, f"{HELP}\nA run that has not ended shows what there is of it.", "secateur report mini-en-ru"
    )  # fmt: skip
    parser.add_argument("names", nargs="+", metavar="NAME", help="a run's name, or its folder")
    parser.add_argument("--runs", type=Path, default=Path("experiments"), metavar="DIR", help=RUNS)
    parser.add_argument(
        "--out", type=Path, metavar="FILE",
        help="the page (RUNS/NAME/report.html; of several runs RUNS/NAME+NAME.html)",
    )  # fmt: skip
    parser.set_defaults(command=run)


def run(options: argparse.Namespace) -> None:
    """Write the page and print where it is."""
    from secateur.reports.page import report_runs

    print(report_runs(options.names, options.runs, options.out))

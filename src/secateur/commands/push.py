"""secateur push: a model folder to a hub."""

import argparse
from pathlib import Path

from secateur.commands.options import Parser, new_command

HELP = "Upload a model folder to a model hub, with the token that `hf auth login` keeps."


def add(parser: Parser) -> None:
    """Add the command's options."""
    new_command(parser, HELP, "secateur push models/mini-en-ru NAME/mini-en-ru --dry-run")
    parser.add_argument("model", type=Path, help="a model folder")
    parser.add_argument("repository", metavar="REPO", help="its name on the hub, OWNER/NAME")
    parser.add_argument("--dry-run", action="store_true", help="list the files and their sizes, and stop")
    parser.add_argument("--private", action="store_true", help="make a repository that only its owner sees")
    parser.set_defaults(command=run)


def run(options: argparse.Namespace) -> None:
    """Upload and print the address."""
    from secateur.export.publish import push

    print(push(options.model, options.repository, dry_run=options.dry_run, private=options.private))

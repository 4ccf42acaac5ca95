"""secateur vocabulary: a model that reads with fewer tokens."""

import argparse
from pathlib import Path

from secateur.commands.check import NO_CHECK, check_saved
from secateur.commands.options import MODEL, Parser, check_positive, new_command
from secateur.commands.prune import check_apart
from secateur.config.errors import InputError
from secateur.config.places import check_named_folder, name_place

HELP = "Keep the tokens that texts of some languages need, and say what it does to them."


def add(parser: Parser) -> None:
    """Add the command's options."""
    new_command(parser, HELP, "secateur vocabulary MODEL --corpus ru=ru.txt --corpus en=en.txt --size 30000 --out DIR")
    parser.add_argument("model", help=MODEL)
    parser.add_argument(
        "--corpus", action="append", required=True, metavar="LANGUAGE=FILE",
        help="a language, and UTF-8 text in it with a sentence on each line; once for each language",
    )  # fmt: skip
    parser.add_argument("--size", type=int, required=True, metavar="N", help="how many tokens are kept")
    parser.add_argument(
        "--exact", action="store_true",
        help="leave the vectors of kept tokens as they are, so that a sentence whose tokens are all kept has its old "
        "vector bit for bit (otherwise what cut tokens said is folded into those that now spell them)",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the folder that the model is saved in")
    parser.add_argument("--no-check", action="store_true", help=NO_CHECK)
    parser.set_defaults(command=run)


def run(options: argparse.Namespace) -> None:
    """Trim the vocabulary as told and print what became of each language's text."""
    from secateur.data.files import check_out

    check_positive("size", options.size)
    check_named_folder(options.model)
    options.out = name_place(options.out)
    check_apart(options.out, options.model)
    check_out(options.out)
    files: dict[str, Path] = {}
    for word in options.corpus:
        language, equals, file = word.partition("=")
        if not equals or not language or language in files:
            raise InputError(f"--corpus {word}: expected LANGUAGE=FILE, each language once")
        files[language] = Path(file)
    from secateur.runs.prune import cut_vocabulary

    print(cut_vocabulary(options.model, files, options.size, options.out, fold=not options.exact))
    if not options.no_check:
        check_saved(options.out)

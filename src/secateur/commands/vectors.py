"""secateur vectors: shorter vectors, and vectors of int8 codes or bits."""

import argparse
from pathlib import Path

from secateur.commands.check import NO_CHECK, check_saved
from secateur.commands.options import MODEL, Parser, check_positive, new_command
from secateur.commands.prune import check_apart
from secateur.config.errors import InputError
from secateur.config.places import check_named_folder, name_place

HELP = "Make a model's vectors ready to be cut short and stored as int8 or bits; say what each form loses."


def add(parser: Parser) -> None:
    """Add the command's options."""
    new_command(
        parser, f"{HELP}\nNothing is trained: the rotation is found on sentences, and measured on others.",
        "secateur vectors models/mini-en-ru --texts ru.txt en.txt --dimensions 128,64 --out DIR",
    )  # fmt: skip
    parser.add_argument("model", help=MODEL)
    parser.add_argument(
        "--texts", nargs="+", required=True, type=Path, metavar="FILE",
        help="UTF-8 text with a sentence on each line, of the kind that the model will read",
    )  # fmt: skip
    parser.add_argument(
        "--dimensions", default="128,64", metavar="N,N,...",
        help="the lengths that vectors are to be cut to; others lose more (%(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--sentences", type=int, default=5_000, metavar="N",
        help="how many sentences are read; a fifth of them, by hash, judges (%(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--pairs", type=Path, metavar="FILE", help="a .tsv of test pairs, to measure retrieval accuracy@1 too"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="the folder that the model is saved in")
    parser.add_argument("--no-check", action="store_true", help=NO_CHECK)
    parser.set_defaults(command=run)


def run(options: argparse.Namespace) -> None:
    """Print the table, and save the model where a folder is named."""
    dimensions = read_dimensions(options.dimensions)
    check_positive("sentences", options.sentences)
    check_named_folder(options.model)
    out = None if options.out is None else name_place(options.out)
    if out is not None:
        from secateur.data.files import check_out

        check_apart(out, options.model)
        check_out(out)
    from secateur.encoders.device import pick_device
    from secateur.runs.vectors import shorten_vectors

    table = shorten_vectors(
        options.model, options.texts, dimensions, pairs=options.pairs, out=out, sentences=options.sentences,
        device=pick_device(options.device),
    )  # fmt: skip
    print(table)
    if out is not None and not options.no_check:
        check_saved(out)


def read_dimensions(text: str) -> list[int]:
    """Return the lengths of `128,64`; raise InputError for anything else."""
    words = text.split(",")
    if not all(word.isascii() and word.isdigit() and len(word) < 10 and int(word) for word in words):
        raise InputError(f"--dimensions: {text!r} is not a list of lengths such as 128,64")
    return [int(word) for word in words]

"""secateur encode: lines of text to unit vectors."""

import argparse
import sys
from contextlib import ExitStack
from pathlib import Path

from secateur.commands.options import MODEL, Parser, add_backend, new_command
from secateur.config.errors import InputError

HELP = "Turn lines of text into unit vectors, one a line, as a float32 .npy array."


def add(parser: Parser) -> None:
    """Add the command's options."""
    new_command(parser, HELP, "secateur encode models/mini-en-ru < sentences.txt > vectors.npy")
    parser.add_argument("model", help=MODEL)
    parser.add_argument(
        "--input", type=Path, metavar="FILE", help="UTF-8 text with a sentence on each line (standard input)"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="the .npy file (standard output)")
    add_backend(parser)
    parser.add_argument(
        "--batch-tokens", type=int, default=2048, metavar="N", help="how many tokens run at a time (%(default)s)"
    )
    parser.set_defaults(command=run)


def run(options: argparse.Namespace) -> None:
    """Encode as told."""
    if options.input is not None and not options.input.is_file():
        raise InputError(f"--input: {options.input}: no such file")
    if options.out is None and sys.stdout.isatty():
        raise InputError("the vectors are binary: name a file with --out, or redirect standard output")
    from secateur.encoders.inference import Encoder
    from secateur.runs.encode import encode_lines

    encoder = Encoder(
        options.model, backend=options.backend, threads=options.threads, device=options.device,
        batch_tokens=options.batch_tokens,
    )  # fmt: skip
    with ExitStack() as files:
        source = files.enter_context(options.input.open("rb")) if options.input else sys.stdin.buffer
        encode_lines(encoder, source, options.out or sys.stdout.buffer)

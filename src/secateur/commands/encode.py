"""secateur encode: lines of text to unit vectors."""

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

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
    parser.add_argument("--prompt", metavar="TEXT", help="put before every line (the model's default prompt, if any)")
    parser.add_argument("--prompt-name", metavar="NAME", help="one of the model's own prompts, in its place")
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

    with ExitStack() as files:
        out = options.out or files.enter_context(claim_output())
        encoder = Encoder(
            options.model, backend=options.backend, threads=options.threads, device=options.device,
            batch_tokens=options.batch_tokens,
        )  # fmt: skip
        source = files.enter_context(options.input.open("rb")) if options.input else sys.stdin.buffer
        encode_lines(encoder, source, out, prompt=options.prompt, prompt_name=options.prompt_name)


@contextmanager
def claim_output() -> Iterator[BinaryIO]:
    """Yield standard output for vectors alone: what a library prints meanwhile goes to standard error."""
    try:
        number = sys.stdout.fileno()
    except (AttributeError, OSError, ValueError):  # no file of the system's: a notebook's, a test's
        yield sys.stdout.buffer
        return
    sys.stdout.flush()
    own = os.dup(number)
    os.dup2(sys.stderr.fileno(), number)
    try:
        with os.fdopen(os.dup(own), "wb") as out:
            yield out
    finally:
        os.dup2(own, number)
        os.close(own)

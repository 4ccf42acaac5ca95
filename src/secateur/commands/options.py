"""What commands have in common: their parser, and options whose help comes from the settings that they set."""

import argparse
import difflib
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from secateur.config.choices import DEVICES, MOST, MOST_THREADS, RUNTIMES
from secateur.config.errors import InputError, one_line
from secateur.config.places import default_cache

RUNS = "the folder that runs are in (%(default)s)"
MODELS = "the folder that students are in (%(default)s)"
MODEL = "a model folder or a hub name"
USE = "add Universal Sentence Encoder, an optional package"


class Parser(argparse.ArgumentParser):
    """Says in one line what is wrong, as everything else here does; argparse would print the usage before it."""

    def error(self, message: str) -> NoReturn:
        wrong = re.search(r"invalid choice: '([^']*)' \(choose from (.*)\)", message)
        close = difflib.get_close_matches(wrong[1], re.findall(r"[\w.-]+", wrong[2]), n=1) if wrong else []
        message = one_line(message) + "".join(f"; did you mean {each}" for each in close)
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")

    def suggest(self, word: str) -> str:
        """Return "; did you mean --keep-heads" for an option that is not there, or nothing."""
        flag = word.partition("=")[0]
        shown = {flag for flag, action in self._option_string_actions.items() if action.help != argparse.SUPPRESS}
        known = sorted(each for each in shown if each.startswith("--") and each != "--help")
        inside = [each for each in known if len(flag) > 4 and flag.lstrip("-") in each]
        close = inside or difflib.get_close_matches(flag, known, n=1, cutoff=0.75)
        return f"; did you mean {' or '.join(close[:3])}" if close else ""


def new_command(parser: Parser, text: str, example: str) -> Parser:
    """Give a command's parser its description and example, and the options of every command."""
    parser.description, parser.epilog = text, f"example: {example}"
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--verbose", action="store_true", help="say more")
    parser.add_argument(
        "--cache", type=Path, default=default_cache(), metavar="DIR",
        help="the folder for downloads and teachers' vectors (%(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--device", choices=DEVICES, default="auto",
        help="where torch computes; auto: on a GPU where torch sees one",
    )  # fmt: skip
    parser.set_defaults(resume_hint=lambda options: "")
    return parser


def add_setting(
    group: Any,
    flag: str,
    kind: type,
    key: str,
    *,
    metavar: str = "N",
    default: Any = None,
    read: Callable[[str], Any] | None = None,
) -> None:
    """Add the option that sets a key of a settings dataclass; its help is what the key's field says.

    `default` is shown where it is not the field's own; an option that is not given is None. `read` turns the text
    into a value where the key's own type does not.
    """
    from secateur.config.options import find_setting

    setting = find_setting(kind, key)
    default = setting.default if default is None else default
    text = setting.description[0].lower() + setting.description[1:].removesuffix(".")
    shown = text.replace("%", "%%") + ("" if default is None else f" ({default})")
    if setting.choices:
        group.add_argument(flag, choices=setting.choices, type=read, help=shown)
    else:
        group.add_argument(flag, type=read or setting.kind, metavar=metavar, help=shown)


class Renamed(argparse.Action):
    """An option under its name of the last release: it works, is said to have a new name, and is not in the help."""

    def __init__(self, option_strings: Sequence[str], dest: str, **words: Any) -> None:
        super().__init__(option_strings, dest, help=argparse.SUPPRESS, **words)

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        print(f"{option_string} is now called --{self.dest.replace('_', '-')}", file=sys.stderr)
        setattr(namespace, self.dest, values)


def add_backend(parser: Parser) -> None:
    parser.add_argument(
        "--backend", choices=RUNTIMES, default="torch",
        help="what runs the model; onnx and the others run the files that `secateur export` wrote (%(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--threads", type=int, metavar="N", help="how many threads compute (torch: its own number; others: every core)"
    )


def check_positive(name: str, value: int | None) -> None:
    """Raise InputError if an option is given and below 1, or too large to mean anything."""
    if value is not None and value < 1:
        raise InputError(f"--{name}: {value} is not positive")
    most = MOST_THREADS if name == "threads" else MOST
    if value is not None and value > most:
        raise InputError(f"--{name}: {value:.6g} is over {most}")

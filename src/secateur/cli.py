"""The command line: the commands put together. `--help` imports no command, a command only itself.

Exit codes: 0 done; 1 what was made falls short and is not kept; 2 something given was wrong; 130 stopped by Ctrl-C.
Of 1 and 2 one line says what.
"""

import argparse
import errno
import importlib
import logging
import os
import sys
from collections.abc import Sequence

from secateur import __version__
from secateur.commands.options import Parser
from secateur.config.errors import InputError, QualityError, name_missing

COMMANDS = {  # in the order of the help; each is a module of secateur.commands
    "train": "run a recipe: saliency, cut, repair, distillation, scores",
    "prune": "cut a model and repair it, without training",
    "infer": "score a saved model on encodechka, or on the probe that comes with secateur",
    "encode": "turn lines of text into unit vectors",
    "export": "write a model's ONNX files, float and int8, and measure them",
    "cost": "measure what models cost: parameters, MB, FLOPs, milliseconds",
    "report": "make a run's page from its record, or a page that compares several runs",
    "demo": "serve a local page with teacher and student side by side",
    "retrieve": "measure how often models find a sentence's translation",
    "rank": "rank models on encodechka and on the probe",
    "vocabulary": "keep the tokens that texts of some languages need",
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
    except InputError as error:
        return fail(str(error))
    except QualityError as error:
        fail(str(error))
        return 1
    except ModuleNotFoundError as error:
        return fail(name_missing(error, by=next(word for word in words if word in COMMANDS)))
    except Exception as error:
        if not is_disk_full(error):
            raise
        where = getattr(error, "filename", None) or error
        return fail(f"the disk is full: {where}; what was being written is not kept{options.resume_hint(options)}")
    except KeyboardInterrupt:
        print(f"\nstopped{options.resume_hint(options)}", file=sys.stderr)
        return 130
    return 0


def parse(words: Sequence[str]) -> argparse.Namespace:
    """Parse the command line; a recipe's overrides may stand before and after options."""
    chosen = next((word for word in words if not word.startswith("-")), None)
    parser, commands = build_parser(chosen)
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


def build_parser(chosen: str | None = None) -> tuple[Parser, dict[str, Parser]]:
    """Return the parser and those of the commands; only the chosen command is imported and given its options."""
    parser = Parser(prog="secateur", description="Prune, repair and distil multilingual sentence encoders.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command_name")
    parsers = {name: commands.add_parser(name, help=text) for name, text in COMMANDS.items()}
    if chosen in parsers:
        importlib.import_module(f"secateur.commands.{chosen}").add(parsers[chosen])
    return parser, parsers


def fail(message: str) -> int:
    print(f"secateur: {' '.join(message.split())}", file=sys.stderr)
    return 2


def is_disk_full(error: BaseException) -> bool:
    """Whether a write failed for want of space; safetensors and torch say so in words of their own."""
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return True
    words = str(error)
    return "No space left" in words or ("PytorchStreamWriter" in words and "failed" in words)


def configure_logging(*, verbose: bool) -> None:
    """Our own words to standard error; of the libraries' only warnings."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    first = os.environ.get("RANK", "0") == "0"  # of the processes that torchrun started, one speaks
    logging.getLogger("secateur").setLevel(logging.DEBUG if verbose else logging.INFO if first else logging.WARNING)
    for chatty in ("sentence_transformers", "transformers", "httpx", "accelerate"):
        logging.getLogger(chatty).setLevel(logging.ERROR)


if __name__ == "__main__":
    sys.exit(main())

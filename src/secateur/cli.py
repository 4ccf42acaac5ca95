"""The command line, a function a command. `--help` imports neither torch nor transformers.

Exit codes: 0 done; 1 what was made falls short and is not kept; 2 something given was wrong; 130 stopped by Ctrl-C.
Of 1 and 2 one line says what.
"""

import argparse
import errno
import logging
import os
import re
import shlex
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NoReturn

from secateur import __version__
from secateur.config.errors import InputError, QualityError, require
from secateur.config.evaluation import EncodechkaSettings
from secateur.config.quality import QualitySettings
from secateur.config.reading import build_pruning_recipe, build_settings, load_recipe, read_wheels
from secateur.config.recipe import CreationRecipe
from secateur.config.teacher import TeacherSettings
from secateur.config.values import CRITERIA, RUNTIMES


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code."""
    options = parse(arguments)
    configure_logging(verbose=options.verbose)
    try:
        options.command(options)
    except InputError as error:
        return fail(str(error))
    except QualityError as error:
        fail(str(error))
        return 1
    except Exception as error:
        if not is_disk_full(error):
            raise
        where = getattr(error, "filename", None) or error
        return fail(f"the disk is full: {where}; what was being written is not kept{options.resume_hint(options)}")
    except KeyboardInterrupt:
        print(f"\nstopped{options.resume_hint(options)}", file=sys.stderr)
        return 130
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line; a recipe's overrides may stand before and after options."""
    parser = build_parser()
    options, rest = parser.parse_known_args(arguments)
    if rest and not (hasattr(options, "overrides") and all("=" in word and word[0] != "-" for word in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        options.overrides = [*options.overrides, *rest]
    options.words = sys.argv[1:] if arguments is None else list(arguments)
    return options


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


class Parser(argparse.ArgumentParser):
    """Says in one line what is wrong, as everything else here does; argparse would print the usage before it."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(prog="secateur", description="Prune, repair and distil multilingual sentence encoders.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    add_train(commands)
    add_infer(commands)
    add_rank(commands)
    add_retrieve(commands)
    add_prune(commands)
    add_vocabulary(commands)
    add_encode(commands)
    add_export(commands)
    add_cost(commands)
    add_push(commands)
    add_report(commands)
    add_demo(commands)
    return parser


def add_command(
    commands: "argparse._SubParsersAction[Parser]", name: str, text: str, example: str
) -> argparse.ArgumentParser:
    command = commands.add_parser(
        name, help=text, description=text, epilog=f"example: {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    command.add_argument("--verbose", action="store_true", help="say more")
    command.add_argument(
        "--cache", type=Path, default=default_cache(), metavar="DIR", help="downloads and teacher vectors (%(default)s)"
    )
    command.add_argument(
        "--device", choices=("auto", "cpu", "cuda", "mps"), default="auto", help="auto: a GPU where torch sees one"
    )
    command.set_defaults(resume_hint=lambda options: "")
    return command


def default_cache() -> Path:
    """Return $XDG_CACHE_HOME/secateur, or ~/.cache/secateur."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "secateur"


RUNS = "where runs are (%(default)s)"


def add_train(commands: "argparse._SubParsersAction[Parser]") -> None:
    command = add_command(
        commands, "train", "Run a recipe: saliency, cut, repair, distillation, scores.",
        'secateur train experiments/mini-en-ru.yaml distillation.steps=200 "corpus.files=[pairs.tsv]"',
    )  # fmt: skip
    command.add_argument("recipe", type=Path, help="a YAML file; its name is the run's name")
    command.add_argument(
        "overrides", nargs="*", default=[], metavar="key=value", help="keys laid over the recipe, values in YAML"
    )
    command.add_argument("--resume", action="store_true", help="go on with the run that was stopped")
    command.add_argument(
        "--models", type=Path, default=Path("models"), metavar="DIR", help="where students go (%(default)s)"
    )
    command.set_defaults(command=run_train, resume_hint=say_resume)


def run_train(options: argparse.Namespace) -> None:
    run = load_recipe(options.recipe, options.overrides)
    from secateur.runs.bookkeeping import Places
    from secateur.runs.create import create
    from secateur.runs.train import train

    places = Places(run=options.recipe.parent / run.name, models=options.models, cache=options.cache)
    if isinstance(run, CreationRecipe):
        create(run, places, resume=options.resume)
    else:
        train(run, places, resume=options.resume)


def say_resume(options: argparse.Namespace) -> str:
    words = [word for word in options.words if word != "--resume"]
    return f"; to go on: secateur {shlex.join([*words, '--resume'])}"


def add_infer(commands: "argparse._SubParsersAction[Parser]") -> None:
    command = add_command(
        commands,
        "infer",
        "Score a saved model on encodechka, or on the probe that comes with secateur.",
        "secateur infer models/mini-en-ru --data FOLDER",
    )
    command.add_argument("model", nargs="?", help="a model folder or hub name (the model of the last run)")
    command.add_argument("--data", metavar="FOLDER", help="the benchmark's files (downloaded once)")
    command.add_argument(
        "--tasks", default="encodechka", metavar="TASKS",
        help="encodechka, probe, all (both), or some of STS,PI,NLI,SA,TI,IA,IC,ICX,NE1,NE2 (%(default)s)",
    )  # fmt: skip
    command.add_argument(
        "--models", type=Path, default=Path("models"), metavar="DIR", help="where students are (%(default)s)"
    )
    command.add_argument("--runs", type=Path, default=Path("experiments"), metavar="DIR", help=RUNS)
    add_backend(command)
    command.set_defaults(command=run_infer)


def run_infer(options: argparse.Namespace) -> None:
    check_positive("threads", options.threads)
    settings: dict[str, object] = {"data": options.data}
    on = {"probe": ("probe",), "all": ("encodechka", "probe")}.get(options.tasks, ("encodechka",))
    if options.tasks not in ("encodechka", "probe", "all"):
        settings["tasks"] = options.tasks.split(",")
    encodechka = build_settings(EncodechkaSettings, settings, origin="--tasks")
    from torch import set_num_threads

    from secateur.encoders.device import pick_device
    from secateur.runs.infer import infer, infer_file, last_model

    model = options.model or last_model(options.runs, options.models)
    if options.backend != "torch":
        print(
            infer_file(
                model, encodechka, on=on, cache=options.cache, runs=options.runs, backend=options.backend,
                device=options.device, threads=options.threads,
            )
        )  # fmt: skip
        return
    if options.threads is not None:
        set_num_threads(options.threads)
    device = pick_device(options.device)
    print(infer(model, encodechka, on=on, cache=options.cache, runs=options.runs, device=device))


def check_positive(name: str, value: int | None) -> None:
    """Raise InputError if an option is given and below 1."""
    if value is not None and value < 1:
        raise InputError(f"--{name}: {value} is not positive")


USE_HELP = "add Universal Sentence Encoder, an optional package"


def add_rank(commands: "argparse._SubParsersAction[Parser]") -> None:
    command = add_command(
        commands, "rank", "Rank models on encodechka and on the probe, and say how far the two orders agree.",
        "secateur rank models/teacher-mini-en-ru models/mini-en-ru --baselines --data FOLDER",
    )  # fmt: skip
    command.add_argument("models", nargs="*", help="model folders or hub names")
    command.add_argument("--baselines", action="store_true", help="add vectors that count words and letters")
    command.add_argument("--use", action="store_true", help=USE_HELP)
    command.add_argument("--data", metavar="FOLDER", help="encodechka's files (downloaded once)")
    command.set_defaults(command=run_rank)


def run_rank(options: argparse.Namespace) -> None:
    settings = EncodechkaSettings(data=options.data)
    from secateur.encoders.device import pick_device
    from secateur.runs.infer import rank_models

    print(
        rank_models(
            options.models, settings, baselines=options.baselines, use=options.use, cache=options.cache,
            device=pick_device(options.device),
        )
    )  # fmt: skip


def add_retrieve(commands: "argparse._SubParsersAction[Parser]") -> None:
    command = add_command(
        commands, "retrieve",
        "How often a sentence's nearest neighbour among all translations of a file is its own, both ways.",
        "secateur retrieve models/teacher-mini-en-ru models/mini-en-ru --pairs tatoeba1000.tsv.gz",
    )  # fmt: skip
    command.add_argument("models", nargs="*", metavar="MODEL", help="model folders or hub names")
    command.add_argument(
        "--pairs", nargs="+", required=True, type=Path, metavar="FILE", help=".tsv files of test pairs"
    )
    command.add_argument("--use", action="store_true", help=USE_HELP)
    command.add_argument("--precision", default="auto", choices=("auto", "float32", "bf16"), help="(%(default)s)")
    command.set_defaults(command=run_retrieve)


def run_retrieve(options: argparse.Namespace) -> None:
    from secateur.encoders.device import pick_device
    from secateur.runs.infer import retrieve

    device = pick_device(options.device)
    print(retrieve(options.models, options.pairs, use=options.use, precision=options.precision, device=device))


def add_prune(commands: "argparse._SubParsersAction[Parser]") -> None:
    command = add_command(
        commands, "prune", "Cut a model and repair it, without training. Under a limit the sizes that lose least are\n"
        "chosen; what is named stays as named; without a limit the rest stays whole. Fractions are what is KEPT.",
        "secateur prune models/teacher-mini-en-ru --keep-heads 0.5 --keep-neurons 0.5 --pairs pairs.tsv --out DIR",
    )  # fmt: skip
    command.add_argument("model", help="a model folder or hub name")
    limits = command.add_argument_group("limits")
    limits.add_argument("--keep-params", type=float, metavar="FRACTION", help="of all parameters")
    limits.add_argument("--max-params", metavar="N", help="parameters, as in 12.8M")
    limits.add_argument("--max-mb", type=float, metavar="MB", help="megabytes of weights")
    limits.add_argument("--max-ms", type=float, metavar="MS", help="milliseconds a sentence on this machine, measured")
    limits.add_argument(
        "--runtime",
        default="torch",
        choices=RUNTIMES,
        help="what will serve the student (%(default)s)",
    )
    axes = command.add_argument_group("axes")
    axes.add_argument("--keep-heads", type=float, metavar="FRACTION", help="of all attention heads")
    axes.add_argument("--keep-neurons", type=float, metavar="FRACTION", help="of all FFN neurons")
    axes.add_argument("--keep-hidden", type=float, metavar="FRACTION", help="of the hidden width")
    axes.add_argument("--layers", type=int, metavar="N", help="how many are kept")
    axes.add_argument("--vocabulary", type=int, metavar="N", help="how many word pieces are kept")
    axes.add_argument("--rank", type=int, metavar="N", help="of the word pieces' vectors")
    command.add_argument(
        "--pairs", nargs="+", required=True, metavar="FILE",
        help="a .tsv of pairs (English, tab, Russian), two aligned texts, or a .yaml list of catalogs to download",
    )  # fmt: skip
    command.add_argument("--out", type=Path, metavar="DIR", help="where the student goes")
    command.add_argument(
        "--family", metavar="F,F,...", help="nested students that keep these fractions of all parameters, in DIR/F each"
    )
    command.add_argument("--dry-run", action="store_true", help="print what would be kept and stop")
    how = command.add_argument_group("how")
    how.add_argument(
        "--held-out", type=float, default=0.05, metavar="FRACTION", help="of the pairs, to judge by (%(default)s)"
    )
    how.add_argument(
        "--saliency-pairs", type=int, default=1000, metavar="N", help="to score heads and neurons on (%(default)s)"
    )
    how.add_argument(
        "--repair-sentences", type=int, default=2000, metavar="N", help="to repair on; 0: no repair (%(default)s)"
    )
    how.add_argument("--rounds", type=int, default=1, metavar="N", help="of cut, repair and scoring anew (%(default)s)")
    how.add_argument(
        "--criterion", default="both", choices=CRITERIA, help="what scores heads and neurons (%(default)s)"
    )
    how.add_argument(
        "--ranking", default="global", choices=("global", "layer"),
        help="the best over all layers stay, or the same share of each (%(default)s)",
    )  # fmt: skip
    how.add_argument(
        "--layer-choice", default="removal", choices=("removal", "even"),
        help="those whose removal hurts least go, or evenly spaced ones stay (%(default)s)",
    )  # fmt: skip
    how.add_argument(
        "--multiple", type=int, default=1, metavar="N",
        help="each layer keeps a multiple of it of neurons, all layers together no more than asked; 8 for a GPU "
        "(%(default)s)",
    )  # fmt: skip
    how.add_argument(
        "--pooling", default="auto", choices=("auto", "pooler", "cls", "mean"),
        help="auto: as the folder says, mean where it says nothing",
    )  # fmt: skip
    how.add_argument("--seed", type=int, default=0, metavar="N", help="of what is drawn at random (%(default)s)")
    command.set_defaults(command=run_prune)


def run_prune(options: argparse.Namespace) -> None:
    if options.out is None and not options.dry_run:
        raise InputError("--out: name a folder for the student, or ask for a --dry-run")
    if options.out is not None:
        check_out(options.out)
    if options.family is None and all(vars(options)[name] is None for name in CUTS):
        raise InputError(f"say what to keep: {', '.join(name_flag(name) for name in CUTS)} or --family")
    try:
        prune_as_told(options)
    except InputError as error:
        raise InputError(name_option(str(error))) from None


CUTS = ("keep_heads", "keep_neurons", "keep_hidden", "layers", "vocabulary", "rank",
        "keep_params", "max_params", "max_mb", "max_ms")  # fmt: skip


def name_flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def prune_as_told(options: argparse.Namespace) -> None:
    fractions = read_fractions(options.family) if options.family is not None else ()
    if fractions and any((options.keep_params, options.max_params, options.max_mb, options.max_ms)):
        raise InputError("--family: its fractions are limits; name no other")
    recipe = build_pruning_recipe(
        {
            "name": options.out.name if options.out else "plan",
            "teacher": {"model": options.model, "pooling": options.pooling},
            "corpus": {**name_sources(options.pairs), "held_out": options.held_out},
            "saliency": {"pairs": options.saliency_pairs, "criterion": options.criterion, "precision": "auto"},
            "budget": {
                "heads": options.keep_heads,
                "neurons": options.keep_neurons,
                "hidden": options.keep_hidden,
                "layers": options.layers,
                "vocabulary": options.vocabulary,
                "rank": options.rank,
                "share": max(fractions, default=options.keep_params),
                "params": read_count(options.max_params),
                "mb": options.max_mb,
                "ms": options.max_ms,
                "runtime": options.runtime,
                "rounds": options.rounds,
                "layer_choice": options.layer_choice,
                "ranking": options.ranking,
                "multiple": options.multiple,
            },
            "repair": {"sentences": options.repair_sentences},
            "distillation": {"steps": 0},
            "seed": options.seed,
            "device": options.device,
        },
        origin="options",
    )
    from secateur.runs.prune import prune, prune_family

    if options.family is None:
        prune(recipe, options.out, cache=options.cache, dry_run=options.dry_run)
    else:
        prune_family(recipe, fractions, options.out, cache=options.cache, dry_run=options.dry_run)


def name_sources(paths: Sequence[str]) -> dict[str, object]:
    """Return what `--pairs` names as keys of a corpus: lists of catalogs end in .yaml, the rest is a table or texts."""
    lists = [path for path in paths if path.endswith((".yaml", ".yml"))]
    texts = [path for path in paths if path not in lists]
    if len(texts) > 2:
        raise InputError(f"--pairs: one .tsv or two aligned texts, not {len(texts)} files")
    catalogs = [wheel for path in lists for wheel in read_wheels(Path(path))]
    return {"files": [texts] if len(texts) == 2 else texts, "catalogs": catalogs}


def read_fractions(text: str) -> tuple[float, ...]:
    """Return the fractions of `0.75,0.5`; raise InputError for anything else."""
    try:
        fractions = tuple(float(part) for part in text.split(","))
    except ValueError:
        fractions = ()
    if not fractions or not all(0 < fraction <= 1 for fraction in fractions):
        raise InputError(f"--family: {text!r} is not a list of fractions such as 0.75,0.5,0.25")
    return fractions


def read_count(text: str | None) -> object:
    """Return a count that is digits as a number; 12.8M and the like are the recipe's to read."""
    return int(text) if text and text.isdigit() else text


PRUNE_OPTIONS = {
    "budget.heads": "--keep-heads",
    "budget.neurons": "--keep-neurons",
    "budget.hidden": "--keep-hidden",
    "budget.layer_choice": "--layer-choice",
    "budget.layers": "--layers",
    "budget.mb": "--max-mb",
    "budget.ms": "--max-ms",
    "budget.multiple": "--multiple",
    "budget.params": "--max-params",
    "budget.rank": "--rank",
    "budget.rounds": "--rounds",
    "budget.runtime": "--runtime",
    "budget.share": "--keep-params",
    "budget.vocabulary": "--vocabulary",
    "corpus.held_out": "--held-out",
    "repair.sentences": "--repair-sentences",
    "saliency.pairs": "--saliency-pairs",
    "seed": "--seed",
    "teacher.model": "model",
}


def name_option(message: str) -> str:
    """Name the option where a message names the key that it sets."""
    message = message.removeprefix("options: ")
    for key, option in PRUNE_OPTIONS.items():
        message = re.sub(rf"\b{re.escape(key)}:", f"{option}:", message)
    return message


def add_vocabulary(commands: "argparse._SubParsersAction[Parser]") -> None:
    command = add_command(
        commands, "vocabulary", "Keep the word pieces that texts of some languages need, and say what it does to them.",
        "secateur vocabulary MODEL --corpus ru=ru.txt --corpus en=en.txt --size 30000 --out DIR",
    )  # fmt: skip
    command.add_argument("model", help="a model folder or hub name")
    command.add_argument(
        "--corpus", action="append", required=True, metavar="LANGUAGE=FILE", help="UTF-8 text, a sentence a line"
    )
    command.add_argument("--size", type=int, required=True, metavar="N", help="how many word pieces are kept")
    command.add_argument(
        "--exact", action="store_true",
        help="fold nothing: sentences whose pieces all survive keep their vector bit for bit",
    )  # fmt: skip
    command.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the model goes")
    command.set_defaults(command=run_vocabulary)


def run_vocabulary(options: argparse.Namespace) -> None:
    check_positive("size", options.size)
    check_out(options.out)
    files: dict[str, Path] = {}
    for word in options.corpus:
        language, equals, file = word.partition("=")
        if not equals or not language or language in files:
            raise InputError(f"--corpus {word}: expected LANGUAGE=FILE, each language once")
        files[language] = Path(file)
    from secateur.runs.prune import cut_vocabulary

    print(cut_vocabulary(options.model, files, options.size, options.out, fold=not options.exact))


def check_out(folder: Path) -> None:
    """Raise InputError if a student saved in this folder would replace anything but a model."""
    replaceable = folder.is_dir() and ((folder / "modules.json").is_file() or not any(folder.iterdir()))
    if folder.exists() and not replaceable:
        raise InputError(f"--out: {folder} is there already and is not a model folder")


def add_encode(commands: "argparse._SubParsersAction[Parser]") -> None:
    command = add_command(
        commands, "encode", "Turn lines of text into unit vectors, one a line, as a float32 .npy array.",
        "secateur encode models/mini-en-ru < sentences.txt > vectors.npy",
    )  # fmt: skip
    command.add_argument("model", help="a model folder or hub name")
    command.add_argument("--input", type=Path, metavar="FILE", help="UTF-8 text, a sentence a line (standard input)")
    command.add_argument("--out", type=Path, metavar="FILE", help="the .npy file (standard output)")
    add_backend(command)
    command.add_argument(
        "--batch-tokens", type=int, default=2048, metavar="N", help="word pieces that run at a time (%(default)s)"
    )
    command.set_defaults(command=run_encode)


def add_backend(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--backend", choices=RUNTIMES, default="torch", help="onnx ...: what export wrote (%(default)s)"
    )
    command.add_argument(
        "--threads", type=int, metavar="N", help="how many compute (torch: its own; ONNX: the cores there are)"
    )


def run_encode(options: argparse.Namespace) -> None:
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


def add_export(commands: "argparse._SubParsersAction[Parser]") -> None:
    command = add_command(
        commands, "export", "Write a model's ONNX files, float and int8, and measure them: MODEL/onnx/,\n"
        "MODEL/parity.json, MODEL/README.md. The int8 file must pass the gate; without one the exit code is 1.",
        "secateur export models/mini-en-ru --pairs pairs.tsv",
    )  # fmt: skip
    command.add_argument("model", help="a model folder, or with --out a hub name")
    command.add_argument("--out", type=Path, metavar="DIR", help="put a copy of the model there, and the files in it")
    command.add_argument("--int8", action=argparse.BooleanOptionalAction, default=True, help="the int8 file too (yes)")
    command.add_argument(
        "--pairs", type=Path, metavar="FILE",
        help="a .tsv of pairs to judge by, those that a run on it holds out (without: texts that come with secateur)",
    )  # fmt: skip
    command.add_argument("--data", type=Path, metavar="FOLDER", help="encodechka's files: score every artefact")
    gate = command.add_argument_group("gate")
    default = QualitySettings()
    gate.add_argument(
        "--min-cosine", type=float, default=default.min_cosine, metavar="X", help="to the float model (%(default)s)"
    )
    gate.add_argument(
        "--min-low-cosine",
        type=float,
        default=default.min_low_cosine,
        metavar="X",
        help="its first percentile (%(default)s)",
    )
    gate.add_argument(
        "--max-retrieval-loss", type=float, default=default.max_retrieval_loss, metavar="X",
        help="of translations found, each way (%(default)s)",
    )  # fmt: skip
    gate.add_argument(
        "--sentences", type=int, default=default.sentences, metavar="N", help="of each language (%(default)s)"
    )
    gate.add_argument(
        "--reduce-range", action=argparse.BooleanOptionalAction, default=None,
        help="weights up to 63, for x86 processors without VNNI (where this one has none)",
    )  # fmt: skip
    command.add_argument("--threads", type=int, metavar="N", help="how many compute (the cores there are)")
    command.set_defaults(command=run_export)


QUALITY_OPTIONS = ("min_cosine", "min_low_cosine", "max_retrieval_loss", "sentences")


def run_export(options: argparse.Namespace) -> None:
    check_positive("threads", options.threads)
    if options.out is not None:
        check_out(options.out)
    settings: dict[str, object] = {name: getattr(options, name) for name in QUALITY_OPTIONS}
    settings["exact"] = None if options.reduce_range is None else not options.reduce_range
    try:
        gate = build_settings(QualitySettings, settings, origin="")
    except InputError as error:
        raise InputError(re.sub(r"^(\w+):", lambda name: f"{name_flag(name[1])}:", str(error))) from None
    for package in ("onnx", "onnxruntime"):
        require(package, extra="onnx", by="export")
    from secateur.export.export import export
    from secateur.reports.text import format_artefacts

    rows = export(
        options.model, gate, out=options.out, int8=options.int8, pairs=options.pairs, data=options.data,
        threads=options.threads,
    )  # fmt: skip
    print(format_artefacts(rows))


def add_cost(commands: "argparse._SubParsersAction[Parser]") -> None:
    command = add_command(
        commands, "cost", "Measure what models cost, beside each other: parameters, MB, FLOPs, milliseconds,\n"
        "sentences a second; torch, and the ONNX files that a folder has. The models take turns.",
        "secateur cost models/teacher-mini-en-ru models/mini-en-ru",
    )  # fmt: skip
    command.add_argument("models", nargs="+", metavar="MODEL", help="a model folder or hub name")
    command.add_argument("--length", type=int, default=16, metavar="N", help="word pieces a sentence (%(default)s)")
    command.add_argument("--repeats", type=int, default=100, metavar="N", help="measured runs at batch 1 (%(default)s)")
    command.add_argument("--warmup", type=int, default=10, metavar="N", help="runs before them (%(default)s)")
    command.add_argument("--threads", type=int, nargs="+", metavar="N", help="(1 and the cores there are)")
    command.set_defaults(command=run_cost)


def run_cost(options: argparse.Namespace) -> None:
    for name, low in {"length": 2, "repeats": 1, "warmup": 0}.items():
        if getattr(options, name) < low:
            raise InputError(f"--{name}: {getattr(options, name)} is less than {low}")
    check_positive("threads", min(options.threads or (1,)))
    from secateur.encoders.cost import Timing, measure_costs
    from secateur.reports.text import format_costs

    timing = Timing(options.length, options.repeats, options.warmup, tuple(options.threads or ()))
    print(format_costs(measure_costs(options.models, timing, device=options.device), timing))


def add_push(commands: "argparse._SubParsersAction[Parser]") -> None:
    command = add_command(
        commands, "push", "Upload a model folder to a model hub, with the token that `hf auth login` keeps.",
        "secateur push models/mini-en-ru NAME/mini-en-ru --dry-run",
    )  # fmt: skip
    command.add_argument("model", type=Path, help="a model folder")
    command.add_argument("repository", metavar="REPO", help="its name on the hub, OWNER/NAME")
    command.add_argument("--dry-run", action="store_true", help="list the files and their sizes and stop")
    command.add_argument("--private", action="store_true", help="make a repository that only its owner sees")
    command.set_defaults(command=run_push)


def run_push(options: argparse.Namespace) -> None:
    from secateur.export.publish import push

    print(push(options.model, options.repository, dry_run=options.dry_run, private=options.private))


def add_report(commands: "argparse._SubParsersAction[Parser]") -> None:
    command = add_command(
        commands, "report", "Make a run's page from its record, or one page that compares several runs. A run\n"
        "that has not ended shows what there is of it.",
        "secateur report mini-en-ru mini-en-ru-large",
    )  # fmt: skip
    command.add_argument("names", nargs="+", metavar="NAME", help="a run's name, or its folder")
    command.add_argument("--runs", type=Path, default=Path("experiments"), metavar="DIR", help=RUNS)
    command.add_argument(
        "--out", type=Path, metavar="FILE", help="the page (NAME/report.html of the runs; of several NAME+NAME.html)"
    )
    command.set_defaults(command=run_report)


def run_report(options: argparse.Namespace) -> None:
    from secateur.reports.page import report_runs

    print(report_runs(options.names, options.runs, options.out))


def add_demo(commands: "argparse._SubParsersAction[Parser]") -> None:
    command = add_command(
        commands, "demo", "Serve a local page with teacher and student side by side: similarities, neighbours, ms.",
        "secateur demo --student models/mini-en-ru --sentences sentences.txt",
    )  # fmt: skip
    command.add_argument("--student", metavar="MODEL", help="a model folder or hub name (the model of the last run)")
    command.add_argument("--teacher", metavar="MODEL", help="another (the teacher of the student's run)")
    command.add_argument("--host", default="127.0.0.1", help="the address to listen on (%(default)s)")
    command.add_argument("--port", type=int, default=7860, metavar="N", help="and the port (%(default)s)")
    command.add_argument("--sentences", type=Path, metavar="FILE", help="UTF-8 text to find neighbours in")
    command.add_argument(
        "--models", type=Path, default=Path("models"), metavar="DIR", help="where students are (%(default)s)"
    )
    command.add_argument("--runs", type=Path, default=Path("experiments"), metavar="DIR", help=RUNS)
    command.set_defaults(command=run_demo)


def run_demo(options: argparse.Namespace) -> None:
    from secateur.encoders.device import pick_device
    from secateur.reports.demo import check_address, load_contenders, prepare_gradio, serve
    from secateur.runs.infer import find_teacher, last_model

    prepare_gradio()
    check_address(options.host, options.port)
    student = options.student or last_model(options.runs, options.models)
    named = TeacherSettings(model=options.teacher) if options.teacher else None
    teacher = named or find_teacher(options.runs / Path(student).name)
    if teacher is None:
        raise InputError(f"--teacher: no run in {options.runs} says what the teacher of {student} is; name it")
    contenders = load_contenders(teacher, student, device=pick_device(options.device))
    serve(contenders, options.sentences, host=options.host, port=options.port)


if __name__ == "__main__":
    sys.exit(main())

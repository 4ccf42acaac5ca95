"""secateur prune: cut a model and repair it, without training."""

import argparse
import sys
from pathlib import Path
from typing import Any

from secateur.commands.check import NO_CHECK, check_saved
from secateur.commands.options import MODEL, Parser, Renamed, add_setting, new_command
from secateur.config.errors import InputError
from secateur.config.places import check_named_folder, exists, find_real, name_place

HELP = "Cut a model and repair it, without training."


def rename_criterion(text: str) -> str:
    """Return a criterion under its new name; that it has one is said."""
    if text == "probe":
        print("--criterion probe is now called --criterion output", file=sys.stderr)
        return "output"
    return text


READERS = {"max_params": str, "criterion": rename_criterion}  # of options whose text is not simply a number
GROUPS = {  # a group of options: the option, its placeholder
    "limits": {
        "keep_params": "FRACTION", "max_params": "N", "max_mb": "MB", "max_ms": "MS", "runtime": "",
    },
    "axes": {
        "keep_heads": "FRACTION", "keep_neurons": "FRACTION", "keep_hidden": "FRACTION", "layers": "N",
        "vocabulary": "N", "rank": "N",
    },
    "how": {
        "held_out": "FRACTION", "saliency_pairs": "N", "repair_sentences": "N", "rounds": "N", "criterion": "",
        "ranking": "", "layer_choice": "", "round_neurons_to": "N", "prompts": "", "pooling": "", "max_length": "N",
        "dtype": "", "seed": "N",
    },
}  # fmt: skip


def add(parser: Parser) -> None:
    """Add the command's options; what they are for is said by the settings that they set."""
    from secateur.config.options import PRUNE, PRUNE_DEFAULTS, STATIC_DEFAULTS, spell_flag
    from secateur.config.recipe import PruningRecipe

    new_command(
        parser, f"{HELP} Under a limit the sizes that lose least are chosen; an axis\n"
        "that is named keeps what is named; without a limit every other axis stays whole. Fractions are what is KEPT.",
        "secateur prune models/teacher-mini-en-ru --keep-heads 0.5 --keep-neurons 0.5 --pairs pairs.tsv --out DIR",
    )  # fmt: skip
    parser.add_argument("model", help=MODEL)
    parser.add_argument(
        "--pairs", nargs="+", required=True, metavar="FILE",
        help="a .tsv of pairs (English, tab, Russian), two texts whose lines belong together, or a .yaml list of "
        "catalogs to download",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, metavar="DIR", help="the folder that the student is saved in")
    parser.add_argument(
        "--family", metavar="F,F,...",
        help="save several students that keep these fractions of all parameters, each cut out of the one before, in "
        "DIR/F each",
    )  # fmt: skip
    parser.add_argument(
        "--allow-missing", action="store_true", default=None,
        help="go on without those packages of a list of catalogs that cannot be had",
    )  # fmt: skip
    parser.add_argument("--dry-run", action="store_true", help="print what would be kept, and stop")
    for title, options in GROUPS.items():
        group = parser.add_argument_group(title)
        for option, metavar in options.items():
            key = PRUNE[option]
            default = PRUNE_DEFAULTS.get(key)
            words: dict[str, Any] = {
                "metavar": metavar,
                "default": f"{default}; {STATIC_DEFAULTS[key]} with --layers 0" if key in STATIC_DEFAULTS else default,
                "read": READERS.get(option),
            }
            add_setting(group, spell_flag(option), PruningRecipe, key, **words)
    parser.add_argument("--no-check", action="store_true", help=NO_CHECK)
    parser.add_argument("--multiple", dest="round_neurons_to", type=int, action=Renamed)
    parser.set_defaults(command=run)


def run(options: argparse.Namespace) -> None:
    """Prune as told: print the plan, save the student, print what it is worth."""
    from secateur.config.options import PRUNE, SIZES, build_prune_recipe, naming_options, spell_flag

    if options.out is None and not options.dry_run:
        raise InputError("--out: name a folder for the student, or ask for a --dry-run")
    fractions = read_fractions(options.family) if options.family is not None else ()
    if fractions and any((options.keep_params, options.max_params, options.max_mb, options.max_ms)):
        raise InputError("--family: its fractions are limits; name no other")
    given = {option: getattr(options, option) for option in PRUNE}
    if fractions:
        given["keep_params"] = max(fractions)
    if all(given[option] is None for option in SIZES):
        raise InputError(f"say what to keep: {', '.join(map(spell_flag, SIZES))} or --family")
    from secateur.data.files import check_out
    from secateur.data.sources import name_sources

    check_named_folder(options.model)
    out = None if options.out is None else name_place(options.out)
    if out is not None:
        check_apart(out, options.model)
        check_family(out) if fractions else check_out(out)
    name = "plan" if out is None else out.name
    recipe = build_prune_recipe(options.model, given, name_sources(options.pairs), name=name, spell=spell_flag)
    from secateur.runs.prune import plan_pruning, prune_family
    from secateur.runs.static import prune_to_bag

    with naming_options(spell_flag):
        if recipe.budget.is_static:
            if out is None:
                raise InputError("--dry-run: without layers there is nothing to plan; name a folder with --out")
            print(prune_to_bag(recipe, out, cache=options.cache))
            return
        if fractions:
            prune_family(recipe, fractions, out, cache=options.cache, dry_run=options.dry_run)
            if out is not None and not options.dry_run and not options.no_check:
                for fraction in fractions:
                    check_saved(out / f"{fraction:g}")
            return
        planned = plan_pruning(recipe, cache=options.cache)
        print(planned.summary)
        if out is not None and not options.dry_run:
            student = planned.cut()
            student.save(out)
            print(student.table)
            if not options.no_check:
                check_saved(out)


def check_apart(out: Path, model: str) -> None:
    """Raise InputError if a student would take the place of the model that it is made of."""
    if exists(model) and find_real(out) == find_real(Path(model)):
        raise InputError(f"--out: {model} is the model itself; name another folder for the student")


def check_family(out: Path) -> None:
    """Raise InputError if a family cannot be saved in this folder, or would replace anything but one, or a model."""
    from secateur.data.files import check_out, check_replaceable, check_writable

    if not (out / "family.json").is_file():
        check_out(out)
        return
    check_writable(out)
    for each in sorted(out.iterdir()):
        if each.is_symlink():
            raise InputError(f"{each}: a link, which is no part of a family; name another folder")
        if each.name not in ("family.json", "family.png"):
            check_replaceable(each)


def read_fractions(text: str) -> tuple[float, ...]:
    """Return the fractions of `0.75,0.5`; raise InputError for anything else."""
    try:
        fractions = tuple(float(part) for part in text.split(","))
    except ValueError:
        fractions = ()
    if not fractions or not all(0 < fraction <= 1 for fraction in fractions):
        raise InputError(f"--family: {text!r} is not a list of fractions such as 0.75,0.5,0.25")
    return fractions

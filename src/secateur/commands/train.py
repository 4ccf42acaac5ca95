"""secateur train: a recipe, from the first stage to the last."""

import argparse
import os
import shlex
from pathlib import Path

from secateur.commands.check import NO_CHECK, check_saved
from secateur.commands.options import MODELS, Parser, new_command

HELP = "Run a recipe: saliency, cut, repair, distillation, scores."


def add(parser: Parser) -> None:
    """Add the command's options."""
    new_command(
        parser, f"{HELP} A run that was stopped goes on with --resume.",
        'secateur train experiments/mini-en-ru.yaml "corpus.files=[pairs.tsv]" "corpus.catalogs=[]"',
    )  # fmt: skip
    parser.add_argument("recipe", type=Path, help="a YAML file, or the name of one in experiments/")
    parser.add_argument(
        "overrides", nargs="*", default=[], metavar="key=value", help="keys laid over the recipe, values in YAML"
    )
    parser.add_argument("--resume", action="store_true", help="go on with the run that was stopped")
    parser.add_argument("--models", type=Path, default=Path("models"), metavar="DIR", help=MODELS)
    parser.add_argument("--no-check", action="store_true", help=NO_CHECK)
    parser.set_defaults(command=run, resume_hint=say_resume)


def run(options: argparse.Namespace) -> None:
    """Train as told."""
    from secateur.config.reading import load_recipe
    from secateur.config.recipe import CreationRecipe

    path = find_recipe(options.recipe)
    recipe = load_recipe(path, options.overrides)
    from secateur.runs.bookkeeping import Places
    from secateur.runs.create import create
    from secateur.runs.train import train

    places = Places(run=path.parent / recipe.name, models=options.models, cache=options.cache)
    options.record = places.run / "recipe.json"
    if isinstance(recipe, CreationRecipe):
        create(recipe, places, resume=options.resume)
    else:
        train(recipe, places, resume=options.resume)
    if not options.no_check and os.environ.get("RANK", "0") == "0":  # of several processes one checks
        check_saved(places.models / recipe.name)


def find_recipe(named: Path) -> Path:
    """Return the recipe's file: the one named, or experiments/NAME.yaml, as `report NAME` finds its run."""
    by_name = Path("experiments") / f"{named}.yaml"
    return by_name if not named.exists() and named.suffix == "" and by_name.is_file() else named


def say_resume(options: argparse.Namespace) -> str:
    """Return how to go on, where the run has begun."""
    if not hasattr(options, "record") or not options.record.exists():
        return ""
    words = [word for word in options.words if word != "--resume"]
    return f"; to go on: secateur {shlex.join([*words, '--resume'])}"

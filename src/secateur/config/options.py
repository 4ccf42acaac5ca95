"""Options of commands and arguments of the front door: which keys of a recipe they set, and errors in their words."""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

from pydantic.fields import FieldInfo

from secateur.config.errors import InputError
from secateur.config.reading import build_settings
from secateur.config.recipe import PruningRecipe

PRUNE = {  # the option of `prune`: the recipe's key
    "keep_params": "budget.share",
    "max_params": "budget.params",
    "max_mb": "budget.mb",
    "max_ms": "budget.ms",
    "runtime": "budget.runtime",
    "keep_heads": "budget.heads",
    "keep_neurons": "budget.neurons",
    "keep_hidden": "budget.hidden",
    "layers": "budget.layers",
    "vocabulary": "budget.vocabulary",
    "rank": "budget.rank",
    "held_out": "corpus.held_out",
    "allow_missing": "corpus.allow_missing",
    "saliency_pairs": "saliency.pairs",
    "criterion": "saliency.criterion",
    "repair_sentences": "repair.sentences",
    "rounds": "budget.rounds",
    "ranking": "budget.ranking",
    "layer_choice": "budget.layer_choice",
    "prompts": "prompts",
    "round_neurons_to": "budget.round_neurons_to",
    "pooling": "teacher.pooling",
    "max_length": "teacher.max_length",
    "dtype": "teacher.dtype",
    "seed": "seed",
    "device": "device",
}
PRUNE_DEFAULTS: dict[str, Any] = {  # where `prune` has another default than a recipe, or a recipe has none
    "saliency.pairs": 1000,
    "saliency.precision": "auto",
    "repair.sentences": 2000,
    "distillation.steps": 0,
}
STATIC_DEFAULTS: dict[str, Any] = {"repair.sentences": 50_000}  # without layers: every token's vector is fitted
SIZES = (
    "keep_heads", "keep_neurons", "keep_hidden", "layers", "vocabulary", "rank",
    "keep_params", "max_params", "max_mb", "max_ms",
)  # fmt: skip

Spell = Callable[[str], str]  # how an option is written: --keep-heads, or keep_heads


def spell_flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def spell_argument(name: str) -> str:
    return name


def build_prune_recipe(
    model: str, options: Mapping[str, Any], corpus: Mapping[str, Any], *, name: str, spell: Spell = spell_argument
) -> PruningRecipe:
    """Return what `prune` does as a recipe; `options` are those of PRUNE, None where not given.

    Raises InputError, in the options' own names: nothing says what to keep; a value is out of range.
    """
    if all(options.get(option) is None for option in SIZES):
        raise InputError(f"say what to keep: {', '.join(map(spell, SIZES))}")
    data: dict[str, Any] = {"name": name, "teacher": {"model": model}, "corpus": dict(corpus)}
    given = {PRUNE[option]: value for option, value in options.items() if value is not None}
    static = STATIC_DEFAULTS if options.get("layers") == 0 else {}
    for key, value in {**PRUNE_DEFAULTS, **static, **given}.items():
        stage, _, rest = key.rpartition(".")
        section = data.setdefault(stage, {}) if stage else data
        section[rest] = int(value) if isinstance(value, str) and value.isascii() and value.isdigit() else value
    data.setdefault("budget", {})
    with naming_options(spell):
        return build_settings(PruningRecipe, data, origin="")


@contextmanager
def naming_options(spell: Spell) -> Iterator[None]:
    """Within it an InputError names options where it names keys of a recipe."""
    try:
        yield
    except InputError as error:
        raise InputError(name_options(str(error), spell)) from None


def name_options(message: str, spell: Spell) -> str:
    """Return a message that names a recipe's key with the name of the option that sets it."""
    for option, key in {**PRUNE, "model": "teacher.model"}.items():
        spelt = option if option == "model" else spell(option)
        message = re.sub(rf"\b{re.escape(key)}:", f"{spelt}:", message)
    return message


class Setting(NamedTuple):
    """A key of a settings dataclass: what it takes and what it is for."""

    kind: type  # bool, int, float or str
    choices: tuple[str, ...] | None
    default: Any  # None where there is none
    description: str


def find_setting(kind: Any, key: str) -> Setting:
    """Return what a settings dataclass says of a dotted key: its type, choices, default and description."""
    stage, _, rest = key.partition(".")
    annotation = get_type_hints(kind, include_extras=True)[stage]
    if rest:
        return find_setting(next(each for each in walk(annotation) if is_dataclass(each)), rest)
    info = next(field.default for field in fields(kind) if field.name == key)
    assert isinstance(info, FieldInfo), f"{key} has a Field with a description"
    parts = list(walk(annotation))
    named = dict.fromkeys(choice for each in parts if get_origin(each) is Literal for choice in get_args(each))
    plain = next((each for each in (bool, int, float) if each in parts), str)
    default = None if info.is_required() else info.get_default(call_default_factory=True, validated_data={})
    return Setting(plain, tuple(named) or None, default, info.description or "")


def walk(annotation: Any) -> list[Any]:
    """Return a type and the types that it is made of; of an annotated one the type alone."""
    inner = get_args(annotation)[:1] if get_origin(annotation) is Annotated else get_args(annotation)
    literal = get_origin(annotation) is Literal
    return [annotation, *(each for part in (() if literal else inner) for each in walk(part))]

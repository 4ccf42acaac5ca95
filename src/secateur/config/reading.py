"""Recipes from YAML files, `key=value` overrides and plain dictionaries.

Unknown, missing or mistyped keys are refused by name. Keys of the last release still work, with a line that says the
new one.
"""

import difflib
import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

from pydantic import TypeAdapter, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from secateur.config.errors import InputError
from secateur.config.recipe import CreationRecipe, PruningRecipe, Recipe

log = logging.getLogger(__name__)

MOST_BYTES = 1_000_000  # of a YAML file
MOST_VALUES = 100_000  # in it, with what its aliases stand for
DEEPEST = 40  # brackets
NESTED = re.compile(rf"(?:[\[{{][ \t]*){{{DEEPEST + 1}}}")  # before the parser, which takes seconds to give up
SHOWN = 80  # characters of a wrong value

RENAMED = {  # keys of the last release, by stage: their new names
    "budget": {"multiple": "round_neurons_to", "weights": "initialization", "normalization": "layer_scaling"},
}
RENAMED_VALUES = {("saliency", "criterion"): {"probe": "output"}}  # values of the last release likewise


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> PruningRecipe | CreationRecipe:
    """Read a recipe and lay `stage.key=value` overrides over it, values in YAML; one with a `student` makes
    a new encoder, any other prunes a teacher.

    `corpus.catalogs` may name a YAML file with a list of `wheels`, from the recipe's folder.
    Raises InputError: no such file, not YAML, a key unknown, missing, mistyped or out of range.
    """
    data = read_yaml(path)
    data.setdefault("name", path.stem)
    for override in overrides:
        set_key(data, override)
    check_extent(data)
    corpus = data.get("corpus")
    if isinstance(corpus, dict) and isinstance(corpus.get("catalogs"), str):
        corpus["catalogs"] = read_wheels(path.parent / corpus["catalogs"])
    return build_recipe(data, origin=str(path))


def build_recipe(data: dict[str, Any], *, origin: str) -> PruningRecipe | CreationRecipe:
    """Check a plain dictionary against the kind of run that it describes; `origin` is named in the error."""
    data = rename_old_keys(data, origin=origin)
    if "student" in data:
        return build_settings(CreationRecipe, data, origin=origin)
    return build_pruning_recipe(data, origin=origin)


def build_pruning_recipe(data: dict[str, Any], *, origin: str) -> PruningRecipe:
    """Check a plain dictionary against PruningRecipe; `origin` is named in the error."""
    return build_settings(PruningRecipe, data, origin=origin)


def rename_old_keys(data: Mapping[str, Any], *, origin: str) -> dict[str, Any]:
    """Return a recipe with the keys and values of the last release under their new names; each one is said."""
    new = dict(data)
    for stage, names in RENAMED.items():
        settings = new.get(stage)
        if not isinstance(settings, dict):
            continue
        for old in names.keys() & settings.keys():
            if names[old] in settings:
                raise InputError(f"{origin}: {stage}.{old}: is the old name of {stage}.{names[old]}; give one of them")
            log.warning("%s: %s.%s is now called %s.%s", origin, stage, old, stage, names[old])
        new[stage] = {names.get(key, key): value for key, value in settings.items()}
    for (stage, key), values in RENAMED_VALUES.items():
        settings = new.get(stage)
        given = settings.get(key) if isinstance(settings, dict) else None
        if isinstance(given, str) and given in values:
            log.warning("%s: %s.%s: %s is now called %s", origin, stage, key, given, values[given])
            new[stage] = {**new[stage], key: values[given]}
    return new


Settings = TypeVar("Settings")


def build_settings(kind: type[Settings], data: dict[str, Any], *, origin: str) -> Settings:
    """Check a plain dictionary against a settings dataclass; `origin` is named in the error."""
    try:
        return TypeAdapter(kind).validate_json(json.dumps(data, default=as_plain))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(shorten(str(part)) for part in first["loc"] if not is_tag(part))
        reason = {"missing": "is missing", "unexpected_keyword_argument": "is not a known key"}
        wanted = first["msg"].removeprefix("Input ").replace("a valid array", "a list")
        if first["type"] == "unexpected_keyword_argument":
            close = difflib.get_close_matches(key, list(list_keys(kind)), n=1, cutoff=0.8)
            reason["unexpected_keyword_argument"] += "".join(f"; did you mean {name}" for name in close)
        detail = reason.get(first["type"], f"{wanted}, not {show(first['input'])}")
        if first["type"] == "value_error":  # one of ours, of keys that do not go together
            detail = str(first["ctx"]["error"])
        if first["type"] == "json_invalid":
            key, detail = "", "a text holds half of a surrogate pair, which is no text"
        raise InputError(": ".join(part for part in (origin, key, detail) if part)) from None
    except (TypeError, ValueError) as error:
        raise InputError(f"{origin}: {error}") from None


def show(value: Any) -> str:
    """Return a wrong value as JSON, its beginning where it is long."""
    return shorten(json.dumps(value, ensure_ascii=False, default=str))


def shorten(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}... ({len(text):,} characters)"


def check_value(name: str, value: Any, kind: Any) -> Any:
    """Return an argument checked against a kind of value, such as Positive. Raises InputError, by its name."""
    try:
        return TypeAdapter(kind).validate_json(json.dumps(value, default=as_plain), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        said = str(first["ctx"]["error"]) if first["type"] == "value_error" else first["msg"].removeprefix("Input ")
        raise InputError(f"{name}: {said}, not {value!r:.80}") from None
    except (TypeError, ValueError) as error:
        raise InputError(f"{name}: {error}") from None


def as_plain(value: Any) -> Any:
    """Return a number of numpy's or torch's as Python's, anything else as its text."""
    return value.item() if hasattr(value, "item") and getattr(value, "size", 1) == 1 else str(value)


def is_tag(part: object) -> bool:
    """Return whether a part of a key's path is pydantic's own word for one of several kinds."""
    return str(part).startswith(("tagged-union", "<"))


def list_keys(kind: Any, prefix: str = "") -> Iterator[str]:
    """Yield the dotted keys of a settings dataclass and of those inside it, lists left out."""
    for name, annotation in get_type_hints(kind).items() if is_dataclass(kind) else ():
        yield f"{prefix}{name}"
        for inner in (annotation, *get_args(annotation)):
            yield from list_keys(inner, f"{prefix}{name}.")


def dump_recipe(run: Recipe) -> dict[str, Any]:
    """Return the resolved recipe as plain JSON types; `build_recipe` reads it back equal."""
    plain: dict[str, Any] = json.loads(json.dumps(asdict(run)))
    return plain


def read_yaml(path: Path, kind: str = "recipe") -> dict[str, Any]:
    """Read one YAML 1.2 mapping: `no` is text, 3e-5 a number, a key given twice an error; `kind` names it in errors."""
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise InputError(f"over {MOST_BYTES:,} bytes, which is no {kind}")
        data = parse_yaml(content.decode("utf-8-sig"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such {kind}") from None
    except IsADirectoryError:
        raise InputError(f"{path}: a folder, not a {kind}") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: not a UTF-8 text file") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:  # of what is no YAML; of a name that no file can have
        raise InputError(f"{path}: {error}") from None
    if not isinstance(data, dict):
        raise InputError(f"{path}: a {kind} is a mapping of keys, this is {type(data).__name__}")
    return data


def parse_yaml(text: str) -> Any:
    """Return what a YAML text says. Raises InputError, in a few words that say where: what is wrong with it."""
    if NESTED.search(text):
        raise InputError(f"not YAML that is read here: over {DEEPEST} brackets inside each other")
    try:
        data = YAML(typ="safe", pure=True).load(text)
        check_extent(data)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}: " if mark else ""
        raise InputError(f"not YAML: {where}{error.problem or error.context}") from None
    except YAMLError as error:
        raise InputError(f"not YAML: {str(error).splitlines()[0]}") from None
    except RecursionError:
        raise InputError("not YAML that is read here: nested too deeply") from None
    except InputError:
        raise
    except Exception as error:  # what YAML's constructors raise of a value that is none of its kind
        raise InputError(f"not YAML: a value that cannot be read: {shorten(str(error))}") from None
    return data


def check_extent(data: Any) -> None:
    """Raise InputError for YAML whose aliases (*name) stand for more than a recipe can hold, or for themselves."""
    waiting, count = [(data, 0)], 0
    while waiting:
        value, depth = waiting.pop()
        count += 1
        if count > MOST_VALUES or depth > DEEPEST:
            raise InputError("not YAML that is read here: nested too deeply, or over 100,000 values")
        inside = [*value, *value.values()] if isinstance(value, Mapping) else value
        if isinstance(inside, list | tuple | set):
            waiting += [(each, depth + 1) for each in inside]


def read_wheels(path: Path) -> Any:
    data = read_yaml(path, "list of catalogs")
    if data.keys() != {"wheels"}:
        raise InputError(f"{path}: a list of catalogs has the key wheels and no other")
    return data["wheels"]


def set_key(data: dict[str, Any], override: str) -> None:
    """Set one dotted key of a nested dictionary from `stage.key=value`."""
    dotted, equals, text = override.partition("=")
    if not equals or not dotted:
        raise InputError(f"override {shorten(override)!r}: expected stage.key=value")
    try:
        value = parse_yaml(text)
    except InputError as error:
        raise InputError(f"override {shorten(override)!r}: {shorten(text)!r} is not a YAML value: {error}") from None
    *stages, key = dotted.split(".")
    for stage in stages:
        data = data.setdefault(stage, {})
        if not isinstance(data, dict):
            raise InputError(f"override {shorten(override)!r}: {stage} is a value, not a stage")
    data[key] = value

"""Write what the documentation takes from the source: `make docs`, or `python docs/generate.py`.

What it writes is committed, so that the pages read well without a build; the rest of a page is written by hand.

<!-- keys -->               configuration.md: every key of a recipe, from the settings dataclasses
<!-- options: prune -->     guide/prune.md and the other commands: what `secateur prune --help` prints
<!-- rooms -->              api/index.md: the rooms of the package and their purposes, from their docstrings

What is written stands between such a line and the next `<!-- end -->`.
"""

import ast
import contextlib
import io
import os
import re
from collections.abc import Iterator
from dataclasses import Field as PlainField
from dataclasses import dataclass, fields, is_dataclass
from inspect import get_annotations
from pathlib import Path
from textwrap import fill
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints
from unittest.mock import patch

from pydantic.fields import FieldInfo

import secateur
from secateur.cli import COMMANDS, parse
from secateur.config.recipe import CreationRecipe, PruningRecipe
from secateur.config.values import Amount

DOCS = Path(__file__).parent
PACKAGE = DOCS.parent / "src" / "secateur"
RECIPES = (PruningRecipe, CreationRecipe)


def main() -> None:
    """Write every page anew and name those that changed."""
    for path, text in write_pages().items():
        if path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            print(f"docs/{path.relative_to(DOCS)}")


def write_pages() -> dict[Path, str]:
    """Return every page with a generated part, as it should be."""
    written = {"configuration.md": ("keys", write_configuration()), "api/index.md": ("rooms", write_rooms())}
    written |= {f"guide/{command}.md": (f"options: {command}", write_options(command)) for command in COMMANDS}
    return {DOCS / name: put_in(DOCS / name, marker, text) for name, (marker, text) in written.items()}


def put_in(path: Path, marker: str, text: str) -> str:
    """Return a page with `text` between its marker and the next `<!-- end -->`."""
    page = path.read_text(encoding="utf-8")
    before, found, rest = page.partition(f"<!-- {marker} -->\n")
    _, end, after = rest.partition("<!-- end -->\n")
    if not (found and end):
        raise ValueError(f"{path}: <!-- {marker} --> and <!-- end --> are missing")
    return f"{before}{found}\n{text}\n\n{end}{after}"


# Commands


def write_options(command: str) -> str:
    """Return a command's `--help` as a code block, the same on every machine."""
    said = io.StringIO()
    fixed = {"COLUMNS": "100", "XDG_CACHE_HOME": "~/.cache", "NO_COLOR": "1"}
    with patch.dict(os.environ, fixed), contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        parse([command, "--help"])
    text = re.sub(r" \(default:\s+True\)", "", said.getvalue())  # a Python adds it to --int8, another does not
    return f"```text\n{text.strip()}\n```"


# Rooms


def list_rooms() -> list[str]:
    """Return the rooms in reading order, which is that of the package's docstring."""
    listed = re.findall(r"^(\w+) {2,}\S", secateur.__doc__ or "", flags=re.MULTILINE)
    rooms = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    if rooms != set(listed):
        raise ValueError(f"the docstring of secateur does not list {rooms ^ set(listed)}")
    return listed


def list_modules(room: str) -> list[str]:
    """Return the modules of a room by their dotted names."""
    paths = [path.relative_to(PACKAGE) for path in sorted((PACKAGE / room).rglob("*.py"))]
    return [".".join(("secateur", *path.with_suffix("").parts)) for path in paths if path.stem != "__init__"]


def write_rooms() -> str:
    """Return a section for each room; the build adds a link to the room's page behind it."""
    sections = [
        f"### {room}\n\n{read_purpose(PACKAGE / room / '__init__.py')}\nIts modules are in `src/secateur/{room}/`.\n\n"
        f"<!-- room: {room} -->"
        for room in list_rooms()
    ]
    return "\n\n".join(sections)


def read_purpose(path: Path) -> str:
    """Return the first paragraph of a module's docstring, for a page."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return escape(" ".join(text.partition("\n\n")[0].split()))


# Keys of a recipe


@dataclass(frozen=True)
class Key:
    """A key of a recipe: a field of a settings dataclass."""

    name: str
    annotation: Any
    default: str
    meaning: str


def list_keys(kind: type) -> list[Key]:
    """Return the keys of a settings dataclass, its own before those that it inherits."""
    annotations = get_type_hints(kind, include_extras=True)
    own = [field for field in fields(kind) if field.name in get_annotations(kind)]
    rest = [field for field in fields(kind) if field not in own]
    return [read_key(field, annotations[field.name]) for field in (*own, *rest)]


def read_key(field: "PlainField[Any]", annotation: Any) -> Key:
    info = field.default
    if not isinstance(info, FieldInfo):
        raise TypeError(f"{field.name}: has no Field with a description")
    return Key(field.name, annotation, say_default(info), escape(info.description or ""))


def find_places() -> dict[type, list[str]]:
    """Return every settings dataclass, in the order of the page, and the dotted keys where it stands in a recipe."""
    places: dict[type, list[str]] = {}

    def visit(kind: type, prefix: str) -> None:
        for key in list_keys(kind):
            for found in find_settings(key.annotation):
                place = f"{prefix}{key.name}"
                if place not in places.setdefault(found, []):
                    places[found].append(place)
                    visit(found, f"{place}.")

    for recipe in RECIPES:
        visit(recipe, "")
    return places


def find_settings(annotation: Any) -> Iterator[type]:
    """Yield the settings dataclasses that a type is made of."""
    if isinstance(annotation, type) and is_dataclass(annotation):
        yield annotation
    for part in get_args(annotation):
        yield from find_settings(part)


def list_dotted_keys() -> set[str]:
    """Return every key that a recipe may have, as `key=value` on the command line names it."""
    keys = {key.name for recipe in RECIPES for key in list_keys(recipe)}
    return keys | {
        f"{place}.{key.name}" for kind, places in find_places().items() for place in places for key in list_keys(kind)
    }


def write_configuration() -> str:
    """Return the tables of all keys: a section for each dataclass."""
    sections = []
    for kind, places in ({recipe: [] for recipe in RECIPES} | find_places()).items():
        where = f"Under {', '.join(f'`{place}`' for place in places)}." if places else "Its recipe has these keys."
        said = "" if (kind.__doc__ or "").startswith(f"{kind.__name__}(") else " ".join((kind.__doc__ or "").split())
        rows = [
            f"| `{key.name}` | {say_type(key.annotation)} | {say_given(key, kind)} | {key.meaning} |"
            for key in list_keys(kind)
        ]
        table = "\n".join(["| key | takes | default | meaning |", "|---|---|---|---|", *rows])
        sections.append(f"## {title(kind)}\n\n{fill(f'{said} {where}'.strip(), 119)}\n\n{table}")
    return "\n\n".join(sections)


def title(kind: type) -> str:
    return kind.__name__.removesuffix("Settings")


def say_given(key: Key, kind: type) -> str:
    """Return a key's default; a run's name is its recipe's, which `load_recipe` fills in."""
    return "the file's" if kind in RECIPES and key.name == "name" else key.default


PLAIN = {
    NoneType: "nothing",
    bool: "true or false",
    float: "number",
    int: "whole number",
    str: "text",
}


def say_type(annotation: Any) -> str:
    """Return what a key takes, in words."""
    parts = get_args(annotation)
    if annotation == Amount:
        return "count; 12.8M and 85k are read too"
    if annotation in PLAIN:
        return PLAIN[annotation]
    if is_dataclass(annotation):
        return f"[{title(annotation)}](#{title(annotation).lower()})"
    match get_origin(annotation):
        case origin if origin in (Union, UnionType):
            return ", or ".join(map(say_type, parts))
        case origin if origin is Literal:
            return " ".join(f"`{choice}`" for choice in parts)
        case origin if origin is Annotated:
            return say_type(parts[0]) + "".join(say_bounds(each) for each in parts[1:] if isinstance(each, FieldInfo))
        case origin if origin is tuple and parts[-1] is ...:
            return f"list of ({say_type(parts[0])})"
        case origin if origin is tuple:
            return f"[{', '.join(map(say_type, parts))}]"
        case origin if origin is dict:
            return f"mapping of {say_type(parts[0])} to ({say_type(parts[1])})"
    raise TypeError(f"{annotation}: no words for such a type")


BOUNDS = {"gt": "above {}", "ge": "{} or more", "lt": "below {}", "le": "at most {}"}


def say_bounds(info: FieldInfo) -> str:
    """Return the limits that a Field sets, in words."""
    given = {
        name: getattr(limit, name)
        for limit in info.metadata
        for name in (*BOUNDS, "pattern")
        if getattr(limit, name, None) is not None
    }
    if given.keys() >= {"ge", "le"}:
        return f" from {given['ge']} to {given['le']}"
    if "pattern" in given:
        return f" like `{given['pattern']}`"
    return "".join(f", {form.format(given[bound])}" for bound, form in BOUNDS.items() if bound in given)


def say_default(info: FieldInfo) -> str:
    if info.is_required():
        return "must be given"
    default = info.get_default(call_default_factory=True, validated_data={})
    if default is None:
        return "none"
    if is_dataclass(default):
        return "its own defaults"
    if default in ((), {}):
        return "empty"
    if isinstance(default, tuple):
        return " ".join(f"`{each}`" for each in default)
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"


def escape(text: str) -> str:
    """Return text whose signs no Markdown reads as markup; of code between backticks only the bar ends a cell."""
    parts = re.split("(`[^`]*`)", text)
    return "".join(
        part.replace("|", "\\|") if part.startswith("`") else re.sub(r"([|*_\[])", r"\\\1", part).replace("<", "&lt;")
        for part in parts
    )


if __name__ == "__main__":
    main()

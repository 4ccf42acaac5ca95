"""What the site takes from the source when it is built: recipes' keys, commands' options, a page of API a module.

Nothing of it is written by hand: the keys come from the dataclasses of config.py, their meanings from the comments
beside them, the options from the argument parser, the API from the docstrings.
"""

import ast
import contextlib
import io
import os
import re
import sys
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).parents[1] / "src"
PACKAGE = SOURCE / "secateur"
MODULES = sorted(path.stem for path in PACKAGE.glob("*.py") if path.stem != "__init__")


def on_config(config: Any) -> Any:
    """Put a page for every module under the API entry of the navigation."""
    pages = [f"api/{name}.md" for name in MODULES]
    entries = [{f"secateur.{Path(page).stem}": page} for page in pages]
    for entry in config.nav:
        if "API" in entry:
            entry["API"] = [{"secateur": "api/index.md"}, *entries]
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the pages of the API, which are no files."""
    from mkdocs.structure.files import File

    rows = [f"| [`secateur.{name}`]({name}.md) | {read_title(PACKAGE / f'{name}.py')} |" for name in MODULES]
    index = "\n".join(["# API", "", "::: secateur", "", "| module | what |", "|---|---|", *rows, ""])
    files.append(File.generated(config, "api/index.md", content=index))
    for name in MODULES:
        files.append(File.generated(config, f"api/{name}.md", content=f"# secateur.{name}\n\n::: secateur.{name}\n"))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fill what a page leaves to be filled: `<!-- configuration -->`, `<!-- options: COMMAND -->`."""
    markdown = re.sub("<!-- configuration -->", lambda _: write_configuration(PACKAGE / "config.py"), markdown)
    return re.sub(r"<!-- options: (\w+) -->", lambda found: write_options(found[1]), markdown)


def read_title(path: Path) -> str:
    """Return the first paragraph of a module's docstring, for a cell of a table."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return re.sub(r"([|<*_\[])", r"\\\1", " ".join(text.partition("\n\n")[0].split()))


def write_options(command: str) -> str:
    """Return a command's `--help` as a code block."""
    sys.path.insert(0, str(SOURCE))
    os.environ["COLUMNS"] = "100"
    home, os.environ["XDG_CACHE_HOME"] = os.environ.get("XDG_CACHE_HOME"), "~/.cache"
    said = io.StringIO()
    try:
        from secateur.cli import parse

        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said), contextlib.suppress(SystemExit):
            parse([command, "--help"])
    finally:
        sys.path.remove(str(SOURCE))
        os.environ.pop("XDG_CACHE_HOME")
        if home is not None:
            os.environ["XDG_CACHE_HOME"] = home
    if not said.getvalue().startswith(f"usage: secateur {command}"):
        return "This version has no such command."
    return f"```text\n{said.getvalue().strip()}\n```"


@dataclass(frozen=True)
class Key:
    """A field of a dataclass: a recipe's key."""

    name: str
    kind: ast.expr
    default: str
    meaning: str


@dataclass(frozen=True)
class Section:
    """A dataclass of config.py."""

    name: str
    text: str
    bases: tuple[str, ...]
    keys: tuple[Key, ...]


RUNS = ("Experiment", "Making")
TYPES = {
    "Amount": "count; 12.8M and 85k are read too",
    "Name": "text",
    "bool": "true or false",
    "float": "number",
    "int": "whole number",
    "str": "text",
}


def write_configuration(path: Path) -> str:
    """Return every key of a recipe, in tables: a section for each dataclass, in the order of the source."""
    text = path.read_text(encoding="utf-8")
    aliases, sections = read_aliases(text), {each.name: each for each in read_sections(text)}
    places = find_places(sections, aliases)
    pages = []
    for name in (*RUNS, *(name for name in sections if name not in RUNS and places.get(name))):
        section = sections[name]
        keys = ", ".join(f"`{place}`" for place in places.get(name, ()))
        where = "The keys of a recipe." if name in RUNS else f"Under {keys}."
        inherited = {key.name: key for base in section.bases if base in sections for key in sections[base].keys}
        keys_here = (inherited | {key.name: key for key in section.keys}).values()
        rows = [
            f"| `{key.name}` | {say_type(key.kind, aliases, sections)} | {say_given(key, name)} | {key.meaning} |"
            for key in keys_here
        ]
        table = ["| key | takes | default | meaning |", "|---|---|---|---|", *rows]
        pages += [f"## {name}", "", f"{section.text} {where}", "", *table, ""]
    return "\n".join(pages)


def say_given(key: Key, section: str) -> str:
    """Return a key's default; a run's name is its recipe's, which `load_run` fills in."""
    return "the file's" if section in RUNS and key.name == "name" else key.default


def read_aliases(text: str) -> dict[str, ast.expr]:
    """Return the types that config.py gives names to: `Fraction = Annotated[float, Field(ge=0, le=1)]`."""
    assigned = (node for node in ast.parse(text).body if isinstance(node, ast.Assign))
    return {node.targets[0].id: node.value for node in assigned if isinstance(node.targets[0], ast.Name)}


def read_sections(text: str) -> Iterator[Section]:
    """Yield the dataclasses of a source with their fields; a field's meaning is the comment beside it or its type."""
    comments = read_comments(text)
    body = ast.parse(text).body
    beside = {
        node.targets[0].id: comments.get(node.lineno, "")
        for node in body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    for node in body:
        if isinstance(node, ast.ClassDef) and node.decorator_list:
            fields = [field for field in node.body if isinstance(field, ast.AnnAssign)]
            bases = tuple(base.id for base in node.bases if isinstance(base, ast.Name))
            keys = tuple(read_key(field, comments, beside) for field in fields)
            yield Section(node.name, ast.get_docstring(node) or "", bases, keys)


def read_key(field: ast.AnnAssign, comments: dict[int, str], beside: dict[str, str]) -> Key:
    lines = range(field.lineno, (field.end_lineno or field.lineno) + 1)
    meaning = " ".join(comments[line] for line in lines if line in comments)
    meaning = meaning or beside.get(ast.unparse(field.annotation), "")
    return Key(ast.unparse(field.target), field.annotation, say_default(field.value), escape(meaning))


def read_comments(text: str) -> dict[int, str]:
    """Return the comments of a source by line; those that speak to a tool are left out."""
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    comments = {token.start[0]: token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT}
    return {line: said for line, said in comments.items() if not said.startswith(("fmt:", "type:", "noqa"))}


def find_places(sections: dict[str, Section], aliases: dict[str, ast.expr]) -> dict[str, list[str]]:
    """Return the dotted keys under which each dataclass stands in a recipe."""
    places: dict[str, list[str]] = {}

    def visit(name: str, prefix: str) -> None:
        section = sections[name]
        for each in (section, *(sections[base] for base in section.bases if base in sections)):
            for key in each.keys:
                for found in names_within(key.kind, aliases):
                    place = f"{prefix}{key.name}"
                    if found in sections and place not in places.setdefault(found, []):
                        places[found].append(place)
                        visit(found, f"{place}.")

    for run in RUNS:
        visit(run, "")
    return places


def names_within(kind: ast.AST, aliases: dict[str, ast.expr]) -> Iterator[str]:
    for node in ast.walk(kind):
        if isinstance(node, ast.Name):
            yield node.id
            if node.id in aliases and not isinstance(aliases[node.id], ast.Call):
                yield from names_within(aliases[node.id], aliases)


def say_type(kind: ast.expr, aliases: dict[str, ast.expr], sections: dict[str, Section]) -> str:
    """Return what a key takes, in words."""

    def say(node: ast.expr) -> str:
        return say_type(node, aliases, sections)

    match kind:
        case ast.Name(id=name) if name in TYPES:
            return TYPES[name]
        case ast.Name(id=name) if name in sections:
            return f"[{name}](#{name.lower()})"
        case ast.Name(id=name) if name in aliases:
            return say(aliases[name])
        case ast.Constant(value=None):
            return "nothing"
        case ast.BinOp(left=left, right=right):
            return f"{say(left)}, or {say(right)}"
        case ast.Subscript(value=ast.Name(id="Literal"), slice=choices):
            named = choices.elts if isinstance(choices, ast.Tuple) else [choices]
            return " ".join(f"`{ast.literal_eval(choice)}`" for choice in named)
        case ast.Subscript(value=ast.Name(id="Annotated"), slice=ast.Tuple(elts=[inner, *rest])):
            return say(inner) + say_bounds(rest)
        case ast.Subscript(value=ast.Name(id="tuple"), slice=ast.Tuple(elts=[inner, ast.Constant(value=value)])) if (
            value is ...
        ):
            return f"list of: {say(inner)}"
        case ast.Subscript(value=ast.Name(id="tuple"), slice=ast.Tuple(elts=parts)):
            return f"[{'; '.join(map(say, parts))}]"
        case ast.Subscript(value=ast.Name(id="dict"), slice=ast.Tuple(elts=[key, value])):
            return f"{say(key)}: {say(value)}"
    return f"`{escape(ast.unparse(kind))}`"


BOUNDS = {"gt": "above {}", "ge": "{} or more", "lt": "below {}", "le": "at most {}"}


def say_bounds(rest: list[ast.expr]) -> str:
    """Return the limits that pydantic's Field sets, in words."""
    given = {
        word.arg: ast.literal_eval(word.value)
        for call in rest
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "Field"
        for word in call.keywords
    }
    if given.keys() >= {"ge", "le"}:
        return f" from {given['ge']} to {given['le']}"
    if "pattern" in given:
        return f" like `{given['pattern']}`"
    return "".join(f", {form.format(given[bound])}" for bound, form in BOUNDS.items() if bound in given)


def say_default(value: ast.expr | None) -> str:
    match value:
        case None:
            return "must be given"
        case ast.Constant(value=None):
            return "none"
        case ast.Call(func=ast.Name(id="Field")):
            return "its own defaults" if "dict" not in ast.unparse(value) else "empty"
        case ast.Tuple(elts=[]):
            return "empty"
        case ast.Tuple(elts=parts):
            return " ".join(f"`{ast.literal_eval(part)}`" for part in parts)
    plain = ast.literal_eval(value)
    return f"`{str(plain).lower() if isinstance(plain, bool) else plain}`"


def escape(text: str) -> str:
    return text.replace("|", "\\|").replace("*", "\\*").replace("<", "&lt;")

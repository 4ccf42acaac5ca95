"""Docstrings as Markdown: what is aligned stays aligned, and no sign of mathematics is taken for markup."""

import ast
import re
from textwrap import dedent
from typing import Any

import griffe


class PlainDocstrings(griffe.Extension):
    """Rewrites every docstring before mkdocstrings renders it."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        self.rewrite(pkg)

    def rewrite(self, item: Any) -> None:
        if item.is_attribute and item.parent.is_class and (field := read_field(item.source)):
            said, item.value = field  # the description and the default, in place of the whole call
            item.docstring = griffe.Docstring(as_markdown(said), parent=item)
        elif item.docstring is not None:
            item.docstring.value = as_markdown(item.docstring.value)
        elif item.is_attribute and item.parent.is_class and (said := comment_beside(item)):
            item.docstring = griffe.Docstring(as_markdown(said), parent=item)
        for member in item.members.values():
            if not member.is_alias:
                self.rewrite(member)


def read_field(source: str) -> tuple[str, str | None] | None:
    """Return description and default of `key: type = Field(default=..., description="...")`, None of another line."""
    match ast.parse(dedent(source)).body:
        case [ast.AnnAssign(value=ast.Call(func=ast.Name(id="Field"), keywords=words))]:
            given = {word.arg: word.value for word in words}
            default = given.get("default")
            said = ast.literal_eval(given["description"]) if "description" in given else ""
            return said, None if default is None else ast.unparse(default)
    return None


def comment_beside(field: Any) -> str:
    """Return the comment at the end of a dataclass field's line; empty where there is none."""
    _, _, said = field.source.partition("  # ")
    return "" if said.startswith(("fmt:", "type:", "noqa")) else said.partition("\n")[0]


def as_markdown(text: str) -> str:
    """Return a docstring whose formulas and tables are code blocks and whose prose has its signs escaped."""
    return "\n\n".join(map(render, text.split("\n\n")))


def render(paragraph: str) -> str:
    lines = paragraph.splitlines()
    if all(line.startswith("    ") for line in lines):
        return paragraph
    if sum(bool(re.search(r"\S {2,}\S", line)) for line in lines) > 1:  # a table
        return "\n".join(f"    {line}" for line in lines)
    parts = re.split("(`[^`]*`)", paragraph)
    return "".join(part if part.startswith("`") else escape(part) for part in parts)


def escape(text: str) -> str:
    return re.sub(r"([*_\[\]|])", r"\\\1", text).replace("<", "&lt;")

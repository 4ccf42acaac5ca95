"""What the site has beside the pages of docs/: a page for each room of the package, with the docstrings of its modules.

A heading over `<!-- api: secateur.runs.front_door.prune -->` becomes the signature and docstring of what is named; the
page that is committed stays readable without a build.
"""

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

PACKAGE = Path(__file__).parents[1] / "src" / "secateur"


def load_generator() -> ModuleType:
    """Return docs/generate.py, which lies on no path for imports."""
    spec = importlib.util.spec_from_file_location("docs_generate", Path(__file__).with_name("generate.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


generate = load_generator()


def on_files(files: Any, config: Any) -> Any:
    """Add the pages of the rooms, which are no files."""
    from mkdocs.structure.files import File

    for room in generate.list_rooms():
        files.append(File.generated(config, f"api/{room}.md", content=write_room(room)))
    return files


def write_room(room: str) -> str:
    """Return a room's page: a table of its modules, then the module docstrings and what is in each."""
    modules = generate.list_modules(room)
    anchors = {name: name.replace(".", "") for name in modules}
    paths = {name: PACKAGE.parent.joinpath(*name.split(".")).with_suffix(".py") for name in modules}
    rows = [f"| [`{name}`](#{anchors[name]}) | {generate.read_purpose(paths[name])} |" for name in modules]
    sections = [f"## {name} {{#{anchors[name]}}}\n\n{directive(name, heading_level=3)}" for name in modules]
    purpose = generate.read_purpose(PACKAGE / room / "__init__.py")
    table = "\n".join(["| module | what it is |", "|---|---|", *rows])
    return "\n\n".join([f"# {room}", purpose, table, *sections, ""])


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fill in the API and the links to the rooms; drop the markers of what docs/generate.py has written."""
    markdown = re.sub(
        r"^### ([\w.]+)\n\n<!-- api: ([\w.]+)((?: \w+)*) -->$",
        lambda found: directive(
            found[2], heading=found[1], heading_level=3, show_root_heading=True, show_root_toc_entry=True,
            members=found[3].split(),
        ),
        markdown,
        flags=re.MULTILINE,
    )  # fmt: skip
    markdown = re.sub(r"<!-- room: (\w+) -->", r"[The modules of \1](\1.md)", markdown)
    return re.sub(r"^<!-- (keys|rooms|end|options: \w+) -->\n", "", markdown, flags=re.MULTILINE)


def directive(name: str, **options: object) -> str:
    """Return what mkdocstrings replaces by the docstring of `name`."""
    said = {key: str(value).lower() if isinstance(value, bool) else value for key, value in options.items()}
    return "\n".join([f"::: {name}", "    options:", *(f"      {key}: {value}" for key, value in said.items())])

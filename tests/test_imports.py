"""The house's order: rooms import only rooms above them, and what must start fast loads nothing heavy."""

import ast
import sys
from pathlib import Path

import pytest
from conftest import ROOT

PACKAGE = ROOT / "src" / "secateur"

# Each room, and the rooms it may import. Pruning, distillation and evaluation do not know each other.
BASE = ("config", "data", "encoders")
CORE = (*BASE, "pruning", "distillation", "evaluation")
ABOVE = {
    "config": (),
    "data": ("config",),
    "encoders": ("config", "data"),
    "pruning": BASE,
    "distillation": BASE,
    "evaluation": BASE,
    "export": CORE,
    "reports": (*CORE, "export"),
    "runs": (*CORE, "export", "reports"),
    "commands": (*CORE, "export", "reports", "runs"),
    "bench": (*CORE, "export", "reports", "runs"),
}
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py" and path.parent != PACKAGE)
LONGEST = 350  # lines of a module
HEAVY = {
    "torch", "transformers", "sentence_transformers", "numpy", "datasets", "accelerate", "sklearn", "matplotlib",
    "gradio",
}  # fmt: skip

# Functions that are a stage of the pipeline: its own room calls it, and otherwise only who puts stages together.
STAGES = {
    "load_corpus": "data",
    "make_student": "encoders",
    "measure_saliency": "pruning",
    "choose_kept": "pruning",
    "slice_encoder": "pruning",
    "repair": "pruning",
    "embed_corpus": "distillation",
    "distill": "distillation",
}
CALLERS = ("runs", "commands", "bench")


def name_module(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def read_imports(path: Path, *, at_the_top: bool = False) -> list[tuple[str, str]]:
    """Return (module, name) of every import; `from a import b` gives (a, b), `import a` gives (a, "")."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    imports: list[tuple[str, str]] = []
    for node in tree.body if at_the_top else ast.walk(tree):
        if isinstance(node, ast.Import):
            imports += [(alias.name, "") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: imports are absolute"
            imports += [(node.module or "", alias.name) for alias in node.names]
    return imports


def read_own_imports(path: Path, *, at_the_top: bool = False) -> list[tuple[str, str]]:
    """Return (module of secateur, name in it) of every import; a module imported whole is (room.module, "")."""
    own = []
    for module, name in read_imports(path, at_the_top=at_the_top):
        if module.startswith("secateur.") and (PACKAGE / Path(*module.split(".")[1:]) / f"{name}.py").is_file():
            own.append((f"{module.removeprefix('secateur.')}.{name}", ""))
        elif module.startswith("secateur."):
            own.append((module.removeprefix("secateur."), name))
    return own


def test_the_house_has_few_rooms_and_each_says_its_purpose() -> None:
    entries = [path for path in PACKAGE.iterdir() if path.name != "__pycache__"]
    assert len(entries) <= 14, sorted(path.name for path in entries)
    for room in ABOVE:
        tree = ast.parse((PACKAGE / room / "__init__.py").read_text(encoding="utf-8"))
        assert ast.get_docstring(tree)
        assert len(tree.body) == 1, f"{room}/__init__.py says its purpose and nothing else: imports stay lazy"


@pytest.mark.parametrize("path", MODULES, ids=name_module)
def test_imports_between_rooms_go_one_way(path: Path) -> None:
    room = name_module(path).partition(".")[0]
    rooms = {module.partition(".")[0] for module, _ in read_own_imports(path)} - {room}
    assert not rooms.difference(ABOVE[room]), f"{room} may import {', '.join(ABOVE[room]) or 'no other room'}"


def test_no_module_imports_itself_by_way_of_others() -> None:
    graph = {name_module(path): {module for module, _ in read_own_imports(path, at_the_top=True)} for path in MODULES}
    done: set[str] = set()

    def visit(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, " -> ".join([*way, module])
        if module not in done:
            for other in sorted(graph.get(module, ())):
                visit(other, (*way, module))
            done.add(module)

    for module in graph:
        visit(module, ())


@pytest.mark.parametrize("path", MODULES, ids=name_module)
def test_stages_are_called_by_their_own_room_and_by_those_who_put_them_together(path: Path) -> None:
    room = name_module(path).partition(".")[0]
    called = [name for _, name in read_own_imports(path) if room not in (STAGES.get(name, room), *CALLERS)]
    assert not called, f"{name_module(path)} calls {called}"


@pytest.mark.parametrize("path", MODULES, ids=name_module)
def test_a_module_fits_a_readers_head(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LONGEST


LIGHT = [
    *(PACKAGE / name for name in ("__init__.py", "cli.py")),
    *(path for room in ("config", "commands") for path in sorted((PACKAGE / room).glob("*.py"))),
]


@pytest.mark.parametrize("path", LIGHT, ids=lambda path: path.stem)
def test_what_help_needs_imports_nothing_heavy(path: Path) -> None:
    imported = {module.partition(".")[0] for module, _ in read_imports(path, at_the_top=True)}
    assert not imported & HEAVY
    own = {module.partition(".")[0] for module, _ in read_own_imports(path, at_the_top=True)}
    assert own <= {"config", "commands"}


def test_the_saved_modeling_file_imports_torch_and_transformers_only() -> None:
    imported = {module.partition(".")[0] for module, _ in read_imports(PACKAGE / "encoders" / "modeling.py")}
    assert imported - sys.stdlib_module_names == {"torch", "transformers"}

"""The house's order: a module imports only modules above it, and what must start fast loads nothing heavy."""

import ast
import sys
from pathlib import Path

import pytest
from conftest import ROOT

# In reading order; a module may import what stands above it.
ORDER = (
    "config", "files", "machine", "padding", "render", "wheels",
    "sources", "catalogs", "corpus",
    "modeling", "encoder", "inference", "vocabulary", "students", "losses", "vector_files", "universal", "teachers",
    "targets",
    "saliency", "budget", "selection", "slicing", "repair", "lowrank", "trimming", "distillation",
    "validation", "drift", "benchmark_data", "leaderboard", "encodechka", "probe", "ranking",
    "onnx_graph", "cost", "gate", "card", "export",
    "tracking", "report", "scores", "planning",
    "record", "figures", "svg", "tables", "page",
    "publish",
    "comparisons", "bench_shapes", "bench_encoding", "bench_saliency", "bench_training", "bench_budgets", "bench",
    "infer", "runs", "train", "create", "demo", "cli",
)  # fmt: skip
MODULES = sorted(path for path in (ROOT / "src" / "secateur").glob("*.py") if path.stem != "__init__")
HEAVY = {
    "torch", "transformers", "sentence_transformers", "numpy", "datasets", "accelerate", "sklearn", "matplotlib",
    "gradio",
}  # fmt: skip
LIGHT = ("__init__", "config", "files", "cli")

# Functions that are a stage of the pipeline; stages do not call each other.
STAGES = (
    "measure_saliency",
    "choose_kept",
    "slice_encoder",
    "repair",
    "distill",
    "embed_corpus",
    "load_corpus",
    "make_student",
)
CALLERS = {"bench_shapes", "bench_training", "bench_budgets", "scores", "planning", "infer", "train", "create", "cli"}


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


def read_own_imports(path: Path) -> list[tuple[str, str]]:
    """Return (module of secateur, name in it or "") of every import."""
    own = []
    for module, name in read_imports(path):
        if module == "secateur":
            own.append((name, ""))
        elif module.startswith("secateur."):
            own.append((module.removeprefix("secateur."), name))
    return own


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_imports_go_one_way(path: Path) -> None:
    above = ORDER[: ORDER.index(path.stem)]
    wrong = [module for module, _ in read_own_imports(path) if module not in (*above, "__version__")]
    assert not wrong, f"{path.stem} imports {wrong}, which do not stand above it"


@pytest.mark.parametrize("path", [path for path in MODULES if path.stem not in CALLERS], ids=lambda path: path.stem)
def test_only_the_commands_call_stages(path: Path) -> None:
    assert not [name for _, name in read_own_imports(path) if name in STAGES]


@pytest.mark.parametrize("name", LIGHT)
def test_what_help_needs_imports_nothing_heavy(name: str) -> None:
    path = ROOT / "src" / "secateur" / f"{name}.py"
    if not path.exists():
        pytest.skip(f"there is no {name}.py")
    imported = {module.partition(".")[0] for module, _ in read_imports(path, at_the_top=True)}
    own = {module for module, _ in read_own_imports(path)} if name in ("config", "files") else set()
    assert not imported & HEAVY
    assert own <= set(LIGHT)


def test_the_saved_modeling_file_imports_torch_and_transformers_only() -> None:
    imported = {module.partition(".")[0] for module, _ in read_imports(ROOT / "src" / "secateur" / "modeling.py")}
    assert imported - sys.stdlib_module_names == {"torch", "transformers"}

"""The notebooks run from top to bottom, here with small numbers; they define nothing and keep their outputs."""

import ast
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SMALL = {
    "labse_prune": {
        "SALIENCY_PAIRS": 32, "REPAIR_SENTENCES": 64, "STEPS": 4, "BATCH": 8, "TASKS": ["STS"], "INT8": False,
        "OUT": "student",
    },
    "encodechka_evaluation": {"DATA": "", "MODELS": ["models/teacher-mini-en-ru"], "TASKS": ["STS", "IC"]},
}  # fmt: skip


def read_code(path: Path) -> list[dict[str, Any]]:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_defines_no_functions_and_no_classes(path: Path) -> None:
    for cell in read_code(path):
        for node in ast.walk(ast.parse("".join(cell["source"]))):
            assert not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_with_outputs_and_pictures(path: Path) -> None:
    cells = read_code(path)
    if not any(cell["outputs"] for cell in cells):
        pytest.skip("not executed yet: make notebooks")
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    kinds = [kind for cell in cells for output in cell["outputs"] for kind in output.get("data", {})]
    assert kinds.count("image/png") >= 2
    assert not any(output["output_type"] == "error" for cell in cells for output in cell["outputs"])
    text = path.read_text(encoding="utf-8")
    assert str(ROOT) not in text, "a path of the machine that it ran on"
    assert "Warning" not in text
    assert len(text.encode()) < 1_000_000


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_with_small_numbers(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    book = nbformat.read(path, as_version=4)
    small = SMALL[path.stem]
    (place,) = (number for number, cell in enumerate(book.cells) if "parameters" in cell.metadata.get("tags", ()))
    named = {node.id for node in ast.walk(ast.parse(book.cells[place].source)) if isinstance(node, ast.Name)}
    assert set(small) <= named, "a parameter has gone"
    lines = [f"{name} = {value!r}" for name, value in small.items()]
    book.cells.insert(place + 1, nbformat.v4.new_code_cell("\n".join(lines)))
    (tmp_path / "pyproject.toml").touch()  # the notebook looks for the repository's root: here it is
    (tmp_path / "models").mkdir()
    shutil.copytree(ROOT / "models" / "teacher-mini-en-ru", tmp_path / "models" / "teacher-mini-en-ru")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("ENCODECHKA", raising=False)
    where = {"metadata": {"path": tmp_path}}
    nbclient.NotebookClient(book, timeout=600, kernel_name="python3", resources=where).execute()
    outputs = [output for cell in book.cells for output in cell.get("outputs", ())]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 2
    assert not [output.text for output in outputs if "Warning" in output.get("text", "")]

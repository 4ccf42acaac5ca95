"""README's ways to use a student work as they are printed, without secateur, and give the same vectors."""

import ast
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, MakeEncoder, keep_all

import secateur
from secateur.config.quality import QualitySettings
from secateur.encoders.saving import save_encoder
from secateur.pruning.selection import Kept
from secateur.pruning.slicing import slice_encoder
from secateur.runs import front_door

pytest.importorskip("onnxruntime", reason="the optional package onnxruntime is not installed")
from secateur.export.export import export

WAYS = ("sentence-transformers", "transformers", "ONNX Runtime")  # bold where README leads to each snippet
PAGES = [*(ROOT / f"README{tongue}.md" for tongue in ("", ".ru")), *sorted((ROOT / "docs").glob("*.md"))]


def read_snippet(way: str) -> str:
    """Return the Python that README prints for one way to use a student."""
    _, _, section = (ROOT / "README.md").read_text(encoding="utf-8").partition("\n## Use a student\n")
    _, lead, after = section.partition(f"**{way}**")
    found = re.search("^```python\n(.*?)^```$", after, re.DOTALL | re.MULTILINE)
    assert lead, f"README does not lead to {way}"
    assert found, f"README has no snippet for {way}"
    return found[1]


def run_snippet(way: str, place: Path) -> np.ndarray:
    """Run a snippet in an interpreter of its own, in a folder where models/mine is; return its `vectors`."""
    after = "\nimport sys, numpy\nassert 'secateur' not in sys.modules\nnumpy.save('vectors.npy', vectors)\n"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(place / "modules")}
    done = subprocess.run(
        [sys.executable, "-c", read_snippet(way) + after],
        cwd=place, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    vectors: np.ndarray = np.load(place / "vectors.npy")
    return vectors


def put_student(place: Path, make_encoder: MakeEncoder, kept: Kept) -> Path:
    """Save a pruned toy as models/mine, where the snippets look for it, and its float ONNX file."""
    folder = place / "models" / "mine"
    save_encoder(slice_encoder(make_encoder(), kept), folder)
    export(str(folder), QualitySettings(sentences=4), int8=False, threads=1)
    return folder


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory, make_encoder: MakeEncoder, ragged: Kept) -> Path:
    """A folder with models/mine, a student of uneven layers."""
    place = tmp_path_factory.mktemp("snippets")
    put_student(place, make_encoder, ragged)
    return place


@pytest.fixture(scope="module")
def expected(student: Path) -> np.ndarray:
    return run_snippet("sentence-transformers", student)


def test_sentence_transformers_gives_what_secateur_gives(student: Path, expected: np.ndarray) -> None:
    vectors = secateur.load(student / "models" / "mine").encode(["Hello, world", "Привет, мир"])
    np.testing.assert_allclose(expected, vectors, atol=1e-5)


@pytest.mark.parametrize("way", WAYS[1:])
def test_every_way_gives_the_vectors_of_sentence_transformers(way: str, student: Path, expected: np.ndarray) -> None:
    vectors = run_snippet(way, student)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, expected, atol=1e-4)


def test_a_narrowed_student_has_a_dense_module_that_the_onnx_file_keeps(
    tmp_path: Path, make_encoder: MakeEncoder
) -> None:
    kept = keep_all(make_encoder())
    folder = put_student(tmp_path, make_encoder, Kept(kept.heads, kept.neurons, hidden=tuple(range(24))))
    assert any("Dense" in path.name for path in folder.iterdir())
    expected = run_snippet("sentence-transformers", tmp_path)
    assert expected.shape == (2, 32)
    np.testing.assert_allclose(run_snippet("ONNX Runtime", tmp_path), expected, atol=1e-4)
    assert run_snippet("transformers", tmp_path).shape == (2, 24)  # so README warns of it


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_calls_of_the_front_door_in_the_pages_fit_it(page: Path) -> None:
    for code in re.findall(r"^```python\n(.*?)^```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE):
        for call in (node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)):
            name = ast.unparse(call.func)
            if re.fullmatch(r"secateur\.\w+", name):
                name = name.partition(".")[2]
                called = getattr(front_door, name, None) or getattr(secateur, name)
                named = {keyword.arg: None for keyword in call.keywords if keyword.arg}
                inspect.signature(called).bind(*call.args, **named)
            elif name.startswith("student."):
                assert hasattr(secateur.Student, name.partition(".")[2]), name

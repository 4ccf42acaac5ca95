"""Progress bars: shown where somebody watches, and true to the work that is left."""

import sys
from io import StringIO
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import SENTENCES

from secateur.data import progress
from secateur.data.progress import progress_bar
from secateur.encoders import encoder as running
from secateur.encoders.encoder import TorchEncoder, embed, tokenize


def test_a_bar_is_shown_where_it_has_a_name_and_somebody_watches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "is_watched", lambda: False)  # a log file
    assert progress_bar("rows", total=3, unit="rows").disable
    monkeypatch.setattr(progress, "is_watched", lambda: True)
    assert progress_bar("", total=3, unit="rows").disable
    with progress_bar("rows", total=3, unit="rows") as bar:
        assert not bar.disable


class Shell:
    """What IPython.get_ipython() returns in a kernel; without `kernel` in a terminal."""

    kernel = object()


@pytest.mark.parametrize(("shell", "watched"), [(Shell(), True), (object(), False), (None, False)])
def test_a_notebook_is_a_kernel_and_no_process_that_has_imported_one(
    monkeypatch: pytest.MonkeyPatch, shell: Any, watched: bool
) -> None:
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setattr(sys, "stderr", StringIO())  # a log file
    assert progress.is_watched() is watched
    monkeypatch.delitem(sys.modules, "IPython")
    assert not progress.is_watched()


def test_batches_sorted_by_length_are_counted_by_tokens(teacher: TorchEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    bars: list[Any] = []

    def watched(*arguments: Any, **named: Any) -> Any:
        bars.append(progress_bar(*arguments, **named))
        return bars[-1]

    monkeypatch.setattr(progress, "is_watched", lambda: True)
    monkeypatch.setattr(running, "progress_bar", watched)
    sentences = [side for pair in SENTENCES for side in pair]
    embed(teacher, sentences, batch_size=8, progress="sentences")
    (bar,) = bars
    assert bar.total == sum(map(len, tokenize(teacher, sentences)))
    assert bar.n == bar.total

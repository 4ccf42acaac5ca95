"""A command that is killed at any moment goes on to what it would have made; the long form is crash_loop.py itself."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.skipif(sys.platform != "linux", reason="the loop forks, and limits what a process may write")
def test_ten_kills_at_random_moments_change_nothing() -> None:
    script = Path(__file__).with_name("crash_loop.py")
    words = [sys.executable, str(script), "--kills", "10", "--seed", "21", "--short"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    assert "10 of 10 kills: the same bytes, nothing left over" in done.stdout

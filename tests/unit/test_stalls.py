"""That the program which has tests stand still does so, to all of them and to no one else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import state
from tests.stalls import halt
from tests.waiting import wait_until

pytestmark = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks at processes in Linux' /proc")

LOOKS = """
import sys, time
longest, last, ends = 0.0, time.monotonic(), time.monotonic() + 3
while time.monotonic() < ends:
    longest, last = max(longest, time.monotonic() - last), time.monotonic()
    time.sleep(0.01)
sys.exit(int(longest * 10))
"""
"""Exits with the tenths of a second that it stood still for."""

STARTS = f"import subprocess, sys; sys.exit(subprocess.call([sys.executable, '-c', {LOOKS!r}]))"


def test_what_a_command_starts_stands_still_and_its_exit_code_is_passed_on() -> None:
    command = [sys.executable, "-m", "tests.stalls", "--every", "0.6", "--lasting", "0.7", "--", sys.executable]
    done = subprocess.run([*command, "-c", STARTS], stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode >= 7
    assert "for 0.7 s each" in done.stderr


def test_what_is_stopped_by_itself_stays_so() -> None:
    sleeps = [sys.executable, "-c", "import time; time.sleep(60)"]
    starts = f"import subprocess; one = subprocess.Popen({sleeps!r}); print(one.pid, flush=True); one.wait()"
    with subprocess.Popen([sys.executable, "-c", starts], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        try:
            os.kill(child, signal.SIGSTOP)
            wait_until("it is stopped", lambda: state(child) == "T")
            halt(parent.pid, 0)
            assert state(child) == "T"
        finally:
            os.kill(child, signal.SIGKILL)
    assert state(child) == ""

"""``python -m tests.stalls -- pytest -q``: a command on a machine that stands still now and then.

As one does whose host gives it no turn, or whose memory is collected: all processes under the command are stopped for
some seconds and go on, while clocks, leases and time-outs run. A test that fails then judges by how soon something
comes, and will fail some day on a machine that is only busy.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from time import sleep

from tests.processes import descendants, state


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Returns what it returns."""
    parser = argparse.ArgumentParser(prog="python -m tests.stalls", description=__doc__)
    parser.add_argument("--every", type=float, default=4.0, help="seconds between two halts, on average")
    parser.add_argument(
        "--lasting", type=float, default=1.9, help="seconds of a halt; from 2 on Sentinels mistrust theirs"
    )
    parser.add_argument("command", nargs="+", help="what is run; itself it is never stopped")
    given = parser.parse_args(argv)
    running = subprocess.Popen(given.command)
    halts = 0
    while running.poll() is None:
        with suppress(subprocess.TimeoutExpired):
            running.wait(random.uniform(0.5, 1.5) * given.every)
            break
        halt(running.pid, given.lasting)
        halts += 1
    sys.stderr.write(f"stood still {halts} times, for {given.lasting:g} s each\n")
    return running.returncode


def halt(pid: int, lasting_s: float) -> None:
    """Stop all that descends from a process, but for what is stopped already, and let it go on, come what may."""
    running = [one for one in descendants(pid) if state(one) not in {"", "T", "t"}]
    try:
        _send(signal.SIGSTOP, running)
        sleep(lasting_s)
    finally:
        _send(signal.SIGCONT, running)


def _send(number: signal.Signals, pids: Sequence[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


if __name__ == "__main__":
    sys.exit(main())

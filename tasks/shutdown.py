"""The end of a worker that was asked to end: soon, and at the latest in time for whoever asked."""

from __future__ import annotations

import os
import select
import signal
import threading
from contextlib import suppress

from bridge.observe.logs import get_logger
from tasks.leases import hand_back

_log = get_logger(__name__)

GRACE_S = 15.0
"""What is under way may end by itself for so long. Container platforms kill after 30 s, systemd after 90."""
_HAND_BACK_S = 3.0


class StopSignal:
    """Asks tasks to end early: those of this process, and of pool processes that were forked from it.

    A byte in a pipe that nobody reads: every process that has it sees that there is one.
    """

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)

    def __del__(self) -> None:
        os.close(self._read)
        os.close(self._write)

    def set(self) -> None:
        """Ask; safe in a signal handler, and as often as one likes."""
        if not self.is_set():
            os.write(self._write, b".")

    def is_set(self) -> bool:
        """Whether somebody asked."""
        return self.wait(0)

    def wait(self, seconds: float) -> bool:
        """Wait until somebody asks, at most so long. Returns whether somebody did."""
        poller = select.poll()
        poller.register(self._read, select.POLLIN)
        return bool(poller.poll(seconds * 1000))


def end_within(seconds: float = GRACE_S) -> None:
    """End this process and its pool's processes after ``seconds``, whatever they are at, as ``kill -9`` would.

    Nothing is lost by that: messages are put back, and what was claimed or held in the store comes due again when its
    lease ends, as messages do where the broker does not answer either.
    """
    timer = threading.Timer(seconds, _end)
    timer.daemon = True
    timer.start()


def _end() -> None:
    from billiard.process import active_children

    _log.warning("tasks did not end in time; they are given up, and done again elsewhere", after_s=GRACE_S)
    for pid in [child.pid for child in active_children() if child.pid]:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    # In a thread of its own: a broker that hangs is waited for no longer than this.
    thread = threading.Thread(target=hand_back, daemon=True)
    thread.start()
    thread.join(_HAND_BACK_S)
    os._exit(0)

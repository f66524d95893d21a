"""No message is lost of workers killed at any instant; and the harness that says so sees what kombu's channel loses."""

from __future__ import annotations

import os
import signal

import pytest

from tests.faults.intake_kills import Sender, fork_worker, run, worker
from tests.servers import valkey

MESSAGES = 12
STOPS = 4


def test_kills_at_random_instants_lose_nothing() -> None:
    counts = run("bridge", kills=10, messages=300, seed=7)
    assert (counts.kills, counts.lost) == (10, 0)
    assert counts.sent >= 300


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(("variant", "lost"), [("bridge", 0), ("kombu", STOPS)])
def test_a_worker_that_dies_with_a_message_just_popped(variant: str, lost: int) -> None:
    """Fault of kombu's: the message is out of its queue, and nowhere written down."""
    with valkey() as url, Sender(url) as sender:
        sender.send(MESSAGES)
        for _ in range(STOPS):
            _, status = os.waitpid(fork_worker(variant, url, _die), 0)
            assert os.WTERMSIG(status) == signal.SIGKILL
        with worker(variant, url):
            sender.drain(taken_too=True)
        assert sender.sent - len(sender.done()) == lost

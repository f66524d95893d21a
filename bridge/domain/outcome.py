"""What an attempt's answer means: accepted, tried again later, or given up.

::

    pending → accepted
    pending → retrying → accepted
    pending → retrying → dead
"""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Failure(StrEnum):
    """Why an attempt got no answer, or one that could not be read."""

    DNS = "dns"
    CONNECT = "connect"
    TLS = "tls"
    TIMEOUT = "timeout"
    RESET = "reset"
    BLOCKED = "blocked"
    OVERSIZED = "oversized"
    PROTOCOL = "protocol"
    INTERNAL = "internal"
    REFUSED = "refused"


class Answer(msgspec.Struct, frozen=True, gc=False):
    """What came back of one POST.

    ``status`` is the HTTP status, 0 where none came. ``failure`` is None where an answer was read, whatever its
    status. ``error`` is one short line for people; ``body`` at most the first 1 kB, undecoded; ``elapsed_ms`` wall
    clock from the start of the attempt.
    """

    status: int
    failure: Failure | None
    error: str
    body: bytes
    elapsed_ms: int


class Verdict(StrEnum):
    """What becomes of a delivery after an attempt."""

    ACCEPTED = "accepted"
    RETRY = "retrying"
    DEAD = "dead"


class Outcome(msgspec.Struct, frozen=True, gc=False):
    """The verdict on one attempt. ``due_ms`` is when to try again (Unix ms), 0 unless the verdict is RETRY."""

    verdict: Verdict
    due_ms: int = 0
    error: str = ""


def judge(answer: Answer, attempt: int, schedule_ms: tuple[int, ...], now_ms: int, chance: float) -> Outcome:
    """What an answer to attempt number ``attempt`` (from 1) means.

    Any 2xx read within the time-out accepts; anything else is a failure, retried after ``schedule_ms[attempt - 1]``
    ±20 % (``chance`` in [0, 1) picks the place), and a dead letter once the schedule is spent. The due time is never
    in the past.
    """
    if answer.failure is None and 200 <= answer.status < 300:
        return Outcome(Verdict.ACCEPTED)
    error = answer.error or (f"HTTP {answer.status}" if answer.failure is None else answer.failure.value)
    if attempt > len(schedule_ms):
        return Outcome(Verdict.DEAD, error=error)
    wait_ms = round(schedule_ms[attempt - 1] * (0.8 + 0.4 * chance))
    return Outcome(Verdict.RETRY, due_ms=now_ms + max(1, wait_ms), error=error)

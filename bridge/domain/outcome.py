"""What an attempt's answer means: accepted, tried again later, or given up.

::

    pending → accepted
    pending → retrying → accepted
    pending → retrying → dead
    pending → dead                 the receiver asked for it: aborted
    pending → parked               the receiver wants no more: its subscription is disabled
"""

from __future__ import annotations

from email.utils import mktime_tz, parsedate_tz
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


class Wish(StrEnum):
    """What a response header ``webhook-delivery`` asks for."""

    NONE = ""
    ABORT = "abort"
    DISABLE = "disable"


READ_BODY = 4_096
"""Bytes of an answer's body after which reading stops."""


class Answer(msgspec.Struct, frozen=True, gc=False):
    """What came back of one POST.

    ``status`` is the HTTP status, 0 where none came. ``failure`` is None where an answer was read, whatever its
    status. ``error`` is one short line for people; ``body`` at most the first READ_BODY, undecoded; ``elapsed_ms`` wall
    clock from the start of the attempt. ``wish`` and ``retry_after`` (the header as it came, cut) are read only of
    answers that are no 2xx.
    """

    status: int
    failure: Failure | None
    error: str
    body: bytes
    elapsed_ms: int
    wish: Wish = Wish.NONE
    retry_after: str = ""


class Verdict(StrEnum):
    """What becomes of a delivery after an attempt."""

    ACCEPTED = "accepted"
    RETRY = "retrying"
    DEAD = "dead"
    DISABLE = "disable"
    """The event stays where it is, untried as it were; its subscription is disabled."""


class Outcome(msgspec.Struct, frozen=True, gc=False):
    """The verdict on one attempt. ``due_ms`` is when to try again (Unix ms), 0 unless the verdict is RETRY.

    ``slow_ms``: for how long the receiver asked to be left alone altogether, 0 where it did not.
    """

    verdict: Verdict
    due_ms: int = 0
    error: str = ""
    slow_ms: int = 0


def of_batch(answer: Answer) -> Answer:
    """What the answer to a batch means for its members: a wish to abort tells of none of them which is meant.

    It is a failure then, so that they are tried apart, and the one that is meant can be named.
    """
    return msgspec.structs.replace(answer, wish=Wish.NONE) if answer.wish is Wish.ABORT else answer


ABORTED = "aborted"
"""The error of a dead letter that its receiver asked for."""

LONGEST_WAIT_MS = 24 * 3_600_000
"""The most that a Retry-After may put an event off."""


def retry_after_ms(header: str, now_ms: int) -> int:
    """How long a Retry-After header asks to wait: seconds or an HTTP-date (RFC 9110, 10.2.3), at most 24 h.

    0 for one that is absent, past or unreadable. A receiver may send anything: nothing raises.
    """
    text = header.strip()
    if text.isascii() and text.isdigit():
        # Ten digits are three decades at least; int() itself refuses a few thousand of them.
        return min(LONGEST_WAIT_MS, int(text.lstrip("0")[:10] or "0") * 1000)
    try:
        parts = parsedate_tz(text)
        date_ms = 0 if parts is None else round(mktime_tz(parts) * 1000)
    except (ValueError, TypeError, IndexError, OverflowError):
        return 0
    return min(LONGEST_WAIT_MS, max(0, date_ms - now_ms))


def is_accepted(answer: Answer) -> bool:
    """Whether the answer accepts what was sent: any 2xx read within the time-out, whatever its headers."""
    return answer.failure is None and 200 <= answer.status < 300


def judge(answer: Answer, attempt: int, schedule_ms: tuple[int, ...], now_ms: int, chance: float) -> Outcome:
    """What an answer to attempt number ``attempt`` (from 1) means.

    Any 2xx read within the time-out accepts, whatever its headers. 410, or the wish to disable, ends the subscription;
    the wish to abort makes the event a dead letter. Anything else is a failure, retried after
    ``schedule_ms[attempt - 1]`` ±20 % (``chance`` in [0, 1) picks the place) or, for a 429 or 503, after the longer of
    that and its Retry-After; and a dead letter once the schedule is spent. The due time is never in the past.
    """
    slow_ms = 0
    if is_accepted(answer):
        return Outcome(Verdict.ACCEPTED)
    if answer.failure is None:
        if answer.status == 410 or answer.wish is Wish.DISABLE:
            return Outcome(Verdict.DISABLE, error="HTTP 410" if answer.status == 410 else "asked for by the receiver")
        if answer.wish is Wish.ABORT:
            return Outcome(Verdict.DEAD, error=ABORTED)
        if answer.status in {429, 503}:
            slow_ms = retry_after_ms(answer.retry_after, now_ms)
    error = answer.error or (f"HTTP {answer.status}" if answer.failure is None else answer.failure.value)
    if attempt > len(schedule_ms):
        return Outcome(Verdict.DEAD, error=error, slow_ms=slow_ms)
    wait_ms = round(schedule_ms[attempt - 1] * (0.8 + 0.4 * chance))
    return Outcome(Verdict.RETRY, due_ms=now_ms + max(1, wait_ms, slow_ms), error=error, slow_ms=slow_ms)

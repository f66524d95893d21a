"""A session's last polls with their results, in three bytes each: kept with the session, and so by every commit."""

from __future__ import annotations

from enum import IntEnum

import msgspec

KEPT = 16
_BYTES = 3
_OUTCOME_BITS = 3
_LATEST_S = (1 << 8 * _BYTES - _OUTCOME_BITS) - 1
"""24 days after tracking. What comes later is noted as if it came then: only a session that is asked for again after
weeks has such polls."""


class Outcome(IntEnum):
    """What a poll brought. The numbers are stored."""

    EMPTY = 0
    """The provider has no receipt of it."""
    SAME = 1
    CHANGED = 2
    FAILED = 3
    THROTTLED = 4
    ACCOUNT_REFUSED = 5
    REFUSED = 6

    @property
    def text(self) -> str:
        return _TEXTS[self]


_TEXTS = {
    Outcome.EMPTY: "no receipts",
    Outcome.SAME: "nothing new",
    Outcome.CHANGED: "changed",
    Outcome.FAILED: "failed",
    Outcome.THROTTLED: "throttled",
    Outcome.ACCOUNT_REFUSED: "account refused",
    Outcome.REFUSED: "refused",
}


class PollNote(msgspec.Struct, frozen=True, gc=False):
    """One poll: when (Unix ms, whole seconds after the tracking) and what it brought, as a text."""

    at_ms: int
    outcome: str


def noted(notes: bytes, tracked_ms: int, now_ms: int, outcome: Outcome) -> bytes:
    """The notes with one more; of 16 the oldest goes."""
    after_s = min(_LATEST_S, max(0, now_ms - tracked_ms) // 1000)
    return notes[-_BYTES * (KEPT - 1) :] + (after_s << _OUTCOME_BITS | outcome).to_bytes(_BYTES)


def read_notes(notes: bytes, tracked_ms: int) -> list[PollNote]:
    """The polls that ``notes`` holds, the oldest first."""
    found = []
    for at in range(0, len(notes), _BYTES):
        after_s, number = divmod(int.from_bytes(notes[at : at + _BYTES]), 1 << _OUTCOME_BITS)
        text = Outcome(number).text if number in _NUMBERS else "unknown"
        found.append(PollNote(tracked_ms + after_s * 1000, text))
    return found


_NUMBERS = frozenset(map(int, Outcome))

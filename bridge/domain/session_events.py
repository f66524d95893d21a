"""What is told of a session as a whole: that it settled, and that it is overdue."""

from __future__ import annotations

import hashlib
from collections import Counter

import msgspec

from bridge.domain.events import COMPLETED, OVERDUE, Record, iso_millis, record_of_session
from bridge.domain.receipts import Status
from bridge.domain.status import SessionState, Transition, is_quiet

_FIRST_LOOK_MS = 60_000
"""A session that is tracked when it is overdue already is asked for first, for this long."""

_encoder = msgspec.json.Encoder()
_NO_METADATA = msgspec.Raw(b"{}")


class _Completed(msgspec.Struct, frozen=True, gc=False):
    account: str
    session_no: str
    statuses: dict[str, int]
    segments: int
    expected_count: int | None
    metadata: msgspec.Raw


class _Overdue(msgspec.Struct, frozen=True, gc=False):
    account: str
    session_no: str
    sent_at: str
    statuses: dict[str, int]
    expected_count: int | None
    metadata: msgspec.Raw


def completes(before: SessionState, done: Transition) -> bool:
    """Whether an answer completed a session, or corrected what it was complete with."""
    return bool(done.state.settled_ms) and (not before.settled_ms or bool(done.changes))


def record_of_completed(account: str, session_no: str, done: Transition, previous_poll_ms: int) -> Record:
    """The record of ``sms.session.completed``, at the counts after an answer.

    Its ``user_id`` stands for the phones' last words: two completions with the same counts are two events, for a
    correction comes with a later ReceiptTime, and the same one observed again is one. Without the phones themselves:
    nothing of an erased one stays.
    """
    after = done.state
    data = _Completed(
        account,
        session_no,
        _statuses(after),
        sum([phone.segments for phone in after.phones]),
        after.expected_count,
        _metadata(after),
    )
    words = sorted((one.status, one.receipt_time) for one in after.phones)
    digest = hashlib.blake2b(_encoder.encode(words), digest_size=8).hexdigest()
    return record_of_session(COMPLETED, session_no, digest, _text(data), (previous_poll_ms, after.polled_ms))


def record_of_overdue(account: str, session_no: str, state: SessionState, now_ms: int) -> Record:
    """The record of ``sms.session.overdue``."""
    data = _Overdue(
        account, session_no, iso_millis(state.sent_ms), _statuses(state), state.expected_count, _metadata(state)
    )
    return record_of_session(OVERDUE, session_no, "", _text(data), (state.polled_ms, now_ms))


def is_overdue(state: SessionState, now_ms: int, overdue_ms: int) -> bool:
    """Whether it is to be told that a session still waits for a final status at the age ``overdue_ms``; once."""
    if state.settled_ms or state.overdue or is_quiet(state):
        return False
    return now_ms >= overdue_at_ms(state, overdue_ms)


def overdue_at_ms(state: SessionState, overdue_ms: int) -> int:
    """When a session is overdue (Unix ms): one tracked late is given a minute for its first poll."""
    return max(state.sent_ms + overdue_ms, state.tracked_ms + _FIRST_LOOK_MS)


def watched_until_ms(before: SessionState | None, after: SessionState, overdue_ms: int, now_ms: int) -> int | None:
    """When to look whether a session that was just tracked is overdue (Unix ms), None if that is arranged already.

    Rounded up to spans of a 720th of the age, a minute at 12 h: one look serves all that were sent within one.
    """
    if after.settled_ms or after.overdue:
        return None
    if before is None or before.settled_ms or after.sent_ms < before.sent_ms:
        span_ms = max(1_000, overdue_ms // 720)
        return -(-max(now_ms, overdue_at_ms(after, overdue_ms)) // span_ms) * span_ms
    return None


def _statuses(state: SessionState) -> dict[str, int]:
    """How many phones have each status, in the order of the statuses; ``tracked`` are those not heard of."""
    counts = Counter([phone.status for phone in state.phones])
    unheard = len(state.awaiting)
    if not unheard and state.expected_count is not None and not any(phone.expected for phone in state.phones):
        unheard = max(0, state.expected_count - len(state.phones))
    counts[Status.TRACKED] += unheard
    return {status.text: counts[status] for status in Status if counts[status]}


def _text(data: msgspec.Struct) -> str:
    return _encoder.encode(data).decode()


def _metadata(state: SessionState) -> msgspec.Raw:
    return msgspec.Raw(state.metadata.encode()) if state.metadata else _NO_METADATA

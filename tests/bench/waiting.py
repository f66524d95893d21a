"""Events of one phone a session, committed for one subscription as a poll would."""

from __future__ import annotations

import time
from collections.abc import Sequence

from bridge.domain import events
from bridge.domain.accounts import DEFAULT_ACCOUNT
from bridge.domain.commits import CommitResult, Due, Entry, Route, Write
from bridge.domain.receipts import Status
from bridge.domain.status import SessionState
from bridge.wiring import Bridge

_PHONE = "(86)18500000000"


def commit(bridge: Bridge, name: str, session_nos: Sequence[str], sequence: int = 1) -> None:
    """The first event of each session's phone, or its second, which is final."""
    versions = {}
    if sequence > 1:
        versions = {no: one.version for no, one in bridge.sessions.read(DEFAULT_ACCOUNT, session_nos).items()}
    state = SessionState(sent_ms=1, tracked_ms=1)
    writes = [
        Write(no, versions.get(no, b""), state, Due.NONE, None, [_entry(no, name, sequence)]) for no in session_nos
    ]
    if any(result is not CommitResult.WRITTEN for result in bridge.sessions.commit(DEFAULT_ACCOUNT, writes).values()):
        raise AssertionError("a commit was refused")


def _entry(session_no: str, name: str, sequence: int) -> Entry:
    now_ms = int(time.time() * 1000)
    record = events.Record(
        schema=events.SCHEMA,
        session_no=session_no,
        phone=_PHONE,
        user_id="1213",
        status=int(Status.DELIVERED if sequence > 1 else Status.UNKNOWN),
        previous=int(Status.UNKNOWN if sequence > 1 else Status.TRACKED),
        sequence=sequence,
        corrected=False,
        late=False,
        result="发送成功" if sequence > 1 else "状态未知",
        code="DELIVRD" if sequence > 1 else "",
        description="",
        receipt_time=now_ms // 1000,
        segments=1,
        observed_ms=now_ms,
        previous_poll_ms=now_ms,
        metadata="",
    )
    return Entry(events.pack(record), [Route(name, events.lane_id(session_no, _PHONE))])

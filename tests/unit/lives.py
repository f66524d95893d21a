"""Sessions and what is said of them, for the tests of their statuses."""

from __future__ import annotations

from typing import Any

from bridge.domain.receipts import Receipt
from bridge.domain.status import SessionState, Transition, track, transition
from bridge.domain.tracking import SessionRequest

SECOND = 1_000
HOUR = 3600 * SECOND
DAY = 24 * HOUR
NOW = 1_795_423_107_000
GIVE_UP = 3 * DAY
P = "(86)18500000000"
P_BARE = "18500000000"
Q = "(86)18511111111"


def receipt(phone: str = P, result: str = "Success", time: int = 100, user_id: str = "", code: str = "") -> Receipt:
    return Receipt(phone, user_id, result, code, "", time, 1)


def tracked(*phones: str | tuple[str, str], now_ms: int = NOW, **fields: Any) -> SessionState:
    if phones:
        fields["phones"] = tuple(phone if isinstance(phone, tuple) else (phone, None) for phone in phones)
    return track(None, SessionRequest("s", **fields), now_ms)


def answer(state: SessionState, *receipts: Receipt, after_ms: int = 10 * SECOND) -> Transition:
    return transition(state, receipts, state.sent_ms + after_ms, GIVE_UP)


def after(state: SessionState, *answers: Receipt) -> SessionState:
    """The state once each receipt came in an answer of its own."""
    for one in answers:
        state = answer(state, one).state
    return state


def steps(done: Transition) -> list[tuple[str, str, str, str, int]]:
    return [
        (change.phone, change.user_id, change.previous.text, change.status.text, change.sequence)
        for change in done.changes
    ]


def only(done: Transition) -> tuple[str, str]:
    (change,) = done.changes
    return change.previous.text, change.status.text


def retrack(state: SessionState, *phones: str | tuple[str, str], now_ms: int = NOW, **fields: Any) -> SessionState:
    if phones:
        fields["phones"] = tuple(phone if isinstance(phone, tuple) else (phone, None) for phone in phones)
    return track(state, SessionRequest("s", **fields), now_ms)

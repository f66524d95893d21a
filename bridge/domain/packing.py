"""Which sessions go together into one call of the provider."""

from __future__ import annotations

from collections.abc import Iterable

from bridge.domain.status import SessionState

MAX_SESSIONS = 100
"""SessionNoSet.0 to SessionNoSet.99 (the provider's document)."""

MAX_ANSWER_BYTES = 4_000_000
RECEIPT_BYTES = 200
"""One phone's receipt in an answer, about (measured on the provider's example)."""


def expected_phones(state: SessionState) -> int:
    """How many phones an answer for this session may hold: as announced, as seen, and at least one."""
    return max(1, state.expected_count or 0, len(state.phones) + len(state.awaiting))


def pack_call(sessions: Iterable[tuple[str, SessionState]]) -> tuple[list[str], list[str]]:
    """Split sessions, in order, into those that fit one call and those to hand back.

    A call holds at most 100, and no more expected phones than keep its answer under 4 MB; its first session always
    fits, however large.
    """
    room = MAX_ANSWER_BYTES // RECEIPT_BYTES
    chosen: list[str] = []
    rest: list[str] = []
    for session_no, state in sessions:
        phones = expected_phones(state)
        if not chosen or (len(chosen) < MAX_SESSIONS and phones <= room):
            chosen.append(session_no)
            room -= phones
        else:
            rest.append(session_no)
    return chosen, rest

"""What a session is without a phone, and what stands for one that is gone."""

from __future__ import annotations

import msgspec

from bridge.domain.erasure import tombstone, without_phone
from bridge.domain.status import PhoneState, SessionState, is_complete

HERS, HIS = "(86)18500000001", "(86)18500000002"
DIGITS = "8618500000001"


def phone(number: str, status: int = 2, *, expected: bool = False) -> PhoneState:
    return PhoneState(number, "", status, 1, 1, 1, expected)


def session(*phones: PhoneState, **fields: object) -> SessionState:
    return msgspec.structs.replace(SessionState(sent_ms=1, tracked_ms=1, phones=phones), **fields)


def test_a_session_without_the_phone_is_left_alone() -> None:
    assert without_phone(session(phone(HIS), awaiting=((HIS, None),)), DIGITS) is None


def test_the_phone_goes_in_every_spelling_seen_or_awaited() -> None:
    before = session(
        phone("18500000001"),
        phone(HIS),
        phone("0086 18500000001"),
        awaiting=((HERS, "u"), (HIS, None)),
        expected_count=5,
    )
    after = without_phone(before, DIGITS)
    assert after == session(phone(HIS), awaiting=((HIS, None),), expected_count=4)


def test_a_session_waits_for_nobody_who_was_erased() -> None:
    listed = session(phone(HIS, expected=True), awaiting=((HERS, None),), expected_count=2)
    counted = session(phone(HIS), phone(HERS, 1), expected_count=2)
    alone = session(awaiting=((HERS, None),), expected_count=1)
    for before in (listed, counted, alone):
        after = without_phone(before, DIGITS)
        assert after is not None
        assert is_complete(after, 10)


def test_a_tombstone_is_the_phones_in_any_spelling_and_the_keys() -> None:
    assert tombstone(b"k", HERS) == tombstone(b"k", "18500000001")
    assert len({tombstone(b"k", HERS), tombstone(b"l", HERS), tombstone(b"k", HIS)}) == 3
    assert b"185" not in tombstone(b"k", HERS)

"""Records as they are kept, to the field: what an older or newer release, and the lanes of queues, depend on."""

from __future__ import annotations

import hashlib

import msgspec
import pytest

from bridge.domain import events
from bridge.domain.receipts import Status
from bridge.domain.status import track, transition
from bridge.domain.tracking import SessionRequest

NOW_MS = 1_795_423_107_000
DAY_MS = 86_400_000


def test_an_event_of_our_own_has_nothing_of_a_phone() -> None:
    found = events.record_of_ours(events.DISABLED, "sub_a", {"a": 1}, NOW_MS)
    name = f"{events.EVENT_TYPES[events.DISABLED]} sub_a"
    assert found == events.Record(
        events.SCHEMA, name, "", "", 0, 0, 1, False, False, None, "", "", 0, 0, NOW_MS, 0, '{"a":1}', events.DISABLED
    )
    assert events.is_ours(found)
    assert events.unpack(events.pack(found)) == found


def test_what_is_told_of_a_session_has_nothing_of_a_phone_either() -> None:
    found = events.record_of_session(events.COMPLETED, "s1", "7", "{}", (1, 2))
    assert found == events.Record(
        events.SCHEMA, "s1", "", "7", 0, 0, 1, False, False, None, "", "", 0, 0, 2, 1, "{}", events.COMPLETED
    )
    assert not events.is_ours(found)


@pytest.mark.parametrize("kind", [events.COMPLETED, events.OVERDUE])
def test_what_is_told_of_a_session_has_an_id_of_its_data(kind: int) -> None:
    told = [events.record_of_session(kind, "s1", "", data, (1, 2)) for data in ('{"a":1}', '{"a":2}')]
    assert len({events.event_id("default", one) for one in told}) == 2


def test_a_change_that_no_receipt_brought_has_none() -> None:
    before = track(None, SessionRequest("s1", phones=(("1", None),)), NOW_MS)
    (change,) = transition(before, [], NOW_MS + 4 * DAY_MS, 3 * DAY_MS).changes
    found = events.record("s1", before, change, NOW_MS + 4 * DAY_MS)
    assert found.status == Status.NO_RECEIPT
    fields = msgspec.structs.astuple(found)
    assert fields[9:14] == (None, "", "", 0, 0)


def test_lanes_and_tags_stay_the_same_for_ever() -> None:
    """Queues and attempts are found by them: others after an upgrade would leave those behind."""
    assert events.resend_lane(bytes(12)) == hashlib.blake2b(bytes(12), digest_size=8, person=b"resend").digest()
    assert len(events.resend_lane(bytes(12))) == 8
    assert events.resend_lane(bytes(12)) != events.resend_lane(b"1" * 12)
    assert events.phone_tag("18500000001") == events.phone_tag("(0086)18500000001") != events.phone_tag("18500000002")
    tag = hashlib.blake2b(b"8618500000001", digest_size=8, person=b"attempt").digest()
    assert events.phone_tag("18500000001") == tag


@pytest.mark.parametrize(
    "packed", [None, b"", b"\xc1", b"\xff", events.pack(events.record_of_ours(1, "x", {}, 1))[:-1]]
)
def test_what_is_no_record_is_none(packed: bytes | None) -> None:
    assert events.readable(packed) is None
    with pytest.raises(msgspec.MsgspecError):
        events.unpack(packed or b"")


def test_a_text_that_is_broken_is_told_by_its_kind_and_not_by_its_bytes() -> None:
    packed = events.pack(events.record_of_ours(1, "name", {}, 1)).replace(b"name", b"n\xffme")
    with pytest.raises(msgspec.ValidationError, match=r"^not a record: UnicodeDecodeError$"):
        events.unpack(packed)


def test_a_record_of_a_newer_schema_is_refused() -> None:
    newer = msgspec.structs.replace(events.record_of_ours(1, "x", {}, 1), schema=events.SCHEMA + 1)
    assert events.readable(events.pack(newer)) is None
    assert events.readable(events.pack(msgspec.structs.replace(newer, schema=events.SCHEMA))) is not None

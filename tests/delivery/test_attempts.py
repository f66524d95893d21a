"""What the delivery loop notes of failed attempts, and that the notes are never in its way."""

from __future__ import annotations

import msgspec

from bridge.domain import events
from bridge.domain.breaker import BreakerPolicy
from bridge.domain.deliveries import KEPT_BODY
from bridge.store import keys
from bridge.wiring import Bridge
from tests.delivery.slices import QUICK, Receiver, drain, publish, run, subscribe
from tests.hostile import answering, serving
from tests.parts import Parts

ODD = b"HTTP/1.1 500 Oops\r\nContent-Length: 4\r\n\r\n\x1b[2J"


def test_each_failed_attempt_is_noted_with_what_was_answered(bridge: Bridge, parts: Parts) -> None:
    with serving(answering(ODD)) as server:
        name = subscribe(bridge, server.url)
        publish(parts, name, sessions=1)
        drain(bridge, msgspec.structs.replace(QUICK, retry_ms=(1, 1)))
    noted = list(bridge.attempts.newest(name))
    (logged,) = bridge.log.read("default")
    record = events.unpack(logged.record)
    assert [one.attempt for one in noted] == [3, 2, 1]
    assert {(one.event, one.status, one.error, one.body, one.phone) for one in noted} == {
        (events.event_id("default", record), 500, "HTTP 500", b"\x1b[2J", events.phone_tag(record.phone))
    }
    assert "1850000" not in str(noted), "a phone is in what was noted"


def test_of_a_long_answer_its_head_is_kept(bridge: Bridge, parts: Parts) -> None:
    long = b"HTTP/1.1 500 Oops\r\nContent-Length: 3000\r\n\r\n" + b"x" * 3_000
    with serving(answering(long)) as server:
        name = subscribe(bridge, server.url)
        publish(parts, name, sessions=1)
        drain(bridge, msgspec.structs.replace(QUICK, retry_ms=(1,)))
    assert {one.body for one in bridge.attempts.newest(name)} == {b"x" * KEPT_BODY}


def test_notes_are_written_together(bridge: Bridge, parts: Parts) -> None:
    """One round trip for many: a receiver that is down must not make the store busy."""
    receiver = Receiver(refuses=lambda _number: True)
    with serving(receiver) as server:
        name = subscribe(bridge, server.url)
        publish(parts, name, sessions=100)
        before = bridge.client.round_trips
        # Without its breaker, which would soon leave the receiver in peace.
        patient = msgspec.structs.replace(QUICK, retry_ms=(60_000,), breaker=BreakerPolicy(after=1_000))
        report = run(bridge, patient)
    assert report.retrying == len(list(bridge.attempts.newest(name))) == 100
    assert bridge.client.round_trips - before < 100


def test_a_store_that_refuses_the_notes_stops_no_delivery(bridge: Bridge, parts: Parts) -> None:
    with serving(Receiver(refuses=lambda number: number == 0)) as server:
        name = subscribe(bridge, server.url)
        parts.redis.set(keys.attempts(name), "no stream")
        publish(parts, name, sessions=3)
        report = drain(bridge)
        parts.redis.delete(keys.attempts(name))
    assert (report.accepted, report.retrying, report.unnoted) == (3, 1, 1)

"""Outcomes: found for as long as the event is there, and small."""

from __future__ import annotations

from bridge.domain.deliveries import Settlement
from bridge.domain.outcome import Verdict
from bridge.store.outcomes import Fate, _whole_ms
from tests.parts import SUB, Parts, entry

MINE = b"m" * 16


def fate(parts: Parts, place: int = 0) -> Fate:
    logged = list(parts.log.read("default"))[place]
    return parts.outcomes.fate(SUB, logged.shard, logged.position, logged.record, parts.now_ms())


def settle(parts: Parts, *, retry_ms: int | None = None) -> None:
    (lane,) = parts.take(MINE, "s1")
    one = Settlement(lane, Verdict.ACCEPTED, status=204)
    if retry_ms is not None:
        one = Settlement(lane, Verdict.RETRY, lane.attempts + 1, retry_ms)
    parts.queues.settle(MINE, {(SUB, lane.shard): [one]})


def test_an_accepted_event_is_known_with_its_time_attempts_and_status(parts: Parts) -> None:
    parts.write("s1", entry("s1", sequence=1))
    settle(parts, retry_ms=1)
    waits = fate(parts).waits
    assert waits is not None
    assert (waits.attempts, waits.behind) == (1, 0)
    before_ms = parts.now_ms()
    settle(parts)
    (told,) = fate(parts).told
    assert (told.attempt, told.status) == (2, 204)
    assert before_ms <= told.at_ms <= parts.now_ms()
    assert fate(parts) == Fate(None, None, (told,))


def test_of_many_each_is_told_apart_and_takes_little(parts: Parts) -> None:
    parts.write("s1", *(entry("s1", f"185{number:08}", sequence=number) for number in range(300)))
    lanes = parts.claim(MINE, "s1", most=200)
    assert lanes is not None
    read = parts.queues.peek([(SUB, parts.shard("s1"), lanes)])[0]
    accepted = {lane.position for lane in read}
    parts.queues.settle(MINE, {(SUB, parts.shard("s1")): [Settlement(one, Verdict.ACCEPTED) for one in read]})
    for place, logged in enumerate(parts.log.read("default")):
        if place % 7 == 0:
            assert bool(fate(parts, place).told) == (logged.position in accepted)
    (key,) = parts.client.scan("*:told:*")
    assert (parts.redis.memory_usage(key) or 0) / 200 <= 24
    assert 97 * 3_600_000 < parts.redis.pttl(key) <= 98 * 3_600_000


def test_an_outcome_that_does_not_apply_is_not_noted(parts: Parts) -> None:
    parts.write("s1", entry("s1"))
    (lane,) = parts.take(MINE, "s1")
    settled = [Settlement(lane, Verdict.ACCEPTED)]
    parts.queues.settle(b"x" * 16, {(SUB, lane.shard): settled})
    assert fate(parts).told == ()
    for _ in range(2):
        parts.queues.settle(MINE, {(SUB, lane.shard): settled})
    assert len(fate(parts).told) == 1


def test_times_are_whole_again() -> None:
    for ms in (1_795_415_462_123, 2**41 - 1, 2**41, 2**41 + 5):
        for off_ms in (-3_600_000, 0, 3_600_000):
            assert _whole_ms(ms % 2**32, (ms + off_ms) // 3_600_000) == ms

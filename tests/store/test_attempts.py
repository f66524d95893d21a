"""Failed attempts: what is kept of them, how many, and for how long."""

from __future__ import annotations

from bridge.domain.deliveries import FailedAttempt
from bridge.store import keys
from tests.parts import SUB, Parts


def failed(number: int) -> FailedAttempt:
    return FailedAttempt(number, f"evt_{number}", 1, 500, 12, "HTTP 500", b"\x00\xff", b"p" * 8)


def test_attempts_are_read_newest_first_over_more_than_a_page_in_one_round_trip_written(parts: Parts) -> None:
    before = parts.client.round_trips
    parts.attempts.add([(SUB, failed(number)) for number in range(1_200)] + [("sub_b", failed(7))])
    assert parts.client.round_trips == before + 1
    assert list(parts.attempts.newest(SUB)) == [failed(number) for number in reversed(range(1_200))]
    assert list(parts.attempts.newest("sub_b")) == [failed(7)]


def test_the_newest_ten_thousand_are_kept(parts: Parts) -> None:
    for start in range(0, 12_000, 1_000):
        parts.attempts.add([(SUB, failed(start + number)) for number in range(1_000)])
    kept = list(parts.attempts.newest(SUB))
    assert 10_000 <= len(kept) <= 10_200
    assert kept[0] == failed(11_999)


def test_old_attempts_are_dropped_and_those_of_nobody_expire(parts: Parts) -> None:
    parts.attempts.add([(SUB, failed(1)), ("sub_gone", failed(2))])
    assert parts.attempts.trim([SUB], 1) == 0
    assert parts.attempts.trim([SUB], parts.now_ms() + 1) == 1
    assert parts.redis.pttl(keys.attempts("sub_gone")) > 29 * 86_400_000
    parts.attempts.remove("sub_gone")
    assert not list(parts.attempts.newest("sub_gone"))

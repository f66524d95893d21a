"""Sending again: what is put, what is not put twice, and that no lane notices."""

from __future__ import annotations

from bridge.domain import events
from bridge.domain.deliveries import Settlement
from bridge.domain.outcome import Verdict
from bridge.domain.policy import Limits
from bridge.store.resending import Again, Resent
from tests.parts import SHARDS, SUB, Parts, entry

MINE = b"m" * 16
HOUR_MS = 3_600_000


def die(parts: Parts, *, session_no: str = "s1") -> None:
    """Settle what is due as dead."""
    for lane in parts.take(MINE, session_no):
        found = parts.log.fetch("default", {lane.shard: [lane.position]}) or parts.queues.kept(
            SUB, {lane.shard: [lane.position]}
        )
        letter = Settlement(lane, Verdict.DEAD, 3, 0, found[lane.shard, lane.position], "HTTP 500")
        parts.queues.settle(MINE, {(SUB, lane.shard): [letter]})


def letters(parts: Parts) -> list[Again]:
    return [Again(one.shard, one.position, one.record, (one.id,)) for one in parts.queues.dead_letters(SUB)]


def test_a_dead_letter_waits_again_and_is_one_no_more(parts: Parts) -> None:
    parts.write("s1", entry("s1", sequence=1))
    die(parts)
    (again,) = letters(parts)
    assert parts.resending.put(SUB, [again]) == Resent(queued=1)
    assert not letters(parts)
    (one,) = parts.queues.waiting(SUB, 9)
    assert (one.positions, one.attempts, one.lane) == ((again.position,), 0, events.resend_lane(again.position))
    parts.assert_index_is_right()
    # The log is gone meanwhile; it dies again, and the letter is whole.
    parts.log.trim("default", [SUB], parts.now_ms() + HOUR_MS)
    die(parts)
    (letter,) = letters(parts)
    assert (letter.record, letter.position) == (again.record, again.position)
    assert parts.queues.kept(SUB, {letter.shard: [letter.position]}) == {}
    parts.assert_index_is_right()


def test_what_waits_is_not_put_twice(parts: Parts) -> None:
    """Neither beside its phone's lane, nor by two calls, nor by one."""
    parts.write("s1", entry("s1", sequence=1), entry("s1", sequence=2))
    die(parts)
    first, second = (Again(one.shard, one.position, one.record) for one in parts.log.read("default"))
    assert parts.resending.put(SUB, [second, first, first]) == Resent(queued=1, waiting=2)
    assert parts.resending.put(SUB, [first]) == Resent(waiting=1)
    assert sorted(len(one.positions) for one in parts.queues.waiting(SUB, 9)) == [1, 1]
    parts.assert_index_is_right()


def test_a_resent_event_holds_up_no_later_one_of_its_phone(parts: Parts) -> None:
    parts.write("s1", entry("s1", sequence=1))
    die(parts)
    parts.resending.put(SUB, letters(parts))
    parts.write("s1", entry("s1", sequence=2))
    assert len(parts.take(MINE, "s1")) == 2, "both are sent at once"


def test_beyond_the_backlog_nothing_is_put_and_its_letter_stays(parts: Parts) -> None:
    small = Parts.sharing(parts, Limits(backlog=2 * SHARDS))
    small.write("s1", *(entry("s1", f"1850000000{number}") for number in range(2)))
    die(small)
    small.write("s1", entry("s1", sequence=9))
    assert small.resending.put(SUB, letters(small)) == Resent(queued=1, no_room=1)
    assert len(letters(small)) == 1
    assert small.queues.tallies([SUB])[SUB].waiting == 2
    small.close()


def test_a_kept_record_that_is_over_the_limit_is_found_in_its_own_lane(parts: Parts) -> None:
    small = Parts.sharing(parts, Limits(kept=1))
    small.write("s1", entry("s1", sequence=1), entry("s1", "18500000002", sequence=2))
    die(small)
    small.resending.put(SUB, letters(small))
    assert small.limits.limit_kept([SUB]) == 1
    assert [one.error[:15] for one in small.queues.dead_letters(SUB)] == ["too many events"]
    small.assert_index_is_right()
    small.close()

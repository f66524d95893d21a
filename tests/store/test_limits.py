"""Limits on what waits: what goes, what is counted, and that the rest is as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from hypothesis import given
from hypothesis import strategies as st

from bridge.domain import events
from bridge.domain.deliveries import Settlement, Tally
from bridge.domain.outcome import Verdict
from bridge.domain.policy import Limits, allowances
from bridge.store import keys
from tests.parts import SHARDS, SUB, Parts, entry, record, until

MINE = b"m" * 16
HOUR_MS = 3_600_000


@contextmanager
def limited(parts: Parts, **limits: int) -> Iterator[Parts]:
    """The same store under other limits, the backlog's given for one shard."""
    if "backlog" in limits:
        limits["backlog"] *= SHARDS
    made = Parts.sharing(parts, Limits(**limits))
    yield made
    made.close()


def waiting(parts: Parts) -> list[int]:
    """Sequences of what waits, in the order of its lane."""
    found = []
    for one in parts.queues.waiting(SUB, 1_000):
        logged = parts.log.fetch("default", {one.shard: one.positions})
        kept = parts.queues.kept(SUB, {one.shard: one.positions})
        found += [events.unpack((logged | kept)[one.shard, place]).sequence for place in one.positions]
    return found


def dead(parts: Parts) -> list[tuple[int, str]]:
    """Sequence and error of each dead letter, the oldest first."""
    return [(events.unpack(one.record).sequence, one.error) for one in reversed(list(parts.queues.dead_letters(SUB)))]


def test_of_too_many_waiting_events_the_newest_become_dead_letters(parts: Parts) -> None:
    with limited(parts, backlog=3) as small:
        for sequence in range(1, 6):
            small.write("s1", entry("s1", sequence=sequence))
        assert waiting(small) == [1, 2, 3]
        assert dead(small) == [(4, "too many events were waiting"), (5, "too many events were waiting")]
        assert small.queues.tallies([SUB, "sub_b"]) == {SUB: Tally(3, 2, 2, 0, 0), "sub_b": Tally()}
        small.assert_index_is_right()


def test_a_backlog_is_counted_within_one_commit_and_for_each_subscription_alone(parts: Parts) -> None:
    with limited(parts, backlog=3) as small:
        small.write("s1", entry("s1", to=["sub_b"]))
        small.write("s1", *(entry("s1", f"1850000000{n}", to=[SUB, "sub_b"], sequence=n) for n in range(5)))
        assert (small.queues.tallies([SUB])[SUB].waiting, small.queues.tallies([SUB])[SUB].over_backlog) == (3, 2)
        assert small.queues.tallies(["sub_b"])["sub_b"] == Tally(3, 3, 3, 0, 0)
        assert len(list(small.log.read("default"))) == 6, "the log has them all"


def test_room_that_settling_makes_is_used(parts: Parts) -> None:
    with limited(parts, backlog=2) as small:
        small.write("s1", entry("s1", sequence=1), entry("s1", "18500000002", sequence=2))
        first, second = small.take(MINE, "s1")
        outcomes = [Settlement(first, Verdict.ACCEPTED), Settlement(second, Verdict.DEAD, 1, 0, record("s1"), "gone")]
        small.queues.settle(MINE, {(SUB, first.shard): outcomes})
        assert small.queues.tallies([SUB])[SUB].waiting == 0
        small.write("s1", entry("s1", sequence=3), entry("s1", sequence=4), entry("s1", sequence=5))
        assert waiting(small) == [3, 4]
        small.remove_queue(SUB)
        assert small.queues.tallies([SUB])[SUB] == Tally()


def test_of_too_many_dead_letters_the_oldest_go_and_are_counted(parts: Parts) -> None:
    with limited(parts, backlog=1, dead=2) as small:
        for sequence in range(1, 6):
            small.write("s1", entry("s1", sequence=sequence))
        assert [sequence for sequence, _ in dead(small)] == [4, 5]
        (lane,) = small.take(MINE, "s1")
        letter = Settlement(lane, Verdict.DEAD, 1, 0, record("s1", sequence=1), "HTTP 500")
        small.queues.settle(MINE, {(SUB, lane.shard): [letter]})
        assert dead(small) == [(5, "too many events were waiting"), (1, "HTTP 500")]
        assert small.queues.tallies([SUB])[SUB] == Tally(0, 2, 4, 0, 3, exhausted=1)


def test_of_too_many_kept_records_the_oldest_become_dead_letters(parts: Parts) -> None:
    with limited(parts, kept=2) as small:
        phones = ["18500000001", "18500000001", "18500000002", "18500000003"]
        for number, phone in enumerate(phones, start=1):
            small.write("s1", entry("s1", phone, sequence=number))
        small.log.trim("default", [SUB], small.now_ms() + HOUR_MS)
        assert small.limits.limit_kept([SUB, "sub_b"]) == 2
        assert sorted(waiting(small)) == [3, 4]
        assert [sequence for sequence, _ in dead(small)] == [1, 2]
        assert small.queues.tallies([SUB])[SUB] == Tally(2, 2, 0, 2, 0)
        assert small.limits.limit_kept([SUB]) == 0
        small.assert_index_is_right(may_be_early=True)


def test_what_is_under_way_when_it_is_given_up_keeps_the_next_waiting(parts: Parts) -> None:
    """Its POST may still arrive: the next event of the phone must not overtake it."""
    with limited(parts, kept=1) as small:
        small.write("s1", entry("s1", sequence=1))
        small.write("s1", entry("s1", sequence=2))
        (lane,) = small.take(MINE, "s1")
        small.log.trim("default", [SUB], small.now_ms() + HOUR_MS)
        assert small.limits.limit_kept([SUB]) == 1
        assert small.claim(MINE, "s1") == []
        applied = small.queues.settle(MINE, {(SUB, lane.shard): [Settlement(lane, Verdict.ACCEPTED)]})
        assert applied == {(SUB, lane.shard): 0}
        assert waiting(small) == [2]
        small.make_due()
        assert [one.attempts for one in small.take(MINE, "s1")] == [0]


def test_burying_waits_no_longer_than_a_lease_for_a_phone_that_was_being_retried(parts: Parts) -> None:
    with limited(parts, kept=1) as small:
        small.write("s1", entry("s1", sequence=1))
        small.write("s1", entry("s1", sequence=2))
        (lane,) = small.take(MINE, "s1")
        small.queues.settle(
            MINE, {(SUB, lane.shard): [Settlement(lane, Verdict.RETRY, 5, small.now_ms() + 24 * HOUR_MS)]}
        )
        small.log.trim("default", [SUB], small.now_ms() + HOUR_MS)
        small.limits.limit_kept([SUB])
        (one,) = small.queues.waiting(SUB, 1)
        assert one.attempts == 0
        assert one.due_ms <= small.now_ms() + 45_000
        small.assert_index_is_right()


def test_logs_that_take_too_much_lose_their_oldest_events_whichever_log_they_are_in(parts: Parts) -> None:
    """One account is old and quiet, the other young and busy."""
    parts.write("quiet", *(entry("quiet", sequence=number) for number in range(700)), account="quiet")
    for _ in range(6):
        parts.write("s1", *(entry("s1", sequence=number) for number in range(500)))
    audiences = {"default": [SUB], "quiet": [SUB], "nobody": []}
    size = sum(
        parts.redis.memory_usage(keys.log(parts.shard(name), account)) or 0
        for name, account in (("s1", "default"), ("quiet", "quiet"))
    )
    assert parts.log.trim_to(audiences, size) == 0
    assert parts.log.trim_to(audiences, size // 2) == 700 + 1_500
    assert not list(parts.log.read("quiet"))
    assert len(list(parts.log.read("default"))) == 1_500
    tally = parts.queues.tallies([SUB])[SUB]
    assert (tally.waiting, len(waiting(parts))) == (3_700, 3_700), "what waits was kept aside"
    assert parts.redis.hlen(keys.kept(parts.shard("s1"), SUB)) >= 1_500


def test_a_lane_whose_first_event_was_taken_out_is_another_delivery(parts: Parts) -> None:
    """Taken out in the middle of a lane, the first keeps its attempts."""
    parts.write("s1", *(entry("s1", sequence=sequence) for sequence in (1, 2, 3)))
    (lane,) = parts.take(MINE, "s1")
    parts.queues.settle(MINE, {(SUB, lane.shard): [Settlement(lane, Verdict.RETRY, 4, 1)]})
    places = {one.position: one.record for one in parts.log.read("default")}
    middle = sorted(places)[1]
    assert parts.queues.bury(SUB, lane.shard, {middle: places[middle]}, "why") == 1
    assert parts.queues.bury(SUB, lane.shard, {middle: places[middle]}, "why") == 0
    (one,) = parts.queues.waiting(SUB, 1)
    assert (one.attempts, waiting(parts)) == (4, [1, 3])


def spread(parts: Parts, sessions: int = 40) -> list[str]:
    """Sessions of every shard, and as many again of the first one."""
    names = [f"s{number}" for number in range(sessions)]
    crowded = [name for name in (f"t{number}" for number in range(20 * sessions)) if parts.shard(name) == 0]
    return names + crowded[:sessions]


def test_a_subscription_whose_events_are_all_in_one_shard_has_its_whole_backlog(parts: Parts) -> None:
    """Fault: a limit was a shard's part of it for good: with all events in one of eight it bit at an eighth."""
    small = Parts.sharing(parts, Limits(backlog=40 * SHARDS))
    left = 40 * SHARDS
    while left:
        more = max(1, left // SHARDS)  # as much as one shard may take of what is free, until that is shared out again
        small.write("s1", *(entry("s1", sequence=number) for number in range(more)))
        small.limits.share_backlog([SUB])
        left -= more
    assert small.queues.tallies([SUB])[SUB] == Tally(160)
    small.write("s1", entry("s1", sequence=99))
    assert small.queues.tallies([SUB])[SUB] == Tally(160, 1, 1, 0, 0), "and no more than that"
    small.close()


def test_what_is_free_is_shared_evenly_and_forgotten_when_the_backlog_is_gone(parts: Parts) -> None:
    small = Parts.sharing(parts, Limits(backlog=10 * SHARDS))
    small.write("s1", *(entry("s1", f"1850000000{number}", sequence=number) for number in range(9)))
    small.limits.share_backlog([SUB, "sub_b"])
    most = [small.redis.hget(keys.counts(shard, SUB), "m") for shard in range(SHARDS)]
    assert sorted(int(one or 0) for one in most) == [7, 8, 8, 17]
    assert not small.redis.exists(keys.counts(0, "sub_b"))
    lanes = small.take(MINE, "s1")
    small.queues.settle(MINE, {(SUB, lanes[0].shard): [Settlement(one, Verdict.ACCEPTED) for one in lanes]})
    small.limits.share_backlog([SUB])
    assert [small.redis.hget(keys.counts(shard, SUB), "m") for shard in range(SHARDS)] == [None] * SHARDS
    small.close()


def test_a_limit_that_was_lowered_holds_from_the_next_minute_on(parts: Parts) -> None:
    parts.write("s1", *(entry("s1", sequence=number) for number in range(30)))
    small = Parts.sharing(parts, Limits(backlog=5 * SHARDS))
    small.limits.share_backlog([SUB])
    small.write("s1", entry("s1", sequence=31))
    assert small.queues.tallies([SUB])[SUB] == Tally(30, 1, 1, 0, 0), "what waits is not touched"
    small.close()


def test_the_oldest_dead_letters_go_whichever_shard_they_are_in(parts: Parts) -> None:
    small = Parts.sharing(parts, Limits(dead=25))
    died = []
    for number, session_no in enumerate(spread(small)):
        small.write(session_no, entry(session_no, sequence=number + 1))
        (lane,) = small.take(MINE, session_no)
        letter = Settlement(lane, Verdict.DEAD, 1, 0, record(session_no), "HTTP 500")
        before_ms = small.now_ms()
        until(lambda before_ms=before_ms: small.now_ms() > before_ms)  # type: ignore[misc]  # a letter a millisecond
        small.queues.settle(MINE, {(SUB, lane.shard): [letter]})
        died.append((lane.shard, lane.position))
    assert small.limits.limit_dead([SUB, "sub_b"]) > 0
    assert small.limits.limit_dead([SUB]) == 0
    left = {(one.shard, one.position) for one in small.queues.dead_letters(SUB)}
    assert left == set(died[-25:])
    assert small.queues.tallies([SUB])[SUB] == Tally(0, 25, 0, 0, len(died) - 25, exhausted=len(died))
    assert small.queues.tallies([SUB])[SUB].limited == len(died) - 25
    small.close()


def test_the_oldest_kept_records_go_whichever_shard_they_are_in(parts: Parts) -> None:
    small = Parts.sharing(parts, Limits(kept=10))
    names = spread(small, 20)
    for number, session_no in enumerate(names):
        small.write(session_no, entry(session_no, sequence=number + 1))
    small.log.trim("default", [SUB], small.now_ms() + HOUR_MS)
    assert small.limits.limit_kept([SUB]) == len(names) - 10
    assert sorted(waiting(small)) == list(range(len(names) - 9, len(names) + 1))
    small.assert_index_is_right(may_be_early=True)
    small.close()


@given(st.integers(0, 10**6), st.lists(st.integers(0, 10**6), min_size=1, max_size=256))
def test_shares_are_what_waits_and_an_even_part_of_what_is_free(most: int, waiting: list[int]) -> None:
    found = allowances(most, waiting)
    assert sum(found) == max(most, sum(waiting)), "all of it, and no more"
    free = [one - count for one, count in zip(found, waiting, strict=True)]
    assert max(free) - min(free) <= 1

"""Recording what happened to a subscription: whole or not at all, once, and never in a circle."""

from __future__ import annotations

from bridge.domain import events
from bridge.domain.deliveries import Part, Settlement
from bridge.domain.events import DROPPED, EXHAUSTED
from bridge.domain.notices import Notice, due, record_of
from bridge.domain.outcome import Verdict
from bridge.domain.policy import Limits
from bridge.store import keys
from bridge.store.client import Call
from tests.parts import SHARDS, SUB, Parts, entry, record, subscription

MINE = b"m" * 16
HOUR_MS = 3_600_000


def exhausted(parts: Parts) -> Notice:
    """One more was given up than was told of, and long enough ago."""
    before = parts.notices.said([SUB])[SUB][EXHAUSTED]
    count, now_ms = (before.counts[0] + 1, before.until_ms + HOUR_MS) if before else (1, parts.now_ms())
    notice = due(EXHAUSTED, (count,), before, 1, now_ms)
    assert notice is not None
    return notice


def tell(parts: Parts, notice: Notice, *to: str, version: bytes = b"0") -> bool | None:
    return parts.notices.tell(subscription(), notice, record_of(notice, subscription(), "HTTP 500"), to, version)


def test_it_goes_to_the_queues_named_and_is_noted_as_told(parts: Parts) -> None:
    notice = exhausted(parts)
    assert tell(parts, notice, "sub_b", "sub_c") is True
    assert parts.notices.said([SUB])[SUB] == {4: None, EXHAUSTED: notice.said, DROPPED: None}
    (logged,) = parts.log.read("default")
    assert logged.shard == Part(SUB).home(SHARDS)
    for name in ("sub_b", "sub_c"):
        (lane,) = parts.queues.waiting(name, 9)
        assert lane.positions == (logged.position,)
    assert parts.queues.lengths([SUB]) == {SUB: 0}
    parts.assert_index_is_right()


def test_it_is_told_once_by_whoever_is_first(parts: Parts) -> None:
    first, second = exhausted(parts), exhausted(parts)
    assert tell(parts, first, "sub_b") is True
    assert tell(parts, first, "sub_b") is False, "a reply that was lost, and the call made again"
    assert tell(parts, second, "sub_b") is False
    assert len(list(parts.log.read("default"))) == 1


def test_of_several_that_wait_the_first_goes_first(parts: Parts) -> None:
    tell(parts, exhausted(parts), "sub_b")
    tell(parts, exhausted(parts), "sub_b")
    (lane,) = parts.queues.waiting("sub_b", 9)
    assert lane.positions == tuple(one.position for one in parts.log.read("default"))
    parts.assert_index_is_right()


def test_by_a_registry_that_changed_since_nothing_is_told(parts: Parts) -> None:
    """Whoever was to hear of it may have been removed: what is left of their queues must not come back."""
    notice = exhausted(parts)
    version = parts.subscriptions.load().versions[Part(SUB).home(SHARDS)]
    parts.subscriptions.bump()
    assert tell(parts, notice, "sub_b", version=version) is None
    assert not list(parts.log.read("default"))
    assert parts.notices.said([SUB])[SUB][EXHAUSTED] is None


def test_a_parked_queue_keeps_it_parked_and_a_gated_one_until_its_gate(parts: Parts) -> None:
    home = Part(SUB).home(SHARDS)
    later_ms = parts.now_ms() + HOUR_MS
    parts.redis.hset(keys.state(home, "sub_b"), "parked", 1)
    parts.redis.hset(keys.state(home, "sub_c"), "gate", later_ms)
    tell(parts, exhausted(parts), "sub_b", "sub_c")
    assert parts.redis.zrange(keys.index(home), 0, -1, withscores=True) == [(b"q:sub_c", later_ms)]
    assert parts.queues.lengths(["sub_b", "sub_c"]) == {"sub_b": 1, "sub_c": 1}


def test_a_full_queue_makes_it_a_dead_letter_of_which_nothing_tells(parts: Parts) -> None:
    """Or two that are full would tell each other of it for ever."""
    small = Parts.sharing(parts, Limits(backlog=SHARDS, dead=1))
    for _ in range(3):
        assert tell(small, exhausted(small), "sub_b") is True
    tally = small.queues.tallies(["sub_b"])["sub_b"]
    assert (tally.waiting, tally.dead) == (1, 1)
    assert (tally.over_backlog, tally.dead_dropped, tally.of_ours) == (2, 1, (2, 0, 1))
    small.assert_index_is_right()
    small.close()


def settle_dead(parts: Parts, name: str, *, ours: bool) -> None:
    """Give up what is due of a subscription in the home shard of ``SUB``, or in the session's."""
    shard = Part(SUB).home(SHARDS) if ours else parts.shard("s1")
    _, (lanes,) = parts.queues.claim(MINE, [(name, shard, 9)], 45_000)
    assert lanes
    for lane in parts.queues.peek([(name, shard, lanes)])[0]:
        (found,) = parts.log.fetch("default", {shard: [lane.position]}).values()
        letter = Settlement(lane, Verdict.DEAD, 1, 0, found, "HTTP 500")
        assert parts.queues.settle(MINE, {(name, shard): [letter]}) == {(name, shard): 1}


def test_a_given_up_delivery_is_counted_but_not_that_of_an_operators_event(parts: Parts) -> None:
    parts.write("s1", entry("s1", to=["sub_b"]))
    settle_dead(parts, "sub_b", ours=False)
    assert parts.queues.tallies(["sub_b"])["sub_b"].exhausted == 1
    tell(parts, exhausted(parts), "sub_b")
    settle_dead(parts, "sub_b", ours=True)
    tally = parts.queues.tallies(["sub_b"])["sub_b"]
    assert (tally.dead, tally.exhausted) == (2, 1)
    assert parts.queues.last_error("sub_b") == "HTTP 500"


def test_an_operators_event_that_drops_a_dead_letter_is_counted_apart(parts: Parts) -> None:
    small = Parts.sharing(parts, Limits(dead=1))
    for _ in range(2):
        tell(small, exhausted(small), "sub_b")
        settle_dead(small, "sub_b", ours=True)
    tally = small.queues.tallies(["sub_b"])["sub_b"]
    assert (tally.dead, tally.dead_dropped, tally.of_ours) == (1, 1, (0, 0, 1))
    small.close()


def test_of_too_many_dead_letters_over_all_shards_those_of_operators_events_are_counted_apart(parts: Parts) -> None:
    for _ in range(3):
        tell(parts, exhausted(parts), "sub_b")
        settle_dead(parts, "sub_b", ours=True)
    parts.write("s1", entry("s1", to=["sub_b"]))
    settle_dead(parts, "sub_b", ours=False)
    small = Parts.sharing(parts, Limits(dead=2))
    assert small.limits.limit_dead(["sub_b"]) == 2
    tally = small.queues.tallies(["sub_b"])["sub_b"]
    assert (tally.dead, tally.dead_dropped, tally.of_ours) == (2, 2, (0, 0, 2))
    small.close()


def test_one_that_is_kept_aside_for_too_long_is_counted_apart(parts: Parts) -> None:
    small = Parts.sharing(parts, Limits(kept=1))
    home = Part(SUB).home(SHARDS)
    session = next(f"s{number}" for number in range(99) if small.shard(f"s{number}") == home)
    tell(small, exhausted(small), "sub_b")
    small.write(session, entry(session, to=["sub_b"], sequence=1), entry(session, "18500000002", to=["sub_b"]))
    small.log.trim("default", ["sub_b"], small.now_ms() + HOUR_MS)
    assert small.limits.limit_kept(["sub_b"]) == 2
    tally = small.queues.tallies(["sub_b"])["sub_b"]
    assert (tally.over_kept, tally.of_ours) == (2, (0, 1, 0))
    small.assert_index_is_right(may_be_early=True)
    small.close()


def test_a_record_that_cannot_be_read_is_given_up_as_any(parts: Parts) -> None:
    parts.write("s1", entry("s1"))
    (lane,) = parts.take(MINE, "s1")
    letter = Settlement(lane, Verdict.DEAD, 1, 0, b"\xc1 nothing", "the event's record could not be read")
    parts.queues.settle(MINE, {(SUB, lane.shard): [letter]})
    assert parts.queues.tallies([SUB])[SUB].exhausted == 1


def test_a_test_is_recorded_again_by_each_call(parts: Parts) -> None:
    """It asks for nothing to be noted: its nonce tells it from the others."""
    event = events.record_of_test("default", SUB, "1", 1)
    parts.notices.record("default", event, SUB)
    parts.notices.record("default", event, SUB)
    (lane,) = parts.queues.waiting(SUB, 9)
    assert len(lane.positions) == 2
    assert record("s1") != events.pack(event)
    assert parts.client.run([Call("peek_lanes", [keys.lanes(lane.shard, SUB, lane.lane)], [lane.lane])])[0]

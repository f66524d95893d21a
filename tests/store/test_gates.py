"""Queues that are parked, or gated until a probe's time: whatever puts them into the index, nobody goes on looking."""

from __future__ import annotations

from bridge.domain.subscriptions import Deliver
from bridge.store import keys
from bridge.store.resending import Again
from tests.parts import SUB, Parts, entry

MINE = b"m" * 16
LATER_MS = 600_000


def put_into_the_index(parts: Parts, shard: int) -> None:
    """Say that the queue is due now, and that something is."""
    parts.write("s1", entry("s1", "18500000002"))
    parts.redis.zadd(keys.index(shard), {keys.queue_member(SUB): 1})


def index_score(parts: Parts, shard: int) -> float | None:
    return parts.redis.zscore(keys.index(shard), keys.queue_member(SUB))


def test_a_gated_queue_is_looked_for_at_its_gate(parts: Parts) -> None:
    """An event that was queued by hand made the index say "now", and slice after slice looked, each in vain."""
    parts.write("s1", entry("s1"))
    shard = parts.shard("s1")
    gate_ms = parts.now_ms() + LATER_MS
    parts.redis.hset(keys.state(shard, SUB), "gate", gate_ms)
    put_into_the_index(parts, shard)
    assert parts.claim(MINE, "s1") == []
    assert index_score(parts, shard) == gate_ms

    parts.redis.hset(keys.state(shard, SUB), "gate", 1)
    assert len(parts.claim(MINE, "s1") or ()) == 2
    assert (index_score(parts, shard) or 0) < gate_ms


def test_a_parked_queue_is_in_no_index(parts: Parts) -> None:
    parts.write("s1", entry("s1"))
    shard = parts.shard("s1")
    parts.redis.hset(keys.state(shard, SUB), "parked", 1)
    put_into_the_index(parts, shard)
    assert parts.claim(MINE, "s1") == []
    assert index_score(parts, shard) is None


def test_an_empty_queue_that_is_gated_stays_out_of_the_index(parts: Parts) -> None:
    shard = parts.shard("s1")
    parts.redis.hset(keys.state(shard, SUB), "gate", parts.now_ms() + LATER_MS)
    assert parts.claim(MINE, "s1") == []
    assert index_score(parts, shard) is None


def test_nobody_looks_for_what_was_sent_again_while_it_was_parked_and_then_dropped(parts: Parts) -> None:
    """Fault: sending again put a parked queue into the index, and an empty one stayed there when it was resumed.

    From then on slice after slice was woken for it, all in vain, until its next event.
    """
    parts.write("s1", entry("s1", to=["sub_b"]))
    shard = parts.shard("s1")
    parts.queues.park(SUB, {shard: b"0"})
    (one,) = parts.log.read("default")
    parts.resending.put(SUB, [Again(shard, one.position, one.record)])
    assert index_score(parts, shard) is None
    assert parts.queues.start_anew(SUB, Deliver.NONE) == 1
    parts.redis.zadd(keys.index(shard), {keys.queue_member(SUB): 1})
    parts.queues.unpark(SUB)
    assert index_score(parts, shard) is None


def test_a_queue_that_was_looked_for_in_vain_is_not_looked_for_again(parts: Parts) -> None:
    """Whatever put it there: with nothing in it, or nothing that is due."""
    parts.write("s1", entry("s1"))
    shard = parts.shard("s1")
    parts.claim(MINE, "s1")
    for first in parts.queues.waiting(SUB, 1)[0].due_ms, None:
        parts.redis.zadd(keys.index(shard), {keys.queue_member(SUB): 1})
        assert parts.claim(MINE, "s1", most=0) == []
        assert index_score(parts, shard) == 1, "who only holds it may have another reason to look"
        assert parts.claim(MINE, "s1") == []
        assert index_score(parts, shard) == first
        parts.redis.delete(keys.queue(shard, SUB), *parts.redis.keys(f"u{{{shard}}}:l:*"), keys.counts(shard, SUB))

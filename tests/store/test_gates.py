"""Queues that are parked, or gated until a probe's time: whatever puts them into the index, nobody goes on looking."""

from __future__ import annotations

from bridge.domain.events import lane_id
from bridge.store import keys
from tests.parts import SUB, Parts, entry, record

MINE = b"m" * 16
LATER_MS = 600_000


def announce(parts: Parts, shard: int) -> None:
    """Queue a test event, which asks for nobody's gate."""
    parts.queues.announce("default", SUB, shard, lane_id("test", "1"), record("test"))


def index_score(parts: Parts, shard: int) -> float | None:
    return parts.redis.zscore(keys.index(shard), keys.queue_member(SUB))


def test_a_gated_queue_is_looked_for_at_its_gate(parts: Parts) -> None:
    """An event that was queued by hand made the index say "now", and slice after slice looked, each in vain."""
    parts.write("s1", entry("s1"))
    shard = parts.shard("s1")
    gate_ms = parts.now_ms() + LATER_MS
    parts.redis.hset(keys.state(shard, SUB), "gate", gate_ms)
    announce(parts, shard)
    assert parts.claim(MINE, "s1") == []
    assert index_score(parts, shard) == gate_ms

    parts.redis.hset(keys.state(shard, SUB), "gate", 1)
    assert len(parts.claim(MINE, "s1") or ()) == 2
    assert (index_score(parts, shard) or 0) < gate_ms


def test_a_parked_queue_is_in_no_index(parts: Parts) -> None:
    parts.write("s1", entry("s1"))
    shard = parts.shard("s1")
    parts.redis.hset(keys.state(shard, SUB), "parked", 1)
    announce(parts, shard)
    assert parts.claim(MINE, "s1") == []
    assert index_score(parts, shard) is None


def test_an_empty_queue_that_is_gated_stays_out_of_the_index(parts: Parts) -> None:
    shard = parts.shard("s1")
    parts.redis.hset(keys.state(shard, SUB), "gate", parts.now_ms() + LATER_MS)
    assert parts.claim(MINE, "s1") == []
    assert index_score(parts, shard) is None

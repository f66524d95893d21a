"""Whatever happens to queues, in any order: no lane's order breaks, nothing is lost, invented or forgotten.

And that the model would notice: each fault that is put into a script on purpose is found.
"""

from __future__ import annotations

import pytest

from tests.parts import Parts
from tests.store.models import Fault, drive, must_notice
from tests.store.queues_steps import Queues

KINDS = ("valkey", "redis")
"""A shard is on one server of a cluster too: there is nothing more to find there."""


def test_no_order_breaks_and_nothing_is_lost_invented_or_forgotten(small: Parts) -> None:
    drive(Queues, small, 120)


FAULTS: dict[str, Fault] = {
    "a settled event takes the next one with it": (
        "settle_lanes",
        "sub(waiting[i], 14)",
        "sub(waiting[i], 26)",
        "what waits",
    ),
    "an outcome of another event counts": (
        "settle_lanes",
        "sub(value, 2, 13) == position and",
        "",
        "",
    ),
    "another holder's outcome counts": ("settle_lanes", "redis.call('GET', KEYS[2]) ~= ARGV[2]", "false", ""),
    "two outcomes of one event in one call count": ("settle_lanes", "and not planned[lane]", "", ""),
    "a retry forgets its attempts": ("settle_lanes", "string.char(tonumber(ARGV[at + 3]))", "'\\0'", "what waits"),
    "a retry is due at once": ("settle_lanes", "call('ZADD', KEYS[3], ARGV[at + 4], lane)\n  else", "else", "due"),
    "settling looks for a parked queue": ("settle_lanes", "if first[2] and not state[1]", "if first[2]", "no index"),
    "settling forgets the gate": ("settle_lanes", "tonumber(state[2] or 0)", "0", "in vain"),
    "settling looks too late": (
        "settle_lanes",
        "ZADD', KEYS[1], math.max(",
        "ZADD', KEYS[1], math.max(now + 1,",
        "looked for",
    ),
    "settling does not count": ("settle_lanes", "call('HINCRBY', KEYS[6], 'w', -gone)", "", "counts"),
    "accepted is noted nowhere": ("settle_lanes", "table.concat(told)", "''", "absent"),
    "dropped dead letters are not counted": (
        "settle_lanes",
        "call('HINCRBY', KEYS[6], exhausted > 0 and 'd' or 'qd', dropped)",
        "",
        "counts",
    ),
    "what is done with is kept on": ("settle_lanes", "call('HDEL', KEYS[5], position)", "", "nobody needs"),
    "an event overtakes those of its phone": (
        "commit",
        "waiting .. position",
        "'\\0' .. position .. string.sub(waiting, 2)",
        "",
    ),
    "a commit wakes nobody": ("commit", "redis.call('ZADD', KEYS[1], 'LT', to.gate, to.member)", "", "index"),
    "a commit wakes a gated queue": ("commit", "math.max(now, tonumber(state[2] or 0))", "now", "in vain"),
    "a commit wakes a parked queue": ("commit", "one.gate = not state[1] and", "one.gate =", "no index"),
    "a commit is not fenced": (
        "commit",
        "s.ok = (current and string.sub(current, 1, 4) or '') == s.version",
        "s.ok = true",
        "",
    ),
    "what is over the backlog is gone": (
        "commit",
        "redis.call('XADD', to.dead,",
        "local _ = select('#', to.dead,",
        "",
    ),
    "what is over the backlog is not counted": (
        "commit",
        "redis.call('HINCRBY', to.counts, 'o', to.over)",
        "",
        "counts",
    ),
    "what waits is not counted": ("commit", "redis.call('HINCRBY', to.counts, 'w', to.added)", "", "counts"),
    "two hold a queue": ("claim_lanes", "if holder and holder ~= ARGV[2]", "if false", "another one holds it"),
    "a lane is given out twice": ("claim_lanes", "local lease_end = now +", "local lease_end = now - 1 + 0 *", ""),
    "a gate is not kept": ("claim_lanes", "and tonumber(state[2] or 0) <= now", "", ""),
    "a parked queue is served": ("claim_lanes", "and not state[1]", "", ""),
    "a claimed queue leaves the index": (
        "claim_lanes",
        "redis.call('ZADD', KEYS[1], first[2], ARGV[1])",
        "redis.call('ZREM', KEYS[1], ARGV[1])",
        "index",
    ),
    "another's hold is let go": ("release_hold", "redis.call('GET', KEYS[1]) == ARGV[1]", "true", ""),
    "another holder's word on a receiver counts": (
        "gate_queue",
        "if holder ~= ARGV[2] and (holder or ARGV[5] == 'held')",
        "if false",
        "",
    ),
    "a gate is noted and nobody looks at it": (
        "gate_queue",
        "math.max(tonumber(first[2]), gate)",
        "tonumber(first[2])",
        "in vain",
    ),
    "a gated queue leaves the index": (
        "gate_queue",
        "redis.call('ZADD', KEYS[1]",
        "redis.call('ZADD', KEYS[1], 'XX', 'LT'",
        "",
    ),
    "a gate stays": ("gate_queue", "redis.call('HDEL', KEYS[4], 'gate')", "", "gated as"),
    "gating looks for a parked queue": ("gate_queue", "if first[2] and not parked", "if first[2]", "no index"),
    "what was made due is not looked for": (
        "hasten_lanes",
        "redis.call('ZADD', KEYS[1], math",
        "local _ = select('#', math",
        "",
    ),
    "not all is made due": ("hasten_lanes", "redis.call('ZADD', KEYS[3], now, lane)", "", "due"),
    "what another holds is made due": ("hasten_lanes", "if holder and holder ~= ARGV[2]", "if false", ""),
    "a late pause stops what was resumed": (
        "park_queue",
        "(redis.call('GET', KEYS[3]) or '0') ~= ARGV[2]",
        "false",
        "",
    ),
    "what is parked is looked for": ("park_queue", "redis.call('ZREM', KEYS[1], ARGV[1])", "", "no index"),
    "parking keeps the gate": ("park_queue", "'gate', 'health'", "'health'", "gated as"),
    "nobody looks for what was resumed": (
        "unpark_queue",
        "redis.call('ZADD', KEYS[1], first[2], ARGV[1])",
        "",
        "index",
    ),
    "the latest is dropped, and not the others": ("release_lanes", "keep = #value - 11", "keep = 14", ""),
    "what an operator drops is not counted": (
        "release_lanes",
        "redis.call('HINCRBY', KEYS[2], 'dropped', dropped)",
        "",
        "counted",
    ),
    "what was resumed waits on": ("release_lanes", "redis.call('ZADD', KEYS[1], now, lane)", "", "due"),
    "what was never parked is dropped": (
        "release_lanes",
        "if not redis.call('HGET', KEYS[2], 'parked')",
        "if false",
        "",
    ),
    "what is buried leaves no letter": ("bury_lanes", "call('XADD', KEYS[3],", "local _ = select('#',", ""),
    "what is buried still waits": ("bury_lanes", "call('HSET', one.bucket, one.lane, one.value)", "", ""),
    "buried events are not counted": ("bury_lanes", "call('HINCRBY', KEYS[5], ARGV[4] .. 'k', #found)", "", "counts"),
    "counting buries": ("bury_lanes", "if ARGV[2] == '?'", "if false", ""),
    "what waits is sent again all the same": (
        "resend_events",
        "seen[ARGV[at + 2]] or waits(bucket, ARGV[at], ARGV[at + 2]) or",
        "",
        "",
    ),
    "a resent event's letter stays": ("resend_events", "call('XDEL', KEYS[3], id)", "", "dead letter"),
    "resending knows no limit": ("resend_events", "#put >= room", "false", ""),
    "a resent event has no record": ("resend_events", "call('HSET', KEYS[4], ARGV[at + 2], ARGV[at + 3])", "", "kept"),
    "nobody looks for what is sent again": (
        "resend_events",
        "call('ZADD', KEYS[1], 'LT', math",
        "local _ = select('#', math",
        "",
    ),
    "what still waits is trimmed": ("trim_log", "redis.call('HSET', keep[1], keep[2], keep[3])", "", "can be read"),
    "what is erased is not known as erased": (
        "erase_events",
        "redis.call('ZADD', KEYS[2]",
        "local _ = select('#'",
        "known as erased",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_model_notices(alone: Parts, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    must_notice(Queues, alone, FAULTS[fault], monkeypatch)

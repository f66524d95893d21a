"""Bytes of the store that are not as we wrote them: each costs itself, or is an error that names it."""

from __future__ import annotations

from typing import cast

import pytest

from bridge.domain import events
from bridge.domain.breaker import WELL
from bridge.domain.commits import Entry, Route
from bridge.domain.deliveries import Lane, Part
from bridge.errors import BridgeError
from bridge.store import keys
from bridge.store.positions import split
from tests.parts import PHONE, SUB, Parts, account, entry, record, subscription

NO_TEXT = b"\xff\xfe"
NO_RECORDS = [b"", b"\xc1", NO_TEXT, b"\x91\x01", record("s1")[:-3], record("s1").replace(PHONE.encode(), b"\xff" * 11)]


@pytest.mark.parametrize("packed", NO_RECORDS, ids=repr)
def test_what_is_no_record_is_told_from_one_in_one_way(packed: bytes) -> None:
    """Fault: a text that is no UTF-8 raised UnicodeDecodeError, which is no MsgspecError as was promised: a slice that
    made a dead letter of such a record ended, and its queues were served by nobody until their holds were over."""
    assert events.readable(packed) is None


def test_a_record_that_cannot_be_read_keeps_no_other_in_the_log(parts: Parts) -> None:
    """Fault: trimming ended at the first, each minute: the log grew, and no limit was applied any more."""
    parts.write("bad", Entry(NO_TEXT, [Route(SUB, events.lane_id("bad", PHONE))]))
    parts.write("good", entry("good"))
    assert parts.log.trim("default", [SUB], parts.now_ms() + 1_000) == (2, 1)
    assert parts.log.length("default") == 0
    assert parts.queues.tallies([SUB])[SUB].waiting == 2


def test_a_record_that_cannot_be_read_hides_no_event_of_a_session(parts: Parts) -> None:
    parts.write("s1", Entry(b"\xc1 s1", [Route(SUB, events.lane_id("s1", PHONE))]), entry("s1"))
    assert [one.record for one in parts.log.of_session("default", "s1")] == [record("s1")]


@pytest.mark.parametrize("value", [b"", b"\x00", b"\x00" + b"p" * 11, b"\x02" + b"p" * 23])
def test_a_lane_that_is_too_short_names_what_is_whole_of_it(value: bytes) -> None:
    """Fault: a position of fewer than 12 bytes ended the slice that claimed it, and every one after it."""
    places = split(value)[1] if value else []
    assert [len(place) for place in places] == [12] * ((len(value) - 1) // 12 if value else 0)


def test_a_lane_that_is_too_short_keeps_no_other_from_being_claimed(parts: Parts) -> None:
    for name in ("s1", "s2", "s3", "s4", "s5", "s6", "s7", "s8"):
        parts.write(name, entry(name))
    bad = events.lane_id("s1", PHONE)
    parts.redis.hset(keys.lanes(parts.shard("s1"), SUB, bad), cast("str", bad), b"\x00short")
    shards = {parts.shard(f"s{number}") for number in range(1, 9)}
    taken = [lane.lane for shard in shards for lane in _claimed(parts, shard)]
    assert sorted(taken) == sorted(events.lane_id(f"s{number}", PHONE) for number in range(2, 9))
    assert sum(len(one.positions) for one in parts.queues.waiting(SUB, 100)) == 7


def _claimed(parts: Parts, shard: int) -> list[Lane]:
    lanes = parts.queues.claim(b"token", [(SUB, shard, 100)], 45_000)[1][0]
    return parts.queues.peek([(SUB, shard, lanes or [])])[0]


def test_a_receiver_of_which_nothing_can_be_read_is_taken_for_well(parts: Parts) -> None:
    part = Part(SUB)
    parts.redis.hset(keys.state(part.home(parts.shards), SUB), "health", b"\xc1")
    assert parts.queues.health([part]) == [WELL]


def test_a_count_that_cannot_be_read_is_none(parts: Parts) -> None:
    """Fault: a count that was no number ended trimming for every subscription, with all its limits."""
    parts.write("s1", entry("s1"))
    shard = parts.shard("s1")
    parts.redis.hset(keys.counts(shard, SUB), "w", b"1\xff")
    assert parts.queues.tallies([SUB])[SUB].waiting == 0
    parts.limits.share_backlog([SUB])
    parts.redis.hset(keys.state(shard, SUB), "dropped", b"x")
    assert parts.queues.dropped(SUB) == 0


def test_a_dead_letter_that_is_garbled_hides_no_other(parts: Parts) -> None:
    parts.write("s1", entry("s1"))
    dead = keys.dead(parts.shard("s1"), SUB)
    for error, attempts in ((NO_TEXT, b"x"), (b"HTTP 500", b"12")):
        parts.redis.xadd(dead, {"r": record("s1"), "e": error, "a": attempts, "p": bytes(12)})
    assert [(one.error, one.attempts) for one in parts.queues.dead_letters(SUB)] == [
        ("HTTP 500", 12),
        ("\ufffd\ufffd", 0),
    ]
    assert parts.queues.last_error(SUB) == "HTTP 500"


def test_a_due_session_whose_name_is_no_text_takes_no_other_with_it(parts: Parts) -> None:
    """Fault: the claim leased all that was due, and then could not read one name: none was polled, once a minute."""
    parts.write("s1", due=1)
    shard = parts.shard("s1")
    parts.redis.zadd(keys.due(shard, "default"), {NO_TEXT: 1})
    assert "s1" in parts.claim_due({shard: 10}, 1_000)


def test_an_index_that_names_what_is_no_text_is_read_all_the_same(parts: Parts) -> None:
    """Fault: a name of other bytes ended each tick and each slice: nothing was polled or delivered any more."""
    parts.write("s1", entry("s1"), due=1)
    shard = parts.shard("s1")
    parts.redis.zadd(keys.index(shard), {b"p:\xff": 1, b"q:\xff": 1})
    due = parts.index.due(parts.now_ms())
    assert (due.accounts, due.queues) == (frozenset({"default"}), ((SUB, shard),))


def test_lists_of_times_pass_over_what_is_none(parts: Parts) -> None:
    parts.redis.zadd(keys.watches(0), {NO_TEXT: 1})
    parts.redis.zadd(keys.watches(1), {b"default:soon": 1})
    parts.redis.zadd(keys.watches(2), {b"default:1700000000000": 1})
    assert [(one.shard, one.at_ms) for one in parts.sessions.watched(2, 10)] == [(2, 1_700_000_000_000)]
    parts.write("s1", expires_ms=1)
    parts.redis.zadd(keys.expiry(parts.shard("s1")), {NO_TEXT: 0, b"no colon": 0})
    assert parts.sessions.expire(2, 100) == 1


def test_an_account_whose_name_is_none_is_no_account(parts: Parts) -> None:
    parts.redis.sadd(keys.ACCOUNTS, NO_TEXT, "a:b", "shop")
    assert parts.tracking.accounts() == ["shop"]


def test_a_subscription_that_cannot_be_read_is_named(parts: Parts) -> None:
    """All stops at it, on purpose: without it nobody would queue its events, and its queue would be taken for one of a
    subscription that was removed. Fault: what stopped was said as an error of the library, without the name."""
    parts.subscriptions.put(subscription("sub_good"))
    parts.redis.hset(keys.SUBSCRIPTIONS, "sub_bad", NO_TEXT)
    for read in (parts.subscriptions.load, lambda: parts.subscriptions.get("sub_bad")):
        with pytest.raises(BridgeError, match="the record of subscription sub_bad cannot be read"):
            read()
    parts.redis.hdel(keys.SUBSCRIPTIONS, "sub_bad")  # as it says
    assert list(parts.subscriptions.load().by_id()) == ["sub_good"]


def test_an_account_that_cannot_be_read_says_what_to_do(parts: Parts) -> None:
    parts.accounts.add(account("shop"))
    parts.redis.hset(keys.CREDENTIALS, "shop", NO_TEXT)
    with pytest.raises(BridgeError, match="an account's record cannot be read"):
        parts.accounts.get("shop")

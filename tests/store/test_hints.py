"""Sessions that the provider hints at, and sessions that are forgotten."""

from __future__ import annotations

import pytest

from bridge.domain.commits import CommitResult, Due, Write
from bridge.store import keys
from bridge.store.pushes import HINT_GAP_MS
from tests.parts import OPEN, Parts, entry

LATER = 4_000_000_000_000


def due_of(parts: Parts, name: str, account: str = "default") -> int:
    due = parts.sessions.due_ms(account, name)
    assert due is not None
    return due


def test_a_hint_makes_a_session_due_at_once(parts: Parts) -> None:
    for name in ("s1", "s2", "s3"):
        parts.write(name, due=LATER)
    before = parts.now_ms()
    assert parts.pushes.hint("default", ["s1", "s2", "nobody", "s1"]) == (2, 2)
    assert before <= due_of(parts, "s1") <= parts.now_ms()
    assert due_of(parts, "s3") == LATER
    assert parts.index.due(parts.now_ms()).accounts == {"default"}
    parts.assert_index_is_right()


def test_a_session_that_is_due_already_is_known_and_stays(parts: Parts) -> None:
    parts.write("s1", due=7)
    assert parts.pushes.hint("default", ["s1"]) == (1, 0)
    assert due_of(parts, "s1") == 7


def test_a_settled_session_is_asked_for_again(parts: Parts) -> None:
    """A correction, or a receipt after the deadline, comes to a session that nobody polls any more."""
    parts.write("s1", due=Due.NONE, expires_ms=LATER)
    assert parts.sessions.due_ms("default", "s1") is None
    assert parts.pushes.hint("default", ["s1"]) == (1, 1)
    assert due_of(parts, "s1") <= parts.now_ms()
    parts.assert_index_is_right()


def test_another_accounts_session_is_not_known(parts: Parts) -> None:
    parts.write("s1", due=LATER, account="bank")
    assert parts.pushes.hint("default", ["s1"]) == (0, 0)
    assert due_of(parts, "s1", "bank") == LATER
    parts.assert_index_is_right()


def test_many_hints_are_one_poll_now_and_one_when_the_gap_is_over(parts: Parts) -> None:
    parts.write("s1", due=LATER)
    assert parts.pushes.hint("default", ["s1"]) == (1, 1)
    first = due_of(parts, "s1")
    polls = 0
    for _ in range(50):
        if parts.claim_due({parts.shard("s1"): 10}, 60_000):
            polls += 1
            parts.redis.zadd(keys.due(parts.shard("s1"), "default"), {"s1": LATER})
        parts.pushes.hint("default", ["s1"])
        # Not one is lost: the last of them is due when the gap is over, at the latest.
        assert due_of(parts, "s1") <= parts.now_ms() + HINT_GAP_MS
    assert 1 <= polls <= 1 + (parts.now_ms() - first) // HINT_GAP_MS
    parts.assert_index_is_right()


def test_what_was_hinted_at_is_forgotten_in_seconds(parts: Parts) -> None:
    parts.write("s1", due=LATER)
    parts.pushes.hint("default", ["s1"])
    name = keys.hinted(parts.shard("s1"), "default")
    assert 0 < parts.redis.pttl(name) <= 2 * HINT_GAP_MS
    parts.redis.zadd(name, {"long ago": 1})
    parts.redis.zadd(keys.due(parts.shard("s1"), "default"), {"s1": LATER})
    parts.redis.zrem(name, "s1")
    parts.pushes.hint("default", ["s1"])
    assert parts.redis.zrange(name, 0, -1) == [b"s1"]


def test_a_push_is_counted_by_what_it_named(parts: Parts) -> None:
    parts.write("s1", due=LATER)
    parts.write("s2", due=7)
    assert parts.pushes.take("default", ["s1", "s1", "s2", "x", "y"], 99) == (1, 2)
    assert parts.pushes.take("default", [], 100) == (0, 0)
    counted = parts.pushes.counts("default")
    assert (counted.pushes, counted.hinted, counted.unknown, counted.at_ms) == (2, 1, 2, 100)
    assert parts.pushes.counts("bank").pushes == 0


@pytest.mark.parametrize("due", [LATER, Due.NONE])
def test_a_forgotten_session_is_nowhere_but_in_the_log(parts: Parts, due: int | Due) -> None:
    parts.write("s1", entry("s1"), due=due, expires_ms=None if due == LATER else LATER)
    parts.write("s2", due=LATER)
    parts.pushes.hint("default", ["s1"])
    parts.sessions.set_aside("default", ["s1"])
    assert parts.sessions.forget("default", ["s1", "nobody"]) == ["s1"]
    assert parts.redis.exists(keys.damaged(parts.shard("s1"), "default")) == 0
    assert parts.sessions.read("default", ["s1"])["s1"].state is None
    assert parts.sessions.due_ms("default", "s1") is None
    assert parts.redis.zcard(keys.expiry(parts.shard("s1"))) == 0
    assert due_of(parts, "s2") == LATER
    assert len(list(parts.log.read("default"))) == 1
    assert len(parts.take(b"t" * 16, "s1")) == 1, "what waits of it is delivered"
    parts.assert_index_is_right()


def test_forgetting_touches_no_other_account(parts: Parts) -> None:
    parts.write("s1", due=LATER, account="bank")
    assert parts.sessions.forget("default", ["s1"]) == []
    assert due_of(parts, "s1", "bank") == LATER


def test_a_poll_that_is_under_way_does_not_bring_a_forgotten_session_back(parts: Parts) -> None:
    parts.write("s1", due=LATER)
    read = parts.sessions.read("default", ["s1"])["s1"]
    parts.sessions.forget("default", ["s1"])
    written = parts.sessions.commit("default", [Write("s1", read.version, OPEN, LATER, None)])
    assert written == {"s1": CommitResult.CONFLICT}
    assert parts.sessions.read("default", ["s1"])["s1"].state is None

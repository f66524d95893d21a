"""Sessions: one commit changes everything of them together, fenced against whoever else writes."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import TypeVar

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.domain import events
from bridge.domain.commits import ABSENT, CommitResult, Due, Stored, Watched, Write
from bridge.domain.packing import Wanted
from bridge.domain.polls import Outcome, PollNote, noted
from bridge.domain.rate import Demand
from bridge.domain.status import PhoneState, SessionState
from bridge.store import keys
from bridge.store.client import Argument, Call
from bridge.store.sessions import SessionStore, unpack
from tests.parts import OPEN, PHONE, SHARDS, SUB, Parts, entry, subscription, until

HOUR_MS = 3_600_000
T = TypeVar("T")
LATER = SessionState(sent_ms=1, tracked_ms=1, polled_ms=2)


def commit(parts: Parts, write: Write, versions: dict[int, bytes] | None = None) -> CommitResult:
    return parts.sessions.commit("default", [write], versions)[write.session_no]


def together(threads: int, work: Callable[[int], T]) -> list[T]:
    """Run the same work in threads that start at once."""
    barrier = Barrier(threads)

    def one(number: int) -> T:
        barrier.wait(10)
        return work(number)

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(one, range(threads)))


def test_one_commit_writes_state_event_queues_due_time_and_index(parts: Parts) -> None:
    due_ms = parts.now_ms() + HOUR_MS
    before = parts.client.round_trips
    write = Write("s1", ABSENT, OPEN, due_ms, None, [entry("s1", to=(SUB, "sub_b"))])
    assert commit(parts, write) is CommitResult.WRITTEN
    assert parts.client.round_trips <= before + 2  # the second is for a server that does not know the script yet

    assert parts.sessions.read("default", ["s1"])["s1"].state == OPEN
    assert parts.sessions.due_ms("default", "s1") == due_ms
    (logged,) = parts.log.read("default")
    assert events.unpack(logged.record).session_no == "s1"
    for name in (SUB, "sub_b"):
        (lane,) = parts.take(name.encode() * 4, "s1", to=name)
        assert (lane.position, lane.attempts) == (logged.position, 0)
    parts.assert_index_is_right()


def test_the_index_names_a_queue_with_something_due_and_an_account_at_its_time(parts: Parts) -> None:
    parts.write("s1", entry("s1"), due=parts.now_ms() + HOUR_MS)
    now_ms = parts.now_ms()
    assert parts.index.due(now_ms).queues == ((SUB, parts.shard("s1")),)
    assert parts.index.due(now_ms).accounts == frozenset()
    assert parts.index.due(now_ms + 2 * HOUR_MS).accounts == {"default"}


def test_events_of_one_commit_keep_their_order_in_the_lane(parts: Parts) -> None:
    parts.write("s1", *(entry("s1", sequence=number) for number in range(1, 20)))
    (waiting,) = parts.queues.waiting(SUB, 10)
    logged = list(parts.log.read("default"))
    assert [events.unpack(one.record).sequence for one in logged] == list(range(1, 20))
    assert list(waiting.positions) == [one.position for one in logged]


def test_due_times_are_set_kept_or_taken_away(parts: Parts) -> None:
    soon_ms = parts.now_ms() + HOUR_MS
    parts.write("s1", due=soon_ms)
    parts.write("s1", due=Due.KEEP)
    assert parts.sessions.due_ms("default", "s1") == soon_ms
    parts.write("s1", due=Due.NONE)
    assert parts.sessions.due_ms("default", "s1") is None
    parts.assert_index_is_right()
    parts.write("s1", due=Due.KEEP)
    assert 0 <= parts.now_ms() - (parts.sessions.due_ms("default", "s1") or 0) < 10_000
    parts.assert_index_is_right()


def test_another_version_is_not_overwritten(parts: Parts) -> None:
    parts.write("s1")
    read = parts.sessions.read("default", ["s1"])["s1"]
    parts.write("s1", state=LATER)

    stale = Write("s1", read.version, OPEN, 1, 9, [entry("s1")])
    assert commit(parts, stale) is CommitResult.CONFLICT
    assert parts.sessions.read("default", ["s1"])["s1"].state == LATER
    assert not list(parts.log.read("default"))
    assert parts.queues.lengths([SUB]) == {SUB: 0}


def test_one_conflict_takes_no_other_session_with_it(parts: Parts) -> None:
    names = [f"s{number}" for number in range(20)]
    parts.write(names[7])
    writes = [Write(name, ABSENT, OPEN, 1, None, [entry(name)]) for name in names]

    results = parts.sessions.commit("default", writes)

    assert [name for name, result in results.items() if result is not CommitResult.WRITTEN] == [names[7]]
    assert len(list(parts.log.read("default"))) == 19
    parts.assert_index_is_right()


def test_a_session_must_be_absent_where_it_was_read_as_absent(parts: Parts) -> None:
    parts.write("s1")
    assert commit(parts, Write("s1", ABSENT, LATER, 1, None)) is CommitResult.CONFLICT
    gone = parts.sessions.read("default", ["s1"])["s1"]
    parts.redis.delete(keys.session(parts.shard("s1"), "default", "s1"))
    parts.write("s1", due=Due.NONE)
    # Removed and tracked anew: an old reader's version must not fit by chance.
    assert commit(parts, Write("s1", gone.version, LATER, 1, None)) is CommitResult.CONFLICT


def test_a_version_that_counts_over_its_end_stays_another(parts: Parts) -> None:
    parts.write("s1")
    name = keys.session(parts.shard("s1"), "default", "s1")
    value = parts.redis.get(name)
    assert isinstance(value, bytes)
    parts.redis.set(name, b"\xff" * 4 + value[4:])
    assert parts.write("s1", state=LATER) is CommitResult.WRITTEN
    assert parts.sessions.read("default", ["s1"])["s1"].version == bytes(4)


def test_racing_writers_record_each_change_exactly_once(parts: Parts) -> None:
    """Eight writers, each with five events for one session: every read-decide-write that won is there, once."""
    parts.write("s1")

    def write(number: int) -> None:
        for sequence in range(5):
            mine = entry("s1", sequence=100 * number + sequence)
            until(lambda mine=mine: parts.write("s1", mine) is CommitResult.WRITTEN)  # type: ignore[misc]

    together(8, write)

    seen = [events.unpack(logged.record).sequence for logged in parts.log.read("default")]
    assert sorted(seen) == sorted(100 * number + sequence for number in range(8) for sequence in range(5))
    (waiting,) = parts.queues.waiting(SUB, 10)
    assert list(waiting.positions) == [logged.position for logged in parts.log.read("default")]
    parts.assert_index_is_right()


def test_a_commit_whose_reply_was_lost_is_not_done_twice(parts: Parts) -> None:
    """The library sends again what it got no reply to: the version that the first try wrote refuses the second."""
    parts.write("s1")
    write = Write("s1", parts.sessions.read("default", ["s1"])["s1"].version, LATER, 1, None, [entry("s1")])

    assert commit(parts, write) is CommitResult.WRITTEN
    assert commit(parts, write) is CommitResult.CONFLICT
    assert len(list(parts.log.read("default"))) == 1


def test_a_registry_that_changed_meanwhile_is_refused_whole(parts: Parts) -> None:
    registry = parts.subscriptions.load()
    parts.subscriptions.put(subscription())
    names = [f"s{number}" for number in range(12)]
    writes = [Write(name, ABSENT, OPEN, 1, None, [entry(name)]) for name in names]

    assert set(parts.sessions.commit("default", writes, registry.versions).values()) == {CommitResult.STALE_REGISTRY}
    assert not list(parts.log.read("default"))
    assert all(one.state is None for one in parts.sessions.read("default", names).values())

    fresh = parts.subscriptions.load()
    assert set(parts.sessions.commit("default", writes, fresh.versions).values()) == {CommitResult.WRITTEN}


def test_a_lease_hides_a_session_until_its_end(parts: Parts) -> None:
    parts.write("s1", due=1)
    shard = parts.shard("s1")
    end_ms = parts.now_ms() + 300
    assert parts.sessions.claim("default", {shard: Wanted(10, 0, 0)}, end_ms, 0)[1] == {"s1": 1}
    assert parts.claim_due({shard: 10}, 300) == []
    assert parts.sessions.due_ms("default", "s1") == end_ms
    parts.assert_index_is_right()
    # Nobody finished it, as after a crash.
    until(lambda: parts.claim_due({shard: 10}, HOUR_MS) == ["s1"])


def test_claims_take_the_longest_due_first_and_no_more_than_wanted(parts: Parts) -> None:
    names = [f"s{number}" for number in range(40)]
    for place, name in enumerate(names):
        parts.write(name, due=1 + place)
    shard = parts.shard("s0")
    here = [name for name in names if parts.shard(name) == shard]

    assert parts.claim_due({shard: 3}, HOUR_MS) == here[:3]
    assert parts.claim_due({shard: 0}, HOUR_MS) == []
    counts = parts.sessions.due_counts("default", parts.now_ms())
    assert counts[shard] == len(here) - 3
    assert sum(counts) == len(names) - 3


def test_concurrent_claims_never_hand_out_a_session_twice(parts: Parts) -> None:
    names = [f"s{number}" for number in range(300)]
    parts.sessions.commit("default", [Write(name, ABSENT, OPEN, 1, None) for name in names])

    def claim(_number: int) -> list[str]:
        mine: list[str] = []
        while got := parts.claim_due(dict.fromkeys(range(SHARDS), 7), HOUR_MS):
            mine += got
        return mine

    claimed = [name for group in together(6, claim) for name in group]
    assert sorted(claimed) == sorted(names)
    parts.assert_index_is_right()


def test_rescheduling_moves_what_is_due_and_revives_nothing(parts: Parts) -> None:
    for name in ("s1", "s2", "s4"):
        parts.write(name, due=1)
    lease_end_ms = parts.now_ms() + HOUR_MS
    parts.sessions.claim("default", dict.fromkeys(range(SHARDS), Wanted(9, 0, 0)), lease_end_ms, 0)
    parts.write("s2", due=Due.NONE)
    parts.write("s4", due=4)
    parts.sessions.reschedule("default", {"s1": 77, "s2": 88, "s3": 99, "s4": 5}, lease_end_ms)
    assert [parts.sessions.due_ms("default", name) for name in ("s1", "s2", "s3", "s4")] == [77, None, None, 4]
    parts.assert_index_is_right()


def test_what_does_not_exist_is_forgotten_with_its_place_in_the_index(parts: Parts) -> None:
    """Fault: the index kept naming an account whose only due session was dropped.

    ``due`` was emptied by a plain ZREM, and the index followed "at the next claim", which never came, because nothing
    was due: the tick woke a poll each second, and each poll the next, for ever. Now one script does both.
    """
    parts.write("s1", due=1)
    parts.claim_due({parts.shard("s1"): 1}, 1)
    parts.redis.delete(keys.session(parts.shard("s1"), "default", "s1"))

    parts.sessions.drop_due("default", ["s1"])

    assert parts.sessions.due_ms("default", "s1") is None
    parts.assert_index_is_right()


def test_a_session_tracked_meanwhile_is_not_forgotten(parts: Parts) -> None:
    """Fault: a session read as absent, then tracked, then dropped from the due ones, was never polled.

    The script looks again whether it exists.
    """
    parts.write("s1", due=1)
    parts.sessions.drop_due("default", ["s1"])
    assert parts.sessions.due_ms("default", "s1") == 1


def test_expiry_removes_settled_sessions_when_their_time_is_over(parts: Parts) -> None:
    now_ms = parts.now_ms()
    parts.write("s1", due=Due.NONE, expires_ms=now_ms - 1)
    parts.write("s2", due=Due.NONE, expires_ms=now_ms + HOUR_MS)
    parts.write("with:colon", due=Due.NONE, expires_ms=now_ms - 1)
    parts.write("open", due=1)

    assert parts.sessions.expire(now_ms, 100) == 2
    assert parts.sessions.expire(now_ms, 100) == 0
    left = parts.sessions.read("default", ["s1", "s2", "with:colon", "open"])
    assert {name for name, one in left.items() if one.state is None} == {"s1", "with:colon"}
    # A worker whose clock is ahead asks for more than is over.
    assert parts.sessions.expire(now_ms + 2 * HOUR_MS, 100) == 0


def test_expiry_spares_a_session_that_was_tracked_anew(parts: Parts) -> None:
    """Between looking and removing: the script looks again."""
    parts.write("s1", due=Due.NONE, expires_ms=1)
    parts.write("s2", due=Due.NONE, expires_ms=1)
    shard = parts.shard("s1")
    names = [name for name in ("s1", "s2") if parts.shard(name) == shard]
    parts.write("s1", due=5)
    args: list[Argument] = [f"default:{name}" for name in names]
    call = Call(
        "expire_sessions", [keys.expiry(shard), *(keys.session(shard, "default", name) for name in names)], args
    )
    assert parts.client.run([call]) == [len(names) - 1]
    assert parts.sessions.read("default", ["s1"])["s1"].state == OPEN


def test_a_walk_finds_each_session_of_its_account(parts: Parts) -> None:
    names = {f"s*[{number}]?:x" for number in range(700)}
    parts.sessions.commit("default", [Write(name, ABSENT, OPEN, 1, None) for name in names])
    parts.write("theirs", account="default2")
    assert {name for name, _ in parts.sessions.scan("default")} == names


def test_what_was_never_written_is_absent(parts: Parts) -> None:
    assert parts.sessions.read("default", ["s1"]) == {"s1": Stored(ABSENT, None)}
    assert parts.sessions.read("default", []) == {}
    assert parts.sessions.commit("default", []) == {}
    assert parts.sessions.due_ms("default", PHONE) is None


def test_accounts_do_not_see_each_other(parts: Parts) -> None:
    parts.write("s1", entry("s1"), due=1, account="a")
    store: SessionStore = parts.sessions
    assert store.read("b", ["s1"])["s1"].state is None
    assert sum(store.due_counts("b", parts.now_ms())) == 0
    assert not list(parts.log.read("b"))


def test_the_last_polls_of_a_session_are_told(parts: Parts) -> None:
    notes = noted(noted(b"", 0, 5_000, Outcome.EMPTY), 0, 65_000, Outcome.CHANGED)
    parts.write("s1", state=msgspec.structs.replace(OPEN, tracked_ms=0, notes=notes))
    assert parts.sessions.polls("default", "s1") == [PollNote(5_000, "no receipts"), PollNote(65_000, "changed")]
    assert parts.sessions.polls("default", "s2") == []


def test_a_session_of_the_release_before_is_read(parts: Parts) -> None:
    """It had neither notes nor segments, nor what follows them."""
    before = [1, 2, 3, 0, 1, [], [["18500000001", "", 2, 1, 77, 88, True]], "", ""]
    parts.redis.set(keys.session(parts.shard("s1"), "default", "s1"), b"vers" + msgspec.msgpack.encode(before))
    state = parts.sessions.read("default", ["s1"])["s1"].state
    assert state == SessionState(1, 2, 3, 0, 1, (), (PhoneState("18500000001", "", 2, 1, 77, 88, True),))


def test_a_claim_takes_the_oldest_the_newest_and_what_comes_due_soon_each_once(parts: Parts) -> None:
    now_ms = parts.now_ms()
    dues = {f"s{number}": number for number in range(1, 41)} | {"soon": now_ms + HOUR_MS, "late": now_ms + 3 * HOUR_MS}
    one_shard = SessionStore(parts.client, 1)
    one_shard.commit("default", [Write(name, ABSENT, OPEN, due, None) for name, due in dues.items()])

    _, claimed = one_shard.claim("default", {0: Wanted(2, 3, 5)}, now_ms + 60_000, 2 * HOUR_MS)

    assert claimed == {name: dues[name] for name in ("s1", "s2", "s40", "s39", "s38", "soon")}
    _, rest = one_shard.claim("default", {0: Wanted(40, 40, 9)}, now_ms + 60_000, 2 * HOUR_MS)
    assert sorted(rest) == sorted(dues.keys() - claimed.keys() - {"late"})


def test_sessions_are_made_due_now_whatever_they_were(parts: Parts) -> None:
    parts.write("open", due=parts.now_ms() + HOUR_MS)
    parts.write("settled", due=Due.NONE, expires_ms=parts.now_ms() + HOUR_MS)
    before = parts.now_ms()
    assert parts.sessions.poll_now("default", ["open", "settled", "gone", "open"]) == {"open", "settled"}
    for name in ("open", "settled"):
        assert before <= (parts.sessions.due_ms("default", name) or 0) <= parts.now_ms()
    assert parts.sessions.due_ms("default", "gone") is None
    parts.assert_index_is_right()


def test_what_is_asked_for_is_measured(parts: Parts) -> None:
    now_ms = parts.now_ms()
    assert parts.sessions.demand("default", now_ms, 60_000) == Demand(0, 0, 0, 60_000)
    for name, due in (("a", now_ms - 5_000), ("b", now_ms - 1), ("c", now_ms + 59_000), ("d", now_ms + 61_000)):
        parts.write(name, due=due)
    assert parts.sessions.demand("default", now_ms, 60_000) == Demand(2, 5_000, 1, 60_000)


def test_a_session_that_cannot_be_read_is_damaged_and_takes_no_other_with_it(parts: Parts) -> None:
    names = ["s1", "s2", "s3", "s4"]
    for name in names:
        parts.write(name, due=1)
    for name, value in (("s1", b"vers\xff\xff"), ("s2", b""), ("s3", b"ver")):
        parts.redis.set(keys.session(parts.shard(name), "default", name), value)

    found = parts.sessions.read("default", names)
    assert [found[name].damaged for name in names] == [True, True, True, False]
    assert [name for name, _ in parts.sessions.scan("default")] == ["s4"]

    parts.sessions.set_aside("default", names)
    assert parts.sessions.damaged("default") == ["s1", "s2", "s3"]
    parts.write("s1")
    parts.redis.delete(keys.session(parts.shard("s2"), "default", "s2"))
    assert parts.sessions.damaged("default") == ["s3"]


def test_sessions_to_be_looked_at_come_by_their_time_and_go_once_they_were(parts: Parts) -> None:
    store = SessionStore(parts.client, 1)
    hour = 1_700_000_000_000
    writes = [Write(f"s{number}", ABSENT, OPEN, 1, None, watch_ms=hour + number // 3) for number in range(5)]
    store.commit("default", writes)

    assert store.watched(hour - 1, 10) == []
    assert store.watched(hour, 2) == [Watched(0, "default", hour, ("s0", "s1"))]
    (first,) = store.watched(hour + 9, 2)
    store.unwatch(first)
    store.unwatch(first)  # somebody else looked at the same ones
    (second,) = store.watched(hour + 9, 2)
    assert second == Watched(0, "default", hour, ("s2",))
    store.unwatch(second)
    (third,) = store.watched(hour + 9, 10)
    assert third == Watched(0, "default", hour + 1, ("s3", "s4"))
    store.unwatch(third)
    assert store.watched(hour + 9, 10) == []
    assert not parts.redis.keys("u{0}:watch*")


def test_a_list_that_vanished_is_no_longer_looked_for(parts: Parts) -> None:
    parts.redis.zadd(keys.watches(0), {"default:1700000000000": 1})
    (empty,) = parts.sessions.watched(2, 10)
    assert empty.session_nos == ()
    parts.sessions.unwatch(empty)
    assert parts.sessions.watched(2, 10) == []


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=80), st.integers(0, 60))
def test_no_bytes_are_more_than_damaged(noise: bytes, at: int) -> None:
    """Neither alone nor in the midst of a session that was whole."""
    whole = b"vers" + msgspec.msgpack.encode(SessionState(1, 2, phones=(PhoneState("1", "u", 2, 1, 3, 4, True),)))
    for value in (noise, whole[:at] + noise + whole[at:], whole[:at] + noise):
        one = unpack(value)
        assert one.damaged == (one.state is None)


@pytest.mark.parametrize(
    "wrong",
    [
        SessionState(-1, 2),
        SessionState(1 << 60, 2),
        SessionState(1, 2, phones=(PhoneState("1", "u", 7, 1, 3, 4, True),)),
        SessionState(1, 2, phones=(PhoneState("1", "u", -1, 1, 3, 4, True),)),
    ],
)
def test_what_no_rule_could_take_is_damaged(wrong: SessionState) -> None:
    assert unpack(b"vers" + msgspec.msgpack.encode(wrong)).damaged

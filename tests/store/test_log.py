"""The log: events by their place, by time, and what is left when it is trimmed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.domain import events
from bridge.store import keys, positions
from tests.parts import SUB, Parts, entry

HOUR_MS = 3_600_000
MINE = b"m" * 16


def sequences(records: list[bytes]) -> list[int]:
    return [events.unpack(record).sequence for record in records]


def filled(parts: Parts, sessions: int, each: int, to: tuple[str, ...] = ()) -> int:
    """Record events over many sessions, with a number each; returns how many."""
    for number in range(sessions * each):
        name = f"s{number % sessions}"
        parts.write(name, entry(name, to=to, sequence=number + 1))
    return sessions * each


@pytest.mark.parametrize("step", [1, 2, 7, 50, 400])
def test_records_are_found_however_far_apart_they_are(parts: Parts, step: int) -> None:
    entries = [entry("s1", sequence=number) for number in range(1_000)]
    parts.write("s1", *entries)
    shard = parts.shard("s1")
    wanted = [logged.position for logged in parts.log.read("default")][::step]

    found = parts.log.fetch("default", {shard: list(reversed(wanted))})

    assert sequences([found[shard, position] for position in wanted]) == list(range(1_000))[::step]
    assert len(found) == len(wanted)


def test_what_is_not_there_is_not_in_the_answer(parts: Parts) -> None:
    parts.write("s1", *(entry("s1", sequence=number) for number in range(10)))
    shard = parts.shard("s1")
    there = [logged.position for logged in parts.log.read("default")]
    for position in there[::2]:
        parts.redis.xdel(keys.log(shard, "default"), positions.to_id(position))
    beyond = positions.from_id(b"99999999999999-1")

    found = parts.log.fetch("default", {shard: [*there, *there, bytes(12), beyond], (shard + 1) % 4: [beyond], 3: []})

    assert sorted(found) == [(shard, position) for position in there[1::2]]
    assert parts.log.fetch("nobody", {shard: there}) == {}
    assert parts.log.fetch("default", {}) == {}


def test_shards_are_read_as_one_log_by_time(parts: Parts) -> None:
    total = filled(parts, sessions=12, each=5)
    assert len({parts.shard(f"s{number}") for number in range(12)}) > 1

    forward = list(parts.log.read("default"))
    assert [logged.position for logged in forward] == sorted(logged.position for logged in forward)
    assert sorted(sequences([logged.record for logged in forward])) == list(range(1, total + 1))
    backward = list(parts.log.read("default", newest_first=True))
    assert [logged.position for logged in backward] == sorted((one.position for one in forward), reverse=True)


@pytest.mark.parametrize("newest_first", [False, True])
def test_more_than_a_page_is_read_without_a_gap(parts: Parts, newest_first: bool) -> None:
    for start in range(0, 1_500, 500):
        parts.write("s1", *(entry("s1", sequence=start + number) for number in range(500)))
    read = sequences([logged.record for logged in parts.log.read("default", newest_first=newest_first)])
    assert read == sorted(range(1_500), reverse=newest_first)


def test_reading_begins_at_a_time(parts: Parts) -> None:
    parts.write("s1", entry("s1", sequence=1))
    (first,) = parts.log.read("default")
    since_ms = int(positions.to_id(first.position).partition("-")[0]) + 1
    assert not list(parts.log.read("default", since_ms=since_ms))
    assert not list(parts.log.read("default", since_ms=since_ms, newest_first=True))
    assert list(parts.log.read("default", since_ms=since_ms - 1)) == [first]


def test_what_came_after_an_end_is_read_once(parts: Parts) -> None:
    assert parts.log.ends("default") == {}
    filled(parts, sessions=3, each=2)
    ends = parts.log.ends("default")
    assert parts.log.after("default", ends) == []
    parts.write("s1", entry("s1", sequence=91))
    parts.write("new", entry("new", sequence=92))
    fresh = parts.log.after("default", ends)
    assert sorted(sequences([logged.record for logged in fresh])) == [91, 92]  # in one millisecond, they are equals
    everything = parts.log.after("default", {})
    assert len(everything) == 8
    assert everything == list(parts.log.read("default"))


def test_trimming_drops_what_is_old_and_counts_it(parts: Parts) -> None:
    total = filled(parts, sessions=6, each=3)
    assert parts.log.trim("default", [SUB], 1) == (0, 0)
    assert parts.log.trim("nobody", [SUB], parts.now_ms()) == (0, 0)
    assert parts.log.trim("default", [SUB], parts.now_ms() + HOUR_MS) == (total, 0)
    assert not list(parts.log.read("default"))
    assert parts.log.trim("default", [SUB], parts.now_ms() + HOUR_MS) == (0, 0)


def test_trimming_spares_what_is_younger(parts: Parts) -> None:
    parts.write("s1", entry("s1", sequence=1))
    (first,) = parts.log.read("default")
    while True:
        parts.write("s1", entry("s1", sequence=2))
        *_, last = parts.log.read("default")
        if last.position[:8] != first.position[:8]:
            break
    limit_ms = int.from_bytes(last.position[:8])
    dropped, _ = parts.log.trim("default", [SUB], limit_ms)
    assert dropped >= 1
    assert [logged.position for logged in parts.log.read("default")] == [last.position]


def test_what_waits_in_a_queue_outlives_its_record_in_the_log(parts: Parts) -> None:
    """Over more than a page, with lanes of several events, and two subscriptions of which one is done."""
    parts.write(
        "s1", *(entry("s1", f"185{number // 3:08}", to=(SUB, "sub_b"), sequence=number) for number in range(1200))
    )
    shard = parts.shard("s1")
    parts.remove_queue("sub_b")
    where = [logged.position for logged in parts.log.read("default")]

    assert parts.log.trim("default", [SUB, "sub_b"], parts.now_ms() + HOUR_MS) == (1200, 1200)

    assert not list(parts.log.read("default"))
    kept = parts.queues.kept(SUB, {shard: where})
    assert sequences([kept[shard, position] for position in where]) == list(range(1200))
    assert parts.queues.kept("sub_b", {shard: where}) == {}
    assert sum(len(one.positions) for one in parts.queues.waiting(SUB, 1000)) == 1200


def test_what_was_settled_before_is_not_kept(parts: Parts) -> None:
    parts.write("s1", entry("s1"))
    parts.remove_queue(SUB)
    parts.write("s1", entry("s1", "18500000009"))
    assert parts.log.trim("default", [SUB], parts.now_ms() + HOUR_MS) == (2, 1)


@given(st.lists(st.tuples(st.integers(0, 2**63), st.integers(0, 2**32 - 1)), min_size=2, max_size=20))
def test_positions_sort_as_their_ids_do(ids: list[tuple[int, int]]) -> None:
    as_bytes = [positions.from_id(f"{millis}-{sequence}".encode()) for millis, sequence in ids]
    assert [positions.to_id(one) for one in sorted(as_bytes)] == [f"{a}-{b}" for a, b in sorted(ids)]


def test_a_position_of_today_is_as_exact_in_lua_as_here(parts: Parts) -> None:
    """Lua counts in doubles, which hold 53 bits: the milliseconds fit until the year 287396."""
    parts.write("s1", entry("s1"))
    (logged,) = parts.log.read("default")
    (waiting,) = parts.queues.waiting(SUB, 1)
    assert waiting.positions == (logged.position,)


@given(st.integers(0, 255), st.lists(st.binary(min_size=12, max_size=12), min_size=1, max_size=5))
def test_a_lane_is_its_attempts_and_its_positions(attempts: int, places: list[bytes]) -> None:
    assert positions.split(bytes([attempts]) + b"".join(places)) == (attempts, places)

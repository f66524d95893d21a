"""Filling a queue from the log: each event once, in its place, and never past a gap that nobody would notice."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bridge.domain import events
from bridge.domain.policy import Limits
from bridge.store import filling, keys, positions
from bridge.store.filling import Gap, Page
from tests.parts import SHARDS, SUB, Parts, entry

HOUR_MS = 3_600_000
PHONES = ("18500000001", "18500000002")


def pages(parts: Parts, since_ms: int = 0) -> list[Page | Gap]:
    """The pages as they come where each is put."""
    found = []
    for page in parts.filling.pages("default", SUB, since_ms, parts.log.ends("default")):
        found.append(page)
        if isinstance(page, Page):
            put(parts, page)
    return found


def put(parts: Parts, page: Page, version: bytes = b"0") -> int | None:
    return parts.filling.put(SUB, page, page.events, version)


def sequences(parts: Parts) -> dict[str, list[int]]:
    """What waits, by phone, in order."""
    found: dict[str, list[int]] = {}
    for lane in parts.queues.waiting(SUB, 1_000):
        records = parts.log.fetch("default", {lane.shard: lane.positions})
        waiting = [events.unpack(records[lane.shard, place]) for place in lane.positions]
        assert len({one.phone for one in waiting}) == 1
        found[waiting[0].phone] = [one.sequence for one in waiting]
    return found


def parked(parts: Parts) -> None:
    for shard in range(SHARDS):
        parts.redis.hset(keys.state(shard, SUB), "parked", 1)


@given(st.data())
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_what_was_there_before_goes_before_what_came_meanwhile_and_nothing_twice(
    parts: Parts, data: st.DataObject
) -> None:
    """Pages of any size, put in part, again, by two at once, with commits in between."""
    parts.redis.flushall()
    parked(parts)
    told = dict.fromkeys(PHONES, 0)

    def commit(*, routed: bool) -> None:
        phone = data.draw(st.sampled_from(PHONES))
        told[phone] += 1
        parts.write("s1", entry("s1", phone, to=[SUB] if routed else [], sequence=told[phone]))

    for _ in range(data.draw(st.integers(0, 12))):
        commit(routed=False)
    ends = parts.log.ends("default")
    size = data.draw(st.integers(1, 4))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(filling, "PAGE", size)
        seen: list[Page] = []
        for page in parts.filling.pages("default", SUB, 0, ends):
            assert isinstance(page, Page)
            for _ in range(data.draw(st.integers(0, 2))):
                commit(routed=True)
            seen.append(page)
            for again in data.draw(st.lists(st.sampled_from(seen), max_size=2)):
                put(parts, msgspec.structs.replace(again, upto=page.upto))
            put(parts, page)
    assert sequences(parts) == {phone: list(range(1, last + 1)) for phone, last in told.items() if last}
    parts.assert_index_is_right()


def test_positions_are_compared_as_numbers(parts: Parts) -> None:
    """Sequences beyond 9, and bytes with the highest bit set, which a server's locale may sort otherwise."""
    parked(parts)
    parts.write("s1", *(entry("s1", to=[], sequence=number) for number in range(1, 301)))
    parts.write("s1", entry("s1", sequence=301))
    assert len(pages(parts)) == 1
    assert sequences(parts) == {PHONES[0]: list(range(1, 302))}


def test_only_what_was_recorded_since_is_looked_at(parts: Parts) -> None:
    parked(parts)
    log = keys.log(0, "default")
    record = events.pack(events.record_of_test("default", SUB, "1", 1))
    for name in ("999-7", "1000-0", "1000-5", "1001-0"):
        parts.redis.xadd(log, {"r": record}, id=name)
    (page,) = pages(parts, 1000)
    assert isinstance(page, Page)
    assert [positions.to_id(position) for position, _ in page.events] == ["1000-0", "1000-5", "1001-0"]


def test_by_another_registry_nothing_is_put_and_the_page_comes_again(parts: Parts) -> None:
    parked(parts)
    parts.write("s1", entry("s1", to=[]))
    walk = parts.filling.pages("default", SUB, 0, parts.log.ends("default"))
    page = next(walk)
    assert isinstance(page, Page)
    assert put(parts, page, b"another") is None
    assert parts.queues.lengths([SUB]) == {SUB: 0}
    assert next(walk) == page
    assert put(parts, page) == 1
    assert list(walk) == []


def test_it_goes_on_where_it_was_cut_short(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filling, "PAGE", 2)
    parked(parts)
    parts.write("s1", *(entry("s1", to=[], sequence=number) for number in range(1, 6)))
    walk = parts.filling.pages("default", SUB, 0, parts.log.ends("default"))
    page = next(walk)
    assert isinstance(page, Page)
    put(parts, page)
    # What was put is safe: the log may lose it.
    second = [positions.to_id(one.position) for one in parts.log.read("default")][2]
    parts.redis.xtrim(keys.log(parts.shard("s1"), "default"), minid=second)
    parts.redis.set(keys.begin(parts.shard("s1"), "default"), second)
    assert [len(one.events) for one in pages(parts) if isinstance(one, Page)] == [2, 1]
    assert [len(lane.positions) for lane in parts.queues.waiting(SUB, 9)] == [5]


def test_what_left_the_log_before_it_was_read_is_a_gap(parts: Parts) -> None:
    parked(parts)
    parts.write("s1", *(entry("s1", to=[], sequence=number) for number in range(1, 600)))
    walk = parts.filling.pages("default", SUB, 0, parts.log.ends("default"))
    first = next(walk)
    assert isinstance(first, Page)
    put(parts, first)
    parts.log.trim("default", [SUB], parts.now_ms() + HOUR_MS)
    (gap,) = walk
    assert isinstance(gap, Gap)
    assert gap.after_ms <= gap.before_ms


def test_a_log_says_from_when_it_is_whole(parts: Parts) -> None:
    assert parts.filling.begins_ms("default") == 0
    parts.write("s1", entry("s1"))
    (logged,) = parts.log.read("default")
    at_ms = int.from_bytes(logged.position[:8])
    parts.log.trim("default", [], at_ms)
    assert parts.filling.begins_ms("default") == 0, "nothing was dropped"
    parts.log.trim("default", [], at_ms + HOUR_MS)
    assert parts.filling.begins_ms("default") == at_ms + 1
    assert parts.filling.begins_ms("other") == 0


def test_two_that_trim_at_once_do_not_set_it_back(parts: Parts) -> None:
    parts.write("s1", entry("s1"))
    begin = keys.begin(parts.shard("s1"), "default")
    parts.redis.set(begin, "99999999999999-0")
    parts.log.trim("default", [], parts.now_ms() + HOUR_MS)
    assert parts.redis.get(begin) == b"99999999999999-0"


def test_too_many_are_refused_whole(parts: Parts) -> None:
    small = Parts.sharing(parts, Limits(backlog=2 * SHARDS))
    parked(small)
    small.write("s1", *(entry("s1", to=[], sequence=number) for number in range(1, 3)))
    small.write("s1", entry("s1", sequence=3))
    page = next(small.filling.pages("default", SUB, 0, small.log.ends("default")))
    assert isinstance(page, Page)
    assert put(small, page) == -1
    assert sequences(small) == {PHONES[0]: [3]}
    small.assert_index_is_right()
    small.close()

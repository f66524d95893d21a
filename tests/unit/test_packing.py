"""Full calls, whose answers stay small, and in which neither the newest nor the oldest wait for ever."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.domain.packing import MAX_ALONE, MAX_SESSIONS, Wanted, expected_phones, in_turns, pack_calls, spread, wanted
from bridge.domain.receipts import Receipt
from bridge.domain.status import SessionState, track, transition
from bridge.domain.tracking import SessionRequest

NOW = 1_795_423_107_000
MOST_PHONES = 4_000_000 // 200  # 4 MB of receipts of 200 bytes


def sized(phones: int) -> SessionState:
    return track(None, SessionRequest("s", phone_count=phones), NOW)


def numbered(sizes: list[int]) -> list[tuple[str, SessionState]]:
    return [(f"s{place}", sized(size)) for place, size in enumerate(sizes)]


def pack_call(sessions: list[tuple[str, SessionState]]) -> tuple[list[str], list[str]]:
    packed = pack_calls(sessions)
    assert len(packed.calls) <= 1
    return (packed.calls or [[]])[0], packed.rest


def test_an_answer_is_expected_to_hold_what_was_announced_or_seen_and_at_least_one() -> None:
    assert expected_phones(track(None, SessionRequest("s"), NOW)) == 1
    assert expected_phones(sized(7)) == 7
    listed = track(None, SessionRequest("s", phones=(("1", None), ("2", None)), phone_count=2), NOW)
    assert expected_phones(listed) == 2
    heard = [Receipt(str(phone), "", "Success", "", "", 1, 1) for phone in (1, 3, 4)]
    assert expected_phones(transition(listed, heard, NOW, 10**9).state) == 4


def test_a_call_takes_at_most_a_hundred_sessions_in_order() -> None:
    chosen, rest = pack_call(numbered([1] * 250))
    assert MAX_SESSIONS == 100
    assert chosen == [f"s{place}" for place in range(100)]
    assert rest == [f"s{place}" for place in range(100, 250)]


def test_a_call_holds_no_more_phones_than_keep_its_answer_under_four_megabytes() -> None:
    chosen, rest = pack_call(numbered([1000] * 30))
    assert len(chosen) == 20
    assert len(rest) == 10


def test_a_session_that_does_not_fit_is_handed_back_and_smaller_ones_behind_it_go() -> None:
    chosen, rest = pack_call(numbered([MOST_PHONES - 5, 10, 3, 2, 1]))
    assert chosen == ["s0", "s2", "s3"]
    assert rest == ["s1", "s4"]


def test_the_first_session_fits_however_large() -> None:
    assert pack_call(numbered([MOST_PHONES * 2, 1])) == (["s0"], ["s1"])


def test_nothing_to_pack_is_no_call() -> None:
    assert pack_call([]) == ([], [])


@given(st.lists(st.integers(1, 1000), max_size=300))
def test_every_session_is_chosen_or_handed_back_once_in_order(sizes: list[int]) -> None:
    sessions = numbered(sizes)
    chosen, rest = pack_call(sessions)
    names = [name for name, _ in sessions]
    assert sorted(chosen + rest, key=names.index) == names
    assert chosen == sorted(chosen, key=names.index)
    assert rest == sorted(rest, key=names.index)
    assert len(chosen) <= 100
    size_of = dict(zip(names, sizes, strict=True))
    used = sum(size_of[name] for name in chosen)
    assert used <= MOST_PHONES
    assert len(chosen) == 100 or all(size_of[name] > MOST_PHONES - used for name in rest)
    assert bool(chosen) is bool(sizes)


def refused(name: str) -> tuple[str, SessionState]:
    return name, msgspec.structs.replace(sized(1), refused="RetCode 18001")


def test_a_session_that_was_refused_is_asked_for_alone() -> None:
    packed = pack_calls([refused("r1"), *numbered([1, 1]), refused("r2")])
    assert packed.calls == [["s0", "s1"], ["r1"], ["r2"]]
    assert packed.rest == []
    assert pack_calls([refused("r1")]).calls == [["r1"]]


def test_of_many_that_were_refused_a_few_go_at_once() -> None:
    packed = pack_calls([refused(f"r{place}") for place in range(MAX_ALONE + 3)])
    assert packed.calls == [[f"r{place}"] for place in range(MAX_ALONE)]
    assert packed.rest == [f"r{place}" for place in range(MAX_ALONE, MAX_ALONE + 3)]


shard_counts = st.lists(st.integers(0, 300), min_size=1, max_size=16)


@given(shard_counts, st.integers(0, 200), st.integers(0, 15))
def test_shares_are_even_and_as_much_as_there_is(counts: list[int], room: int, start: int) -> None:
    shares = spread(counts, room, start)
    assert sum(shares.values()) == min(room, sum(counts))
    assert all(0 < share <= counts[shard] for shard, share in shares.items())
    short = [shares.get(shard, 0) for shard, count in enumerate(counts) if shares.get(shard, 0) < count]
    full = [share for shard, share in shares.items() if share == counts[shard]]
    assert max(short, default=0) - min(short, default=0) <= 1, "of those with more, all get the same"
    assert max(full, default=0) <= min(short, default=300) + 1


def test_what_is_left_over_goes_round() -> None:
    assert [spread([5, 5, 5], 1, start) for start in range(3)] == [{0: 1}, {1: 1}, {2: 1}]


@given(shard_counts, st.integers(0, 15))
def test_a_call_is_full_of_what_is_due_or_has_room_for_what_is_soon(counts: list[int], start: int) -> None:
    chosen = wanted(counts, start)
    due = sum(one.oldest + one.newest for one in chosen.values())
    assert due == min(MAX_SESSIONS, sum(counts))
    assert sum(one.soon for one in chosen.values()) == MAX_SESSIONS - due


def test_where_not_all_fits_seventy_are_the_newest_and_thirty_the_oldest() -> None:
    assert wanted([1_000_000], 0) == {0: Wanted(30, 70, 0)}
    assert wanted([100], 0) == {0: Wanted(100, 0, 0)}
    eight = wanted([100_000] * 8, 3)
    assert sum(one.newest for one in eight.values()) in range(68, 73)


@given(st.integers(0, 300))
def test_turns_leave_nobody_out_and_give_seven_of_ten_to_the_newest(size: int) -> None:
    ordered = in_turns(range(size))
    assert sorted(ordered) == list(range(size))
    for upto in range(10, size - size // 3, 10):
        newest = [one for one in ordered[:upto] if one < upto * 7 // 10]
        assert len(newest) == upto * 7 // 10


@pytest.mark.parametrize(
    ("counts", "room", "shares"),
    [
        ([0, 5, 0], 1, {1: 1}),
        ([1, 1, 9], 4, {0: 1, 1: 1, 2: 2}),
        ([1, 4, 9], 11, {0: 1, 1: 4, 2: 6}),
        ([3, 3, 3], 100, {0: 3, 1: 3, 2: 3}),
        ([0, 0], 5, {}),
    ],
)
def test_no_shard_gives_more_than_it_has(counts: list[int], room: int, shares: dict[int, int]) -> None:
    assert spread(counts, room, 0) == shares


def test_of_each_ten_places_three_are_the_oldest_s() -> None:
    ordered = in_turns(range(100))
    for first in range(0, 60, 10):
        oldest = [one for one in ordered[first : first + 10] if one >= 70]
        assert oldest == [99 - first // 10 * 3 - place for place in range(3)]


def test_room_for_fewer_than_there_are_shards_is_soon_s_of_some() -> None:
    assert wanted([99, 0, 0], 1) == {0: Wanted(99, 0, 0), 1: Wanted(0, 0, 1), 2: Wanted(0, 0, 0)}

"""Parts of subscriptions and their shards, limits and their shares, and what lists show of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.domain.accounts import shown_key
from bridge.domain.deliveries import Part, Tally, part_with, parts_of
from bridge.domain.policy import DeliveryPolicy, Limits, allowances

shards = st.integers(1, 64)
partitions = st.none() | st.integers(1, 80)


@given(shards, partitions)
def test_each_shard_belongs_to_exactly_one_part(count: int, asked: int | None) -> None:
    parts = parts_of("sub_a", asked, count)
    assert len(parts) == min(asked or 1, count)
    assert sorted(shard for part in parts for shard in part.shards(count)) == list(range(count))
    for part in parts:
        for shard in part.shards(count):
            assert part_with(shard, "sub_a", asked, count) == part


def test_a_subscription_is_one_part_unless_it_asks_for_more() -> None:
    assert parts_of("sub_a", None, 8) == [Part("sub_a")] == [Part("sub_a", 0, 1)]
    assert part_with(5, "sub_a", None, 8) == Part("sub_a", 0, 1)
    assert parts_of("sub_a", 2, 8) == [Part("sub_a", 0, 2), Part("sub_a", 1, 2)]
    assert part_with(5, "sub_a", 2, 8) == Part("sub_a", 1, 2)
    assert parts_of("sub_a", 9, 2) == [Part("sub_a", 0, 2), Part("sub_a", 1, 2)]


@given(st.text(st.characters(codec="utf-8"), max_size=10), shards, partitions)
def test_a_parts_home_is_one_of_its_shards_for_everybody_who_asks(name: str, count: int, asked: int | None) -> None:
    for part in parts_of(name, asked, count):
        assert part.home(count) in part.shards(count)
        assert part.home(count) == Part(name, part.number, part.of).home(count)


def test_homes_are_spread_over_the_shards() -> None:
    homes = {Part(f"sub_{number}").home(8) for number in range(100)}
    assert homes == set(range(8))


def test_a_tally_adds_up_what_limits_did() -> None:
    assert Tally(waiting=1, dead=2, over_backlog=10, over_kept=200, dead_dropped=3_000, exhausted=4).limited == 3_210


@pytest.mark.parametrize(("backlog", "count", "share"), [(100, 8, 13), (96, 8, 12), (1, 8, 1), (100, 1, 100)])
def test_a_shards_share_of_the_backlog_is_rounded_up_and_all_of_the_rest(backlog: int, count: int, share: int) -> None:
    limits = Limits(backlog=backlog, dead=7, kept=6, log_bytes=5, outcomes_ms=4)
    assert limits.share(count) == Limits(backlog=share, dead=7, kept=6, log_bytes=5, outcomes_ms=4)


def test_limits_are_those_of_the_contract() -> None:
    assert (Limits().backlog, Limits().dead, Limits().kept) == (1_000_000, 100_000, 100_000)
    assert Limits().outcomes_ms > 96 * 3_600_000, "outcomes are known for longer than events"


@given(st.integers(0, 1_000), st.lists(st.integers(0, 300), min_size=1, max_size=8))
def test_what_is_free_is_shared_evenly_and_nothing_else_is(most: int, waiting: list[int]) -> None:
    shares = allowances(most, waiting)
    free = max(0, most - sum(waiting))
    extra = [share - count for share, count in zip(shares, waiting, strict=True)]
    assert sum(extra) == free
    assert max(extra) - min(extra) <= 1
    # What cannot be shared evenly goes where most waits.
    more = [count for count, one in zip(waiting, extra, strict=True) if one == max(extra)]
    fewer = [count for count, one in zip(waiting, extra, strict=True) if one < max(extra)]
    assert not fewer or min(more) >= max(fewer)


def test_a_subscription_that_is_full_gets_no_more() -> None:
    assert allowances(10, [4, 6]) == [4, 6]
    assert allowances(10, [9, 9]) == [9, 9]
    assert allowances(10, [1, 4]) == [3, 7]


@pytest.mark.parametrize(
    ("timeout_ms", "hold_ms", "renew_ms"),
    [(15_000, 45_000, 10_000), (30_000, 45_000, 10_000), (5_000, 15_000, 3_333), (10, 30, 6)],
)
def test_a_hold_lasts_three_time_outs_and_is_renewed_well_before(timeout_ms: int, hold_ms: int, renew_ms: int) -> None:
    policy = DeliveryPolicy(retry_ms=(1,), timeout_ms=timeout_ms, concurrency=1)
    assert (policy.hold_ms, policy.renew_ms) == (hold_ms, renew_ms)
    assert policy.rate is None


@pytest.mark.parametrize(
    ("key", "shown"),
    [("", ""), ("12345678", "12345678"), ("123456789", "1234…6789"), ("ucloudsomeone@example.com129", "uclo…m129")],
)
def test_a_public_key_is_shown_in_part(key: str, shown: str) -> None:
    assert shown_key(key) == shown

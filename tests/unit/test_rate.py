"""How fast calls are made: half at each refusal, a little more each second, and never nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.domain.rate import (
    MOST_IN_FLIGHT,
    RECOVERY_MS,
    SLOWEST,
    Demand,
    Slowed,
    allowed,
    is_short,
    most_in_flight,
    pause_ms,
    rate_needed,
    rounded_rate,
    slow_down,
)

NOW = 1_795_423_107_000
full_rates = st.floats(0.01, 1_000)
waits = st.lists(st.integers(0, 200_000), max_size=20)


def test_an_account_that_was_never_slowed_has_its_full_rate() -> None:
    assert allowed(5.0, None, NOW) == 5.0


def test_a_refusal_halves_the_rate_and_time_gives_it_back() -> None:
    slowed = slow_down(5.0, None, NOW)
    assert slowed == Slowed(2.5, NOW)
    assert allowed(5.0, slowed, NOW) == 2.5
    assert allowed(5.0, slowed, NOW + RECOVERY_MS // 4) == pytest.approx(3.75)
    assert allowed(5.0, slowed, NOW + RECOVERY_MS) == 5.0


def test_calls_that_are_refused_together_count_as_one() -> None:
    slowed = slow_down(5.0, None, NOW)
    for after_ms in range(0, 1_000, 50):
        assert slow_down(5.0, slowed, NOW + after_ms) is slowed
    assert slow_down(5.0, slowed, NOW + 1_000).rate < 1.3


@given(full_rates, waits)
def test_the_rate_stays_between_its_bounds_whatever_is_refused_when(full: float, gaps: list[int]) -> None:
    slowed: Slowed | None = None
    now_ms = NOW
    for gap in gaps:
        now_ms += gap
        before = allowed(full, slowed, now_ms)
        slowed = slow_down(full, slowed, now_ms)
        assert full * SLOWEST * 0.999 <= allowed(full, slowed, now_ms) <= max(before, full * SLOWEST) <= full
    assert allowed(full, slowed, now_ms + RECOVERY_MS) == full


@given(full_rates, st.integers(0, 300_000), st.integers(0, 300_000))
def test_recovery_is_additive(full: float, first: int, second: int) -> None:
    """Equal times give equal steps, up to the full rate."""
    slowed = Slowed(full / 10, NOW)
    at, later = (allowed(full, slowed, NOW + wait) for wait in (first, first + second))
    assert later == pytest.approx(min(full, at + full * second / RECOVERY_MS))


def test_a_clock_that_was_set_back_slows_nothing_further() -> None:
    assert allowed(5.0, Slowed(2.5, NOW), NOW - 60_000) == 2.5


def test_a_lower_setting_counts_at_once_and_a_higher_one_grows_from_what_was_left() -> None:
    assert allowed(1.0, Slowed(2.5, NOW), NOW) == 1.0
    assert allowed(100.0, Slowed(2.5, NOW), NOW) == 2.5


def test_pauses_double_up_to_a_minute_and_of_an_account_that_is_refused_up_to_five() -> None:
    longest = [pause_ms(failures, refused=False, chance=0.999999) for failures in range(9)]
    assert longest == [1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000, 60_000]
    probes = [pause_ms(failures, refused=True, chance=0.999999) for failures in (0, 1, 2, 3, 50)]
    assert probes == [60_000, 120_000, 240_000, 300_000, 300_000]


@given(st.integers(0, 10_000), st.booleans(), st.floats(0, 1, exclude_max=True))
def test_a_pause_is_spread_over_half_of_it(failures: int, refused: bool, chance: float) -> None:
    longest = pause_ms(failures, refused=refused, chance=0.9999999999)
    assert longest // 2 <= pause_ms(failures, refused=refused, chance=chance) <= longest


def test_one_call_finds_out_whether_the_provider_is_back() -> None:
    assert [most_in_flight(failures) for failures in (0, 1, 7)] == [MOST_IN_FLIGHT, 1, 1]


def test_the_rate_that_is_needed_keeps_up_and_drains_what_is_late_in_ten_minutes() -> None:
    assert rate_needed(Demand(0, 0, 6_000, 60_000)) == pytest.approx(1.0)
    assert rate_needed(Demand(600_000, 0, 0, 60_000)) == pytest.approx(10.0)
    assert rate_needed(Demand(0, 0, 0, 60_000)) == 0.0


def test_a_rate_is_short_when_what_is_due_waits_and_it_could_not_keep_up() -> None:
    assert not is_short(Demand(90, 200, 100, 60_000), 5.0, 60_000)
    assert is_short(Demand(1_000_000, 0, 0, 60_000), 5.0, 60_000), "it would take 33 minutes"
    assert is_short(Demand(1_000, 90_000, 60_000, 60_000), 5.0, 60_000), "it is 90 s late, and twice as much comes"
    assert not is_short(Demand(10, 7_200_000, 0, 60_000), 5.0, 60_000), "late for another reason: no rate mends that"


@pytest.mark.parametrize(("rate", "said"), [(0.0, 0.0), (0.0123, 0.013), (1.0, 1.0), (7.21, 7.3), (123.4, 130.0)])
def test_advice_is_rounded_up_to_two_figures(rate: float, said: float) -> None:
    assert rounded_rate(rate) == said


@pytest.mark.parametrize(
    ("demand", "rate", "patience_ms", "short"),
    [
        # 1,000 more each second need 10 calls a second; 6,000 that are due wait for a minute of one call a second.
        (Demand(due=6_000, lag_ms=0, soon=1_000, window_ms=1_000), 1.0, 59_999, True),
        (Demand(due=6_000, lag_ms=0, soon=1_000, window_ms=1_000), 1.0, 60_000, False),
        (Demand(due=6_000, lag_ms=0, soon=1_000, window_ms=1_000), 2.0, 29_999, True),
        (Demand(due=6_000, lag_ms=0, soon=1_000, window_ms=1_000), 2.0, 30_000, False),
        (Demand(due=6_000, lag_ms=60_001, soon=1_000, window_ms=1_000), 2.0, 60_000, True),
        (Demand(due=6_000, lag_ms=60_001, soon=0, window_ms=1_000), 2.0, 60_000, False),  # late, and catching up
        (Demand(due=0, lag_ms=60_001, soon=100, window_ms=1_000), 1.0, 60_000, False),  # just enough
        (Demand(due=0, lag_ms=60_001, soon=101, window_ms=1_000), 1.0, 60_000, True),
    ],
)
def test_a_rate_is_short_once_what_is_due_waits_for_longer_than_it_may(
    demand: Demand, rate: float, patience_ms: int, short: bool
) -> None:
    assert is_short(demand, rate, patience_ms) is short


def test_a_window_of_no_time_is_taken_for_a_millisecond() -> None:
    assert rate_needed(Demand(0, 0, 1, 0)) == rate_needed(Demand(0, 0, 1, 1)) == 10.0

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bridge.domain.breaker import AT_ONCE, WELL, BreakerPolicy, Health, failed, hastened, is_beyond_hope, succeeded

NOW = 1_795_423_107_000
POLICY = BreakerPolicy()
MINUTE_MS = 60_000


def opened(now_ms: int = NOW) -> Health:
    health = WELL
    for _ in range(POLICY.after):
        assert not health.is_open
        health = failed(health, POLICY, now_ms, probe=False)
    return health


def test_ten_failures_in_a_row_open_it_for_half_a_minute() -> None:
    health = opened()
    assert health.is_open
    assert health.gate_ms == NOW + 30_000


def test_a_success_in_between_starts_the_count_anew() -> None:
    health = WELL
    for _ in range(POLICY.after - 1):
        health = failed(health, POLICY, NOW, probe=False)
    health = succeeded(health, NOW)
    assert health is WELL
    assert not failed(health, POLICY, NOW, probe=False).is_open


def test_probes_come_ever_more_rarely() -> None:
    health, now_ms, waits_s = opened(), NOW, []
    for _ in range(9):
        waits_s.append((health.probe_ms - now_ms) // 1000)
        now_ms = health.probe_ms
        health = failed(health, POLICY, now_ms, probe=True)
    assert waits_s == [30, 60, 120, 240, 480, 960, 1_800, 1_800, 1_800]


def test_what_was_under_way_when_it_opened_changes_nothing() -> None:
    health = opened()
    assert failed(health, POLICY, NOW + 5_000, probe=False) == health


def test_what_was_under_way_when_it_opened_may_still_ask_for_quiet() -> None:
    health = failed(opened(), POLICY, NOW + 5_000, probe=False, quiet_ms=5 * MINUTE_MS)
    assert (health.quiet_ms, health.probe_ms) == (NOW + 5_000 + 5 * MINUTE_MS, NOW + 30_000)
    assert health.gate_ms == health.quiet_ms, "no probe before it is over"


def test_a_success_closes_it_and_has_what_waited_made_due() -> None:
    assert succeeded(opened(), NOW) == AT_ONCE
    assert AT_ONCE.gate_ms == 0
    assert succeeded(AT_ONCE, NOW) == AT_ONCE, "until that is done"
    assert hastened(AT_ONCE, NOW) is WELL


def test_one_that_was_under_way_closes_it_and_lifts_no_quiet() -> None:
    health = failed(opened(), POLICY, NOW, probe=False, quiet_ms=7_000)
    closed = succeeded(health, NOW + 6_999)
    assert (closed.is_open, closed.hastening, closed.gate_ms) == (False, True, NOW + 7_000)
    assert hastened(closed, NOW + 6_999) == Health(quiet_ms=NOW + 7_000), "what waited is due, and waits for that"
    assert hastened(closed, NOW + 7_000) is WELL
    assert succeeded(health, NOW + 7_000) == AT_ONCE


def test_quiet_that_was_asked_for_is_kept_for_half_an_hour_at_most() -> None:
    assert failed(WELL, POLICY, NOW, probe=False, quiet_ms=7_000).gate_ms == NOW + 7_000
    assert failed(WELL, POLICY, NOW, probe=False, quiet_ms=24 * 60 * MINUTE_MS).gate_ms == NOW + 30 * MINUTE_MS
    health = failed(opened(), POLICY, NOW + 30_000, probe=True, quiet_ms=5 * MINUTE_MS)
    assert health.gate_ms == NOW + 30_000 + 5 * MINUTE_MS, "the longer of it and the probe's time"


def test_what_was_under_way_when_it_asked_for_quiet_lifts_none_of_it() -> None:
    health = failed(failed(WELL, POLICY, NOW, probe=False), POLICY, NOW, probe=False, quiet_ms=7_000)
    kept = succeeded(health, NOW + 6_999)
    assert (kept.gate_ms, kept.failures) == (NOW + 7_000, 0)
    assert succeeded(kept, NOW + 7_000) is WELL


def test_after_five_days_open_there_is_no_hope() -> None:
    health = opened()
    day_ms = 24 * 60 * MINUTE_MS
    assert not is_beyond_hope(health, POLICY, NOW + 5 * day_ms - 1)
    assert is_beyond_hope(health, POLICY, NOW + 5 * day_ms)
    assert not is_beyond_hope(WELL, POLICY, NOW + 5 * day_ms)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 10**7), st.integers(0, 10**9)), max_size=60))
def test_whatever_happens_a_receiver_is_tried_again_within_half_an_hour(steps: list[tuple[bool, int, int]]) -> None:
    health, now_ms = WELL, NOW
    for accepted, wait_ms, quiet_ms in steps:
        now_ms = max(now_ms + wait_ms, health.gate_ms)
        if accepted:
            health = succeeded(health, now_ms)
            assert not health.is_open
        else:
            health = failed(health, POLICY, now_ms, probe=health.is_open, quiet_ms=quiet_ms)
        assert health.gate_ms <= now_ms + POLICY.longest_ms


def test_what_nobody_asked_for_is_no_quiet() -> None:
    assert failed(WELL, POLICY, NOW, probe=False).quiet_ms == 0
    assert failed(WELL, POLICY, NOW, probe=False, quiet_ms=0).quiet_ms == 0
    assert failed(WELL, POLICY, NOW, probe=False, quiet_ms=1).quiet_ms == NOW + 1


def test_a_failed_probe_is_one_failure_more() -> None:
    health = opened()
    assert health.failures == POLICY.after
    assert failed(health, POLICY, NOW, probe=True).failures == POLICY.after + 1
    assert failed(health, POLICY, NOW, probe=False) == health


def test_a_receiver_that_asked_for_quiet_gets_it_when_its_breaker_opens_too() -> None:
    health = failed(WELL, POLICY, NOW, probe=False, quiet_ms=10 * MINUTE_MS)
    while not health.is_open:
        health = failed(health, POLICY, NOW, probe=False)
    assert (health.quiet_ms, health.gate_ms) == (NOW + 10 * MINUTE_MS, NOW + 10 * MINUTE_MS)

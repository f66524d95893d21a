from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import accumulate, pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.domain.durations import parse_durations_ms
from bridge.domain.receipts import Receipt
from bridge.domain.schedule import first_poll_ms, next_poll_ms, refused_poll_ms, rides_along
from bridge.domain.status import OPEN_SESSION_AGES_MS, SessionState, track, transition
from bridge.domain.tracking import SessionRequest

SECOND = 1_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR
NOW = 1_795_423_107_123
AGES = parse_durations_ms("10s,30s,1m,2m,5m,10m,20m,40m,80m,3h,6h,12h,24h,48h,72h")
GIVE_UP = 3 * DAY
MIDDLE = 0.5
EDGES = [0.0, MIDDLE, 0.999999]

schedules = st.lists(st.integers(SECOND, 15 * DAY), min_size=1, max_size=15, unique=True).map(sorted)
chances = st.floats(0, 1, exclude_max=True)
ages = st.integers(0, 20 * DAY)


def sent(phone_count: int | None = 1, at_ms: int = NOW) -> SessionState:
    return track(None, SessionRequest("s", phone_count=phone_count), at_ms)


def quiet() -> SessionState:
    return transition(sent(None), [Receipt("1", "", "Success", "", "", 1, 1)], NOW + 10 * SECOND, GIVE_UP).state


def next_age(age_ms: int, chance: float = MIDDLE, ages_ms: Sequence[int] = AGES, give_up_ms: int = 100 * DAY) -> int:
    due_ms = next_poll_ms(sent(), ages_ms, give_up_ms, NOW + age_ms, chance)
    assert due_ms is not None
    return due_ms - NOW


@pytest.mark.parametrize("chance", EDGES)
def test_the_first_poll_is_at_the_first_age_within_a_tenth(chance: float) -> None:
    assert 9 * SECOND <= first_poll_ms(sent(), AGES, NOW, chance) - NOW <= 11 * SECOND


def test_the_first_poll_is_now_where_its_age_has_passed() -> None:
    assert first_poll_ms(sent(), AGES, NOW + HOUR, MIDDLE) == NOW + HOUR


def test_a_settled_session_is_not_polled() -> None:
    done = transition(sent(), [Receipt("1", "", "Success", "", "", 1, 1)], NOW + SECOND, GIVE_UP)
    assert next_poll_ms(done.state, AGES, GIVE_UP, NOW + SECOND, MIDDLE) is None


@pytest.mark.parametrize("chance", EDGES)
@pytest.mark.parametrize(("age_ms", "step_ms"), [*pairwise(AGES)])
def test_each_step_comes_at_its_age_within_a_tenth_rounded_up_by_a_twentieth(
    age_ms: int, step_ms: int, chance: float
) -> None:
    due = next_age(age_ms, chance)
    exact = step_ms * (0.9 + 0.2 * chance)
    assert exact - 1 <= due <= exact + 0.05 * step_ms + 1


@pytest.mark.parametrize("step_ms", AGES[1:])
def test_due_times_fall_on_a_grid_that_sessions_share(step_ms: int) -> None:
    grid = step_ms // 20
    dues = set()
    for place in range(100):
        state = sent(at_ms=NOW + place * 7)
        due_ms = next_poll_ms(state, AGES, 100 * DAY, state.sent_ms + step_ms * 8 // 10, place / 100)
        assert due_ms is not None
        assert due_ms % grid == 0
        dues.add(due_ms)
    assert len(dues) <= 7


@pytest.mark.parametrize(
    ("age_ms", "step_ms"),
    [
        (0, 10 * SECOND),
        (8_999, 10 * SECOND),
        (9_000, 30 * SECOND),  # made a tenth early
        (11 * SECOND, 30 * SECOND),
        (4 * MINUTE, 5 * MINUTE),
        (50 * MINUTE, 80 * MINUTE),  # 30 s to 40 min passed during an outage: one poll stands for them all
        (26 * HOUR, 48 * HOUR),
    ],
)
def test_steps_that_passed_meanwhile_collapse_into_one_poll(age_ms: int, step_ms: int) -> None:
    assert step_ms <= next_age(age_ms) <= step_ms * 1.05


@pytest.mark.parametrize("chance", EDGES)
@pytest.mark.parametrize(
    ("ages_ms", "gap_ms"),
    [((10 * SECOND,), 10 * SECOND), ((MINUTE, 5 * MINUTE), 4 * MINUTE), (AGES, DAY)],
)
def test_after_the_last_step_its_gap_repeats(ages_ms: tuple[int, ...], gap_ms: int, chance: float) -> None:
    """Fault: a gap short of a tenth of the age was spread by a tenth of the age, so half of the time into the past.

    Such a session was polled again and again, as fast as the account's rate allowed, for days.
    """
    for age_ms in (ages_ms[-1], 5 * DAY, 14 * DAY):
        wait = next_age(age_ms, chance, ages_ms) - age_ms
        assert 0.9 * gap_ms <= wait <= 1.15 * gap_ms + 1


def test_steps_closer_than_their_own_spread_do_not_crowd() -> None:
    ages_ms = (HOUR, HOUR + MINUTE, HOUR + 2 * MINUTE, 2 * HOUR)
    assert next_age(HOUR, 0.0, ages_ms) >= 0.9 * 2 * HOUR


@pytest.mark.parametrize("chance", EDGES)
def test_the_deadline_is_a_step_of_its_own(chance: float) -> None:
    for age_ms in (2 * DAY, 70 * HOUR, GIVE_UP - 1):
        assert next_age(age_ms, chance, give_up_ms=GIVE_UP) <= GIVE_UP
    assert next_age(MINUTE, chance, give_up_ms=90 * SECOND) == 90 * SECOND


@pytest.mark.parametrize("chance", EDGES)
def test_an_open_session_whose_phones_are_final_is_asked_at_four_late_ages(chance: float) -> None:
    state = quiet()
    assert OPEN_SESSION_AGES_MS == (20 * MINUTE, 3 * HOUR, 12 * HOUR, 24 * HOUR)
    now_ms = state.polled_ms
    for step_ms in OPEN_SESSION_AGES_MS:
        due_ms = next_poll_ms(state, AGES, GIVE_UP, now_ms, chance)
        assert due_ms is not None
        assert 0.9 * step_ms - 1 <= due_ms - NOW <= 1.15 * step_ms + 1
        now_ms = due_ms
        state = transition(state, [], now_ms, GIVE_UP).state
    assert state.settled_ms


def test_a_due_time_that_rounds_to_now_is_still_ahead() -> None:
    # 90 % of 1,006 ms is 905.4: not made at an age of 905, yet due at it.
    state = sent(at_ms=NOW // 50 * 50 - 905)
    assert next_poll_ms(state, (1_006,), GIVE_UP, state.sent_ms + 905, 0.0) == state.sent_ms + 906


@given(schedules, ages, st.integers(SECOND, 15 * DAY), chances, st.booleans())
def test_no_due_time_is_in_the_past_or_beyond_a_deadline_that_is_still_ahead(
    ages_ms: list[int], age_ms: int, give_up_ms: int, chance: float, is_open: bool
) -> None:
    state = quiet() if is_open else sent()
    now_ms = NOW + age_ms
    assert now_ms <= first_poll_ms(state, ages_ms, now_ms, chance)
    due_ms = next_poll_ms(state, ages_ms, give_up_ms, now_ms, chance)
    assert due_ms is not None
    assert due_ms > now_ms
    if age_ms < give_up_ms:
        assert due_ms <= NOW + give_up_ms


widening = st.lists(st.sampled_from([1.3, 2.0, 5.0]), max_size=12).map(
    lambda ratios: [round(age) for age in accumulate([10_000.0, *ratios], lambda age, ratio: age * ratio)]
)


@given(widening, chances)
def test_a_life_has_no_more_polls_than_steps_gaps_and_the_deadline(ages_ms: list[int], chance: float) -> None:
    gap_ms = ages_ms[-1] - ages_ms[-2] if len(ages_ms) > 1 else ages_ms[-1]
    give_up_ms = ages_ms[-1] + 20 * gap_ms
    polls = polls_of(sent(), ages_ms, give_up_ms, final_at_s=None, chance=random.Random(chance))
    # The last listed step may come a tenth early, and each repetition too.
    early = ages_ms[-1] / (10 * 0.9 * gap_ms)
    assert polls <= len(ages_ms) + 20 / 0.9 + early + 2


def polls_of(
    state: SessionState, ages_ms: Sequence[int], give_up_ms: int, final_at_s: float | None, chance: random.Random
) -> int:
    """How often a one-phone session is polled until it settles; its phone's receipt exists from ``final_at_s`` on."""
    now_ms: int | None = first_poll_ms(state, ages_ms, state.sent_ms, chance.random())
    polls = 0
    while now_ms is not None:
        polls += 1
        is_there = final_at_s is not None and now_ms >= state.sent_ms + final_at_s * SECOND
        receipts = [Receipt("18500000000", "", "Success", "", "", 1, 1)] if is_there else []
        state = transition(state, receipts, now_ms, give_up_ms).state
        now_ms = next_poll_ms(state, ages_ms, give_up_ms, now_ms, chance.random())
    assert state.settled_ms
    return polls


def test_a_session_that_never_gets_a_receipt_is_polled_at_most_sixteen_times() -> None:
    chance = random.Random(1)
    counts = {polls_of(sent(), AGES, GIVE_UP, None, chance) for _ in range(200)}
    # Fifteen steps; the last, at 72 h, may come early, and then the deadline at 72 h is one more.
    assert counts == {15, 16}


MIX = [  # share, no final word before, final word by (seconds)
    (0.60, 0, 10),
    (0.25, 10, 30),
    (0.08, 30, 60),
    (0.03, 60, 300),
    (0.02, 300, 1200),
    (0.01, 1200, 6 * 3600),
]


@pytest.mark.parametrize(("phone_count", "most"), [(1, 2.0), (None, 7.0)])
def test_a_usual_mix_of_sessions_needs_few_polls(phone_count: int | None, most: float) -> None:
    chance = random.Random(2)
    polls = []
    for share, after_s, by_s in [*MIX, (0.01, None, None)]:
        for _ in range(round(share * 3000)):
            at_s = None if after_s is None or by_s is None else chance.uniform(after_s, by_s)
            polls.append(polls_of(sent(phone_count), AGES, GIVE_UP, at_s, chance))
    assert len(polls) == 3000
    assert sum(polls) / len(polls) <= most


def polled(age_ms: int, state: SessionState | None = None) -> SessionState:
    return transition(state or sent(), [], NOW + age_ms, 100 * DAY).state


def test_a_session_rides_along_when_asking_now_counts_as_the_poll_that_is_due_soon() -> None:
    state = polled(20 * MINUTE)
    due_ms = NOW + 40 * MINUTE
    assert rides_along(state, AGES, due_ms, NOW + 39 * MINUTE)
    assert not rides_along(state, AGES, due_ms, NOW + 37 * MINUTE), "more than 5 % of its age ahead"
    early = NOW + 36 * MINUTE + SECOND
    assert not rides_along(state, AGES, early + 2 * MINUTE, early - 2 * SECOND), "it would be asked again at 40 min"
    assert rides_along(state, AGES, early + MINUTE, early)


@given(st.integers(0, 60 * HOUR), st.integers(0, HOUR), st.floats(0, 1, exclude_max=True))
def test_riding_along_saves_the_poll_that_was_due(polled_age: int, ahead: int, chance: float) -> None:
    """After it the next poll is the one after that, not the same once more."""
    state = polled(polled_age)
    due_ms = next_poll_ms(state, AGES, 100 * DAY, NOW + polled_age, chance)
    assert due_ms is not None
    now_ms = max(NOW + polled_age + 1, due_ms - ahead)
    if rides_along(state, AGES, due_ms, now_ms):
        after = polled(now_ms - NOW, state)
        step_after = next((step for step in AGES if step * 0.9 > now_ms - NOW), None)
        next_ms = next_poll_ms(after, AGES, 100 * DAY, now_ms, chance)
        assert next_ms is not None
        assert step_after is None or next_ms - NOW >= step_after * 0.9
        assert step_after is None or next_ms > due_ms


def test_one_in_quarantine_spoils_no_call_by_riding_along() -> None:
    state = msgspec.structs.replace(polled(20 * MINUTE), refused="RetCode 18001")
    assert not rides_along(state, AGES, NOW + 40 * MINUTE, NOW + 39 * MINUTE)


@pytest.mark.parametrize(("age", "wait"), [(MINUTE, HOUR), (10 * HOUR, 5 * HOUR), (30 * DAY, DAY)])
def test_a_refused_session_is_asked_for_at_a_slow_pace(age: int, wait: int) -> None:
    for chance in EDGES:
        pause = refused_poll_ms(sent(), NOW + age, chance) - NOW - age
        assert 0.9 * wait <= pause <= 1.1 * wait


@pytest.mark.parametrize(
    ("polled_at", "asked_at", "due_at", "rides"),
    [
        (20 * MINUTE, 40 * MINUTE, 42 * MINUTE, True),  # 5 % of its age ahead, and no more
        (20 * MINUTE, 40 * MINUTE, 42 * MINUTE + 1, False),
        (20 * MINUTE, 36 * MINUTE, 37 * MINUTE, True),  # from nine tenths of an age on a poll is the one at that age
        (20 * MINUTE, 36 * MINUTE - 1, 37 * MINUTE, False),
        (36 * MINUTE, 38 * MINUTE, 39 * MINUTE, False),  # so the one at 40 min was made
        (36 * MINUTE - 1, 38 * MINUTE, 39 * MINUTE, True),
        (37 * MINUTE, 39 * MINUTE, 40 * MINUTE, False),
        (20 * MINUTE, 24 * MINUTE, 25 * MINUTE, False),  # between two ages
    ],
)
def test_a_session_rides_along_up_to_the_edges(polled_at: int, asked_at: int, due_at: int, rides: bool) -> None:
    assert rides_along(polled(polled_at), AGES, NOW + due_at, NOW + asked_at) is rides


def test_one_that_was_never_polled_rides_along_to_its_first_age() -> None:
    assert rides_along(sent(), AGES, NOW + 9_900, NOW + 9_500)
    assert not rides_along(sent(), AGES, NOW + 8_999, NOW + 8_800)


def test_one_whose_phones_are_all_final_rides_along_at_its_own_late_ages() -> None:
    final = Receipt("1", "", "Success", "", "", NOW // 1_000, 1)
    state = transition(sent(None), [final], NOW + 20 * MINUTE, GIVE_UP).state
    assert not rides_along(state, AGES, NOW + 40 * MINUTE, NOW + 39 * MINUTE)
    assert rides_along(state, AGES, NOW + 3 * HOUR, NOW + 175 * MINUTE)

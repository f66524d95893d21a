from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.domain.durations import parse_durations_ms
from bridge.domain.outcome import (
    LONGEST_WAIT_MS,
    Answer,
    Failure,
    Outcome,
    Verdict,
    Wish,
    judge,
    of_batch,
    retry_after_ms,
)

NOW = 1_795_423_107_000
SCHEDULE = parse_durations_ms("5s,30s,2m,5m,30m,2h,5h,10h,14h,20h,24h")
MIDDLE = 0.5


def answered(status: int) -> Answer:
    return Answer(status, None, "", b"", 12)


def failed(failure: Failure, error: str = "", status: int = 0) -> Answer:
    return Answer(status, failure, error, b"", 12)


@pytest.mark.parametrize("status", [200, 201, 202, 204, 226, 299])
def test_any_2xx_accepts(status: int) -> None:
    assert judge(answered(status), 1, SCHEDULE, NOW, MIDDLE) == Outcome(Verdict.ACCEPTED)
    assert judge(answered(status), 99, SCHEDULE, NOW, MIDDLE) == Outcome(Verdict.ACCEPTED)


@pytest.mark.parametrize(
    "status", [100, 199, 300, 301, 302, 307, 308, 400, 401, 404, 408, 411, 413, 429, 499, 500, 502, 503, 504, 599, 999]
)
def test_any_other_status_is_retried_and_named(status: int) -> None:
    outcome = judge(answered(status), 1, SCHEDULE, NOW, MIDDLE)
    assert outcome == Outcome(Verdict.RETRY, NOW + 5_000, f"HTTP {status}")


@pytest.mark.parametrize("failure", Failure)
def test_an_answer_that_could_not_be_read_is_retried_whatever_its_status(failure: Failure) -> None:
    for status in (0, 200, 204, 500):
        outcome = judge(failed(failure, "what went wrong", status), 1, SCHEDULE, NOW, MIDDLE)
        assert outcome == Outcome(Verdict.RETRY, NOW + 5_000, "what went wrong")


@pytest.mark.parametrize("failure", Failure)
def test_a_failure_without_words_is_named_by_its_kind(failure: Failure) -> None:
    assert judge(failed(failure), 1, SCHEDULE, NOW, MIDDLE).error == failure.value


# attempt → wait before the next one, and since the first: 5 + 30 s, + 2 min, …
LADDER = [
    (1, "5 s", 5, 5),
    (2, "30 s", 30, 35),
    (3, "2 min", 120, 155),
    (4, "5 min", 300, 455),
    (5, "30 min", 1_800, 2_255),
    (6, "2 h", 7_200, 9_455),
    (7, "5 h", 18_000, 27_455),
    (8, "10 h", 36_000, 63_455),
    (9, "14 h", 50_400, 113_855),
    (10, "20 h", 72_000, 185_855),
    (11, "24 h", 86_400, 272_255),  # 3 d 3 h 37 min 35 s after the first
]


def test_the_ladder_has_its_rungs() -> None:
    since_s = 0
    for attempt, name, wait_s, total_s in LADDER:
        outcome = judge(answered(500), attempt, SCHEDULE, NOW, MIDDLE)
        assert outcome.verdict is Verdict.RETRY, name
        assert outcome.due_ms == NOW + wait_s * 1000, name
        since_s += wait_s
        assert since_s == total_s
    assert len(LADDER) == len(SCHEDULE)


def test_the_twelfth_failure_is_the_last() -> None:
    assert judge(answered(500), 12, SCHEDULE, NOW, MIDDLE) == Outcome(Verdict.DEAD, 0, "HTTP 500")
    assert judge(failed(Failure.TIMEOUT, "slow"), 13, SCHEDULE, NOW, MIDDLE) == Outcome(Verdict.DEAD, 0, "slow")


def test_without_a_schedule_the_first_failure_is_the_last() -> None:
    assert judge(answered(500), 1, (), NOW, MIDDLE).verdict is Verdict.DEAD


@pytest.mark.parametrize(("chance", "part"), [(0.0, 0.8), (0.25, 0.9), (0.5, 1.0), (0.75, 1.1), (0.999999999, 1.2)])
@pytest.mark.parametrize("attempt", [1, 6, 11])
def test_a_wait_is_spread_by_a_fifth(attempt: int, chance: float, part: float) -> None:
    outcome = judge(answered(500), attempt, SCHEDULE, NOW, chance)
    assert outcome.due_ms - NOW == pytest.approx(SCHEDULE[attempt - 1] * part, abs=1)


@given(
    st.lists(st.integers(0, 10**9), max_size=12).map(tuple),
    st.integers(1, 20),
    st.integers(0, 999) | st.sampled_from(list(Failure)),
    st.floats(0, 1, exclude_max=True),
)
def test_every_answer_has_one_verdict_and_no_due_time_is_in_the_past(
    schedule_ms: tuple[int, ...], attempt: int, what: int | Failure, chance: float
) -> None:
    answer = failed(what) if isinstance(what, Failure) else answered(what)
    outcome = judge(answer, attempt, schedule_ms, NOW, chance)
    if not isinstance(what, Failure) and what // 100 == 2:
        assert outcome == Outcome(Verdict.ACCEPTED)
        return
    assert outcome.error
    if what == 410:
        assert (outcome.verdict, outcome.due_ms) == (Verdict.DISABLE, 0)
        return
    if attempt <= len(schedule_ms):
        assert outcome.verdict is Verdict.RETRY
        assert NOW < outcome.due_ms <= NOW + 1 + 1.2 * schedule_ms[attempt - 1]
    else:
        assert (outcome.verdict, outcome.due_ms) == (Verdict.DEAD, 0)


HOUR_MS = 3_600_000
ASKED: dict[str, tuple[int, Wish, str, Outcome]] = {
    "gone": (410, Wish.NONE, "", Outcome(Verdict.DISABLE, error="HTTP 410")),
    "gone, whatever else": (410, Wish.ABORT, "5", Outcome(Verdict.DISABLE, error="HTTP 410")),
    "disable": (400, Wish.DISABLE, "", Outcome(Verdict.DISABLE, error="asked for by the receiver")),
    "abort": (422, Wish.ABORT, "", Outcome(Verdict.DEAD, error="aborted")),
    "a success never disables": (200, Wish.DISABLE, "", Outcome(Verdict.ACCEPTED)),
    "a success is no abort": (200, Wish.ABORT, "", Outcome(Verdict.ACCEPTED)),
    "wait longer": (429, Wish.NONE, "3600", Outcome(Verdict.RETRY, NOW + HOUR_MS, "HTTP 429", HOUR_MS)),
    "wait longer, as a date": (
        503,
        Wish.NONE,
        "Mon, 23 Nov 2026 09:38:27 GMT",
        Outcome(Verdict.RETRY, NOW + HOUR_MS, "HTTP 503", HOUR_MS),
    ),
    "no longer than a day": (
        503,
        Wish.NONE,
        "9" * 12,
        Outcome(Verdict.RETRY, NOW + 24 * HOUR_MS, "HTTP 503", 24 * HOUR_MS),
    ),
    "the schedule's step is longer": (429, Wish.NONE, "1", Outcome(Verdict.RETRY, NOW + 5_000, "HTTP 429", 1_000)),
    "only of 429 and 503": (500, Wish.NONE, "3600", Outcome(Verdict.RETRY, NOW + 5_000, "HTTP 500")),
    "a date that is past": (
        503,
        Wish.NONE,
        "Sun, 06 Nov 1994 08:49:37 GMT",
        Outcome(Verdict.RETRY, NOW + 5_000, "HTTP 503"),
    ),
}


@pytest.mark.parametrize(("status", "wish", "retry_after", "outcome"), ASKED.values(), ids=ASKED.keys())
def test_what_a_receiver_asks_for_is_heeded(status: int, wish: Wish, retry_after: str, outcome: Outcome) -> None:
    answer = Answer(status, None, "", b"", 12, wish, retry_after)
    assert judge(answer, 1, SCHEDULE, NOW, MIDDLE) == outcome


def test_an_answer_that_broke_off_asks_for_nothing() -> None:
    answer = Answer(410, Failure.RESET, "broken", b"", 12, Wish.DISABLE)
    assert judge(answer, 1, SCHEDULE, NOW, MIDDLE).verdict is Verdict.RETRY


@pytest.mark.parametrize(
    "date", ["Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"]
)
def test_all_three_forms_of_an_http_date_are_read(date: str) -> None:
    assert retry_after_ms(date, 784_111_777_000 - 5_000) == 5_000


@given(
    st.text(max_size=64) | st.from_regex(r"[A-Z][a-z]{2}, \d+ [A-Z][a-z]{2} \d+ \d+:\d+:\d+ [A-Z]{3}"), st.integers()
)
def test_no_retry_after_raises_or_asks_for_more_than_a_day(header: str, now_ms: int) -> None:
    assert 0 <= retry_after_ms(header, now_ms) <= LONGEST_WAIT_MS


@pytest.mark.parametrize(
    ("header", "wait_ms"),
    [
        ("0", 0),
        ("000", 0),
        ("00000000000000000005", 5_000),  # digits are digits (RFC 9110, 10.2.3), however many stand before them
        ("86399", 86_399_000),
        ("86400", LONGEST_WAIT_MS),
        ("86401", LONGEST_WAIT_MS),
        ("1000000000", LONGEST_WAIT_MS),
        ("9" * 5_000, LONGEST_WAIT_MS),
        ("Mon, 01 Jan 99999999999 00:00:00 GMT", 0),
    ],
)
def test_seconds_of_any_length_are_read_up_to_a_day(header: str, wait_ms: int) -> None:
    """Fault: eleven digits were a day, though they were zeros but for the last."""
    assert retry_after_ms(header, NOW) == wait_ms


def test_the_last_failure_slows_the_subscription_as_it_was_asked_to() -> None:
    answer = Answer(429, None, "", b"", 12, retry_after="120")
    assert judge(answer, 12, SCHEDULE, NOW, MIDDLE) == Outcome(Verdict.DEAD, 0, "HTTP 429", 120_000)


def test_the_wish_to_abort_is_none_of_a_batch() -> None:
    asked = Answer(400, None, "", b"", 12, Wish.ABORT)
    assert of_batch(asked) == msgspec.structs.replace(asked, wish=Wish.NONE)

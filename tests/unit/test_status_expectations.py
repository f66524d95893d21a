"""What a sender expects of a session, what completes it, and what tracking it again does."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from bridge.domain.status import LONGEST_AGE_MS, is_complete, is_quiet, track
from bridge.domain.tracking import SessionRequest
from tests.unit.lives import (
    DAY,
    GIVE_UP,
    HOUR,
    NOW,
    P_BARE,
    P,
    Q,
    after,
    answer,
    only,
    receipt,
    retrack,
    steps,
    tracked,
)

# --- listed phones


def test_a_listed_session_settles_when_every_listed_phone_is_final() -> None:
    state = after(tracked(P_BARE, Q), receipt(P), receipt(Q, "Unknow"))
    assert not state.settled_ms
    assert state.awaiting == ()
    assert after(state, receipt(Q)).settled_ms


def test_a_phone_that_was_not_listed_settles_nothing_and_holds_up_nothing() -> None:
    state = after(tracked(P), receipt(Q))
    assert not state.settled_ms
    assert state.awaiting == ((P, None),)
    state = after(tracked(P), receipt(Q, "Unknow"))
    assert after(state, receipt(P)).settled_ms


def test_expectations_are_a_multiset() -> None:
    state = after(tracked(P, P), receipt(user_id="a"))
    assert state.awaiting == ((P, None),)
    assert not state.settled_ms
    assert after(state, receipt(user_id="b")).settled_ms


def test_a_user_id_meets_its_own_expectation_first_then_one_without() -> None:
    state = answer(tracked(P, (P, "a")), receipt(user_id="a")).state
    assert state.awaiting == ((P, None),)
    state = answer(tracked((P, "a"), P), receipt(user_id="b")).state
    assert state.awaiting == ((P, "a"),)


def test_the_expectation_of_one_user_id_is_not_taken_by_another_of_the_same_answer() -> None:
    state = answer(tracked((P, "b")), receipt(user_id="a", time=1), receipt(result="Unknow", user_id="b")).state
    assert [(phone.user_id, phone.expected) for phone in state.phones] == [("a", False), ("b", True)]
    assert not state.settled_ms


@pytest.mark.parametrize("echoed", ["", "1213-shortened-by-the-provi"])
def test_an_expectation_is_met_even_if_the_user_id_comes_back_otherwise(echoed: str) -> None:
    done = answer(tracked((P, "1213-shortened-by-the-provider")), receipt(user_id=echoed))
    assert done.state.settled_ms
    assert done.state.awaiting == ()


def test_a_thousand_listed_phones_are_matched_at_once() -> None:
    phones = [f"1850000{place:04d}" for place in range(1000)]
    done = answer(tracked(*phones), *(receipt(f"(86){phone}") for phone in phones))
    assert len(done.changes) == 1000
    assert done.state.settled_ms


# --- without an expectation


def test_an_open_session_is_quiet_while_all_it_heard_of_are_final() -> None:
    state = tracked()
    assert not is_quiet(state)
    state = after(state, receipt(P))
    assert is_quiet(state)
    state = after(state, receipt(Q, "Unknow"))
    assert not is_quiet(state)
    assert is_quiet(after(state, receipt(Q)))
    assert not is_quiet(after(tracked(phone_count=1), receipt(P)))


def test_an_open_session_settles_at_its_last_look_and_not_before() -> None:
    state = after(tracked(), receipt(P))
    assert not answer(state, receipt(P), after_ms=21 * HOUR).state.settled_ms
    assert answer(state, receipt(P), after_ms=22 * HOUR).state.settled_ms == NOW + 22 * HOUR


def test_the_last_look_counts_though_it_be_as_early_as_polls_are_spread() -> None:
    state = after(tracked(), receipt(P))
    earliest_ms = DAY - DAY // 10
    assert answer(state, receipt(P), after_ms=earliest_ms).state.settled_ms
    assert not answer(state, receipt(P), after_ms=earliest_ms - 1).state.settled_ms


def test_an_open_session_with_an_unknown_phone_waits_for_the_deadline() -> None:
    state = after(tracked(), receipt(P), receipt(Q, "Unknow"))
    assert not answer(state, after_ms=2 * DAY).state.settled_ms
    assert [change.phone for change in answer(state, after_ms=GIVE_UP).changes] == [Q]


def test_a_new_phone_reopens_a_settled_open_session() -> None:
    state = answer(tracked(), receipt(P), after_ms=DAY).state
    assert state.settled_ms
    assert not answer(state, receipt(P), receipt(Q, "Unknow"), after_ms=25 * HOUR).state.settled_ms


# --- tracking


def test_sent_at_is_the_time_of_tracking_where_none_was_given() -> None:
    assert tracked().sent_ms == NOW


@pytest.mark.parametrize(
    ("given", "kept"),
    [(NOW - HOUR, NOW - HOUR), (NOW + HOUR, NOW), (NOW - 20 * DAY, NOW - LONGEST_AGE_MS)],
)
def test_sent_at_is_clamped_to_the_last_fifteen_days(given: int, kept: int) -> None:
    assert LONGEST_AGE_MS == 15 * DAY
    assert tracked(sent_at_ms=given).sent_ms == kept


def test_the_earlier_sent_at_counts() -> None:
    state = tracked(sent_at_ms=NOW - HOUR)
    assert retrack(state).sent_ms == NOW - HOUR
    assert retrack(state, sent_at_ms=NOW).sent_ms == NOW - HOUR
    assert retrack(state, sent_at_ms=NOW - 2 * HOUR, now_ms=NOW + HOUR).sent_ms == NOW - 2 * HOUR
    assert retrack(state, sent_at_ms=NOW - 2 * HOUR).tracked_ms == NOW


def test_metadata_of_the_later_call_counts_where_given() -> None:
    state = tracked(metadata_json='{"a":1}')
    assert retrack(state).metadata == '{"a":1}'
    assert retrack(state, metadata_json='{"b":2}').metadata == '{"b":2}'


def test_the_subscription_of_a_sessions_own_url_is_the_later_calls_where_given() -> None:
    assert tracked().callback == ""
    state = track(None, SessionRequest("s"), NOW, "url_a")
    assert state.callback == "url_a"
    assert retrack(state) == state
    assert track(state, SessionRequest("s", phone_count=2), NOW, "url_b").callback == "url_b"
    assert track(state, SessionRequest("s"), NOW, "url_b") == msgspec.structs.replace(state, callback="url_b")


def test_the_expectation_of_the_later_call_counts_where_given() -> None:
    state = after(tracked(P, Q), receipt(P))
    assert retrack(state) == state
    counted = retrack(state, phone_count=5)
    assert (counted.expected_count, counted.awaiting) == (5, ())
    assert not any(phone.expected for phone in counted.phones)
    listed = retrack(counted, P_BARE)
    assert (listed.expected_count, listed.awaiting, listed.phones[0].expected) == (1, (), True)
    assert is_complete(listed, NOW)


def test_a_listing_is_matched_with_what_was_heard_before() -> None:
    state = after(tracked(), receipt(user_id="a"), receipt(user_id="b"))
    state = retrack(state, (P, "b"), (P, "c"), (Q, "a"))
    assert [(phone.user_id, phone.expected) for phone in state.phones] == [("a", True), ("b", True)]
    assert state.awaiting == ((Q, "a"),)


def test_tracking_again_keeps_statuses_and_sequences() -> None:
    state = after(tracked(), receipt(result="Unknow"))
    state = retrack(state, P, now_ms=NOW + HOUR)
    assert only(answer(state, receipt())) == ("unknown", "delivered")
    assert answer(state, receipt()).changes[0].sequence == 2


SETTLED = {
    "counted": answer(tracked(phone_count=1), receipt(P)).state,
    "listed": answer(tracked(P), receipt(P)).state,
    "open": answer(tracked(), receipt(P), after_ms=DAY).state,
    "given up, listed": answer(tracked(P), after_ms=GIVE_UP).state,
    "given up, listed twice": answer(tracked(P, P), after_ms=GIVE_UP).state,
    "given up, counted": answer(tracked(phone_count=3), receipt(P), after_ms=GIVE_UP).state,
    "given up, open and empty": answer(tracked(), after_ms=GIVE_UP).state,
}
SAME_AGAIN: dict[str, dict[str, Any]] = {
    "counted": {"phone_count": 1},
    "listed": {"phones": ((P, None),)},
    "open": {},
    "given up, listed": {"phones": ((P, None),)},
    "given up, listed twice": {"phones": ((P, None), (P, None))},
    "given up, counted": {"phone_count": 3},
    "given up, open and empty": {},
}


@pytest.mark.parametrize("kind", SETTLED)
def test_tracking_a_settled_session_again_does_not_reopen_it(kind: str) -> None:
    state = SETTLED[kind]
    assert state.settled_ms
    later = NOW + 4 * DAY
    assert retrack(state, now_ms=later).settled_ms == state.settled_ms
    assert retrack(state, now_ms=later, metadata_json="{}").settled_ms == state.settled_ms
    assert track(state, SessionRequest("s", **SAME_AGAIN[kind]), later).settled_ms == state.settled_ms


@pytest.mark.parametrize("kind", SETTLED)
def test_new_phones_reopen_a_settled_session(kind: str) -> None:
    state = SETTLED[kind]
    assert retrack(state, P, Q).settled_ms == 0
    assert retrack(state, phone_count=4).settled_ms == 0


def test_a_count_that_was_met_already_reopens_nothing() -> None:
    assert retrack(SETTLED["open"], phone_count=1).settled_ms
    assert not retrack(SETTLED["open"], phone_count=2).settled_ms


def test_a_count_reopens_a_session_that_settled_without_a_phone() -> None:
    assert retrack(SETTLED["given up, open and empty"], phone_count=1).settled_ms == 0


def test_another_phone_reopens_though_no_more_are_listed_than_were_final() -> None:
    assert retrack(SETTLED["open"], Q).settled_ms == 0
    state = answer(tracked(P), receipt(P), receipt(Q, "Unknow")).state
    assert retrack(state, Q).settled_ms == 0


def test_listing_a_phone_that_was_left_unknown_reopens() -> None:
    state = answer(tracked(P), receipt(P), receipt(Q, "Unknow")).state
    assert state.settled_ms
    assert not retrack(state, P, Q).settled_ms
    assert not retrack(state, phone_count=2).settled_ms
    assert retrack(state, P).settled_ms


def test_a_reopened_session_settles_once_the_new_phone_is_final() -> None:
    state = retrack(SETTLED["listed"], P, Q)
    done = answer(state, receipt(P), receipt(Q))
    assert steps(done) == [(Q, "", "tracked", "delivered", 1)]
    assert done.state.settled_ms

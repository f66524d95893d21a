from __future__ import annotations

from typing import Any

import pytest

from bridge.domain.receipts import Receipt, Status
from bridge.domain.status import (
    LONGEST_AGE_MS,
    PhoneState,
    SessionState,
    Transition,
    is_complete,
    is_quiet,
    track,
    transition,
)
from bridge.domain.tracking import SessionRequest

SECOND = 1_000
HOUR = 3600 * SECOND
DAY = 24 * HOUR
NOW = 1_795_423_107_000
GIVE_UP = 3 * DAY
P = "(86)18500000000"
P_BARE = "18500000000"
Q = "(86)18511111111"


def receipt(phone: str = P, result: str = "Success", time: int = 100, user_id: str = "", code: str = "") -> Receipt:
    return Receipt(phone, user_id, result, code, "", time, 1)


def tracked(*phones: str | tuple[str, str], now_ms: int = NOW, **fields: Any) -> SessionState:
    if phones:
        fields["phones"] = tuple(phone if isinstance(phone, tuple) else (phone, None) for phone in phones)
    return track(None, SessionRequest("s", **fields), now_ms)


def answer(state: SessionState, *receipts: Receipt, after_ms: int = 10 * SECOND) -> Transition:
    return transition(state, receipts, state.sent_ms + after_ms, GIVE_UP)


def after(state: SessionState, *answers: Receipt) -> SessionState:
    """The state once each receipt came in an answer of its own."""
    for one in answers:
        state = answer(state, one).state
    return state


def steps(done: Transition) -> list[tuple[str, str, str, str, int]]:
    return [
        (change.phone, change.user_id, change.previous.text, change.status.text, change.sequence)
        for change in done.changes
    ]


def only(done: Transition) -> tuple[str, str]:
    (change,) = done.changes
    return change.previous.text, change.status.text


def retrack(state: SessionState, *phones: str | tuple[str, str], now_ms: int = NOW, **fields: Any) -> SessionState:
    if phones:
        fields["phones"] = tuple(phone if isinstance(phone, tuple) else (phone, None) for phone in phones)
    return track(state, SessionRequest("s", **fields), now_ms)


# --- what a receipt does


@pytest.mark.parametrize(
    ("result", "code", "status"),
    [
        ("Success", "DELIVRD", "delivered"),
        ("Fail", "UNDELIV", "undelivered"),
        ("Fail", "EXPIRED:001", "expired"),
        ("SubmitFail", "", "failed"),
        ("Unknow", "", "unknown"),
        ("a result nobody documented", "", "unknown"),
    ],
)
def test_a_first_receipt_leads_from_tracked_to_its_status(result: str, code: str, status: str) -> None:
    done = answer(tracked(phone_count=1), receipt(result=result, code=code))
    assert steps(done) == [(P, "", "tracked", status, 1)]
    assert (done.changes[0].corrected, done.changes[0].late) == (False, False)


def test_a_change_carries_the_receipt_as_the_provider_gave_it() -> None:
    given = Receipt(P, "1213", " 发送失败", "EXPIRED：1", "用户关机", 7, 2)
    (change,) = answer(tracked(phone_count=1), given).changes
    assert change.receipt is given


@pytest.mark.parametrize("result", ["Success", "Fail", "SubmitFail"])
def test_unknown_leads_to_any_final(result: str) -> None:
    state = after(tracked(phone_count=1), receipt(result="Unknow"))
    done = answer(state, receipt(result=result))
    assert only(done)[0] == "unknown"
    assert done.changes[0].sequence == 2
    assert done.state.settled_ms


def test_tracking_and_an_empty_answer_change_nothing() -> None:
    done = answer(tracked(P))
    assert done == Transition(done.state, ())
    assert done.state.polled_ms == NOW + 10 * SECOND
    assert not done.state.settled_ms


@pytest.mark.parametrize(
    ("first", "again"),
    [
        (receipt(code="DELIVRD"), Receipt(P, "", "发送成功", "0", "another text", 999, 3)),
        (receipt(result="Unknow"), receipt(result="never seen", code="X", time=999)),
        (receipt(result="Fail", code="UNDELIV"), receipt(result="发送失败", code="REJECTD", time=999)),
    ],
)
def test_the_same_status_with_other_words_is_no_change(first: Receipt, again: Receipt) -> None:
    state = after(tracked(phone_count=2), first)
    done = answer(state, again)
    assert done.changes == ()
    assert done.state.phones == state.phones


def test_another_spelling_of_a_phone_is_the_same_phone() -> None:
    state = after(tracked(phone_count=1), receipt(P, "Unknow"))
    done = answer(state, receipt(P_BARE))
    assert steps(done) == [(P_BARE, "", "unknown", "delivered", 2)]
    assert answer(done.state, receipt("(0086)18500000000")).changes == ()


# --- finals, corrections, conflicts


@pytest.mark.parametrize("result", ["Unknow", "never seen"])
@pytest.mark.parametrize("final", ["Success", "Fail", "SubmitFail"])
def test_a_final_status_never_goes_back_but_is_counted(final: str, result: str) -> None:
    state = after(tracked(phone_count=1), receipt(result=final))
    done = answer(state, receipt(result=result, time=999))
    assert (done.changes, done.regressed, done.conflicts) == ((), 1, 0)
    assert done.state.phones == state.phones


def test_a_final_phone_that_an_answer_leaves_out_stays_final() -> None:
    state = after(tracked(phone_count=1), receipt())
    done = answer(state)
    assert (done.changes, done.state.phones) == ((), state.phones)


@pytest.mark.parametrize(
    ("first", "then", "status"),
    [("Success", "Fail", "undelivered"), ("Fail", "Success", "delivered"), ("SubmitFail", "Success", "delivered")],
)
def test_another_final_with_a_later_time_is_a_correction(first: str, then: str, status: str) -> None:
    state = after(tracked(phone_count=1), receipt(result=first, time=100))
    done = answer(state, receipt(result=then, time=101))
    (change,) = done.changes
    assert (change.status.text, change.corrected, change.late, change.sequence) == (status, True, False, 2)
    assert done.state.phones[0].receipt_time == 101


def test_undelivered_to_expired_is_a_correction_too() -> None:
    state = after(tracked(phone_count=1), receipt(result="Fail", time=100))
    assert answer(state, receipt(result="Fail", code="EXPIRED", time=101)).changes[0].corrected


@pytest.mark.parametrize("time", [100, 99, 0])
def test_another_final_without_a_later_time_is_a_conflict(time: int) -> None:
    state = after(tracked(phone_count=1), receipt(result="Success", time=100))
    done = answer(state, receipt(result="Fail", time=time))
    assert (done.changes, done.conflicts, done.regressed) == ((), 1, 0)
    assert done.state.phones == state.phones


def test_a_correction_can_itself_be_corrected() -> None:
    state = after(tracked(phone_count=1), receipt(time=1), receipt(result="Fail", time=2))
    (change,) = answer(state, receipt(time=3)).changes
    assert (change.previous.text, change.status.text, change.sequence, change.corrected) == (
        "undelivered",
        "delivered",
        3,
        True,
    )


def test_a_correction_leaves_a_settled_session_settled_when_it_did() -> None:
    state = after(tracked(phone_count=1), receipt(time=1))
    done = answer(state, receipt(result="Fail", time=2), after_ms=HOUR)
    assert done.state.settled_ms == state.settled_ms


# --- several words on one phone in one answer


def test_of_two_words_in_one_answer_the_later_counts() -> None:
    words = [receipt(time=5), receipt(result="Fail", time=6)]
    for order in (words, words[::-1]):
        assert steps(answer(tracked(phone_count=1), *order)) == [(P, "", "tracked", "undelivered", 1)]


def test_a_final_word_counts_before_a_later_unknown_one() -> None:
    words = [receipt(result="Unknow", time=9), receipt(P_BARE, time=5)]
    for order in (words, words[::-1]):
        done = answer(tracked(phone_count=1), *order)
        assert only(done) == ("tracked", "delivered")
        assert done.regressed == 0


def test_an_older_word_beside_the_known_one_is_no_correction() -> None:
    """Fault: words equal to what is known were dropped before the latest was chosen.

    An answer that held both a phone's newest final (known) and an older, other one flapped between them for ever.
    """
    state = after(tracked(phone_count=1), receipt(time=10))
    words = [receipt(P, time=20), receipt(P_BARE, "Fail", time=15)]
    for order in (words, words[::-1]):
        assert answer(state, *order).changes == ()


def test_receipts_that_differ_only_in_what_adorns_them_give_one_change_in_any_order() -> None:
    words = [
        Receipt(P, "", result, "", description, 5, segments)
        for result in ("Success", "发送成功")
        for description in ("a", "b")
        for segments in (1, 2)
    ]
    assert answer(tracked(phone_count=1), *words).changes == answer(tracked(phone_count=1), *words[::-1]).changes


# --- several user ids of one phone


def test_user_ids_of_a_phone_are_told_apart_and_share_its_sequence() -> None:
    done = answer(tracked(phone_count=2), receipt(user_id="b", time=7), receipt(P_BARE, "Fail", user_id="a", time=8))
    assert steps(done) == [(P, "b", "tracked", "delivered", 1), (P_BARE, "a", "tracked", "undelivered", 2)]
    state = done.state
    done = answer(state, receipt(result="Fail", user_id="b", time=9))
    assert steps(done) == [(P, "b", "delivered", "undelivered", 3)]


def test_the_order_in_an_answer_decides_no_sequence() -> None:
    words = [receipt(user_id=user_id, time=5) for user_id in "abc"] + [receipt(user_id="d", time=4)]
    expected = [("d", 1), ("a", 2), ("b", 3), ("c", 4)]
    for order in (words, words[::-1]):
        done = answer(tracked(phone_count=4), *order)
        assert [(change.user_id, change.sequence) for change in done.changes] == expected


def test_another_phone_has_a_sequence_of_its_own() -> None:
    done = answer(tracked(phone_count=2), receipt(P), receipt(Q))
    assert [change.sequence for change in done.changes] == [1, 1]


# --- phone_count


def test_a_counted_session_settles_when_so_many_are_final() -> None:
    state = after(tracked(phone_count=2), receipt(P))
    assert not state.settled_ms
    state = after(state, receipt(Q, "Unknow"))
    assert not state.settled_ms
    assert after(state, receipt(Q)).settled_ms == NOW + 10 * SECOND


def test_user_ids_count_as_expected_phones() -> None:
    done = answer(tracked(phone_count=2), receipt(user_id="a"), receipt(user_id="b"))
    assert done.state.settled_ms


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


# --- the deadline


def test_before_the_deadline_nothing_is_given_up() -> None:
    state = after(tracked(P, Q), receipt(Q, "Unknow"))
    done = answer(state, after_ms=GIVE_UP - 1)
    assert (done.changes, done.state.settled_ms) == ((), 0)


def test_an_answer_at_the_deadline_gives_up_on_what_is_not_final() -> None:
    state = after(tracked(P, Q), receipt(Q, "Unknow"))
    done = answer(state, receipt(Q, "Unknow"), after_ms=GIVE_UP)
    assert steps(done) == [(Q, "", "unknown", "no_receipt", 2), (P, "", "tracked", "no_receipt", 1)]
    assert all(change.receipt is None and not change.late for change in done.changes)
    assert done.state.settled_ms == NOW + GIVE_UP
    assert done.state.awaiting == ()
    assert answer(done.state, receipt(Q, "Unknow"), after_ms=GIVE_UP + HOUR).changes == ()


def test_an_answer_at_the_deadline_is_heard_first() -> None:
    done = answer(tracked(P, Q), receipt(P), after_ms=GIVE_UP + DAY)
    assert [(change.phone, change.status.text) for change in done.changes] == [(P, "delivered"), (Q, "no_receipt")]


def test_a_listed_user_id_is_given_up_under_that_id() -> None:
    done = answer(tracked((P, "a"), P), after_ms=GIVE_UP)
    assert steps(done) == [(P, "a", "tracked", "no_receipt", 1), (P, "", "tracked", "no_receipt", 2)]


def test_a_phone_listed_twice_is_given_up_once_where_nothing_tells_the_two_apart() -> None:
    done = answer(tracked(P, P), after_ms=GIVE_UP)
    assert steps(done) == [(P, "", "tracked", "no_receipt", 1)]
    assert done.state.settled_ms
    assert answer(done.state, after_ms=GIVE_UP + 1).changes == ()


@pytest.mark.parametrize("fields", [{}, {"phone_count": 3}])
def test_a_session_without_a_listing_settles_at_the_deadline_with_nothing_to_tell(fields: dict[str, Any]) -> None:
    done = answer(tracked(**fields), after_ms=GIVE_UP)
    assert done.changes == ()
    assert done.state.settled_ms == NOW + GIVE_UP


@pytest.mark.parametrize("result", ["Success", "Fail", "SubmitFail"])
def test_a_final_after_no_receipt_is_late(result: str) -> None:
    state = answer(tracked(P), after_ms=GIVE_UP).state
    done = answer(state, receipt(P_BARE, result, time=0), after_ms=GIVE_UP + HOUR)
    (change,) = done.changes
    assert (change.previous.text, change.late, change.corrected, change.sequence) == ("no_receipt", True, False, 2)
    assert done.state.settled_ms == state.settled_ms


def test_no_receipt_never_goes_back_to_unknown() -> None:
    state = answer(tracked(P), after_ms=GIVE_UP).state
    for user_id in ("", "1213"):
        done = answer(state, receipt(result="Unknow", user_id=user_id), after_ms=GIVE_UP + HOUR)
        assert (done.changes, done.regressed) == ((), 1)


def test_a_late_receipt_with_a_user_id_speaks_for_the_phone_listed_without_one() -> None:
    """Fault: the late receipt was taken for another target of the phone.

    It came as ``tracked`` → ``delivered``, not ``late``, beside a ``no_receipt`` that stood for ever.
    """
    state = answer(tracked(P), after_ms=GIVE_UP).state
    done = answer(state, receipt(user_id="1213"), after_ms=GIVE_UP + HOUR)
    assert steps(done) == [(P, "1213", "no_receipt", "delivered", 2)]
    assert done.changes[0].late
    assert [(phone.user_id, phone.expected) for phone in done.state.phones] == [("1213", True)]
    assert answer(done.state, receipt(user_id="1213"), after_ms=GIVE_UP + 2 * HOUR).changes == ()


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
    assert not retrack(state, P, Q).settled_ms
    assert not retrack(state, phone_count=4).settled_ms


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


def test_no_size_of_a_time_the_wire_lets_through_raises() -> None:
    state = after(tracked(phone_count=1), receipt(time=253_402_300_798))
    (change,) = answer(state, receipt(result="Fail", time=253_402_300_799)).changes
    assert change.corrected


def test_a_phone_state_says_what_set_it_and_when() -> None:
    state = answer(tracked(P), receipt(P_BARE, time=77, user_id="a"), after_ms=HOUR).state
    assert state.phones == (PhoneState(P_BARE, "a", int(Status.DELIVERED), 1, 77, NOW + HOUR, expected=True),)

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from bridge.domain.receipts import Receipt, Status
from bridge.domain.status import PhoneState, Transition
from tests.unit.lives import (
    DAY,
    GIVE_UP,
    HOUR,
    NOW,
    P_BARE,
    SECOND,
    P,
    Q,
    after,
    answer,
    only,
    receipt,
    steps,
    tracked,
)

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


def test_no_size_of_a_time_the_wire_lets_through_raises() -> None:
    state = after(tracked(phone_count=1), receipt(time=253_402_300_798))
    (change,) = answer(state, receipt(result="Fail", time=253_402_300_799)).changes
    assert change.corrected


def test_a_phone_state_says_what_set_it_and_when() -> None:
    state = answer(tracked(P), receipt(P_BARE, time=77, user_id="a"), after_ms=HOUR).state
    assert state.phones == (
        PhoneState(P_BARE, "a", int(Status.DELIVERED), 1, 77, NOW + HOUR, expected=True, segments=1),
    )


def test_a_phone_that_was_given_up_has_nothing_of_a_receipt() -> None:
    """Its segments are added up, and its time told from a later one's, when the session is told of."""
    state = answer(tracked(P), after_ms=GIVE_UP).state
    assert state.phones == (PhoneState(P, "", int(Status.NO_RECEIPT), 1, 0, NOW + GIVE_UP, expected=True, segments=0),)


# --- polls


def test_each_answer_is_noted_by_what_it_brought() -> None:
    known = after(tracked(phone_count=2), receipt(P))
    brought = {
        "no receipts": [answer(tracked(P)), answer(known)],
        "nothing new": [answer(known, receipt(P)), answer(known, receipt(P, "Unknow"))],
        "changed": [answer(tracked(P), receipt(P)), answer(known, receipt(P), receipt(Q, "Unknow"))],
    }
    for text, answers in brought.items():
        for done in answers:
            assert (done.state.polls[-1].at_ms, done.state.polls[-1].outcome) == (NOW + 10 * SECOND, text)


def test_an_answer_at_the_deadline_is_noted_by_what_it_brought_too() -> None:
    settled = answer(tracked(P), after_ms=GIVE_UP).state
    assert settled.polls[-1].outcome == "changed"
    assert answer(settled, after_ms=GIVE_UP + HOUR).state.polls[-1].outcome == "no receipts"
    done = answer(settled, receipt(P, "Unknow"), after_ms=GIVE_UP + HOUR)
    assert done.state.polls[-1].outcome == "nothing new"


@pytest.mark.parametrize("words", [(), (receipt(P),)])
def test_an_answer_leaves_alone_what_it_does_not_speak_of(words: tuple[Receipt, ...]) -> None:
    kept: dict[str, Any] = {"metadata": '{"a":1}', "callback": "url_a", "overdue": True, "origin": 7}
    before = msgspec.structs.replace(tracked(P), refused="RetCode 18001", **kept)
    state = answer(before, *words).state
    assert {name: getattr(state, name) for name in kept} == kept
    assert (state.sent_ms, state.tracked_ms, state.expected_count) == (NOW, NOW, 1)
    assert not state.refused, "it was answered"

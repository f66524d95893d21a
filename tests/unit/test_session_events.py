"""What is told of a session as a whole."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.domain.events import EVENT_TYPES, event_id, pack, render, unpack
from bridge.domain.receipts import Receipt
from bridge.domain.session_events import (
    completes,
    is_overdue,
    overdue_at_ms,
    record_of_completed,
    record_of_overdue,
    watched_until_ms,
)
from bridge.domain.status import SessionState, Transition, track, transition
from bridge.domain.tracking import SessionRequest
from tests.examples import examples

NOW = 1_795_423_107_000
HOUR = 3_600_000
OVERDUE = 12 * HOUR
GIVE_UP = 72 * HOUR


waits = st.integers(0, 30 * HOUR)
answers = st.lists(
    st.builds(
        Receipt,
        st.sampled_from(["18500000001", "18500000002", "18500000003"]),
        st.sampled_from(["", "a"]),
        st.sampled_from(["Success", "Fail", "SubmitFail", "Unknow"]),
        st.just(""),
        st.just(""),
        st.integers(0, 5),
        st.just(1),
    ),
    max_size=4,
)


def tracked(phone_count: int | None = 3, **given: object) -> SessionState:
    return track(None, SessionRequest("s", phone_count=phone_count, **given), NOW)  # type: ignore[arg-type]


def heard(number: int, result: str = "Success", *, time: int = 77, segments: int = 2) -> Receipt:
    return Receipt(f"1850000000{number}", "", result, "", "", time, segments)


def answer(state: SessionState, *receipts: Receipt, after_ms: int = HOUR) -> Transition:
    return transition(state, receipts, NOW + after_ms, GIVE_UP)


def completed(state: SessionState, done: Transition) -> tuple[str, dict[str, object]]:
    message_id, body = render("default", unpack(pack(record_of_completed("default", "s", done, state.polled_ms))))
    event = json.loads(body)
    assert event["id"] == message_id
    assert event["type"] == "sms.session.completed"
    return message_id, event["data"]


def test_the_types_have_their_numbers_for_ever() -> None:
    assert (EVENT_TYPES[2], EVENT_TYPES[3]) == ("sms.session.completed", "sms.session.overdue")


def test_a_completed_session_is_told_with_counts_segments_and_expectation() -> None:
    state = tracked(metadata_json='{"order":7}')
    done = answer(state, heard(1), heard(2), heard(3, "Fail", segments=1))
    assert completes(state, done)
    assert completed(state, done)[1] == {
        "account": "default",
        "session_no": "s",
        "statuses": {"delivered": 2, "undelivered": 1},
        "segments": 5,
        "expected_count": 3,
        "metadata": {"order": 7},
    }


def test_a_session_without_an_expectation_completes_with_null() -> None:
    state = tracked(None)
    first = answer(state, heard(1))
    assert not completes(state, first)
    done = answer(first.state, heard(1), after_ms=25 * HOUR)
    assert completes(first.state, done)
    assert completed(first.state, done)[1]["expected_count"] is None


def test_what_was_never_heard_of_is_counted_as_tracked_or_given_up_on() -> None:
    state = tracked()
    counted = answer(state, heard(1), after_ms=GIVE_UP)
    assert completed(state, counted)[1]["statuses"] == {"tracked": 2, "delivered": 1}
    listed = tracked(2, phones=(("18500000001", None), ("18500000002", None)))
    given_up = answer(listed, heard(1), after_ms=GIVE_UP)
    assert completed(listed, given_up)[1]["statuses"] == {"delivered": 1, "no_receipt": 1}


def test_a_correction_completes_again_under_another_id_and_a_repetition_does_not() -> None:
    state = tracked(2)
    first = answer(state, heard(1), heard(2, "Fail"))
    again = answer(first.state, heard(1), heard(2, "Fail"))
    assert not completes(first.state, again)

    swapped = answer(again.state, heard(1, "Fail", time=99), heard(2, "Success", time=99))
    assert completes(again.state, swapped)
    ids = {completed(state, first)[0], completed(again.state, swapped)[0]}
    assert len(ids) == 2, "the counts are the same, the event is not"


def test_the_same_completion_observed_again_has_the_same_id() -> None:
    """As after the store lost its last second, or the session was forgotten: at another time, by other polls."""
    at_once = completed(tracked(1), answer(tracked(1), heard(1)))[0]
    step = answer(tracked(1), heard(1, "Unknow"))
    later = completed(step.state, answer(step.state, heard(1), after_ms=2 * HOUR))[0]
    assert at_once == later


def test_the_ids_of_what_is_told_of_a_session_stay_the_same_for_ever() -> None:
    """They are in receivers' stores: what is observed again after an upgrade is to be known."""
    told = record_of_completed("default", "s", answer(tracked(1), heard(1)), 0)
    assert event_id("default", told) == "evt_2uaguxnraitdqww7iwvs4jnnhn"
    assert event_id("default", record_of_overdue("default", "s", tracked(1), NOW)) == "evt_y6fwfyvqscud3wdu6mrg4w7w5y"


@examples(300)
@given(st.sampled_from([None, 1, 2, 3]), st.lists(st.tuples(waits, answers), min_size=1, max_size=10))
def test_no_two_completions_of_a_session_share_an_id(
    phone_count: int | None, life: list[tuple[int, list[Receipt]]]
) -> None:
    """Whatever is corrected, late or new: the counts may come back to what they were, the id does not."""
    now_ms = NOW
    state = tracked(phone_count)
    ids = []
    for wait, receipts in life:
        now_ms += wait
        done = transition(state, receipts, now_ms, GIVE_UP)
        if completes(state, done):
            ids.append(completed(state, done)[0])
        state = done.state
    assert len(set(ids)) == len(ids)


def test_nothing_in_the_record_stands_for_a_phone() -> None:
    """A phone that is erased is not searched for there; so neither it nor a hash of it may be there."""
    one, other = (answer(tracked(1), heard(number)) for number in (1, 2))
    records = [pack(record_of_completed("default", "s", done, 0)) for done in (one, other)]
    assert records[0] == records[1]


def test_two_sessions_never_share_an_id() -> None:
    done = answer(tracked(1), heard(1))
    records = [record_of_completed("default", name, done, 0) for name in ("s", "t")]
    records.append(record_of_overdue("default", "s", tracked(1), NOW))
    assert len({event_id(account, one) for one in records for account in ("default", "other")}) == 6


def test_an_overdue_session_is_told_with_what_is_known_of_it() -> None:
    state = answer(tracked(metadata_json='{"a":1}'), heard(1), heard(2, "Unknow")).state
    _, body = render("default", unpack(pack(record_of_overdue("default", "s", state, NOW + OVERDUE))))
    event = json.loads(body)
    assert event["type"] == "sms.session.overdue"
    assert event["timestamp"] == "2026-11-23T20:38:27.000Z"
    assert event["data"] == {
        "account": "default",
        "session_no": "s",
        "sent_at": "2026-11-23T08:38:27.000Z",
        "statuses": {"tracked": 1, "unknown": 1, "delivered": 1},
        "expected_count": 3,
        "metadata": {"a": 1},
    }


@pytest.mark.parametrize(
    ("state", "overdue"),
    [
        (tracked(), True),
        (tracked(None), True),
        (answer(tracked(None), heard(1, "Unknow")).state, True),
        (answer(tracked(2), heard(1)).state, True),
        (answer(tracked(None), heard(1)).state, False),
        (answer(tracked(1), heard(1)).state, False),
    ],
)
def test_a_session_is_overdue_while_it_waits_for_a_final_status(state: SessionState, overdue: bool) -> None:
    assert is_overdue(state, NOW + OVERDUE, OVERDUE) is overdue
    assert not is_overdue(state, NOW + OVERDUE - 1, OVERDUE)


def test_what_is_tracked_late_is_asked_for_before_it_is_called_overdue() -> None:
    late = track(None, SessionRequest("s", phone_count=1, sent_at_ms=NOW - 20 * HOUR), NOW)
    assert overdue_at_ms(late, OVERDUE) == NOW + 60_000


def test_a_session_is_looked_at_once_within_a_minute_of_its_hour() -> None:
    state = tracked()
    at_ms = watched_until_ms(None, state, OVERDUE, NOW)
    assert at_ms is not None
    assert 0 <= at_ms - (NOW + OVERDUE) < 60_000
    assert at_ms % 60_000 == 0
    again = track(state, SessionRequest("s", phone_count=5), NOW + HOUR)
    assert watched_until_ms(state, again, OVERDUE, NOW + HOUR) is None


@pytest.mark.parametrize(
    ("overdue_ms", "span_ms"), [(1, 1_000), (60_000, 1_000), (OVERDUE, 60_000), (OVERDUE + 719, 60_000)]
)
def test_looks_are_at_whole_spans_of_which_the_shortest_is_a_second(overdue_ms: int, span_ms: int) -> None:
    for tracked_ms in (NOW, NOW + 1, NOW + 999):
        state = track(None, SessionRequest("s"), tracked_ms)
        at_ms = watched_until_ms(None, state, overdue_ms, tracked_ms)
        assert isinstance(at_ms, int)
        assert at_ms % span_ms == 0
        assert 0 <= at_ms - overdue_at_ms(state, overdue_ms) < span_ms


def test_a_session_is_looked_at_again_when_it_was_sent_earlier_or_reopens() -> None:
    state = tracked()
    earlier = track(state, SessionRequest("s", sent_at_ms=NOW - HOUR), NOW)
    assert (watched_until_ms(state, earlier, OVERDUE, NOW) or 0) < NOW + OVERDUE
    settled = answer(tracked(1), heard(1)).state
    reopened = track(settled, SessionRequest("s", phone_count=2), NOW + 20 * HOUR)
    assert (watched_until_ms(settled, reopened, OVERDUE, NOW + 20 * HOUR) or 0) >= NOW + 20 * HOUR
    assert watched_until_ms(None, settled, OVERDUE, NOW) is None

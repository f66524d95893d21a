"""Batches: what one POST may carry, and how large they are after failures."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.domain.batches import MOST_BYTES, Batch, batch_id, larger, most_for, smaller
from bridge.domain.events import Record, event_id, iso_millis, record_of_test
from bridge.domain.formats import renderer
from bridge.domain.outcome import Answer, Failure, Verdict, Wish, judge, of_batch
from bridge.domain.subscriptions import BodyFormat, Subscription
from tests.unit.test_events import RECORD, changed, records

IDS = st.lists(
    st.text(st.characters(codec="ascii", min_codepoint=33), min_size=1, max_size=30), min_size=1, unique=True
)


def subscribed(body: BodyFormat) -> Subscription:
    return Subscription(id="sub_a", account="acc", url="", created_ms=0, secrets=(), format=body)


def filled(body_format: BodyFormat, *events: Record) -> Batch:
    batch = Batch(1_000)
    render = renderer(subscribed(body_format), b"")
    for event in events:
        assert batch.add(*render(event), event.phone, event.observed_ms, 1_000)
    return batch


@given(st.lists(records, min_size=1, max_size=8))
def test_a_batch_holds_each_event_as_it_would_be_sent_alone(events: list[Record]) -> None:
    batch = filled(BodyFormat.STANDARD, *events)
    told = json.loads(batch.render("sub_a", BodyFormat.STANDARD)[1])
    assert list(told) == ["type", "timestamp", "data"]
    assert told["type"] == "bridge.batch"
    assert told["data"] == [json.loads(body) for body in batch.bodies]
    assert told["timestamp"] == iso_millis(max(event.observed_ms for event in events))


def test_a_batch_in_the_providers_format_is_one_push_with_all_receipts() -> None:
    events = [changed(phone=f"1850000000{place}") for place in range(3)]
    batch = filled(BodyFormat.USMS, events[0], record_of_test("acc", "sub_a", "n", 1), *events[1:])
    told = json.loads(batch.render("sub_a", BodyFormat.USMS)[1])
    assert told["MsgType"] == 2
    assert [one["Phone"] for one in told["Data"]] == [event.phone for event in events]


def test_only_tests_in_the_providers_format_are_an_empty_push() -> None:
    batch = filled(BodyFormat.USMS, record_of_test("acc", "sub_a", "n", 1))
    assert json.loads(batch.render("sub_a", BodyFormat.USMS)[1]) == {"MsgType": 2, "Data": []}


@given(IDS, IDS)
def test_a_batchs_id_is_one_of_its_events_in_their_order(first: list[str], second: list[str]) -> None:
    assert (batch_id("sub_a", first) == batch_id("sub_a", second)) == (first == second)
    assert batch_id("sub_a", first) != batch_id("sub_b", first)
    assert batch_id("sub_a", first) != batch_id("sub_a", first[::-1]) or len(first) == 1


def test_a_batch_stays_below_a_megabyte_but_holds_one_event_of_any_size() -> None:
    batch, body = Batch(1_000), b"x" * 300_000
    joined = [batch.add(f"evt_{place}", body, "", 1, 1_000) for place in range(5)]
    assert joined == [True, True, True, False, False]
    assert len(batch.render("sub_a", BodyFormat.STANDARD)[1]) <= MOST_BYTES
    assert Batch(1_000).add("evt_1", b"x" * 2 * MOST_BYTES, "", 1, 1_000)


def test_many_events_stay_below_a_megabyte_too() -> None:
    batch, body = Batch(1_000), b"x" * 1_000
    joined = [batch.add(f"evt_{place}", body, "", 1, 1_000) for place in range(1_000)]
    assert 990 < sum(joined) < 1_000
    assert len(batch.render("sub_a", BodyFormat.STANDARD)[1]) <= MOST_BYTES


@pytest.mark.parametrize("body_format", [BodyFormat.STANDARD, BodyFormat.USMS])
def test_a_batch_is_sent_under_its_id(body_format: BodyFormat) -> None:
    batch = filled(body_format, RECORD)
    assert batch.render("sub_a", body_format)[0] == batch_id("sub_a", batch.ids)


def test_the_id_of_a_batch_stays_the_same_for_ever() -> None:
    """Receivers know a batch that was sent again by it, though an upgrade came between."""
    assert batch_id("sub_a", ["evt_1", "evt_2"]) == "bat_3bjedyckybb6qmoszkji2brnzc"


def test_a_batch_knows_its_phones_and_events_without_one_do_not_count() -> None:
    batch = Batch(10)
    batch.add("evt_1", b"{}", "8618500000000", 1, 10)
    batch.add("evt_2", b"{}", "", 1, 10)
    assert batch.holds("8618500000000")
    assert not batch.holds("8618500000001")
    assert not batch.holds("")


@given(st.integers(1, 1_000), st.lists(st.integers(0, 12), min_size=1, max_size=60))
def test_no_event_is_in_a_larger_batch_than_its_failures_allow(most: int, attempts: list[int]) -> None:
    batch, members = Batch(most), []
    for place, made in enumerate(attempts):
        allowed = most_for(made, most)
        if not batch.has_room(allowed):
            break
        assert batch.add(f"evt_{place}", b"{}", "", 1, allowed)
        members.append(made)
    assert members
    assert all(len(members) <= most_for(made, most) for made in members)


@given(st.integers(1, 1_000))
def test_failures_halve_a_batch_down_to_one_and_successes_double_it_again(most: int) -> None:
    size, failures = most, 0
    while size > 1:
        assert smaller(size) == size // 2
        size, failures = smaller(size), failures + 1
    assert failures == most.bit_length() - 1
    assert smaller(1) == 1
    for _ in range(failures + 1):
        assert larger(size, most) == min(2 * size, most)
        size = larger(size, most)
    assert size == most


def test_an_abort_of_a_batch_means_none_of_its_events() -> None:
    answer = Answer(422, None, "", b"", 1, Wish.ABORT)
    assert judge(answer, 1, (5,), 0, 0.5).verdict is Verdict.DEAD
    assert judge(of_batch(answer), 1, (5,), 0, 0.5).verdict is Verdict.RETRY
    assert of_batch(Answer(410, None, "", b"", 1)).status == 410
    assert of_batch(Answer(0, Failure.TIMEOUT, "t", b"", 1, Wish.DISABLE)).wish is Wish.DISABLE


def test_an_event_keeps_its_id_within_a_batch() -> None:
    batch = filled(BodyFormat.STANDARD, RECORD)
    assert batch.ids == [event_id("acc", RECORD)]


@pytest.mark.parametrize(
    ("attempts", "most", "allowed"), [(0, 100, 100), (1, 100, 50), (2, 100, 25), (6, 100, 1), (7, 100, 1), (250, 1, 1)]
)
def test_each_failed_attempt_of_an_event_halves_the_batch_that_it_may_be_in(
    attempts: int, most: int, allowed: int
) -> None:
    assert most_for(attempts, most) == allowed

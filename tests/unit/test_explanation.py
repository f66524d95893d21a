"""Why was my application (not) told? Every verdict from its facts; and one verdict, always the same, from any facts."""

from __future__ import annotations

import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.domain.explanation import (
    DeliveryFacts,
    EventFacts,
    Facts,
    Finding,
    Verdict,
    Waiting,
    explain,
    judge,
    latest,
    most_urgent,
)

HERE = DeliveryFacts(subscription="sub_a", subscribed_ms=1)
EVENT = EventFacts(id="evt_a", line="8618500000001", sequence=1, at_ms=1_000)


def told_of(*deliveries: DeliveryFacts, **more: object) -> Facts:
    """A session with one event, which has these deliveries."""
    event = msgspec.structs.replace(EVENT, deliveries=deliveries)
    facts = Facts(tracked=True, polled=True, changed=True, events=(event,))
    return msgspec.structs.replace(facts, **more)


def delivery(**more: object) -> DeliveryFacts:
    return msgspec.structs.replace(HERE, **more)


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        (
            Facts(tracked=False),
            Finding(Verdict.NOT_TRACKED, "it never was, or settled longer than BRIDGE_KEEP_SETTLED ago"),
        ),
        (
            Facts(tracked=False, damaged=True),
            Finding(Verdict.NOT_TRACKED, "what is stored of it cannot be read: track it again"),
        ),
        (Facts(tracked=False, rejected="phones: 0 of them"), Finding(Verdict.REJECTED, "phones: 0 of them")),
        (Facts(tracked=True, stopped="RetCode 171"), Finding(Verdict.ACCOUNT_STOPPED, "RetCode 171")),
        (Facts(tracked=True, polled=True, stopped="RetCode 171"), Finding(Verdict.ACCOUNT_STOPPED, "RetCode 171")),
        (Facts(tracked=True), Finding(Verdict.NOT_POLLED)),
        (Facts(tracked=True, rejected="another item was bad"), Finding(Verdict.NOT_POLLED)),
        (Facts(tracked=True, polled=True), Finding(Verdict.NO_RECEIPT)),
        (Facts(tracked=True, refused="RetCode 18001"), Finding(Verdict.NO_RECEIPT, "RetCode 18001")),
        (
            Facts(tracked=True, polled=True, changed=True),
            Finding(Verdict.EXPIRED, "it changed longer ago than BRIDGE_KEEP_EVENTS"),
        ),
        (Facts(tracked=True, polled=True, erased_ms=77), Finding(Verdict.ERASED, at_ms=77)),
        (Facts(tracked=False, erased_ms=77), Finding(Verdict.ERASED, at_ms=77)),
        (told_of(), Finding(Verdict.FILTERED, "its account has no subscription", event="evt_a")),
    ],
)
def test_what_never_came_to_a_delivery(facts: Facts, expected: Finding) -> None:
    assert explain(facts) == expected


WAITS = Waiting(attempts=0, due_ms=5_000, behind=0)


@pytest.mark.parametrize(
    ("one", "verdict", "why", "at_ms", "behind"),
    [
        (delivery(told_ms=2_000), Verdict.ACCEPTED, "", 2_000, None),
        (delivery(told_ms=2_000, died_ms=1_500, waiting=WAITS), Verdict.ACCEPTED, "", 2_000, None),
        (delivery(waiting=WAITS), Verdict.QUEUED, "", 5_000, 0),
        (delivery(waiting=Waiting(0, 5_000, 3)), Verdict.QUEUED, "", 5_000, 3),
        (delivery(waiting=Waiting(4, 5_000, 3), last_error="HTTP 500"), Verdict.QUEUED, "", 5_000, 3),
        (delivery(waiting=Waiting(4, 5_000, 0), last_error="HTTP 500"), Verdict.RETRYING, "HTTP 500", 5_000, None),
        (delivery(waiting=Waiting(4, 5_000, 0), parked_for="paused"), Verdict.PARKED, "paused", None, 0),
        (delivery(waiting=WAITS, died_ms=9), Verdict.QUEUED, "", 5_000, 0),  # sent again
        (delivery(died_ms=9, died_of="HTTP 500"), Verdict.DEAD, "HTTP 500", 9, None),
        (delivery(subscribed_ms=1_001), Verdict.SUBSCRIBED_LATER, "", 1_001, None),
        (delivery(subscribed_ms=1_000, unwanted="only failed"), Verdict.FILTERED, "only failed", None, None),
        (delivery(), Verdict.FILTERED, "its filters were others when it happened", None, None),
        (
            delivery(dropped=1_234),
            Verdict.DEAD,
            "dropped by an operator or by a limit, as 1,234 events of this subscription were",
            None,
            None,
        ),
    ],
)
def test_what_became_of_a_delivery(
    one: DeliveryFacts, verdict: Verdict, why: str, at_ms: int | None, behind: int | None
) -> None:
    expected = Finding(verdict, why, at_ms, behind, "sub_a", "evt_a")
    assert judge(EVENT, one) == expected
    assert explain(told_of(one)) == expected
    # The same where the session itself is gone already, and whatever else its account suffers.
    assert explain(told_of(one, tracked=False)) == expected
    assert explain(told_of(one, stopped="RetCode 171", rejected="bad")) == expected


def test_the_most_urgent_of_several_subscriptions_is_told() -> None:
    fine, other = delivery(told_ms=2_000), delivery(subscription="sub_b", unwanted="only failed")
    assert explain(told_of(other, fine)).verdict is Verdict.ACCEPTED
    dead = delivery(subscription="sub_c", died_ms=9, died_of="410")
    found = explain(told_of(fine, other, dead))
    assert (found.verdict, found.subscription) == (Verdict.DEAD, "sub_c")


def test_of_findings_alike_the_latest_is_told_and_one_without_a_time_last() -> None:
    timed = [Finding(Verdict.ACCEPTED, at_ms=at_ms) for at_ms in (1, 3, 2)]
    assert most_urgent([Finding(Verdict.ACCEPTED), *timed]) == timed[1]
    assert most_urgent([Finding(Verdict.ACCEPTED), timed[0]]) == timed[0]


def test_a_phone_that_is_still_awaited_is_said_before_one_that_was_told() -> None:
    assert explain(told_of(delivery(told_ms=2_000), awaited=True)).verdict is Verdict.NO_RECEIPT
    assert explain(told_of(delivery(told_ms=2_000), awaited=True, stopped="171")).verdict is Verdict.ACCOUNT_STOPPED
    assert explain(told_of(delivery(died_ms=2_000), awaited=True)).verdict is Verdict.DEAD


def test_a_lines_last_event_counts() -> None:
    """An older one may be a dead letter: what the application knows by now is the later."""
    first = msgspec.structs.replace(EVENT, deliveries=(delivery(died_ms=5),))
    second = msgspec.structs.replace(EVENT, id="evt_b", sequence=2, at_ms=900, deliveries=(delivery(told_ms=7),))
    facts = Facts(tracked=True, polled=True, changed=True, events=(second, first))
    assert latest(facts.events) == [second]
    assert (explain(facts).verdict, explain(facts).event) == (Verdict.ACCEPTED, "evt_b")


def test_every_verdict_of_the_contract_has_its_words() -> None:
    assert [one.value for one in Verdict] == [
        "not tracked",
        "rejected",
        "account stopped",
        "not polled yet",
        "provider has no receipt",
        "filtered out",
        "subscribed later",
        "queued behind",
        "retrying",
        "parked",
        "dead",
        "accepted",
        "erased",
        "expired from the log",
    ]


times = st.one_of(st.none(), st.integers(0, 2**44))
words = st.sampled_from(["", "HTTP 500", "paused"])
waits = st.builds(Waiting, attempts=st.integers(0, 12), due_ms=st.integers(0, 2**44), behind=st.integers(0, 5))
deliveries = st.builds(
    DeliveryFacts,
    subscription=st.sampled_from(["sub_a", "sub_b", "url_c"]),
    subscribed_ms=st.integers(0, 2_000),
    told_ms=times,
    died_ms=times,
    died_of=words,
    waiting=st.one_of(st.none(), waits),
    parked_for=words,
    unwanted=words,
    last_error=words,
    dropped=st.integers(0, 2),
)
events = st.builds(
    EventFacts,
    id=st.sampled_from(["evt_a", "evt_b", "evt_c"]),
    line=st.sampled_from(["1", "2", "sms.session.completed"]),
    sequence=st.integers(1, 4),
    at_ms=st.integers(0, 2_000),
    deliveries=st.lists(deliveries, max_size=4).map(tuple),
)
any_facts = st.builds(
    Facts,
    tracked=st.booleans(),
    damaged=st.booleans(),
    rejected=words,
    stopped=words,
    polled=st.booleans(),
    changed=st.booleans(),
    awaited=st.booleans(),
    refused=words,
    erased_ms=times,
    events=st.lists(events, max_size=5).map(tuple),
)


@given(any_facts)
def test_any_facts_have_one_verdict_and_always_the_same(facts: Facts) -> None:
    found = explain(facts)
    assert found.verdict in Verdict
    assert explain(facts) == found
    again = msgspec.json.decode(msgspec.json.encode(facts), type=Facts)
    assert explain(again) == found


@given(any_facts)
def test_a_verdict_on_a_delivery_is_of_a_delivery_that_there_is(facts: Facts) -> None:
    found = explain(facts)
    if found.subscription is not None:
        own = [one for event in facts.events if event.id == found.event for one in event.deliveries]
        assert found.subscription in {one.subscription for one in own}


@given(
    st.lists(st.builds(Finding, verdict=st.sampled_from(list(Verdict)[2:12]), at_ms=times), min_size=1), st.randoms()
)
def test_the_most_urgent_does_not_hang_on_an_order(found: list[Finding], chance: random.Random) -> None:
    first = most_urgent(found)
    chance.shuffle(found)
    again = most_urgent(found)
    assert (again.verdict, again.at_ms or 0) == (first.verdict, first.at_ms or 0)

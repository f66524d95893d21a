"""When there is something to tell operators, and what: each thing that was counted is told of once, a minute apart."""

from __future__ import annotations

import json
from itertools import pairwise

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from bridge.domain.events import DISABLED, DROPPED, EVENT_TYPES, EXHAUSTED, event_id, is_ours, record_of_test, render
from bridge.domain.notices import EVERY_MS, KINDS, Said, audience, due, record_of
from bridge.domain.subscriptions import Subscription
from tests.parts import subscription

CREATED_MS = 1_795_415_000_000
NOW_MS = CREATED_MS + 10 * EVERY_MS


@given(st.lists(st.tuples(st.integers(0, 90_000), st.integers(0, 3), st.integers(0, 3)), max_size=30))
def test_all_that_is_counted_is_told_of_once_and_at_most_once_a_minute(steps: list[tuple[int, int, int]]) -> None:
    now_ms, counts, said = NOW_MS, (0, 0), None
    told = [0, 0]
    times: list[int] = []
    for wait_ms, more, others in [*steps, (EVERY_MS, 0, 0)]:
        now_ms += wait_ms
        counts = (counts[0] + more, counts[1] + others)
        notice = due(DROPPED, counts, said, CREATED_MS, now_ms)
        if notice is not None:
            assert notice.since_ms == (times[-1] if times else CREATED_MS)
            assert notice.before == said
            said = notice.said
            times.append(now_ms)
            told = [known + news for known, news in zip(told, notice.news, strict=True)]
    assert tuple(told) == counts
    assert all(later - earlier >= EVERY_MS for earlier, later in pairwise(times))


def test_a_store_that_lost_its_last_second_has_nothing_to_tell_twice() -> None:
    said = Said((5,), NOW_MS)
    assert due(EXHAUSTED, (4,), said, CREATED_MS, NOW_MS + EVERY_MS) is None
    notice = due(EXHAUSTED, (6,), said, CREATED_MS, NOW_MS + EVERY_MS)
    assert notice is not None
    assert notice.news == (1,)


def test_a_clock_that_was_set_back_keeps_nobody_silent() -> None:
    assert due(EXHAUSTED, (6,), Said((5,), NOW_MS + 10 * EVERY_MS), CREATED_MS, NOW_MS) is not None


def told(kind: int, *counts: int, reason: str | None = None) -> dict[str, object]:
    notice = due(kind, counts, None, CREATED_MS, NOW_MS)
    assert notice is not None
    message_id, body = render("default", record_of(notice, subscription(), reason))
    found: dict[str, object] = json.loads(body)
    assert found["id"] == message_id
    return found


def test_an_event_says_what_happened_to_whom_and_how_often() -> None:
    common = {"account": "default", "subscription": "sub_a", "url": "http://127.0.0.1:9/"}
    times = {"since": "2026-11-23T06:23:20.000Z", "until": "2026-11-23T06:33:20.000Z"}
    found = told(EXHAUSTED, 3, reason="HTTP 500")
    assert found["type"] == "bridge.delivery.exhausted"
    assert found["timestamp"] == times["until"]
    assert found["data"] == common | {"reason": "HTTP 500", "count": 3} | times
    limits = {"over_backlog": 2, "over_kept": 0, "dead_dropped": 1}
    assert told(DROPPED, 2, 0, 1)["data"] == common | {"limits": limits, "count": 3} | times
    assert told(DISABLED, 1, reason="HTTP 410")["data"] == common | {"reason": "HTTP 410", "count": 1} | times


def test_its_id_is_its_own_and_the_same_each_time() -> None:
    ids = [told(EXHAUSTED, 1, reason="a")["id"], told(EXHAUSTED, 1, reason="b")["id"], told(EXHAUSTED, 2)["id"]]
    ids.append(told(DISABLED, 1, reason="a")["id"])
    assert len(set(ids)) == 4
    assert told(EXHAUSTED, 1, reason="a")["id"] == ids[0]


def test_the_id_of_a_test_is_what_it_was() -> None:
    """Types that were there before hash what they always did: their ids are in receivers' stores."""
    assert event_id("default", record_of_test("default", "sub_a", "1", 1)) == "evt_exbkrwyttv4fg3sfiqonj3m3nj"


def test_all_but_what_senders_sent_is_ours() -> None:
    notice = due(DISABLED, (1,), None, CREATED_MS, NOW_MS)
    assert notice is not None
    event = record_of(notice, subscription(), None)
    assert is_ours(event)
    assert is_ours(record_of_test("default", "sub_a", "1", 1))
    assert not is_ours(msgspec.structs.replace(event, type=0))
    assert {EVENT_TYPES[kind].partition(".")[0] for kind in KINDS} == {"bridge"}


def asking(name: str, *types: str, implicit: bool = False) -> Subscription:
    return msgspec.structs.replace(subscription(name), types=types, implicit=implicit)


def test_those_hear_of_it_who_asked_but_not_the_one_it_is_about() -> None:
    group = (
        asking("sub_all", "bridge.*"),
        asking("sub_one", "sms.status.changed", "bridge.subscription.disabled"),
        asking("sub_other", "bridge.delivery.exhausted"),
        asking("sub_sms", "sms.*"),
        asking("url_a", "bridge.*", implicit=True),
    )
    assert audience(DISABLED, group[3], group) == ["sub_all", "sub_one"]
    assert audience(DISABLED, group[0], group) == ["sub_one"]
    assert audience(DROPPED, group[1], group) == ["sub_all"]
    assert group[3].hears("sms.status.changed")
    assert not group[3].hears("bridge.test")


def test_nothing_is_told_twice_in_the_same_moment() -> None:
    assert due(EXHAUSTED, (6,), Said((5,), NOW_MS), CREATED_MS, NOW_MS) is None
    assert due(EXHAUSTED, (6,), Said((5,), NOW_MS), CREATED_MS, NOW_MS + EVERY_MS - 1) is None
    assert due(EXHAUSTED, (6,), Said((5,), NOW_MS), CREATED_MS, NOW_MS + EVERY_MS) is not None


def test_what_was_told_stays_told_though_the_store_forgot_some_of_it() -> None:
    notice = due(DROPPED, (4, 9, 0), Said((5, 5, 5), NOW_MS), CREATED_MS, NOW_MS + EVERY_MS)
    assert notice is not None
    assert (notice.news, notice.said.counts) == ((0, 4, 0), (5, 9, 5))


def test_a_notice_is_in_the_line_of_the_subscription_that_it_is_about() -> None:
    notice = due(EXHAUSTED, (6,), None, CREATED_MS, NOW_MS)
    assert notice is not None
    about = subscription("sub_a")
    found = record_of(notice, about, "HTTP 500")
    assert found.session_no == f"{EVENT_TYPES[EXHAUSTED]} {about.id}"
    assert not msgspec.structs.replace(about, types=("bridge.*",)).is_to_hear(found)

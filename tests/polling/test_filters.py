"""Which subscriptions hear of a change: those that asked for its type and status when it was recorded."""

from __future__ import annotations

import msgspec

from bridge.domain.status import SessionState
from tests.parts import Parts, subscription
from tests.polling.scripted import Scripted, knowing_poller, poller, receipt


def test_a_change_goes_to_those_that_want_its_status(parts: Parts) -> None:
    all_of_it = subscription("sub_a")
    failures = msgspec.structs.replace(subscription("sub_b"), statuses=("undelivered", "failed"))
    final = msgspec.structs.replace(subscription("sub_c"), statuses=("delivered", "undelivered"))
    tests_only = msgspec.structs.replace(subscription("sub_d"), types=("bridge.test",))
    for one in (all_of_it, failures, final, tests_only):
        parts.subscriptions.put(one)
    for number, result in enumerate(("Success", "Fail", "Unknow")):
        _due(parts, f"s{number}")
        assert poller(parts, Scripted({f"s{number}": [receipt(result=result)]})).step("default").changed == 1

    lengths = parts.queues.lengths(["sub_a", "sub_b", "sub_c", "sub_d"])
    assert lengths == {"sub_a": 3, "sub_b": 1, "sub_c": 2, "sub_d": 0}
    assert len(list(parts.log.read("default"))) == 3, "what nobody wants is recorded all the same"
    parts.assert_index_is_right()


def test_a_filter_counts_from_when_it_is_stored(parts: Parts) -> None:
    """A poller that knew the subscription without its filter is refused, and decides again."""
    parts.subscriptions.put(subscription("sub_a"))
    provider = Scripted({"s1": [receipt()]})
    polling = knowing_poller(parts, provider)
    _due(parts, "s1")
    narrowed = msgspec.structs.replace(subscription("sub_a"), statuses=("failed",))
    provider.meanwhile = lambda: parts.subscriptions.put(narrowed)

    step = polling.step("default")

    assert (step.changed, step.routed) == (1, 0)
    assert parts.queues.lengths(["sub_a"]) == {"sub_a": 0}


def test_a_sessions_own_url_hears_of_every_status(parts: Parts) -> None:
    parts.subscriptions.put(msgspec.structs.replace(subscription("url_a"), implicit=True))
    parts.subscriptions.put(msgspec.structs.replace(subscription("sub_a"), statuses=("failed",)))
    registry = parts.subscriptions.load()
    assert registry.audience("default", "url_a", 2) == ("url_a",)
    assert registry.audience("default", "url_a", 5) == ("sub_a", "url_a")
    assert registry.audience("default", "url_gone", 2) == ()
    assert registry.audience("nobody", "", 2) == ()


def _due(parts: Parts, name: str) -> None:
    now_ms = parts.now_ms()
    parts.write(name, state=SessionState(sent_ms=now_ms, tracked_ms=now_ms, expected_count=1), due=1)

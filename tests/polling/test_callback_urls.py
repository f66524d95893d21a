"""Sessions that name a callback URL of their own: who hears of them, with which signature, and for how long."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import pytest
import standardwebhooks

from bridge.cli.receiver import Receiver
from bridge.domain.receipts import Receipt
from bridge.domain.signing import encode_secret
from bridge.domain.subscriptions import callback_id
from bridge.errors import UsageError
from bridge.store import callback_urls, tracking
from bridge.wiring import Bridge
from tasks.process import Process
from tests.delivery.slices import deliver
from tests.servers import bridge_on, valkey


@pytest.fixture
def local() -> Iterator[Bridge]:
    """A bridge that may call this machine, and nothing else that is private, over plain http."""
    with valkey() as url, bridge_on(url, allow_http="yes") as bridge:
        yield bridge


@pytest.fixture
def process(local: Bridge) -> Process:
    made = Process(lambda _name, _args: None)
    made.__dict__["bridge"] = local
    return made


def settle(bridge: Bridge, session_no: str, result: str = "Success", at_s: int = 1_795_423_107) -> None:
    stored = bridge.sessions.read("default", [session_no])
    receipt = Receipt("18500000000", "", result, "DELIVRD", "", at_s, 1)
    bridge.recorder.record("default", stored, {session_no: [receipt]})


@contextmanager
def application(bridge: Bridge) -> Iterator[Receiver]:
    with Receiver(encode_secret(bridge.signing_keys.of_account("default")), record=True) as receiver:
        yield receiver


def test_only_the_sessions_that_name_a_url_are_told_there(local: Bridge, process: Process) -> None:
    with application(local) as receiver:
        process.track([{"session_no": "mine", "callback_url": receiver.url}, "other"], "default")
        settle(local, "mine")
        settle(local, "other")
        deliver(local)
        assert [callback.path for callback in receiver.recorded] == ["/"]
        assert receiver.counts.bad_signatures == 0
        (post,) = receiver.recorded
    event = standardwebhooks.Webhook(encode_secret(local.signing_keys.of_account("default"))).verify(
        post.body, dict(post.headers)
    )
    assert event["data"]["session_no"] == "mine"


def test_subscriptions_hear_of_such_sessions_too(local: Bridge, process: Process) -> None:
    with application(local) as own, Receiver(record=True) as everything:
        local.subscribe(everything.url)
        process.track([{"session_no": "mine", "callback_url": own.url}], "default")
        settle(local, "mine")
        deliver(local)
        assert (len(own.recorded), len(everything.recorded)) == (1, 1)
        assert own.recorded[0].body == everything.recorded[0].body


def test_the_latest_url_counts_for_later_events(local: Bridge, process: Process) -> None:
    with application(local) as first, application(local) as second:
        process.track([{"session_no": "mine", "callback_url": first.url, "phone_count": 2}], "default")
        settle(local, "mine", "Unknow")
        process.track([{"session_no": "mine", "callback_url": second.url}], "default")
        process.track(["mine"], "default")  # says nothing of a URL, so it changes none
        settle(local, "mine", "Success")
        deliver(local)
        assert [callback.body.count(b'"unknown"') for callback in first.recorded] == [1]
        assert [b'"status":"delivered"' in callback.body for callback in second.recorded] == [True]


@pytest.mark.parametrize(
    "url", ["https://10.1.2.3/sms", "https://localhost.localdomain./x", "https://[::ffff:10.0.0.1]/", "https://1/"]
)
def test_a_url_that_may_not_be_called_rejects_its_item_alone(url: str, local: Bridge, process: Process) -> None:
    process.track([{"session_no": "bad", "callback_url": url}, "good"], "default")
    stored = local.sessions.read("default", ["bad", "good"])
    assert stored["bad"].state is None
    assert stored["good"].state is not None
    (rejected,) = local.tracking.rejected("default")
    assert '"bad"' in rejected.item


def test_an_account_names_at_most_so_many_urls(local: Bridge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callback_urls, "MOST_CALLBACK_URLS", 3)
    known = [local.callback_for("default", f"http://127.0.0.1/{n}") for n in range(3)]
    with pytest.raises(UsageError, match="3 URLs already"):
        local.callback_for("default", "http://127.0.0.1/3")
    assert local.callback_for("default", "http://127.0.0.1/0") == known[0]
    assert local.callback_for("another", "http://127.0.0.1/3") == callback_id("another", "http://127.0.0.1/3")
    assert {one.id for one in local.subscriptions.load().of("default")} == set(known)


def test_a_url_for_each_of_many_sessions_costs_no_more_than_those_that_an_account_may_name(
    local: Bridge, process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limits are a tenth of what they are, and so are the sessions: a million would leave the same."""
    monkeypatch.setattr(callback_urls, "MOST_CALLBACK_URLS", 100)
    monkeypatch.setattr(tracking, "_MOST_REJECTED", 1_000)

    def track(first: int, last: int) -> tuple[int, int]:
        """Returns how many keys there are then, and how many bytes they take."""
        for start in range(first, last, 100):
            numbers = range(start, start + 100)
            items = [{"session_no": f"s{n}", "callback_url": f"http://127.0.0.1:1025/{n:07}"} for n in numbers]
            process.track(items, "default")
        names = list(local.client.scan("*"))
        taken = local.client.commands([["MEMORY", "USAGE", name, "SAMPLES", 0] for name in names])
        return len(names), sum(cast("list[int]", taken))

    keys_then, bytes_then = track(0, 2_000)
    keys_now, bytes_now = track(2_000, 10_000)
    assert keys_now == keys_then
    assert bytes_now <= bytes_then * 1.02, "the newest of what was rejected are kept: a few more or less of them"
    assert len(local.subscriptions.load().of("default")) == 100
    assert sum(1 for _ in local.sessions.scan("default")) == 100
    newest = next(local.tracking.rejected("default"))
    assert "100 URLs already" in newest.reason


def test_a_subscription_that_nothing_can_use_is_removed_once_it_is_idle(local: Bridge, process: Process) -> None:
    url = "http://127.0.0.1:1025/"
    process.track([{"session_no": "mine", "callback_url": url}], "default")
    settle(local, "mine")
    name = callback_id("default", url)
    assert local.queues.lengths([name]) == {name: 1}
    assert local.forget_unused_callbacks("default") == 0  # used a moment ago

    long_ago = int(time.time() * 1000) - 400 * 24 * 3600 * 1000
    local.client.commands([["ZADD", "u:callbacks:default", long_ago, name]])
    assert local.forget_unused_callbacks("default") == 0  # something waits for it
    local.queues.remove(name, local.subscriptions.load().versions)
    assert local.forget_unused_callbacks("default") == 1
    assert local.subscriptions.load().of("default") == ()

    # Named again, it exists again.
    process.track([{"session_no": "later", "callback_url": url}], "default")
    assert [one.id for one in local.subscriptions.load().of("default")] == [name]


def test_the_accounts_secret_is_made_once(local: Bridge) -> None:
    assert local.signing_keys.of_account("default") == local.signing_keys.of_account("default")
    assert local.signing_keys.of_account("default") != local.signing_keys.of_account("another")


def test_one_that_was_removed_by_hand_comes_back_with_the_next_session_that_names_it(
    local: Bridge, process: Process
) -> None:
    url = "http://127.0.0.1:1025/"
    process.track([{"session_no": "mine", "callback_url": url}], "default")
    local.unsubscribe(callback_id("default", url))
    process.track([{"session_no": "later", "callback_url": url}], "default")
    settle(local, "later")
    assert local.queues.lengths([callback_id("default", url)]) == {callback_id("default", url): 1}


def test_a_full_store_delivers_an_accounts_first_callback_to_a_url_of_a_sessions(
    local: Bridge, process: Process
) -> None:
    """Fault: the account's secret was made by a plain HSETNX, which is refused then, and the slice ended by it: with
    memory short, when deliveries are what frees some.
    """
    with Receiver(record=True) as receiver:
        process.track([{"session_no": "s1", "callback_url": receiver.url}], "default")
        settle(local, "s1")
        local.client.redis.config_set("maxmemory", 1)
        try:
            deliver(local)
        finally:
            local.client.redis.config_set("maxmemory", 0)
    assert len(receiver.recorded) == 1

"""Operators' events, from what happens to a subscription to the signed callback at another one of its account."""

from __future__ import annotations

import json
from collections.abc import Iterator

import msgspec
import pytest
import sentry_sdk
import structlog
from standardwebhooks import Webhook

from bridge.announcements import announce
from bridge.domain import notices
from bridge.domain.events import DROPPED, render, unpack
from bridge.domain.policy import DeliveryPolicy
from bridge.domain.subscriptions import BodyFormat, Options
from bridge.lifecycle import pause
from bridge.observe.logs import setup_logging
from bridge.observe.sentry import setup_sentry
from bridge.store import keys
from bridge.wiring import Bridge
from tasks.process import Process
from tests.delivery.slices import QUICK, publish, run
from tests.delivery.test_options import arrived
from tests.hostile import answering, ok, once, serving
from tests.parts import Parts, entry, until
from tests.unit.test_sentry import DSN, Collected

ASKS = Options(types=("bridge.*",))
GONE = b"HTTP/1.1 410 Gone\r\nContent-Length: 0\r\n\r\n"
ABORT = b"HTTP/1.1 400 No\r\nwebhook-delivery: abort\r\nContent-Length: 0\r\n\r\n"
LEAVE = b"HTTP/1.1 400 No\r\nwebhook-delivery: disable\r\nContent-Length: 0\r\n\r\n"
FAILED = b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n"
ONE_TRY = msgspec.structs.replace(QUICK, retry_ms=())


@pytest.fixture
def process(bridge: Bridge) -> Process:
    made = Process(lambda _name, _args: None)
    made.__dict__["bridge"] = bridge
    return made


@pytest.fixture
def sent() -> Iterator[Collected]:
    """What would have gone to Sentry."""
    collected = Collected()
    assert setup_sentry(DSN, "usms-bridge@0.1.0", collected)
    setup_logging("json")
    yield collected
    sentry_sdk.get_client().close(timeout=0)
    sentry_sdk.get_global_scope().set_client(None)
    structlog.reset_defaults()


def waiting(bridge: Bridge, name: str) -> list[dict[str, object]]:
    """The events that wait for a subscription, as they would be sent."""
    found = []
    for lane in bridge.queues.waiting(name, 99):
        for position in lane.positions:
            (record,) = bridge.log.fetch("default", {lane.shard: [position]}).values()
            found.append(json.loads(render("default", unpack(record))[1]))
    return sorted(found, key=lambda one: str(one["type"]))


def watching(bridge: Bridge, *types: str) -> str:
    """A subscription that asks for operators' events, and is paused: what it is to hear stays to be seen."""
    name = bridge.subscribe("http://127.0.0.1:9009/", options=Options(types=types or ("bridge.*",)))[0].id
    pause(bridge, name)
    return name


@pytest.mark.parametrize("case", [(GONE, "HTTP 410"), (LEAVE, "asked for by the receiver")], ids=["410", "asked"])
def test_a_disabled_subscription_is_told_to_the_others_signed_and_to_sentry(
    bridge: Bridge, log: Parts, process: Process, sent: Collected, case: tuple[bytes, str]
) -> None:
    answer, reason = case
    with serving(once(answer)) as dying, serving(answering(ok())) as hearing:
        watcher, secret, _ = bridge.subscribe(hearing.url, options=ASKS)
        plain = bridge.subscribe(hearing.url)[0]
        name = bridge.subscribe(dying.url, options=Options(types=("sms.*", "bridge.*")))[0].id
        publish(log, name, sessions=3)
        process.deliver()
        run(bridge)
    told = [Webhook(secret).verify(body, headers) for headers, body in arrived(hearing)]
    assert [one["type"] for one in told] == ["bridge.subscription.disabled"]
    data = told[0]["data"]
    assert (data["subscription"], data["url"], data["reason"], data["count"]) == (name, dying.url, reason, 1)
    assert data["since"] < data["until"]
    assert waiting(bridge, name)[0]["type"] != "bridge.subscription.disabled", "not to itself"
    assert bridge.queues.lengths([watcher.id, plain.id]) == {watcher.id: 0, plain.id: 0}

    process.trim()
    (reported,) = sent.events()
    assert reported["logentry"]["message"] == "subscription disabled"
    assert reported["extra"]["bridge_fields"]["subscription"] == name
    assert reported["extra"]["bridge_fields"]["reason"] == reason
    assert "1850000" not in sent.text()


def test_what_the_breaker_gave_up_for_days_is_told_and_reported_too(
    bridge: Bridge, log: Parts, process: Process, sent: Collected
) -> None:
    with serving(answering(FAILED)) as dying:
        watcher = watching(bridge)
        name = bridge.subscribe(dying.url)[0].id
        publish(log, name, sessions=20)
        breaker = msgspec.structs.replace(bridge.delivery_policy.breaker, first_ms=20, longest_ms=20, disable_ms=40)
        bridge.__dict__["delivery_policy"] = DeliveryPolicy(
            retry_ms=(3_600_000,) * 9, timeout_ms=2_000, concurrency=8, breaker=breaker
        )

        def served() -> bool:
            process.deliver()
            return not bridge.subscriptions.get(name).is_active

        until(served)
    (event,) = waiting(bridge, watcher)
    assert (event["type"], dict(event["data"])["reason"]) == (  # type: ignore[call-overload]
        "bridge.subscription.disabled",
        "no attempt succeeded for 40ms",
    )
    disabled = [one for one in sent.events() if one["logentry"]["message"] == "subscription disabled"]
    assert len(disabled) == 1


def test_a_slice_that_was_stopped_before_it_told_is_made_up_for(
    bridge: Bridge, process: Process, sent: Collected, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It disabled the subscription, and was killed before it said so: trimming says it, once."""
    watcher = watching(bridge)
    name = bridge.subscribe("http://127.0.0.1:9009/")[0].id
    bridge.subscriptions.disable(name, "HTTP 410", bridge.clock.now_ms())
    process.trim()
    monkeypatch.setattr(notices, "EVERY_MS", 0)
    process.trim()
    (reported,) = sent.events()
    assert reported["logentry"]["message"] == "subscription disabled"
    assert reported["extra"]["bridge_fields"]["subscription"] == name
    assert [one["type"] for one in waiting(bridge, watcher)] == ["bridge.subscription.disabled"]


def test_events_that_are_given_up_are_told_once_a_minute_with_a_count(
    bridge: Bridge, log: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(answering(FAILED, FAILED, ABORT)) as dying:
        watcher = watching(bridge, "bridge.delivery.exhausted")
        name = bridge.subscribe(dying.url)[0].id
        publish(log, name, sessions=1, phones=2)
        policy = msgspec.structs.replace(ONE_TRY, concurrency=1)
        assert run(bridge, policy).dead == 2
        announce(bridge)
        (event,) = waiting(bridge, watcher)
        data = msgspec.convert(event["data"], dict[str, object])
        assert (event["type"], data["count"], data["reason"]) == ("bridge.delivery.exhausted", 2, "HTTP 500")
        publish(log, name, sessions=2, phones=1)
        assert run(bridge, policy).dead == 2
    assert announce(bridge) == [], "a minute has not passed"
    monkeypatch.setattr(notices, "EVERY_MS", 0)
    announce(bridge)
    announce(bridge)
    first, second = (msgspec.convert(one["data"], dict[str, object]) for one in waiting(bridge, watcher))
    assert (second["count"], second["reason"]) == (2, "aborted")
    assert second["since"] == first["until"]


def test_what_a_receiver_answered_is_told_without_phones(bridge: Bridge, log: Parts) -> None:
    """It may answer with anything, and its words are the reason."""
    with serving(answering(ok(b'{"code":"18512345678"}'))) as dying:
        watcher = watching(bridge)
        name = bridge.subscribe(dying.url, options=Options(format=BodyFormat.USMS))[0].id
        log.write("s1", entry("s1", to=[name]))
        assert run(bridge, ONE_TRY).dead == 1
    announce(bridge)
    (event,) = waiting(bridge, watcher)
    assert "answered with code" in str(event)
    assert "1851234" not in str(event)


def test_no_operators_event_is_about_operators_events(
    bridge: Bridge, log: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two that ask for them, neither of which takes any: what they are told of comes to an end."""
    monkeypatch.setattr(notices, "EVERY_MS", 0)
    with serving(answering(FAILED)) as server:
        names = [bridge.subscribe(server.url, options=Options(types=("sms.*", "bridge.*")))[0].id for _ in range(2)]
        bridge.test(names[0])
        publish(log, names[0], sessions=1)
        run(bridge, ONE_TRY)
        assert len(announce(bridge)) == 1
        for _ in range(3):
            run(bridge, ONE_TRY)
            assert announce(bridge) == []
    tallies = bridge.queues.tallies(names)
    assert [(tallies[name].dead, tallies[name].exhausted) for name in names] == [(2, 1), (1, 0)]


def test_what_a_limit_did_is_told_and_logged_once(
    bridge: Bridge, log: Parts, process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    watcher = watching(bridge)
    name = bridge.subscribe("http://127.0.0.1:9009/")[0].id
    log.redis.hset(keys.counts(0, name), mapping={"o": 3, "d": 1})
    with structlog.testing.capture_logs() as lines:
        process.trim()
        process.trim()
    (event,) = waiting(bridge, watcher)
    data = msgspec.convert(event["data"], dict[str, object])
    assert event["type"] == "bridge.backlog.dropped"
    assert (data["count"], data["limits"]) == (4, {"over_backlog": 3, "over_kept": 0, "dead_dropped": 1})
    (warned,) = (line for line in lines if line["log_level"] == "warning")
    assert (warned["over_backlog"], warned["dead_letters_dropped"]) == (3, 1)
    log.redis.hset(keys.counts(0, name), "o", 5)
    monkeypatch.setattr(notices, "EVERY_MS", 0)
    (told,) = announce(bridge)
    assert (told.notice.kind, told.notice.news) == (DROPPED, (2, 0, 0))


def test_another_account_hears_nothing_and_nobody_need_hear(bridge: Bridge) -> None:
    other = bridge.subscribe("http://127.0.0.1:9009/", "other", ASKS)[0].id
    name = bridge.subscribe("http://127.0.0.1:9009/")[0].id
    bridge.subscriptions.disable(name, "HTTP 410", bridge.clock.now_ms())
    assert len(announce(bridge)) == 1
    assert bridge.queues.lengths([other, name]) == {other: 0, name: 0}
    assert len(list(bridge.log.read("default"))) == 1, "it is recorded all the same"
    assert "default" in bridge.tracking.accounts(), "and its log is trimmed"


def test_a_subscription_that_comes_in_between_hears_of_it(
    bridge: Bridge, log: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The registry was read, and then it was added: the telling is refused, and decided again."""
    name = bridge.subscribe("http://127.0.0.1:9009/")[0].id
    bridge.subscriptions.disable(name, "HTTP 410", bridge.clock.now_ms())
    added: list[str] = []
    note_account = bridge.tracking.note_account

    def meanwhile(account: str) -> None:
        note_account(account)
        if not added:
            added.append(bridge.subscribe("http://127.0.0.1:9009/", options=ASKS)[0].id)

    monkeypatch.setattr(bridge.tracking, "note_account", meanwhile)
    assert len(announce(bridge)) == 1
    assert [one["type"] for one in waiting(bridge, added[0])] == ["bridge.subscription.disabled"]
    log.assert_index_is_right()


def test_memory_that_is_short_puts_it_off_and_stops_nothing_else(bridge: Bridge, log: Parts, process: Process) -> None:
    name = bridge.subscribe("http://127.0.0.1:9009/")[0].id
    log.write("s1", entry("s1", to=[name]))
    bridge.subscriptions.disable(name, "HTTP 410", bridge.clock.now_ms())
    bridge.client.redis.config_set("maxmemory", "1")
    try:
        with structlog.testing.capture_logs() as lines:
            process.trim()
    finally:
        bridge.client.redis.config_set("maxmemory", "0")
    assert any("could not be recorded" in line["event"] for line in lines)
    with structlog.testing.capture_logs() as lines:
        process.trim()
    assert any(line["event"] == "subscription disabled" for line in lines)

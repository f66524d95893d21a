"""What ``bridge.deliver`` sends, wakes and says."""

from __future__ import annotations

import pytest
import structlog
from kombu.exceptions import OperationalError
from msgspec.structs import replace

import tasks.app
import tasks.process
from bridge.domain.subscriptions import Subscription
from bridge.store.secrets import SecretBox
from tasks.process import Process
from tests.delivery.slices import Receiver, publish, subscribe
from tests.hostile import once, serving
from tests.parts import Parts
from tests.tasks.desks import Desk


def test_delivery_sends_what_is_due_and_wakes_nobody_for_nothing(desk: Desk, log: Parts) -> None:
    receiver = Receiver()
    with serving(receiver) as server:
        told = publish(log, subscribe(desk.bridge, server.url), sessions=5)
        desk.process.deliver()
    assert receiver.accepted == told
    assert desk.sent == []
    assert desk.bridge.wakes.take("deliver", 1)


def test_a_broker_that_is_away_ends_no_slice(desk: Desk, log: Parts) -> None:
    """Fault: a slice that asked for another one beside it ended with the broker's error, amid its POSTs: those were
    sent again. So did a poll that passed its account on, with the calls that were under way.
    """

    def refuse(_name: str, _args: tuple[str, ...]) -> None:
        raise OperationalError("Error 111 connecting to localhost:6379. Connection refused.")

    receiver = Receiver()
    process = Process(refuse)
    process.__dict__["bridge"] = desk.bridge
    with serving(receiver) as server:
        # Of two parts a slice serves one, and calls for somebody who serves the other.
        name = desk.bridge.subscribe(server.url, limited=lambda one: replace(one, partitions=2))[0].id
        told = publish(log, name, sessions=16)
        with structlog.testing.capture_logs() as lines:
            process.deliver()
    assert receiver.accepted == told
    said = [line["event"] for line in lines if line["log_level"] == "error"]
    assert said == ["bridge.deliver could not be enqueued (OperationalError); the next tick tries again"]


def test_what_another_slice_holds_wakes_nobody(desk: Desk, log: Parts) -> None:
    name = subscribe(desk.bridge, "http://127.0.0.1:9009/")
    publish(log, name, sessions=5)
    for shard in range(log.shards):
        desk.bridge.queues.claim(b"t" * 16, [(name, shard, 0)], 45_000)
    desk.process.deliver()
    assert desk.sent == []


def test_an_unreadable_secret_is_said_once_and_does_not_keep_slices_going(desk: Desk, log: Parts) -> None:
    """Fault: each slice woke the next, four a second, and each logged the same error, until somebody mended it."""
    sealed = SecretBox([bytes(32)]).seal(b"s" * 32, "sub_locked")
    locked = Subscription(
        id="sub_locked", account="default", url="http://127.0.0.1:9009/", created_ms=1, secrets=(sealed,)
    )
    desk.bridge.subscriptions.put(locked)
    publish(log, "sub_locked", sessions=2)
    with structlog.testing.capture_logs() as lines:
        for _ in range(3):
            desk.process.deliver()
    assert desk.sent == []
    assert [line["subscription"] for line in lines if line["log_level"] == "error"] == ["sub_locked"]
    desk.process.tick()
    assert ("bridge.deliver", ()) in desk.sent, "the tick goes on asking"


def test_complaints_are_remembered_for_a_minute_and_no_longer(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fault: a worker kept those of every subscription that there ever was."""
    now = 1_000.0
    monkeypatch.setattr(tasks.process, "monotonic", lambda: now)
    with structlog.testing.capture_logs() as said:
        for number in range(20):
            desk.process._complain(f"sub_{number}", "its secret cannot be read")
            desk.process._complain(f"sub_{number}", "its secret cannot be read")
            now += 40
    assert len(said) == 20
    assert len(desk.process._complaints) == 2


def test_a_subscription_that_is_disabled_is_said_as_an_error_once(desk: Desk, log: Parts) -> None:
    with serving(once(b"HTTP/1.1 410 Gone\r\nContent-Length: 0\r\n\r\n")) as server:
        name = subscribe(desk.bridge, server.url)
        publish(log, name, sessions=5)
        with structlog.testing.capture_logs() as lines:
            desk.process.deliver()
            desk.process.deliver()
    said = [line for line in lines if line["log_level"] == "error"]
    assert [(line["event"], line["subscription"], line["reason"]) for line in said] == [
        ("subscription disabled", name, "HTTP 410")
    ]

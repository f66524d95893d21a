"""What ``bridge.trim`` finishes and removes, and what it says of it."""

from __future__ import annotations

import pytest
import structlog

from bridge import lifecycle
from bridge.domain.commits import Due
from bridge.domain.subscriptions import Deliver
from bridge.store import keys
from tests.delivery.slices import publish, subscribe
from tests.parts import Parts, entry
from tests.tasks.desks import Desk

HOUR_MS = 3_600_000


def test_trimming_finishes_a_resumption_that_was_cut_short(
    desk: Desk, log: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = subscribe(desk.bridge, "http://127.0.0.1:8000/")
    lifecycle.pause(desk.bridge, name)
    publish(log, name, sessions=3)
    with monkeypatch.context() as patch:
        patch.setattr(lifecycle, "finish_release", lambda *_: None)
        lifecycle.resume(desk.bridge, name, Deliver.ALL)
    assert desk.bridge.index.due(log.now_ms()).queues == ()
    desk.process.trim()
    assert desk.bridge.index.due(log.now_ms()).queues
    assert not desk.bridge.subscriptions.get(name).releasing


def test_trimming_removes_what_was_kept_for_long_enough(desk: Desk, log: Parts) -> None:
    name = subscribe(desk.bridge, "http://127.0.0.1:9009/")
    desk.process.track(["s1"], "default")
    log.write("old", expires_ms=1, due=Due.NONE)
    log.write("young", expires_ms=log.now_ms() + HOUR_MS, due=Due.NONE)
    log.write("s1", entry("s1", to=[name]), entry("s1", "18500000002", to=()), due=1)
    log.redis.xadd(keys.dead(0, name), {"r": b"r", "e": "e", "a": "1", "p": "p"})

    desk.process.trim()
    assert desk.tracked() == {"s1", "young"}
    assert len(list(desk.bridge.log.read("default"))) == 2
    assert len(list(desk.bridge.queues.dead_letters(name))) == 1

    desk.bridge.clock.note(log.now_ms() + desk.bridge.settings.keep_dead_ms + HOUR_MS)
    desk.process.trim()
    assert not list(desk.bridge.log.read("default"))
    (waiting,) = desk.bridge.queues.waiting(name, 10)
    assert desk.bridge.queues.kept(name, {waiting.shard: waiting.positions})
    assert not list(desk.bridge.queues.dead_letters(name))
    assert desk.tracked() == {"s1", "young"}, "the server's clock decides on sessions"


def test_what_limits_did_is_said_once(desk: Desk, log: Parts) -> None:
    name = subscribe(desk.bridge, "http://127.0.0.1:9009/")
    desk.process.track(["s1"], "default")
    log.write("s1", *(entry("s1", to=[name], sequence=number) for number in range(500)), due=1)
    log.redis.hset(keys.counts(0, name), "o", 3)
    settings = desk.bridge.settings
    with structlog.testing.capture_logs() as lines:
        desk.bridge.__dict__["settings"] = settings.model_copy(update={"log_bytes": 1})
        desk.process.trim()
        desk.bridge.__dict__["settings"] = settings  # what tells of it would leave the log too
        desk.process.trim()
    warned = [line for line in lines if line["log_level"] == "warning"]
    assert [line.get("dropped", line.get("over_backlog")) for line in warned] == [500, 3]
    assert sum(len(one.positions) for one in desk.bridge.queues.waiting(name, 10)) == 500

"""A store, the broker too, that fills up: tracking waits, polling pauses, delivery goes on and frees memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import redis

from bridge.errors import BrokerUnreachable
from bridge.sender import track as send
from bridge.store import keys
from bridge.wiring import Bridge
from tests.commands import Terminal, track, use_environ
from tests.delivery.slices import Receiver, publish, subscribe
from tests.faults.house import Running, foreign_app, running, tracked, wait_until
from tests.hostile import Server, serving, silent
from tests.parts import Parts
from tests.servers import bridge_on, environ_for, valkey

MAXMEMORY = 64_000_000


class Tank:
    """A store of 64 MB, filled to any part of it."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.redis = redis.Redis.from_url(url)

    def fill(self, part: float) -> None:
        """Have so much of maxmemory used."""
        info: Any = self.redis.info("memory")
        self.redis.setrange("ballast", int(MAXMEMORY * part) - info["used_memory"], b"x")

    def limit_to_what_is_used(self) -> None:
        """Be full: each write that adds is refused from now on."""
        info: Any = self.redis.info("memory")
        self.redis.config_set("maxmemory", int(info["used_memory"] * 0.98))

    def empty(self) -> None:
        self.redis.config_set("maxmemory", MAXMEMORY)
        self.redis.delete("ballast")


class Scene:
    """A bridge at work: worker and beat in processes, a receiver and a provider that is never asked in vain."""

    def __init__(self, stack: ExitStack, directory: Path) -> None:
        self.tank = Tank(stack.enter_context(valkey(maxmemory=str(MAXMEMORY))))
        self.receiver = Receiver()
        receiving = stack.enter_context(serving(self.receiver))
        self.provider: Server = stack.enter_context(serving(silent))
        settings = {
            "provider_url": self.provider.url,
            "provider_timeout": "2s",
            "poll_schedule": "50ms,100ms",
            "allow_http": "yes",
        }
        self.environ = environ_for(self.tank.url, **settings)
        self.bridge: Bridge = stack.enter_context(
            bridge_on(self.tank.url, poll_schedule_ms="50ms,100ms", allow_http="yes")
        )
        parts = Parts(self.tank.url, self.bridge.settings.shards)
        stack.callback(parts.close)
        track(self.bridge, "due")
        self.told = publish(parts, subscribe(self.bridge, receiving.url), sessions=20)
        self._stack, self._directory = stack, directory

    def start(self, kind: str) -> Running:
        return self._stack.enter_context(running(self._directory, self.environ, kind))


@pytest.fixture
def terminal(capsys: pytest.CaptureFixture[str]) -> Terminal:
    return Terminal(capsys)


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    with ExitStack() as stack:
        yield Scene(stack, tmp_path)


def test_at_ninety_percent_what_adds_waits_and_what_frees_goes_on(
    scene: Scene, terminal: Terminal, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    scene.tank.fill(0.92)
    worker, _beat = scene.start("worker"), scene.start("beat")
    with foreign_app(scene.tank.url) as app:
        app.send_task("bridge.track", [["waits"]], queue="bridge.track")
    wait_until("tracking says that it waits", lambda: "tracking put back" in worker.log, worker)
    wait_until("polling says that it pauses", lambda: "polling pauses" in worker.log, worker)
    wait_until("all is delivered", lambda: scene.receiver.accepted == scene.told, worker)
    assert scene.provider.connections == 0
    due_ms = scene.tank.redis.zscore(keys.due(keys.shard_of("due", scene.bridge.settings.shards), "default"), "due")
    assert due_ms is not None
    assert due_ms < scene.bridge.clock.now_ms(), "it was not claimed for nothing"
    assert not tracked(scene.bridge, ["waits"])
    assert scene.tank.redis.llen("bridge.track") + scene.tank.redis.hlen("bridge.taken") >= 1

    use_environ(monkeypatch, tmp_path, scene.environ)
    (said,) = (row for row in terminal("doctor", "--json").rows() if row["check"] == "memory")
    assert said["verdict"] == "fail"
    assert "tracking refuses and polling pauses" in str(said["detail"])

    scene.tank.empty()
    wait_until("tracking goes on", lambda: tracked(scene.bridge, ["waits"]), worker)
    wait_until("polling goes on", lambda: scene.provider.connections, worker)


def test_a_full_store_starts_workers_and_is_delivered_from(scene: Scene) -> None:
    """Faults: waking delivery was a plain SET, its message a plain LPUSH, and opening the store wrote again."""
    scene.tank.fill(0.9)
    scene.tank.limit_to_what_is_used()
    with pytest.raises(redis.exceptions.OutOfMemoryError):
        scene.tank.redis.set("more", 1)
    worker, beat = scene.start("worker"), scene.start("beat")
    wait_until("all is delivered", lambda: scene.receiver.accepted == scene.told, worker, beat)

    with pytest.raises(BrokerUnreachable, match="out of memory and takes no messages"):
        send(["refused"], broker_url=scene.tank.url)
    scene.tank.empty()
    send(["taken"], broker_url=scene.tank.url)
    wait_until("tracking goes on", lambda: tracked(scene.bridge, ["taken"]), worker)
    assert worker.terminate(20)[0] == 0
    assert beat.terminate(20)[0] == 0


def test_a_server_without_a_limit_is_never_short(bridge: Bridge, store_url: str) -> None:
    assert not bridge.memory.is_short()
    with redis.Redis.from_url(store_url) as store:
        store.config_set("maxmemory", 1)
        try:
            assert not bridge.memory.is_short(), "it is asked for once a second"
            with bridge_on(store_url) as another:
                assert another.memory.is_short()
        finally:
            store.config_set("maxmemory", 0)


def test_a_message_that_was_popped_with_memory_short_is_not_lost(tmp_path: Path) -> None:
    """Fault of kombu's: BRPOP passes with memory short, and the note of what it took is refused."""
    with valkey() as url, bridge_on(url) as bridge, redis.Redis.from_url(url) as queues:
        with foreign_app(url) as app:
            for number in range(20):
                app.send_task("bridge.track", [[f"s{number}"]], queue="bridge.track")
        queues.config_set("maxmemory", 1)
        with running(tmp_path, environ_for(url), "worker") as worker:
            wait_until("it tries", lambda: worker.log.count("tracking put back") > 3, worker)
            assert queues.llen("bridge.track") + queues.hlen("bridge.taken") == 20
            queues.config_set("maxmemory", 0)
            names = [f"s{number}" for number in range(20)]
            wait_until("all are tracked", lambda: len(tracked(bridge, names)) == 20, worker)

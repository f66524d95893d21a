"""``bridge worker`` as an operator starts it: from any directory, against what may not be there."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import redis
from celery import Celery

from bridge.errors import StoreUnreachable
from bridge.store.server_program import find_server_binary
from tasks.starting import when_reachable
from tests.parts import until
from tests.ports import unused_port
from tests.servers import bridge_on, environ_for, valkey

WORKER = [sys.executable, "-P", "-m", "bridge.cli.main", "worker"]


def ended(environment: dict[str, str], cwd: Path) -> tuple[int, str]:
    """How a worker that cannot start ends: its exit code and what it says."""
    done = subprocess.run(WORKER, cwd=cwd, env=environment, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stderr.strip()


def test_it_runs_right_beside_modules_of_the_same_names(tmp_path: Path) -> None:
    for name in ("tasks", "celeryconfig", "celery", "bridge", "redis"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('imported the wrong module')\n")
    with valkey() as url, bridge_on(url) as bridge:
        worker = subprocess.Popen(WORKER, cwd=tmp_path, env=environ_for(url), stderr=subprocess.PIPE, text=True)
        try:
            foreign = Celery(broker=url, set_as_current=False)
            foreign.send_task("bridge.track", [["from-a-foreign-app"]], queue="bridge.track")
            foreign.close()
            deadline = time.monotonic() + 30
            while bridge.sessions.read("default", ["from-a-foreign-app"])["from-a-foreign-app"].state is None:
                assert worker.poll() is None, worker.stderr.read() if worker.stderr else ""
                assert time.monotonic() < deadline, "the worker did not track"
                time.sleep(0.05)
            state = bridge.sessions.read("default", ["from-a-foreign-app"])["from-a-foreign-app"].state
            assert state is not None
            assert bridge.origins.name(state.origin) == socket.gethostname()
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(20) == 0
        finally:
            worker.kill()
            worker.wait()
            if worker.stderr is not None:
                worker.stderr.close()


@pytest.mark.parametrize(
    ("settings", "code", "says"),
    [
        ({"BRIDGE_SHARDS": "16"}, 2, "set BRIDGE_SHARDS=8"),
        ({"BRIDGE_CALLBACK_TIMEOUT": "45s"}, 2, "BRIDGE_CALLBACK_TIMEOUT: 45s is more than 30s"),
        ({"BRIDGE_PUBLIC_KEY": "", "BRIDGE_PRIVATE_KEY": ""}, 2, "take them from the provider's console"),
        ({"BRIDGE_SECRET_KEYS": ""}, 2, "openssl rand -base64 32"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(settings: dict[str, str], code: int, says: str, tmp_path: Path) -> None:
    with valkey() as url, bridge_on(url):
        found, said = ended(environ_for(url) | settings, tmp_path)
    assert (found, says in said) == (code, True), said
    assert said.startswith("error: ")
    assert len(said.splitlines()) == 1
    assert "@" not in said  # no URL's password


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("BRIDGE_REDIS_URL", "Redis does not answer"),
        ("BRIDGE_BROKER_URL", "the broker redis://127.0.0.1:{port}/0 does not answer"),
    ],
)
def test_it_waits_for_what_starts_at_the_same_time(setting: str, says: str, tmp_path: Path) -> None:
    """Fault: a beat that was started during a failover ended at once. Whoever starts all at once had to start again."""
    port = unused_port()
    with valkey() as url, bridge_on(url):
        settings = environ_for(url) | {setting: f"redis://127.0.0.1:{port}/0"}
        worker = subprocess.Popen(WORKER, cwd=tmp_path, env=settings, stderr=subprocess.PIPE, text=True)
        try:
            assert worker.stderr is not None
            said = worker.stderr.readline()
            assert "waiting before the start" in said
            assert says.format(port=port) in said
            with server_at(port) as late, redis.Redis.from_url(late) as server, Celery(broker=late) as app:
                app.send_task("bridge.track", [["first"]], queue="bridge.track")
                until(lambda: server.llen("bridge.track") == 0, within_s=60)
        finally:
            worker.kill()
            worker.communicate()


@contextmanager
def server_at(port: int) -> Iterator[str]:
    """A server on a port that was chosen before, without a password."""
    server = subprocess.Popen([find_server_binary(), "--port", str(port), "--save", ""], stdout=subprocess.DEVNULL)
    try:
        until(lambda: answers(port))
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        server.kill()
        server.wait()


def answers(port: int) -> bool:
    with suppress(redis.exceptions.ConnectionError), redis.Redis(port=port) as server:
        return bool(server.ping())
    return False


def test_it_does_not_wait_for_ever() -> None:
    tries = 0

    def prepare() -> None:
        nonlocal tries
        tries += 1
        raise StoreUnreachable("Redis does not answer")

    with pytest.raises(StoreUnreachable):
        when_reachable(prepare, patience_s=0.6)
    assert tries > 1


def test_without_an_embedded_server_it_says_how_to_get_one(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("BRIDGE_")}
    code, said = ended(environment | {"BRIDGE_DATA_DIR": str(tmp_path / "none")}, tmp_path)
    assert code == 3
    assert "bridge up" in said


def test_events_for_flower_go_together_and_none_is_missing(tmp_path: Path) -> None:
    """Each message was followed by events of its own: a quarter of what a worker that tracks took."""
    with valkey() as url, bridge_on(url), redis.Redis.from_url(url) as server, Celery(broker=url) as app:
        worker = subprocess.Popen(WORKER, cwd=tmp_path, env=environ_for(url))
        try:
            app.send_task("bridge.track", [["first"]], queue="bridge.track")
            until(lambda: server.llen("bridge.track") == 0)
            told: list[str] = []
            handlers = {"task-succeeded": lambda event: told.append(event["uuid"])}
            with app.connection_for_read() as given:
                receiver = app.events.Receiver(given, handlers=handlers)
                with receiver.consumer_context() as (connection, *_):
                    with suppress(TimeoutError):
                        connection.drain_events(timeout=0.1)  # it subscribes with the first
                    began = time.monotonic()
                    published = server.info("commandstats")["cmdstat_publish"]["calls"]
                    sent = {app.send_task("bridge.track", [[f"s{n}"]], queue="bridge.track").id for n in range(100)}
                    while not sent <= set(told):
                        assert time.monotonic() - began < 60, f"{len(told)} of {len(sent)}"
                        with suppress(TimeoutError):
                            connection.drain_events(timeout=1)
            published = server.info("commandstats")["cmdstat_publish"]["calls"] - published
            # Four times a second, a heartbeat each 2 s, and whenever 24 of the 300 wait: two threads at once see that.
            assert published <= 5 * (time.monotonic() - began) + 2 * 300 / 24 + 5
        finally:
            worker.terminate()
            worker.wait(20)

"""A store behind real Sentinels, and a broker by the same URL."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from kombu import Connection

from bridge.domain.commits import Due, Write
from bridge.domain.server_urls import broker_address
from bridge.errors import StoreUnreachable
from bridge.store.client import Client
from tests.hostile import Certificate
from tests.parts import OPEN, Parts, entry, until
from tests.sentinels import Watched, watched
from tests.tls import ignores_what_redis_py_leaves_open

pytestmark = ignores_what_redis_py_leaves_open


@pytest.fixture(params=[False, True], ids=["in clear", "over TLS"])
def group(request: pytest.FixtureRequest) -> Iterator[Watched]:
    with watched(tls=request.param) as made:
        yield made


def test_the_master_is_found_by_either_form_and_is_a_broker_too(group: Watched) -> None:
    for url in group.urls:
        parts = Parts(url)
        parts.write("s1", entry("s1"), due=1)
        assert [node.name for node in parts.client.nodes()] == [f"127.0.0.1:{group.port(0)}"]
        parts.close()
        address = broker_address(url)
        options = {**address.transport_options, "max_retries": 1}
        with Connection(address.url, transport_options=options, ssl=dict(address.ssl)) as connection:
            queue = connection.SimpleQueue("bridge.test")
            queue.put("hello")
            assert queue.get(timeout=5).payload == "hello"
            queue.close()
    with pytest.raises(StoreUnreachable):
        Client(group.url.replace("/mine", "/other"), timeout_s=0.5).commands([["PING"]])


def test_over_tls_whoever_answers_must_be_trusted(tmp_path: Path) -> None:
    others = Certificate(tmp_path / "others.pem", "127.0.0.1")
    with watched(tls=True) as group:
        for url in (group.url_trusting(others), group.url_trusting(None)):
            with pytest.raises(StoreUnreachable):
                Client(url, timeout_s=0.5).commands([["PING"]])


def test_writers_go_on_by_themselves_when_the_master_is_killed(group: Watched) -> None:
    parts = Parts(group.url)
    reached, steps = 0, []
    stop = threading.Event()

    def write_on() -> None:
        nonlocal reached
        while not stop.is_set():
            try:
                stored = parts.sessions.read("default", ["s1"])["s1"]
                at = stored.state.polled_ms if stored.state else 0
                steps.append(at - reached)
                reached = at
                following = msgspec.structs.replace(OPEN, polled_ms=at + 1)
                parts.sessions.commit("default", [Write("s1", stored.version, following, Due.KEEP, None)])
            except StoreUnreachable:
                stop.wait(0.05)

    writer = threading.Thread(target=write_on)
    writer.start()
    try:
        until(lambda: reached > 20)
        group.kill(0)
        until(lambda: group.is_master(1), 30)
        took_over, before = time.monotonic(), reached
        until(lambda: reached > before + 20, 30)
        assert time.monotonic() - took_over < 30
    finally:
        stop.set()
        writer.join(30)
    assert max(steps) == 1, "a commit was done twice"
    parts.close()

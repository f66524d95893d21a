"""A store behind real Sentinels, and a broker by the same URL."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from kombu import Connection

from bridge.domain.server_urls import broker_address
from bridge.errors import StoreUnreachable
from bridge.store.client import Client
from tests.hostile import Certificate
from tests.parts import Parts, entry, until
from tests.sentinels import Watched, watched
from tests.store.counting import counting
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
    with counting(parts) as counter:
        until(lambda: counter.reached > 20)
        group.kill(0)
        until(lambda: group.is_master(1), 30)
        before = counter.reached
        until(lambda: counter.reached > before + 20, 30)
    assert max(counter.steps) == 1, "a commit was done twice"
    parts.close()

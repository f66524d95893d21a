"""``bridge web`` by a real uvicorn: the two health checks, in a process of its own and in this one."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis
import requests
import uvicorn

from bridge.errors import BrokerUnreachable, StoreUnreachable
from bridge.store.server import EmbeddedServer
from bridge.web.app import create_app
from bridge.web.push import Pushes
from tests.clusters import real_cluster
from tests.servers import bridge_on

NOBODY = Pushes(admits=lambda _account, _token: False, hint=lambda _account, _nos: False, wake=lambda _account: None)


@contextmanager
def serving(
    checks: Mapping[str, Callable[[], None]], check_within_s: float = 5.0, pushes: Pushes = NOBODY
) -> Iterator[str]:
    app = create_app(checks, pushes, check_within_s=check_within_s)
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, ws="none"))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(20)


def test_both_are_200_while_all_is_reachable() -> None:
    with serving({"store": lambda: None, "broker": lambda: None}) as url:
        for path in ("/healthz", "/readyz"):
            answer = requests.get(url + path, timeout=10)
            assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


@pytest.mark.parametrize("path", ["/", "/healthz", "/readyz", "/v1/sessions", "/v1/subscriptions", "/callbacks"])
def test_a_callback_to_the_bridge_itself_is_not_accepted(path: str) -> None:
    """A subscription that points at a bridge, its own or another's, fails and its breaker opens: nothing goes round."""
    event = {"id": "evt_1", "type": "sms.status.changed", "timestamp": "2026-11-23T06:31:08.123Z", "data": {}}
    headers = {"webhook-id": "evt_1", "webhook-timestamp": "1795423107", "webhook-signature": "v1,x"}
    with serving({"store": lambda: None, "broker": lambda: None}) as url:
        assert requests.post(url + path, json=event, headers=headers, timeout=10).status_code >= 400


def test_what_is_not_reachable_is_named_with_what_to_do() -> None:
    def broker() -> None:
        raise BrokerUnreachable("it does not answer: check BRIDGE_BROKER_URL")

    with serving({"store": lambda: None, "broker": broker}) as url:
        answer = requests.get(f"{url}/readyz", timeout=10)
        assert requests.get(f"{url}/healthz", timeout=10).status_code == 200

    assert answer.status_code == 503
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json() == {
        "type": "about:blank",
        "title": "Service Unavailable",
        "status": 503,
        "detail": "broker: it does not answer: check BRIDGE_BROKER_URL",
        "failures": {"broker": "it does not answer: check BRIDGE_BROKER_URL"},
    }


def test_a_check_that_hangs_is_not_waited_for_and_delays_no_health_check() -> None:
    released = threading.Event()

    def hanging() -> None:
        released.wait(30)

    with serving({"store": hanging}, check_within_s=0.1) as url:
        try:
            started = time.monotonic()
            # More than can hang at once: the later ones are answered too.
            answers = [requests.get(f"{url}/readyz", timeout=10) for _ in range(20)]
            assert requests.get(f"{url}/healthz", timeout=10).status_code == 200
            took_s = time.monotonic() - started
        finally:
            released.set()

    assert {answer.status_code for answer in answers} == {503}
    assert answers[-1].json()["failures"] == {"store": "no answer within 0.1 s"}
    assert took_s < 20


def test_checks_run_side_by_side() -> None:
    barrier = threading.Barrier(2, timeout=5)

    def meets() -> None:
        barrier.wait()

    with serving({"store": meets, "broker": meets}) as url:
        assert requests.get(f"{url}/readyz", timeout=10).status_code == 200


def test_a_check_that_is_broken_means_not_ready_and_tells_no_details() -> None:
    def broken() -> None:
        raise KeyError("redis://:password@host")

    def refused() -> None:
        raise StoreUnreachable("Redis does not answer")

    with serving({"store": refused, "broker": broken}) as url:
        answer = requests.get(f"{url}/readyz", timeout=10)

    assert answer.json()["failures"] == {
        "store": "Redis does not answer",
        "broker": "the check itself failed (KeyError)",
    }


class Web:
    """A running ``bridge web``."""

    def __init__(self, **settings: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "bridge.cli.main", "web"],
            env={**os.environ, "BRIDGE_LISTEN": "127.0.0.1:0", **settings},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def url(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.process.communicate()[1]
        return line.split()[-1]


@pytest.fixture
def start_web(tmp_path: Path) -> Iterator[Callable[..., Web]]:
    started: list[Web] = []

    def start(**settings: str) -> Web:
        started.append(Web(**{"BRIDGE_DATA_DIR": str(tmp_path / "data"), **settings}))
        return started[-1]

    yield start
    for web in started:
        web.process.kill()
        web.process.communicate()


def test_readiness_follows_the_store_and_the_broker(start_web: Callable[..., Web], tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path / "store") as store:
        with EmbeddedServer(tmp_path / "broker") as broker:
            url = start_web(BRIDGE_REDIS_URL=store.url, BRIDGE_BROKER_URL=broker.url).url()
            assert requests.get(f"{url}/readyz", timeout=10).status_code == 200
        answer = requests.get(f"{url}/readyz", timeout=10)
        assert answer.status_code == 503
        assert list(answer.json()["failures"]) == ["broker"]
        assert "BRIDGE_BROKER_URL" in answer.json()["detail"]
    assert list(requests.get(f"{url}/readyz", timeout=10).json()["failures"]) == ["store", "broker"]


def test_an_emptied_store_is_not_ready_until_somebody_has_decided(
    start_web: Callable[..., Web], tmp_path: Path
) -> None:
    with EmbeddedServer(tmp_path / "store") as store, redis.Redis.from_url(store.url) as client:
        with bridge_on(store.url):
            pass
        url = start_web(BRIDGE_REDIS_URL=store.url).url()
        assert requests.get(f"{url}/readyz", timeout=10).status_code == 200
        client.flushall()
        answer = requests.get(f"{url}/readyz", timeout=10)
        assert answer.status_code == 503
        assert "backup" in answer.json()["failures"]["store"]
        assert requests.get(f"{url}/healthz", timeout=10).status_code == 200, "restarting the process helps nobody"
        (path,) = (tmp_path / "data" / "stores").iterdir()
        assert str(path) in answer.json()["failures"]["store"]
        path.unlink()
        assert requests.get(f"{url}/readyz", timeout=10).status_code == 200


def test_a_broker_that_is_a_node_of_a_cluster_is_not_ready(start_web: Callable[..., Web], tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path / "store") as store, real_cluster(masters=1) as cluster:
        url = start_web(BRIDGE_REDIS_URL=store.url, BRIDGE_BROKER_URL=cluster.masters[0].url).url()
        answer = requests.get(f"{url}/readyz", timeout=10)
    assert "Celery cannot use a cluster" in answer.json()["failures"]["broker"]


def test_a_broker_that_is_no_redis_must_take_a_connection(start_web: Callable[..., Web], tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path / "store") as store, socket.create_server(("127.0.0.1", 0)) as broker:
        amqp = f"amqp://user:sesame@127.0.0.1:{broker.getsockname()[1]}//"
        url = start_web(BRIDGE_REDIS_URL=store.url, BRIDGE_BROKER_URL=amqp).url()
        assert requests.get(f"{url}/readyz", timeout=10).status_code == 200
        broker.close()
        answer = requests.get(f"{url}/readyz", timeout=10)

    assert list(answer.json()["failures"]) == ["broker"]
    assert "sesame" not in answer.text


def test_without_a_store_it_does_not_start(start_web: Callable[..., Web], tmp_path: Path) -> None:
    web = start_web(BRIDGE_DATA_DIR=str(tmp_path), BRIDGE_REDIS_URL="")
    _out, errors = web.process.communicate(timeout=60)

    assert web.process.returncode == 3
    assert errors.startswith("error: BRIDGE_REDIS_URL is not set")


def test_a_port_that_is_taken_is_one_line(start_web: Callable[..., Web]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        web = start_web(BRIDGE_LISTEN=address, BRIDGE_REDIS_URL="redis://127.0.0.1:1/0")
        _out, errors = web.process.communicate(timeout=60)

    assert web.process.returncode == 2
    assert errors == f"error: cannot listen on {address}: Address already in use; set BRIDGE_LISTEN to another\n"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM)])
def test_it_ends_quietly_when_asked_to(start_web: Callable[..., Web], number: signal.Signals, code: int) -> None:
    web = start_web(BRIDGE_REDIS_URL="redis://127.0.0.1:1/0")
    requests.get(f"{web.url()}/healthz", timeout=10)
    web.process.send_signal(number)
    _out, errors = web.process.communicate(timeout=30)

    assert (web.process.returncode, errors) == (code, "")


def test_the_openapi_document_describes_the_health_checks() -> None:
    with serving({}) as url:
        document = json.loads(requests.get(f"{url}/schema/openapi.json", timeout=10).content)

    assert {"/healthz", "/readyz"} <= set(document["paths"])

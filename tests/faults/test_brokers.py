"""Each kind of Redis broker that a URL can name: the same channel, and nothing but the URL to set."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from unittest.mock import patch
from urllib.parse import quote, urlsplit

import pytest
import redis
from kombu import Connection

from bridge.errors import BrokerUnreachable
from bridge.sender import track as send
from bridge.store.server import EmbeddedServer
from tasks.leases import LEASES, TAKEN
from tests.faults.house import foreign_app, running, tracked, wait_until
from tests.hostile import Certificate
from tests.ports import unused_port
from tests.sentinels import watched
from tests.servers import bridge_on, environ_for, valkey
from tests.tls import directives, ignores_what_redis_py_leaves_open, program_with_tls

pytestmark = ignores_what_redis_py_leaves_open


@contextmanager
def over_tls(directory: Path) -> Iterator[str]:
    program = program_with_tls()
    certificate = Certificate(directory / "server.pem", "127.0.0.1")
    port = unused_port()
    with (
        patch("bridge.store.server.find_server_binary", return_value=program),
        EmbeddedServer(directory / "server", options=directives(certificate, port)) as server,
    ):
        password = urlsplit(server.url).password
        query = f"ssl_cert_reqs=required&ssl_ca_certs={quote(str(certificate.path))}"
        yield f"rediss://:{password}@127.0.0.1:{port}/0?{query}"


@contextmanager
def by_socket(directory: Path) -> Iterator[str]:
    path = directory / "redis.sock"
    with EmbeddedServer(directory / "server", options={"unixsocket": str(path)}) as server:
        yield f"unix://:{urlsplit(server.url).password}@{path}?db=3"


@contextmanager
def in_another_database(directory: Path) -> Iterator[str]:
    with EmbeddedServer(directory / "server") as server:
        yield server.url.replace("redis://", "valkey://").replace("/0", "/5")


@contextmanager
def on_redis_7(directory: Path) -> Iterator[str]:
    found = shutil.which("redis-server")
    if found is None:
        pytest.skip("redis-server is not on the PATH: this runs on Valkey alone")
    with (
        patch("bridge.store.server.find_server_binary", return_value=Path(found)),
        EmbeddedServer(directory / "server") as server,
    ):
        yield server.url


@pytest.mark.parametrize("broker", [over_tls, by_socket, in_another_database, on_redis_7])
def test_messages_come_through(broker: object, tmp_path: Path) -> None:
    assert callable(broker)
    names = [f"s{number}" for number in range(20)]
    with (
        broker(tmp_path) as broker_url,
        valkey() as url,
        bridge_on(url) as bridge,
        running(tmp_path, environ_for(url, broker_url=broker_url), "worker", "--concurrency", "3") as worker,
    ):
        for name in names:
            send([name], broker_url=broker_url)
        wait_until("all are tracked", lambda: tracked(bridge, names) == set(names), worker)
        assert worker.terminate(20)[0] == 0


@pytest.mark.parametrize("tls", [False, True], ids=["in clear", "over TLS"])
def test_a_failover_by_sentinel_loses_nothing_that_was_replicated(tls: bool, tmp_path: Path) -> None:
    with watched(tls=tls) as servers, valkey() as url, bridge_on(url) as bridge:
        broker_url = servers.urls[0]
        environ = environ_for(url, broker_url=broker_url)
        with (
            running(tmp_path, environ, "worker", "--concurrency", "4") as worker,
            running(tmp_path, environ, "beat") as beat,
        ):
            before = [f"before-{number}" for number in range(20)]
            for name in before:
                send([name], broker_url=broker_url)
            wait_until("it works", lambda: tracked(bridge, before) == set(before), worker, beat)
            # The store stands still, so that messages are taken and not acknowledged when the master goes.
            bridge.client.redis.client_pause(3_000, all=True)
            held = [f"held-{number}" for number in range(20)]
            for name in held:
                send([name], broker_url=broker_url)
            master = servers.clients[0]
            wait_until("messages are taken", lambda: master.hlen(TAKEN) >= 4, worker, beat)
            master.wait(1, 5_000)
            servers.kill(0)
            wait_until("the replica takes over", lambda: servers.is_master(1), worker, beat)

            after = [f"after-{number}" for number in range(20)]
            for name in after:
                wait_until("senders go on", lambda name=name: sent(name, broker_url), worker, beat)  # type: ignore[misc] # mypy cannot infer a lambda with a default
            names = [*held, *after]
            wait_until("all are tracked", lambda: tracked(bridge, names) == set(names), worker, beat, deadline_s=30)
            last = bridge.index.last_tick_ms() or 0
            wait_until("ticks go on", lambda: (bridge.index.last_tick_ms() or 0) > last, worker, beat, deadline_s=30)
            assert worker.terminate(20)[0] == 0


def sent(name: str, broker_url: str) -> bool:
    with suppress(BrokerUnreachable):
        send([name], broker_url=broker_url)
        return True
    return False


def test_queues_of_other_projects_in_the_same_database_are_left_alone(tmp_path: Path) -> None:
    """A stock consumer beside a worker: neither takes, nor puts back, what is the other's."""
    with (
        valkey() as url,
        bridge_on(url) as bridge,
        redis.Redis.from_url(url) as server,
        running(tmp_path, environ_for(url), "worker") as worker,
        Connection(url) as connection,
        foreign_app(url) as app,
    ):
        queue = connection.SimpleQueue("other.project")
        for number in range(5):
            queue.put({"number": number})
        app.send_task("bridge.track", [["s1"]], queue="bridge.track")
        wait_until("it works", lambda: tracked(bridge, ["s1"]), worker)
        message = queue.get(timeout=5)
        assert message.payload == {"number": 0}
        assert server.hlen("unacked") == 1
        wait_until("it has acknowledged", lambda: not server.exists(TAKEN, LEASES), worker)
        message.ack()
        assert server.llen("other.project") == 4
        queue.close()

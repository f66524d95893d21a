"""A master, its replica and three Sentinels on the loopback."""

from __future__ import annotations

import secrets
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast
from urllib.parse import urlsplit

import redis

from bridge.store.server import EmbeddedServer, find_server_binary
from tests.parts import until

GROUP = "mine"


class Watched:
    """Two servers of one password, and three Sentinels of another, two of which must agree."""

    def __init__(self, stack: ExitStack, directory: Path) -> None:
        self._password, self._sentinel_password = secrets.token_urlsafe(12), secrets.token_urlsafe(12)
        options = {"masterauth": self._password, "repl-diskless-sync-delay": "0"}
        self.servers = [
            stack.enter_context(EmbeddedServer(directory / name, password=self._password, options=options))
            for name in ("first", "second")
        ]
        self.clients = [redis.Redis.from_url(one.url, protocol=2) for one in self.servers]
        second = self.clients[1]
        second.execute_command("REPLICAOF", "127.0.0.1", str(self.port(0)))  # type: ignore[no-untyped-call]
        until(lambda: second.info("replication")["master_link_status"] == "up")
        self.sentinels = [self._start(stack, directory / f"sentinel{number}") for number in range(3)]
        for port in self.sentinels:
            with self._sentinel(port) as sentinel:
                until(lambda: self._knows_all(sentinel), 30)
        for one in self.clients:
            stack.callback(one.close)

    def port(self, place: int) -> int:
        """The port of a server."""
        return urlsplit(self.servers[place].url).port or 0

    def kill(self, place: int) -> None:
        """As ``kill -9``."""
        process = self.servers[place]._process
        assert process is not None
        process.kill()
        process.wait(10)

    def is_master(self, place: int) -> bool:
        """Whether a server says so; one that has just become it closes its connections."""
        try:
            return bool(self.clients[place].info("replication")["role"] == "master")
        except redis.ConnectionError:
            return False

    @property
    def url(self) -> str:
        """What BRIDGE_REDIS_URL would be."""
        hosts = ",".join(f"127.0.0.1:{port}" for port in self.sentinels)
        return f"redis+sentinel://:{self._password}@{hosts}/{GROUP}?sentinel_password={self._sentinel_password}"

    @property
    def kombu_url(self) -> str:
        """The same in kombu's form."""
        servers = ";".join(f"sentinel://:{self._password}@127.0.0.1:{port}" for port in self.sentinels)
        return f"{servers}?master_name={GROUP}&sentinel_password={self._sentinel_password}"

    def _start(self, stack: ExitStack, directory: Path) -> int:
        directory.mkdir()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        (directory / "sentinel.conf").write_text(
            f"port {port}\nbind 127.0.0.1\ndir {directory}\nrequirepass {self._sentinel_password}\n"
            f"sentinel sentinel-pass {self._sentinel_password}\n"
            f"sentinel monitor {GROUP} 127.0.0.1 {self.port(0)} 2\n"
            f"sentinel auth-pass {GROUP} {self._password}\n"
            f"sentinel down-after-milliseconds {GROUP} 1000\n"
            f"sentinel failover-timeout {GROUP} 5000\n"
        )
        with (directory / "log").open("ab") as log:
            process = subprocess.Popen(
                [find_server_binary(), directory / "sentinel.conf", "--sentinel"], stdout=log, stderr=log
            )
        stack.callback(process.wait, 10)
        stack.callback(process.kill)
        with self._sentinel(port) as sentinel:
            until(lambda: _answers(sentinel))
        return port

    def _sentinel(self, port: int) -> redis.Redis:
        return redis.Redis(port=port, password=self._sentinel_password, protocol=2)

    def _knows_all(self, sentinel: redis.Redis) -> bool:
        about = cast("dict[str, dict[str, object]]", sentinel.sentinel_masters())[GROUP]
        return (about["num-slaves"], about["num-other-sentinels"]) == (1, 2)


def _answers(sentinel: redis.Redis) -> bool:
    try:
        return bool(sentinel.ping())
    except redis.ConnectionError:
        return False


@contextmanager
def watched() -> Iterator[Watched]:
    """Servers and Sentinels that end with the block."""
    with ExitStack() as stack:
        yield Watched(stack, Path(stack.enter_context(TemporaryDirectory())))

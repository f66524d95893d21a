"""A master, its replica and three Sentinels on 127.0.0.1, of which the master can be killed."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import redis

from bridge.store.server import EmbeddedServer, find_server_binary
from tests.faults.house import wait_until

PASSWORD = secrets.token_hex(8)
GROUP = "bridge"


class Watched:
    """A replicated server; ``broker_url`` names its Sentinels."""

    def __init__(self, stack: ExitStack, directory: Path) -> None:
        self._servers = [
            stack.enter_context(EmbeddedServer(directory / name, password=PASSWORD, options={"masterauth": PASSWORD}))
            for name in ("one", "two")
        ]
        self.clients = [stack.enter_context(redis.Redis.from_url(server.url)) for server in self._servers]
        self._ports = [urlsplit(server.url).port or 0 for server in self._servers]
        self.clients[1].replicaof("127.0.0.1", self._ports[0])
        wait_until("the replica follows", lambda: self.clients[1].info("replication")["master_link_status"] == "up")
        ports = [self._sentinel(stack, directory / f"sentinel{number}") for number in range(3)]
        self._sentinels = [stack.enter_context(redis.Redis(port=port)) for port in ports]
        wait_until("the Sentinels know each other", lambda: all(self._others(one) == 2 for one in self._sentinels))
        urls = [f"sentinel://:{PASSWORD}@127.0.0.1:{port}" for port in ports]
        self.broker_url = ";".join(urls) + f"?master_name={GROUP}"

    def master(self) -> int:
        """The place of the master in ``clients``."""
        _, port = self._sentinels[0].sentinel_get_master_addr_by_name(GROUP)
        return self._ports.index(int(port))

    def kill_master(self) -> None:
        """``kill -9``; returns once the replica is the master."""
        before = self.master()
        os.kill(self._servers[before].pid, signal.SIGKILL)
        wait_until("the replica becomes the master", lambda: self.master() != before)
        wait_until("it knows", lambda: self.clients[self.master()].info("replication")["role"] == "master")

    def _others(self, sentinel: redis.Redis) -> int:
        about: Any = sentinel.sentinel_master(GROUP)
        return int(about["num-other-sentinels"])

    def _sentinel(self, stack: ExitStack, directory: Path) -> int:
        directory.mkdir(parents=True)
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port: int = probe.getsockname()[1]
        configuration = directory / "sentinel.conf"
        configuration.write_text(
            f"port {port}\nbind 127.0.0.1\ndir {directory}\nprotected-mode no\n"
            f"sentinel monitor {GROUP} 127.0.0.1 {self._ports[0]} 2\n"
            f"sentinel auth-pass {GROUP} {PASSWORD}\n"
            f"sentinel down-after-milliseconds {GROUP} 1000\n"
            f"sentinel failover-timeout {GROUP} 5000\n"
        )
        with (directory / "log").open("wb") as log:
            process = subprocess.Popen(
                [str(find_server_binary()), str(configuration), "--sentinel"], stdout=log, stderr=log, process_group=0
            )
        stack.callback(process.wait)
        stack.callback(process.kill)
        return port


@contextmanager
def watched(directory: Path) -> Iterator[Watched]:
    with ExitStack() as stack:
        yield Watched(stack, directory)

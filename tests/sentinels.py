"""A master, its replica and three Sentinels on the loopback."""

from __future__ import annotations

import os
import secrets
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast
from unittest.mock import patch
from urllib.parse import quote, urlsplit

import redis
from redis.sentinel import Sentinel

from bridge.store.server import EmbeddedServer, ServerProcess, Spawn
from bridge.store.server_program import find_server_binary
from tests.hostile import Certificate
from tests.parts import until
from tests.ports import unused_port
from tests.tls import directives, program_with_tls

GROUP = "mine"


def started(
    name: str,  # noqa: ARG001 - part of Spawn
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    log_file: Path | None,
    pass_fds: Sequence[int],
) -> ServerProcess:
    """A process of nobody's family."""
    with (log_file or Path(os.devnull)).open("ab") as log:
        return subprocess.Popen(argv, env=dict(env), stdout=log, stderr=log, pass_fds=tuple(pass_fds))


class Watched:
    """Two servers of one password, and three Sentinels of another, two of which must agree.

    With a certificate, replication and everything that Sentinels say or ask goes over TLS; only a test itself may
    still talk to the servers in clear. ``spawn`` starts their processes, which are ended by ``stack`` else; ``durable``
    ones have an append-only file.
    """

    def __init__(
        self,
        stack: ExitStack,
        directory: Path,
        *,
        spawn: Spawn = started,
        durable: bool = False,
        program: Path | None = None,
        options: Mapping[str, str] | None = None,
        certificate: Certificate | None = None,
    ) -> None:
        self._stack, self._directory, self._spawn = stack, directory, spawn
        self._program = program or find_server_binary()
        self._password, self._sentinel_password = secrets.token_urlsafe(12), secrets.token_urlsafe(12)
        self._certificate = certificate
        self._tls_ports = [unused_port(), unused_port()] if certificate else []
        options = {"masterauth": self._password, "repl-diskless-sync-delay": "0", **(options or {})}
        self.servers = [
            stack.enter_context(
                EmbeddedServer(
                    directory / name,
                    durable=durable,
                    password=self._password,
                    options=options | self._tls(number),
                    spawn=spawn,
                )
            )
            for number, name in enumerate(("first", "second"))
        ]
        self.clients = [redis.Redis.from_url(one.url, protocol=2) for one in self.servers]
        self.follow(1, 0)
        self.sentinels = [unused_port() for _ in range(3)]
        for port in self.sentinels:
            self._configure(port)
        self._watchers = {port: self.start_sentinel(port) for port in self.sentinels}
        for port in self.sentinels:
            with self._sentinel(port) as sentinel:
                until(lambda: self._knows_all(sentinel), 30)
        for one in self.clients:
            stack.callback(one.close)

    def port(self, place: int) -> int:
        """The port that Sentinels know a server by."""
        return self._tls_ports[place] if self._certificate else urlsplit(self.servers[place].url).port or 0

    def kill(self, place: int) -> None:
        """As ``kill -9``."""
        process = self.servers[place]._process
        assert process is not None
        process.kill()
        process.wait(10)

    def follow(self, place: int, master: int) -> None:
        """Have a server be the other's replica; returns once it is."""
        one = self.clients[place]
        one.execute_command("REPLICAOF", "127.0.0.1", str(self.port(master)))  # type: ignore[no-untyped-call]
        until(lambda: self.is_replica(place))

    def is_replica(self, place: int) -> bool:
        """Whether a server says that it has all that its master has."""
        try:
            return self.clients[place].info("replication").get("master_link_status") == "up"
        except redis.ConnectionError:
            return False

    def revive(self, place: int) -> None:
        """Start a server that was killed again, at the port where it was, as the other's replica."""
        server = self.servers[place]
        server._wanted_port = server._port
        server.stop()
        server.start()
        self.follow(place, 1 - place)

    @property
    def pids(self) -> list[int]:
        """The servers' process ids."""
        return [one.pid for one in self.servers]

    def fail_over(self) -> None:
        """Ask a Sentinel to give the master's place to the replica; raises redis.ResponseError where it will not."""
        with self._sentinel(self.sentinels[0]) as sentinel:
            sentinel.execute_command("SENTINEL FAILOVER", GROUP)

    def replace_sentinel(self, port: int) -> None:
        """``kill -9`` of a Sentinel, and its start with what it wrote down; returns once it knows the others."""
        watcher = self._watchers[port]
        watcher.kill()
        watcher.wait(10)
        self._watchers[port] = self.start_sentinel(port)
        with self._sentinel(port) as sentinel:
            until(lambda: self._knows_all(sentinel), 30)

    def is_master(self, place: int) -> bool:
        """Whether a server says so; one that has just become it closes its connections."""
        try:
            return bool(self.clients[place].info("replication")["role"] == "master")
        except redis.ConnectionError:
            return False

    def is_agreed(self) -> bool:
        """Whether all Sentinels name the same master, which is one, and think it and its replica well."""
        places = [place for place in (0, 1) if self.is_master(place)]
        return len(places) == 1 and self.is_named(places[0], with_replica=True) and self.is_replica(1 - places[0])

    def is_named(self, place: int, *, with_replica: bool = False) -> bool:
        """Whether all Sentinels say that a server is the master, and think it well; and its replica, if asked for."""
        for port in self.sentinels:
            with self._sentinel(port) as sentinel:
                master = cast("dict[str, object]", sentinel.sentinel_master(GROUP))
                replicas = cast("list[dict[str, object]]", sentinel.sentinel_slaves(GROUP))
            if (master["port"], master["flags"]) != (self.port(place), "master"):
                return False
            if with_replica and [one["flags"] for one in replicas] != ["slave"]:
                return False
        return True

    @property
    def password(self) -> str:
        return self._password

    @property
    def url(self) -> str:
        """What BRIDGE_REDIS_URL would be."""
        return self.url_trusting(self._certificate)

    def url_trusting(self, certificate: Certificate | None) -> str:
        """The same with another certificate to trust, or, with None, in clear."""
        hosts = ",".join(f"127.0.0.1:{port}" for port in self.sentinels)
        scheme, ending = ("rediss", f"&ssl_ca_certs={quote(str(certificate.path))}") if certificate else ("redis", "")
        login = f"?sentinel_password={self._sentinel_password}"
        return f"{scheme}+sentinel://:{self._password}@{hosts}/{GROUP}{login}{ending}"

    @property
    def urls(self) -> list[str]:
        """That, and where it can be said the same in kombu's form, which has no word for TLS."""
        servers = ";".join(f"sentinel://:{self._password}@127.0.0.1:{port}" for port in self.sentinels)
        kombu_url = f"{servers}?master_name={GROUP}&sentinel_password={self._sentinel_password}"
        return [self.url] if self._certificate else [kombu_url, self.url]

    def _tls(self, place: int) -> dict[str, str]:
        if self._certificate is None:
            return {}
        return directives(self._certificate, self._tls_ports[place]) | {"tls-replication": "yes"}

    def _configure(self, port: int) -> None:
        directory = self._directory / f"sentinel-{port}"
        directory.mkdir()
        listening = {"port": str(port)}
        if self._certificate is not None:
            # Replication's setting is that of connections between Sentinels, and from them to servers, too.
            listening = {"port": "0", **directives(self._certificate, port), "tls-replication": "yes"}
        (directory / "sentinel.conf").write_text(
            "".join(f"{name} {value}\n" for name, value in listening.items())
            + f"bind 127.0.0.1\ndir {directory}\nrequirepass {self._sentinel_password}\n"
            f"sentinel sentinel-pass {self._sentinel_password}\n"
            f"sentinel monitor {GROUP} 127.0.0.1 {self.port(0)} 2\n"
            f"sentinel auth-pass {GROUP} {self._password}\n"
            f"sentinel down-after-milliseconds {GROUP} 1000\n"
            f"sentinel failover-timeout {GROUP} 5000\n"
        )

    def start_sentinel(self, port: int) -> ServerProcess:
        """Start a Sentinel that was configured; returns once it answers."""
        directory = self._directory / f"sentinel-{port}"
        argv = [str(self._program), str(directory / "sentinel.conf"), "--sentinel"]
        process = self._spawn("sentinel", argv, env=os.environ, log_file=directory / "log", pass_fds=())
        self._stack.callback(process.wait, 10)
        self._stack.callback(process.kill)
        with self._sentinel(port) as sentinel:
            until(lambda: _answers(sentinel))
        return process

    def client(self) -> redis.Redis:
        """A client of whoever is the master, for as long as it is used."""
        hosts = [("127.0.0.1", port) for port in self.sentinels]
        login = {"password": self._sentinel_password}
        sentinel = Sentinel(hosts, sentinel_kwargs=login, password=self._password, socket_timeout=30)  # type: ignore[no-untyped-call]
        master: redis.Redis = sentinel.master_for(GROUP)  # type: ignore[no-untyped-call]
        return master

    def _sentinel(self, port: int) -> redis.Redis:
        password, certificate = self._sentinel_password, self._certificate
        if certificate is None:
            return redis.Redis(port=port, password=password, protocol=2)
        return redis.Redis(
            host="127.0.0.1", port=port, password=password, protocol=2, ssl=True, ssl_ca_certs=str(certificate.path)
        )

    def _knows_all(self, sentinel: redis.Redis) -> bool:
        about = cast("dict[str, dict[str, object]]", sentinel.sentinel_masters())[GROUP]
        return (about["num-slaves"], about["num-other-sentinels"]) == (1, 2)


def _answers(sentinel: redis.Redis) -> bool:
    try:
        return bool(sentinel.ping())
    except redis.ConnectionError:
        return False


@contextmanager
def watched(*, options: Mapping[str, str] | None = None, tls: bool = False) -> Iterator[Watched]:
    """Servers and Sentinels that end with the block; with ``tls`` all of them speak it."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(TemporaryDirectory()))
        program = program_with_tls() if tls else find_server_binary()
        certificate = Certificate(directory / "servers.pem", "127.0.0.1") if tls else None
        with patch("bridge.store.server.find_server_binary", return_value=program):
            group = Watched(stack, directory, program=program, options=options, certificate=certificate)
        yield group

"""A store on one server: the one at a URL, or whichever is master behind Sentinel."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, cast

import redis
from redis.backoff import ExponentialWithJitterBackoff, NoBackoff
from redis.connection import parse_url
from redis.driver_info import DriverInfo
from redis.exceptions import AuthenticationError
from redis.retry import Retry
from redis.sentinel import Sentinel

from bridge.domain.server_urls import StoreAddress
from bridge.store.wire import PATIENCE_S, Command, Node, Reading, converse, pack

_SENTINEL_TIMEOUT_S = 1.0
"""A Sentinel only looks into its memory; of three, one that hangs must not use up a caller's patience."""

_DRIVER = DriverInfo()
"""What connections say of themselves to the server. Made once: redis-py else reads its version from disk for each new
connection, and a process out of descriptors would meet an error there that is none of a connection's."""


def connection_options(timeout_s: float) -> dict[str, Any]:
    """What every connection to a server of the store is told. (``Any``: what redis-py takes by name.)"""
    return {
        # RESP2: the maintenance notifications of RESP3 are one server's own, and Valkey refuses them.
        "protocol": 2,
        "socket_timeout": timeout_s,
        "socket_connect_timeout": timeout_s,
        "socket_keepalive": True,
        "health_check_interval": 10,
        "driver_info": _DRIVER,
    }


class OneServer:
    """The server at a URL, or behind Sentinel, found anew by each new connection."""

    def __init__(self, address: StoreAddress, timeout_s: float) -> None:
        # Every script may be repeated: a lost reply is met by fences, not by hoping.
        options = connection_options(timeout_s) | {"retry": Retry(ExponentialWithJitterBackoff(cap=0.5, base=0.02), 3)}
        self._sentinel: Sentinel | None = None
        self._group = address.group
        self._patience_s = min(PATIENCE_S, 3 * timeout_s) if address.sentinels else 0.0
        self._has_answered = False
        if address.sentinels:
            self._sentinel = _sentinel(address, min(timeout_s, _SENTINEL_TIMEOUT_S))
            self.library: redis.Redis = self._sentinel.master_for(  # type: ignore[no-untyped-call]
                address.group, **given_options(address), **options
            )
        else:
            self.library = redis.Redis.from_url(address.url, **options)

    def close(self) -> None:
        """Close every pooled connection."""
        self.library.close()
        self.library.connection_pool.disconnect()
        if self._sentinel is not None:
            self._sentinel.close()

    def exchange(self, commands: Sequence[Command]) -> list[object]:
        """Send commands in one round trip and read their replies, refusals among them.

        Those with a WAITAOF at the end are sent once: a server that took over, or was started again meanwhile, may lack
        what it is to wait for.
        """
        packed = b"".join([pack(tuple(command)) for command in commands])
        if commands[-1][0] == "WAITAOF":
            return self._converse_once(packed, len(commands), Retry(NoBackoff(), 0))
        return self._converse(packed, len(commands))

    def scan(self, pattern: str) -> Iterator[bytes]:
        """Walk the keys that match."""
        yield from self.library.scan_iter(match=pattern, count=1000)

    def nodes(self) -> list[Node]:
        """This server alone: replicas are Sentinel's business."""
        pool: Any = self.library.connection_pool
        connection: Any = pool.get_connection()
        try:
            host, port = getattr(connection, "host", ""), getattr(connection, "port", 0)
            return [Node(f"{host}:{port}" if port else str(connection.path))]
        finally:
            pool.release(connection)

    def ask(self, node: Node, commands: Sequence[Command]) -> list[object]:  # noqa: ARG002 - there is no other
        """Send commands to it."""
        return self.exchange(commands)

    def talk(self, timeout_s: float) -> _Talk:
        """A way to ask without waiting."""
        return _Talk(self.library.connection_pool, timeout_s)

    def sentinels(self) -> tuple[str, dict[str, Mapping[str, str] | None]] | None:
        """The group's name, and what each Sentinel says of it: None where it gives no answer."""
        if self._sentinel is None:
            return None
        answers: dict[str, Mapping[str, str] | None] = {}
        for one in self._sentinel.sentinels:
            where = one.connection_pool.connection_kwargs
            try:
                answer = cast("Mapping[str, object]", one.sentinel_master(self._group))
                said = {name: str(value) for name, value in answer.items()}
            except redis.exceptions.RedisError:
                said = None
            answers[f"{where['host']}:{where['port']}"] = said
        return self._group, answers

    def _converse(self, packed: bytes, count: int) -> list[object]:
        """Once, or behind Sentinel again and again: a slice of delivery that outlives a failover keeps its queues.

        A server that never answered is not waited for: whoever has just begun is told at once.
        """
        deadline = time.monotonic() + (self._patience_s if self._has_answered else 0)
        while True:
            try:
                replies = self._converse_once(packed, count)
            except AuthenticationError:
                raise
            except (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError):
                if time.monotonic() >= deadline:
                    raise
                time.sleep(random.uniform(0.1, 0.3))  # noqa: S311 - apart from others, no secret
            else:
                self._has_answered = True
                return replies

    def _converse_once(self, packed: bytes, count: int, retry: Retry | None = None) -> list[object]:
        pool = self.library.connection_pool
        connection: Any = pool.get_connection()
        try:
            replies: list[object] = (retry or connection.retry).call_with_retry(
                lambda: converse(connection, packed, count), lambda _error: connection.disconnect()
            )
            return replies  # noqa: TRY300 - what follows is for failures
        except BaseException:
            connection.disconnect()  # replies may be left in it
            raise
        finally:
            pool.release(connection)


class _Talk:
    """Exchanges over one connection, one at a time."""

    def __init__(self, pool: object, timeout_s: float) -> None:
        self._reading = Reading(pool, timeout_s)
        self._timeout_s = timeout_s
        self._count = 0
        self.replies: list[object] = []

    def begin(self, commands: Sequence[Command]) -> None:
        """Send commands."""
        self.replies = []
        self._count = len(commands)
        if commands:
            self._reading.begin(b"".join([pack(tuple(command)) for command in commands]), len(commands))

    def is_answered(self) -> bool:
        """Take in what has arrived."""
        self.replies += self._reading.arrived()
        return len(self.replies) == self._count

    def wait(self) -> None:
        """Wait until something arrives."""
        with suppress(redis.exceptions.RedisError):  # is_answered comes upon it too
            self._reading.is_readable(self._timeout_s)

    def close(self) -> None:
        """Give the connection back."""
        self._reading.close()
        self._count = 0
        self.replies = []


def given_options(address: StoreAddress) -> dict[str, Any]:
    """Login, database and options of the URL, as redis-py takes them by name."""
    given = dict(parse_url(address.url))  # type: ignore[no-untyped-call]
    for name in ("host", "port", "connection_class"):
        given.pop(name, None)
    if address.url.startswith("rediss:"):
        given["ssl"] = True
    return given


def _sentinel(address: StoreAddress, timeout_s: float) -> Sentinel:
    given = given_options(address)
    tls = {name: value for name, value in given.items() if name.startswith("ssl")}
    options = {**connection_options(timeout_s), "retry": Retry(NoBackoff(), 0), **tls, **address.sentinel_login}
    return Sentinel(list(address.sentinels), sentinel_kwargs=options)  # type: ignore[no-untyped-call]

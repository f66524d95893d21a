"""What goes over a connection: commands packed once, sent together, their replies read in order.

Not by redis-py's pipelines: those take 2 µs of Python more for each command, 3.5 and not 1.4 where there are many. What
is used of it are pools, connections and topology.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from time import monotonic
from typing import Any, Protocol, cast

import hiredis
import msgspec
import redis
from redis.exceptions import (
    AskError,
    AuthenticationError,
    BusyLoadingError,
    ClusterDownError,
    MasterDownError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisClusterException,
    TryAgainError,
)

from bridge.errors import BridgeError, StoreUnreachable

Argument = bytes | str | int | float
Command = Sequence[Argument]

# Its stub lacks the ``...`` of a tuple of any length.
pack = cast("Callable[[tuple[Argument, ...]], bytes]", hiredis.pack_command)

PATIENCE_S = 15.0
"""How long what a cluster, or a server behind Sentinel, does not serve is tried again: most failovers are over by then,
and slices that lived through one still hold their queues. Of one that takes longer the caller is told, and its task
comes again with the next tick; the holds that it left, of 45 s, end within 30 s after the failover."""

UNSERVED = (AskError, TryAgainError, ClusterDownError, ReadOnlyError, BusyLoadingError)
"""Refusals that pass by themselves: slots being moved, a failover, a server that reads its files. (MOVED is an ASK to
redis-py, MASTERDOWN a CLUSTERDOWN.)"""


AGAIN = (*UNSERVED, redis.exceptions.ConnectionError, redis.exceptions.TimeoutError)
"""What was not run, or not heard of: all that is sent may be sent again."""


class Node(msgspec.Struct, frozen=True):
    """A server of the store: ``name`` is host:port, ``master`` False for a replica."""

    name: str
    master: bool = True


class Talk(Protocol):
    """Exchanges, one at a time, over connections that are kept between them; nothing waits, but ``wait``."""

    replies: list[object]

    def begin(self, commands: Sequence[Command]) -> None:
        """Send commands; how that goes, ``is_answered`` says."""

    def is_answered(self) -> bool:
        """Take in what has arrived. Returns whether there is a reply to all; raises if there will be none."""

    def wait(self) -> None:
        """Wait until something arrives, or the time for it is over."""

    def close(self) -> None:
        """Give the connections back."""


class Servers(Protocol):
    """The servers that a store lives on. Replies may be redis-py's errors: refusals are the caller's to judge."""

    @property
    def library(self) -> redis.Redis:
        """redis-py's own client of them: for what needs no speed."""

    def exchange(self, commands: Sequence[Command]) -> list[object]:
        """Send commands, each to the server that its key is on, before any reply is read."""

    def scan(self, pattern: str) -> Iterator[bytes]:
        """Walk the keys that match on all masters."""

    def nodes(self) -> list[Node]:
        """The servers that are known."""

    def ask(self, node: Node, commands: Sequence[Command]) -> list[object]:
        """Send commands to one server, whatever their keys."""

    def talk(self, timeout_s: float) -> Talk:
        """A way to ask without waiting."""

    def close(self) -> None:
        """Close every connection."""


@contextmanager
def translated() -> Iterator[None]:
    """Turn redis-py's errors into ours, saying what to do."""
    try:
        yield
    except (redis.exceptions.RedisError, RedisClusterException) as error:
        raise in_our_words(error) from (None if isinstance(error, AuthenticationError) else error)


def in_our_words(error: Exception) -> BridgeError:
    """What is wrong, and what to do about it."""
    # redis-py's cluster client wraps whatever kept it from the last node.
    cause = error.__cause__ if isinstance(error, RedisClusterException) and error.__cause__ else error
    if isinstance(cause, AuthenticationError):
        return StoreUnreachable("Redis refuses the password: check BRIDGE_REDIS_URL")
    if isinstance(cause, OutOfMemoryError):
        return BridgeError(
            "Redis is out of memory (maxmemory reached): raise maxmemory, or wait until deliveries have freed some"
        )
    if isinstance(cause, UNSERVED):
        return StoreUnreachable(
            f"Redis does not serve this now ({type(cause).__name__}): a failover or a moved slot, which passes; if it "
            "does not, see `bridge doctor`"
        )
    if isinstance(cause, redis.exceptions.ConnectionError | redis.exceptions.TimeoutError | RedisClusterException):
        return StoreUnreachable(
            f"Redis does not answer ({type(cause).__name__}): check BRIDGE_REDIS_URL and that the server runs"
        )
    if isinstance(cause, redis.exceptions.InvalidResponse):
        return StoreUnreachable(
            "what answers is no Redis, or was garbled on the way: check BRIDGE_REDIS_URL and what lies between"
        )
    return BridgeError(f"Redis refused a command: {cause}")


def converse(connection: Any, packed: bytes, count: int) -> list[object]:
    """Send, and read as many replies, refusals among them. (``Any``: half of redis-py's connection is untyped.)"""
    connection.send_packed_command([packed])
    return [read(connection) for _ in range(count)]


def read(connection: Any) -> object:
    """The next reply, or the refusal that it is.

    Raises ConnectionError where the server is no master any more: then this connection is of no use.
    """
    try:
        reply: object = connection.read_response()
    except redis.exceptions.ResponseError as refusal:
        if isinstance(refusal, ReadOnlyError | MasterDownError):
            raise redis.exceptions.ConnectionError("the server is no master any more") from refusal
        return refusal
    return reply


class Reading:
    """The replies of one connection, taken as they come. One exchange after the other, for one thread."""

    def __init__(self, pool: Any, timeout_s: float) -> None:
        self._pool = pool
        self._timeout_s = timeout_s
        self._connection: Any = None
        self._left = 0
        self._begun_s = 0.0
        self._failure: Exception | None = None

    def begin(self, packed: bytes, count: int) -> None:
        """Send; a failure is raised by ``arrived``."""
        if self._connection is not None and not self._pool.owns_connection(self._connection):
            # Sentinels have named another master since: the one before may go on as one for seconds, unheard.
            self.close()
        self._left = count
        self._begun_s = monotonic()
        try:
            if self._connection is None:
                self._connection = self._pool.get_connection()
            self._connection.send_packed_command([packed])
        except redis.exceptions.RedisError as error:
            self._failure = error

    def arrived(self) -> Iterator[object]:
        """The replies that are there now. Raises redis-py's errors where no more will come."""
        try:
            while self._left and self.is_readable(0):
                reply = read(self._connection)
                self._left -= 1
                yield reply
        except BaseException:
            self.close()  # replies may be left in it
            raise

    def is_readable(self, wait_s: float) -> bool:
        """Whether something arrives within ``wait_s``."""
        if self._failure is not None:
            raise self._failure
        if self._connection.can_read(wait_s):
            return True
        if monotonic() - self._begun_s > self._timeout_s:
            raise redis.exceptions.TimeoutError("no answer in time")
        return False

    def close(self) -> None:
        """Give the connection back."""
        connection, self._connection = self._connection, None
        if connection is not None:
            if self._failure is not None or self._left:
                connection.disconnect()
            self._pool.release(connection)
        self._failure = None
        self._left = 0


def outcome(replies: Sequence[object]) -> object:
    """Of the replies to commands that are sent as one the last, or what kept it from being run."""
    refusal = next((reply for reply in replies if isinstance(reply, Exception)), None)
    return refusal or replies[-1]

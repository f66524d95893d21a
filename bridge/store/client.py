"""The connection to Redis or Valkey: the one place that names redis-py's errors, and runs scripts in a pipeline."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from importlib.resources import files
from time import monotonic
from typing import Any, TypeAlias, TypeVar, cast

import hiredis
import msgspec
import redis
from redis.backoff import ExponentialWithJitterBackoff
from redis.retry import Retry

from bridge.errors import BridgeError, IncompatibleStore, StoreUnreachable
from bridge.store import keys

SCHEMA = 1

T = TypeVar("T")
Argument = bytes | str | int | float


class Script(msgspec.Struct, frozen=True):
    """A Lua file of ``bridge/store/lua`` and the SHA-1 that the server knows it by."""

    source: str
    sha: str


class Call(msgspec.Struct, frozen=True):
    """One script call: KEYS and ARGV as its file's header says."""

    name: str
    keys: Sequence[str]
    args: Sequence[Argument]


Request = Call | Sequence[Argument]
"""A script call, or a plain command."""

Steps: TypeAlias = Generator[Sequence[Request], list[object], T]
"""An operation that yields what to ask, is sent the replies, and returns its result."""


@cache
def script(name: str) -> Script:
    """The script ``bridge/store/lua/<name>.lua``."""
    source = files("bridge.store").joinpath("lua", f"{name}.lua").read_text()
    return Script(source, hashlib.sha1(source.encode()).hexdigest())  # noqa: S324 - the server's own name for a script


@contextmanager
def translated() -> Iterator[None]:
    """Turn redis-py's errors into ours, saying what to do."""
    try:
        yield
    except redis.exceptions.AuthenticationError:
        raise StoreUnreachable("Redis refuses the password: check BRIDGE_REDIS_URL") from None
    except redis.exceptions.OutOfMemoryError:
        raise BridgeError(
            "Redis is out of memory (maxmemory reached): raise maxmemory, or wait until deliveries have freed some"
        ) from None
    except (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError) as error:
        raise StoreUnreachable(
            f"Redis does not answer ({type(error).__name__}): check BRIDGE_REDIS_URL and that the server runs"
        ) from error
    except redis.exceptions.RedisError as error:
        raise BridgeError(f"Redis refused a command: {error}") from error


class Client:
    """A pooled connection whose every failure is one of ours. Threads may share it."""

    def __init__(self, url: str, *, timeout_s: float = 5.0) -> None:
        if url.startswith("valkey"):
            url = "redis" + url.removeprefix("valkey")
        # RESP2: the maintenance notifications of RESP3 are one server's own, and Valkey refuses them.
        self.redis: redis.Redis = redis.Redis.from_url(
            url,
            protocol=2,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            socket_keepalive=True,
            health_check_interval=10,
            # Every script may be repeated: a lost reply is met by fences, not by hoping.
            retry=Retry(ExponentialWithJitterBackoff(cap=0.5, base=0.02), 3),
        )
        self.timeout_s = timeout_s
        self.round_trips = 0

    def close(self) -> None:
        """Close every pooled connection."""
        self.redis.close()

    def run(self, calls: Sequence[Call]) -> list[object]:
        """Run scripts in one round trip and return their replies in order. Raises as ``ask``."""
        return self.ask(calls)

    def commands(self, commands: Sequence[Sequence[Argument]]) -> list[object]:
        """Run plain commands in one round trip; replies are unparsed. Raises as ``ask``."""
        return self.ask(commands)

    def ask(self, requests: Sequence[Request]) -> list[object]:
        """Run scripts and plain commands in one round trip and return their replies in order.

        Raises:
            StoreUnreachable: no answer.
            BridgeError: the server refused a request.
        """
        with translated():
            replies = self._exchange(requests)
        return self.checked(requests, replies)

    def checked(self, requests: Sequence[Request], replies: list[object]) -> list[object]:
        """The replies to ``requests``, where none of them is a refusal. Raises as ``ask``.

        A server that forgot its scripts (restarted, flushed, failed over) refuses a call before it runs: those are
        loaded and sent again.
        """
        with translated():
            forgotten = [i for i, reply in enumerate(replies) if isinstance(reply, redis.exceptions.NoScriptError)]
            if forgotten:
                calls = {i: call for i in forgotten if isinstance(call := requests[i], Call)}
                for name in {call.name for call in calls.values()}:
                    self.redis.script_load(script(name).source)
                again = self._exchange(list(calls.values()))
                for i, reply in zip(calls, again, strict=True):
                    replies[i] = reply
            _raise_first(replies)
        return replies

    def drive(self, steps: Steps[T]) -> T:
        """Run steps from start to end, and return what they return. Raises as ``ask``."""
        try:
            asked = next(steps)
            while True:
                asked = steps.send(self.ask(asked))
        except StopIteration as end:
            # Its type is lost on the way: a generator's return value is Any to a type checker.
            return cast("T", end.value)

    def scan(self, pattern: str) -> Iterator[bytes]:
        """Walk the keys that match, in no order; one written meanwhile may be missed or come twice."""
        with translated():
            yield from self.redis.scan_iter(match=pattern, count=1000)

    def _exchange(self, requests: Sequence[Request]) -> list[object]:
        """Send requests and read their replies, refusals among them.

        Not by the library's pipeline: that takes 2 µs of Python more for each command, 3.5 and not 1.4 where there
        are many. What is used of it is the pool, the connection and its way of trying again.
        """
        if not requests:
            return []
        self.round_trips += 1
        packed = _packed(requests)
        pool = self.redis.connection_pool
        # Any: redis-py leaves half of a connection's methods untyped.
        connection: Any = pool.get_connection()
        try:
            replies: list[object] = connection.retry.call_with_retry(
                lambda: _converse(connection, packed, len(requests)), lambda _error: connection.disconnect()
            )
            return replies  # noqa: TRY300 - what follows is for failures
        except BaseException:
            connection.disconnect()  # replies may be left in it
            raise
        finally:
            pool.release(connection)


# Its stub lacks the ``...`` of a tuple of any length.
_pack = cast("Callable[[tuple[Argument, ...]], bytes]", hiredis.pack_command)


def _packed(requests: Sequence[Request]) -> bytes:
    return b"".join([_pack(tuple(_evalsha(one) if isinstance(one, Call) else one)) for one in requests])


def _evalsha(call: Call) -> Sequence[Argument]:
    return ["EVALSHA", script(call.name).sha, len(call.keys), *call.keys, *call.args]


def _converse(connection: Any, packed: bytes, count: int) -> list[object]:
    connection.send_packed_command([packed])
    return [_reply(connection) for _ in range(count)]


def _reply(connection: Any) -> object:
    try:
        reply: object = connection.read_response()
    except redis.exceptions.ResponseError as refusal:
        return refusal
    return reply


class Conversation:
    """Exchanges, one at a time, over a connection that is kept between them; nothing here waits, but ``wait``.

    An exchange that fails is the caller's to repeat, by ``Client.ask``; the next one is tried over a new connection.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._pool = client.redis.connection_pool
        # Any: redis-py leaves half of a connection's methods untyped.
        self._connection: Any = None
        self._count = 0
        self._begun_s = 0.0
        self._broken = False
        self.replies: list[object] = []

    def begin(self, requests: Sequence[Request]) -> None:
        """Send requests; how that goes, ``is_answered`` says."""
        self.replies = []
        self._count = len(requests)
        self._begun_s = monotonic()
        if not requests:
            return
        self._client.round_trips += 1
        try:
            if self._connection is None:
                self._connection = self._pool.get_connection()
            self._connection.send_packed_command([_packed(requests)])
        except redis.exceptions.RedisError:
            self._broken = True

    def is_answered(self) -> bool:
        """Take in what has arrived. Returns whether ``replies``, refusals among them, are all there.

        Raises:
            StoreUnreachable: the connection broke, or there was no answer in time.
        """
        try:
            with translated():
                while len(self.replies) < self._count and self._can_read(0):
                    self.replies.append(_reply(self._connection))
        except BaseException:
            self.close()  # replies may be left in it
            raise
        return len(self.replies) == self._count

    def wait(self) -> None:
        """Wait until something arrives, or the time for it is over."""
        with suppress(redis.exceptions.RedisError):  # is_answered comes upon it too
            self._can_read(self._client.timeout_s)

    def close(self) -> None:
        """Give the connection back."""
        connection, self._connection = self._connection, None
        if connection is not None:
            if self._broken or len(self.replies) < self._count:
                connection.disconnect()
            self._pool.release(connection)
        self._broken = False
        self._count = 0
        self.replies = []

    def _can_read(self, wait_s: float) -> bool:
        if self._broken:
            raise redis.exceptions.ConnectionError("the request could not be sent")
        if self._connection.can_read(wait_s):
            return True
        if monotonic() - self._begun_s > self._client.timeout_s:
            raise redis.exceptions.TimeoutError("no answer in time")
        return False


def _raise_first(replies: Sequence[object]) -> None:
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply


def open_store(client: Client, shards: int) -> None:
    """Check, on first use write, what the store says of itself: its schema, its shard count, a random id.

    Raises:
        IncompatibleStore: a newer release wrote it, or another number of shards.
        StoreUnreachable: no answer.
    """
    with translated():
        pipeline = client.redis.pipeline()
        pipeline.hsetnx(keys.STORE, "schema", str(SCHEMA))
        pipeline.hsetnx(keys.STORE, "shards", str(shards))
        pipeline.hsetnx(keys.STORE, "id", secrets.token_hex(8))
        pipeline.hgetall(keys.STORE)
        about = pipeline.execute()[-1]
    schema, kept_shards = int(about[b"schema"]), int(about[b"shards"])
    if schema > SCHEMA:
        raise IncompatibleStore(
            f"the store was written by a newer release (schema {schema}, this one reads {SCHEMA}): upgrade this one"
        )
    if kept_shards != shards:
        raise IncompatibleStore(
            f"BRIDGE_SHARDS is {shards}, but the store was begun with {kept_shards}: set BRIDGE_SHARDS={kept_shards}"
        )

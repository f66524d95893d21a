"""The store's servers, whichever they are: one, one behind Sentinel, or a cluster. Runs scripts, many at once."""

from __future__ import annotations

import secrets
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from threading import Lock
from typing import TypeAlias, TypeVar, cast
from urllib.parse import urlsplit

import msgspec
import redis

from bridge.domain.server_urls import StoreAddress, store_address
from bridge.errors import BridgeError, IncompatibleStore
from bridge.store import keys
from bridge.store.cluster import Cluster
from bridge.store.one_server import OneServer
from bridge.store.scripts import Script, read_scripts
from bridge.store.wire import AGAIN, Argument, Command, Node, Servers, Talk, translated

__all__ = [
    "SCHEMA",
    "Argument",
    "Call",
    "Client",
    "Conversation",
    "Request",
    "Steps",
    "open_store",
    "script",
    "translated",
]

SCHEMA = 1

T = TypeVar("T")


class Call(msgspec.Struct, frozen=True):
    """One script call: KEYS and ARGV as its file's header says."""

    name: str
    keys: Sequence[str]
    args: Sequence[Argument]


Request = Call | Sequence[Argument]
"""A script call, or a plain command."""

Steps: TypeAlias = Generator[Sequence[Request], list[object], T]
"""An operation that yields what to ask, is sent the replies, and returns its result."""


_SCRIPTS = read_scripts("bridge.store")


def script(name: str) -> Script:
    """The script ``bridge/store/lua/<name>.lua``."""
    return _SCRIPTS[name]


class Client:
    """The servers of a store, whose every failure is one of ours. Threads may share it."""

    def __init__(self, url: str, *, timeout_s: float = 5.0) -> None:
        """``url`` is a store's as BRIDGE_REDIS_URL takes it; nothing is connected yet."""
        self._address = store_address(url)
        self._servers: Servers | None = None
        self._lock = Lock()
        self.timeout_s = timeout_s
        self.round_trips = 0

    @property
    def is_cluster(self) -> bool:
        """Whether the store is on a cluster: said by the URL, or found out by asking the server."""
        return isinstance(self._found(), Cluster)

    @property
    def redis(self) -> redis.Redis:
        """The library's own client, whose errors are its own too."""
        return self._found().library

    def close(self) -> None:
        """Close every pooled connection."""
        with self._lock:
            servers, self._servers = self._servers, None
        if servers is not None:
            servers.close()

    def run(self, calls: Sequence[Call]) -> list[object]:
        """Run scripts in one round trip and return their replies in order. Raises as ``ask``."""
        return self.ask(calls)

    def commands(self, commands: Sequence[Command]) -> list[object]:
        """Run plain commands in one round trip; replies are unparsed. Raises as ``ask``."""
        return self.ask(commands)

    def ask(self, requests: Sequence[Request]) -> list[object]:
        """Run scripts and plain commands in one round trip and return their replies in order.

        On a cluster those of different slots are run in no order.

        Raises:
            StoreUnreachable: no answer.
            BridgeError: the server refused a request.
        """
        with translated():
            replies = self._exchange([_command(one) for one in requests])
        return self.checked(requests, replies)

    def checked(self, requests: Sequence[Request], replies: list[object]) -> list[object]:
        """The replies to ``requests``, where none of them is a refusal. Raises as ``ask``.

        What was not run is sent again: a server that does not know a script (restarted, flushed, failed over) refuses
        the call before it runs, and is given the script itself.
        """
        for reply in replies:
            if isinstance(reply, Exception):
                break
        else:
            return replies
        with translated():
            left = [i for i, reply in enumerate(replies) if isinstance(reply, AGAIN)]
            self._repeat(requests, left, replies)
            forgotten = [i for i, reply in enumerate(replies) if isinstance(reply, redis.exceptions.NoScriptError)]
            self._repeat(requests, forgotten, replies, whole=True)
            _raise_first(replies)
        return replies

    def _repeat(
        self, requests: Sequence[Request], places: Sequence[int], replies: list[object], *, whole: bool = False
    ) -> None:
        again = self._exchange([_command(requests[i], whole=whole) for i in places])
        for i, reply in zip(places, again, strict=True):
            replies[i] = reply

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
            yield from self._found().scan(pattern)

    def nodes(self) -> list[Node]:
        """The servers of the store."""
        with translated():
            return self._found().nodes()

    def ask_node(self, node: Node, commands: Sequence[Command]) -> list[object]:
        """Run commands without a key on one server of the store; replies are unparsed. Raises as ``ask``."""
        with translated():
            replies = self._found().ask(node, commands)
            _raise_first(replies)
        return replies

    def sentinels(self) -> tuple[str, dict[str, Mapping[str, str] | None]] | None:
        """The group that Sentinels watch, and what each says of it (None: no answer). None without Sentinels."""
        servers = self._found()
        return servers.sentinels() if isinstance(servers, OneServer) else None

    def talk(self) -> Talk:
        """A way to ask without waiting, for ``Conversation``."""
        return self._found().talk(self.timeout_s)

    def _exchange(self, commands: Sequence[Command]) -> list[object]:
        """Send commands and read their replies, refusals among them."""
        if not commands:
            return []
        self.round_trips += 1
        return (self._servers or self._found()).exchange(commands)

    def _found(self) -> Servers:
        if self._servers is not None:
            return self._servers
        with translated(), self._lock:
            if self._servers is None:
                self._servers = _connected(self._address, self.timeout_s)
            return self._servers


class Conversation:
    """Exchanges, one at a time, over connections that are kept between them; nothing here waits, but ``wait``.

    An exchange that fails is the caller's to repeat, by ``Client.ask``; the next one is tried over a new connection.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._talk: Talk | None = None

    @property
    def replies(self) -> list[object]:
        """What has been answered: everything once ``is_answered``. Some may be for ``Client.checked`` to ask again."""
        return self._talk.replies if self._talk is not None else []

    def begin(self, requests: Sequence[Request]) -> None:
        """Send requests; how that goes, ``is_answered`` says."""
        if self._talk is None:
            self._talk = self._client.talk()
        self._client.round_trips += bool(requests)
        self._talk.begin([_command(one) for one in requests])

    def is_answered(self) -> bool:
        """Take in what has arrived. Returns whether ``replies``, refusals among them, are all there.

        Raises:
            StoreUnreachable: the connection broke, or there was no answer in time.
        """
        with translated():
            return self._talk is None or self._talk.is_answered()

    def wait(self) -> None:
        """Wait until something arrives, or the time for it is over."""
        if self._talk is not None:
            self._talk.wait()

    def close(self) -> None:
        """Give the connections back."""
        if self._talk is not None:
            self._talk.close()


def _connected(address: StoreAddress, timeout_s: float) -> Servers:
    if address.cluster:
        return Cluster(address, timeout_s)
    server = OneServer(address, timeout_s)
    try:
        # A node of a cluster says so, and then any URL of one will do. Where INFO is not allowed, only the URL tells.
        (about,) = server.exchange([("INFO", "cluster")])
    except BaseException:
        server.close()
        raise
    if not isinstance(about, bytes) or b"cluster_enabled:1" not in about:
        return server
    server.close()
    parts = urlsplit(address.url)
    if address.sentinels or parts.hostname is None:
        raise BridgeError("BRIDGE_REDIS_URL leads to a node of a cluster: give redis+cluster://HOST:PORT instead")
    return Cluster(replace(address, cluster=((parts.hostname, parts.port or 6379),)), timeout_s)


def _command(request: Request, *, whole: bool = False) -> Command:
    """A request as a command; ``whole``: a script call with the script itself."""
    if not isinstance(request, Call):
        return request
    known = script(request.name)
    head: list[Argument] = ["EVAL", known.source] if whole else ["EVALSHA", known.sha]
    return [*head, len(request.keys), *request.keys, *request.args]


def _raise_first(replies: Sequence[object]) -> None:
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply


def open_store(client: Client, shards: int) -> bytes:
    """Check, on first use write, what the store says of itself: its schema, its shard count, a random id. Returns that.

    Raises:
        IncompatibleStore: a newer release wrote it, or another number of shards.
        StoreUnreachable: no answer.
    """
    (reply,) = client.commands([["HGETALL", keys.STORE]])
    # Read first: a worker must start with memory short, when even a write that changes nothing is refused.
    if len(cast("list[bytes]", reply)) < 2 * 3:
        *_, reply = client.commands(
            [
                ["HSETNX", keys.STORE, "schema", SCHEMA],
                ["HSETNX", keys.STORE, "shards", shards],
                ["HSETNX", keys.STORE, "id", secrets.token_hex(8)],
                ["HGETALL", keys.STORE],
            ]
        )
    flat = cast("list[bytes]", reply)
    about = dict(zip(flat[::2], flat[1::2], strict=True))
    schema, kept_shards = int(about[b"schema"]), int(about[b"shards"])
    if schema > SCHEMA:
        raise IncompatibleStore(
            f"the store was written by a newer release (schema {schema}, this one reads {SCHEMA}): upgrade this one"
        )
    if kept_shards != shards:
        raise IncompatibleStore(
            f"BRIDGE_SHARDS is {shards}, but the store was begun with {kept_shards}: set BRIDGE_SHARDS={kept_shards}"
        )
    return about[b"id"]

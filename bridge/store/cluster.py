"""A store on a cluster: commands go to the master of their key's slot, and again where the cluster says so.

redis-py knows the topology and keeps the connections. What is ours is one exchange over all masters: everything is sent
before any reply is read, and only what was not run is sent again. A command whose reply was lost may have been run: it
is repeated, as everything the store sends may be.
"""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from typing import Any, cast

import msgspec
import redis
from redis.cluster import ClusterNode, RedisCluster
from redis.crc import key_slot
from redis.exceptions import AskError, AuthenticationError, MovedError, RedisClusterException, TryAgainError

from bridge.domain.server_urls import StoreAddress
from bridge.domain.topology import SLOTS, count_slots
from bridge.errors import BridgeError
from bridge.store import keys
from bridge.store.one_server import connection_options, given_options
from bridge.store.wire import PATIENCE_S, UNSERVED, Command, Node, Reading, outcome, pack, read

_AT_ONCE = 3  # redirections that are followed without a pause
_LONGEST_PAUSE_S = 0.5
_LOST = (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError, OSError)
_ASKING = pack(("ASKING",))
_KEY_AT = {"EVALSHA": 3, "EVAL": 3, "MEMORY": 2}
_KEYLESS = frozenset({"PING", "TIME", "INFO", "CONFIG", "CLUSTER"})


class _Unit(msgspec.Struct, frozen=True):
    """What goes to one server in one piece: packed commands of one slot, and how many replies they have."""

    slot: int
    packed: bytes
    count: int = 1


class _Group:
    """What goes to one node in one round, in order, and the connection it goes by."""

    def __init__(self, node: ClusterNode) -> None:
        self.node = node
        self.places: list[int] = []
        self.parts: list[bytes] = []
        self.connection: Any = None
        self.unread = True


def key_of(command: Command) -> str | bytes:
    """The key that decides where a command goes. One without a key goes where ``u:store`` is."""
    name = cast("str", command[0])
    place = _KEY_AT.get(name, 1)
    # A script may be given no keys: to look at none of a queue's lanes, for one.
    return keys.STORE if name in _KEYLESS or place >= len(command) else cast("str | bytes", command[place])


@lru_cache(maxsize=4096)
def _slot_of_text(text: str) -> int:
    return key_slot(text.encode())


def slot_of(key: str | bytes) -> int:
    """The slot of a key."""
    if isinstance(key, bytes):
        return key_slot(key)
    # A shard's keys all have the slot of its tag: a thousand sessions cost one look-up.
    return _slot_of_text(key[: key.index("}") + 1] if key.startswith("u{") else key)


class Cluster:
    """The masters of a cluster. Threads may share it."""

    def __init__(self, address: StoreAddress, timeout_s: float) -> None:
        """Ask the nodes of the address, one after the other, where everything is."""
        self._seeds = list(address.cluster)
        self._patience_s = min(PATIENCE_S, 3 * timeout_s)
        options = connection_options(timeout_s) | given_options(address)
        options.pop("db", None)
        self._newcomers: dict[str, ClusterNode] = {}
        with _with_slots():
            # Any: most of its methods are untyped.
            self._cluster: Any = RedisCluster(
                startup_nodes=[_node_at(host, port) for host, port in address.cluster],
                # While a part has no master the others are served.
                require_full_coverage=False,
                **options,
            )

    @property
    def library(self) -> redis.Redis:
        """redis-py's client; of the same commands, though of no common class."""
        return cast("redis.Redis", self._cluster)

    def close(self) -> None:
        """Close every pooled connection."""
        self._cluster.close()
        for one in self._newcomers.values():
            if one.redis_connection is not None:
                one.redis_connection.close()

    def exchange(self, commands: Sequence[Command]) -> list[object]:
        """Send commands to their masters, and read their replies, refusals among them.

        A WAITAOF at the end is sent to each master that is written to before it, once, and answered with the lowest
        counts. Where one does not serve it this raises.
        """
        if commands[-1][0] == "WAITAOF":
            return self._synced(commands)
        return self._converse([_Unit(slot_of(key_of(command)), pack(tuple(command))) for command in commands])

    def _synced(self, commands: Sequence[Command]) -> list[object]:
        *writes, wait = commands
        by_master: dict[str, list[Command]] = {}
        for command in writes:
            node = self._cluster.nodes_manager.get_node_from_slot(slot_of(key_of(command)))
            by_master.setdefault(node.name, []).append(command)
        # A master's in one piece, because it waits for what its own connection wrote, and one wait is enough.
        units = [
            _Unit(slot_of(key_of(group[0])), b"".join(pack(tuple(one)) for one in (*group, wait)), len(group) + 1)
            for group in by_master.values()
        ]
        replies: list[object] = [None] * len(units)
        if refused := self._round(units, dict.fromkeys(range(len(units))), replies):
            # Not tried elsewhere: a master that took over, or is being given the slot, may lack what was written.
            self._learn(refused)
            raise next(iter(refused.values()))
        refusal = next((reply for reply in replies if isinstance(reply, Exception)), None)
        counts = [cast("list[int]", reply) for reply in replies if refusal is None]
        return [*[b"OK"] * len(writes), refusal or [min(column) for column in zip(*counts, strict=True)]]

    def nodes(self) -> list[Node]:
        """Masters and replicas, asked of the cluster just now."""
        self._refresh()
        return [Node(str(one.name), one.server_type == "primary") for one in self._cluster.get_nodes()]

    def ask(self, node: Node, commands: Sequence[Command]) -> list[object]:
        """Send commands to one server, whatever their keys."""
        host, _, port = node.name.rpartition(":")
        return self._ask(self._node(host, int(port)), commands)

    def scan(self, pattern: str) -> Iterator[bytes]:
        """Walk the keys that match on all masters.

        Raises:
            BridgeError: at the end, if slots were moved meanwhile: keys may have been missed.
        """
        before = self._layout()
        for name in sorted(before):
            node = self._cluster.get_node(node_name=name)
            cursor: object = 0
            while node is not None and cursor != b"0":
                (reply,) = self._ask(node, [("SCAN", cast("bytes", cursor), "MATCH", pattern, "COUNT", 1000)])
                if isinstance(reply, Exception):
                    raise reply
                cursor, found = cast("tuple[object, list[bytes]]", reply)
                yield from found
        if before != self._layout() or any("[" in slots for slots in before.values()):
            raise BridgeError("slots of the cluster are being moved: keys may have been missed; try again afterwards")

    def talk(self, timeout_s: float) -> _Talk:
        """A way to ask without waiting."""
        return _Talk(self._cluster, timeout_s)

    def _layout(self) -> dict[str, str]:
        """The slots of each master as it says itself, those being moved with ``[`` before."""
        layout = self._said_slots()
        if sum(count_slots(slots.split()) for slots in layout.values()) < SLOTS:
            self._refresh()  # there are masters that are not known yet, or some slots have none
            layout = self._said_slots()
        return layout

    def _said_slots(self) -> dict[str, str]:
        layout: dict[str, str] = {}
        for node in self._cluster.get_primaries():
            (reply,) = self._ask(node, [("CLUSTER", "NODES")])
            if isinstance(reply, Exception):
                raise reply
            own = next(line for line in cast("bytes", reply).decode().splitlines() if "myself" in line.split()[2])
            layout[str(node.name)] = " ".join(own.split()[8:])
        return layout

    def _ask(self, node: ClusterNode, commands: Sequence[Command]) -> list[object]:
        # ASKING, which goes before each, means nothing to commands without a key.
        units = [_Unit(0, pack(tuple(command))) for command in commands]
        replies: list[object] = [None] * len(units)
        for error in self._round(units, dict.fromkeys(range(len(units)), node), replies).values():
            raise error
        return replies

    def _converse(self, units: Sequence[_Unit]) -> list[object]:
        replies: list[object] = [None] * len(units)
        left: Mapping[int, ClusterNode | None] = dict.fromkeys(range(len(units)))
        deadline = time.monotonic() + self._patience_s
        rounds = 0
        while refused := self._round(units, left, replies):
            rounds += 1
            if time.monotonic() > deadline:
                raise next(iter(refused.values()))
            if rounds > _AT_ONCE or not all(isinstance(error, AskError) for error in refused.values()):
                time.sleep(random.uniform(0.5, 1) * min(_LONGEST_PAUSE_S, 0.02 * 2 ** min(rounds, 8)))  # noqa: S311 - no secret
            left = self._learn(refused)
        return replies

    def _round(
        self, units: Sequence[_Unit], left: Mapping[int, ClusterNode | None], replies: list[object]
    ) -> dict[int, Exception]:
        """Send what is left, each to the node named or to its slot's master. Returns what is left again, and why."""
        refused: dict[int, Exception] = {}
        groups: dict[str, _Group] = {}
        for place, asked in left.items():
            unit = units[place]
            try:
                node = asked or self._cluster.nodes_manager.get_node_from_slot(unit.slot)
            except RedisClusterException as error:  # a slot that nobody serves
                refused[place] = error
                continue
            group = groups.get(node.name) or groups.setdefault(node.name, _Group(node))
            group.places.append(place)
            group.parts.append(unit.packed if asked is None else _ASKING + unit.packed)
        try:
            for group in groups.values():
                self._send(group, refused)
            for group in groups.values():
                self._read(group, units, left, replies, refused)
        finally:
            for group in groups.values():
                self._release(group)
        return refused

    def _send(self, group: _Group, refused: dict[int, Exception]) -> None:
        pool: Any = self._cluster.get_redis_connection(group.node).connection_pool
        try:
            group.connection = pool.get_connection()
            group.connection.send_packed_command([b"".join(group.parts)])
        except AuthenticationError:
            raise
        except _LOST as error:
            self._lose(group)
            refused.update(dict.fromkeys(group.places, error))
            group.places = []

    def _read(
        self,
        group: _Group,
        units: Sequence[_Unit],
        asked: Mapping[int, ClusterNode | None],
        replies: list[object],
        refused: dict[int, Exception],
    ) -> None:
        for done, place in enumerate(group.places):
            try:
                if asked[place] is not None:
                    read(group.connection)  # ASKING's
                reply = outcome([read(group.connection) for _ in range(units[place].count)])
            except _LOST as error:
                self._lose(group)
                refused.update(dict.fromkeys(group.places[done:], error))
                return
            if isinstance(reply, UNSERVED):
                refused[place] = reply
            else:
                replies[place] = reply
        group.unread = False

    def _lose(self, group: _Group) -> None:
        if group.connection is not None:
            group.connection.disconnect()

    def _release(self, group: _Group) -> None:
        if group.connection is None:
            return
        if group.unread:
            group.connection.disconnect()  # replies are left in it
        pool: Any = self._cluster.get_redis_connection(group.node).connection_pool
        pool.release(group.connection)

    def _learn(self, refused: Mapping[int, Exception]) -> dict[int, ClusterNode | None]:
        """Bring the topology up to what was refused. Returns where to send each again, None for its slot's master."""
        if not all(self._is_plain(error) for error in refused.values()):
            # Where this fails too, what was refused is raised once patience is over.
            with suppress(RedisClusterException, redis.exceptions.RedisError):
                self._refresh()
        left: dict[int, ClusterNode | None] = dict.fromkeys(refused)
        for place, error in refused.items():
            if not self._is_plain(error):
                continue
            if isinstance(error, MovedError):
                self._cluster.nodes_manager.move_slot(error)
            elif isinstance(error, AskError):
                left[place] = self._node(str(error.host), int(error.port))
        return left

    def _is_plain(self, error: Exception) -> bool:
        """Whether the refusal says itself what to do, of a slot that is known. (A host may be kept back: "".)"""
        if isinstance(error, AskError):
            return bool(error.host) and error.slot_id in self._cluster.nodes_manager.slots_cache
        return isinstance(error, TryAgainError)

    def _node(self, host: str, port: int) -> ClusterNode:
        known: ClusterNode | None = self._cluster.get_node(host, port)
        # One that is given its first slot is in no list yet.
        return known or self._newcomers.setdefault(f"{host}:{port}", _node_at(host, port))

    def _refresh(self) -> None:
        with _with_slots():
            self._cluster.nodes_manager.initialize(
                # Every node known may be gone, their addresses with them: then those of the URL are asked again.
                additional_startup_nodes_info=self._seeds,
                disconnect_startup_nodes_pools=False,
            )


class _Talk:
    """Exchanges over a connection to each master, one at a time.

    What a master does not serve, or does not answer, has its error for a reply: the rest need not be sent again.
    """

    def __init__(self, cluster: Any, timeout_s: float) -> None:
        self._cluster = cluster
        self._timeout_s = timeout_s
        self._readings: dict[str, Reading] = {}
        self._open: dict[str, deque[int]] = {}
        self.replies: list[object] = []

    def begin(self, commands: Sequence[Command]) -> None:
        """Send commands, each to the master of its key."""
        self.replies = [None] * len(commands)
        packed: dict[str, list[bytes]] = {}
        self._open = {}
        for place, command in enumerate(commands):
            try:
                node = self._cluster.nodes_manager.get_node_from_slot(slot_of(key_of(command)))
            except RedisClusterException:
                self.replies[place] = redis.exceptions.ConnectionError("a slot that nobody serves")
                continue
            self._open.setdefault(node.name, deque()).append(place)
            packed.setdefault(node.name, []).append(pack(tuple(command)))
            if node.name not in self._readings:
                pool = self._cluster.get_redis_connection(node).connection_pool
                self._readings[node.name] = Reading(pool, self._timeout_s)
        for name, parts in packed.items():
            self._readings[name].begin(b"".join(parts), len(parts))

    def is_answered(self) -> bool:
        """Take in what has arrived."""
        for name, places in list(self._open.items()):
            try:
                for reply in self._readings[name].arrived():
                    self.replies[places.popleft()] = reply
            except (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError) as error:
                while places:
                    self.replies[places.popleft()] = error
            if not places:
                del self._open[name]
        return not self._open

    def wait(self) -> None:
        """Wait until something arrives of one of them: all are waited for in the end."""
        with suppress(redis.exceptions.RedisError):  # is_answered comes upon it too
            for name in self._open:
                self._readings[name].is_readable(self._timeout_s)
                return

    def close(self) -> None:
        """Give the connections back."""
        for reading in self._readings.values():
            reading.close()
        self._readings = {}
        self._open = {}
        self.replies = []


def _node_at(host: str, port: int) -> ClusterNode:
    return ClusterNode(host, port)  # type: ignore[no-untyped-call]


@contextmanager
def _with_slots() -> Iterator[None]:
    """redis-py finds no first master where no node has a slot, and says so in a list's words."""
    try:
        yield
    except IndexError:
        raise RedisClusterException("no node of the cluster has any slot") from None

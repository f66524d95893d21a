"""Real clusters on the loopback: masters, replicas, failovers and slots that move."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast
from urllib.parse import urlsplit

import redis
from redis.crc import key_slot

from bridge.store.server import EmbeddedServer, Spawn
from tests.parts import until
from tests.ports import unused_port

SLOTS = 16_384
NODE_TIMEOUT_MS = 2_000
_BUS = 10_000
"""How far above its port a node talks to the others."""


class Member:
    """A node of a cluster, which can be killed and asked directly."""

    def __init__(self, directory: Path, password: str, options: dict[str, str], spawn: Spawn | None) -> None:
        self._server = EmbeddedServer(
            directory, port=unused_port(beside=_BUS), password=password, options=options, spawn=spawn
        )
        self._connect()
        self.id = self.says("CLUSTER", "MYID")

    def _connect(self) -> None:
        self._server.start()
        self.address = ("127.0.0.1", urlsplit(self._server.url).port or 0)
        self.redis = redis.Redis.from_url(self._server.url, protocol=2, socket_timeout=10)
        # Any: half of redis-py's connection is untyped. Its client would read CLUSTER's answers for us.
        self._raw: Any = self.redis.connection_pool.get_connection()

    @property
    def url(self) -> str:
        """A plain URL of this node."""
        return self._server.url

    @property
    def pid(self) -> int:
        return self._server.pid

    @property
    def is_alive(self) -> bool:
        return self._server._process is not None and self._server._process.poll() is None

    def do(self, *command: object) -> object:
        """The answer to a command, whatever it is."""
        self._raw.send_command(*command)
        return self._raw.read_response()

    def says(self, *command: object) -> str:
        """The answer to a command, as text."""
        reply = self.do(*command)
        return reply.decode() if isinstance(reply, bytes) else str(reply)

    def info(self, section: str) -> dict[str, str]:
        """What INFO says."""
        return {name: str(value) for name, value in self.redis.info(section).items()}

    def kill(self) -> None:
        """As ``kill -9``."""
        process = self._server._process
        assert process is not None
        process.kill()
        process.wait(10)

    def revive(self) -> None:
        """Start again after ``kill``, as the member that it was."""
        self._raw.disconnect()
        self.redis.close()
        self._server.stop()
        self._connect()
        assert self._server.notice is None, "another program took the port"

    @property
    def is_master(self) -> bool:
        """Whether it says so itself."""
        return self.is_alive and self.info("replication")["role"] == "master"

    @property
    def is_replica(self) -> bool:
        """Whether it says that it has all that its master has."""
        return self.is_alive and self.info("replication").get("master_link_status") == "up"

    def close(self) -> None:
        self._raw.disconnect()
        self.redis.close()
        self._server.stop()


class RealCluster:
    """Masters with all slots among them, each of the first ``replicas`` with a replica."""

    def __init__(
        self,
        stack: ExitStack,
        *,
        masters: int = 3,
        replicas: int = 0,
        options: Mapping[str, str] | None = None,
        spawn: Spawn | None = None,
    ) -> None:
        self._stack = stack
        self._spawn = spawn
        self._options = dict(options or {})
        self._password = secrets.token_urlsafe(12)
        self.masters = [self._start(f"master{number}") for number in range(masters)]
        for number, master in enumerate(self.masters):
            master.says("CLUSTER", "ADDSLOTSRANGE", number * SLOTS // masters, (number + 1) * SLOTS // masters - 1)
            master.says("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        self.replicas = [self._start(f"replica{number}") for number in range(replicas)]
        for one in self.members[1:]:
            one.says("CLUSTER", "MEET", *self.masters[0].address)
        self._await_health(self.members)
        for replica, master in zip(self.replicas, self.masters, strict=False):
            replica.says("CLUSTER", "REPLICATE", master.id)
            until(lambda one=replica: one.info("replication").get("master_link_status") == "up")  # type: ignore[misc]  # mypy cannot infer a lambda with a default

    def _start(self, name: str) -> Member:
        directory = self._stack.enter_context(TemporaryDirectory())
        options = {
            "cluster-enabled": "yes",
            "cluster-node-timeout": str(NODE_TIMEOUT_MS),
            "cluster-require-full-coverage": "no",
            "cluster-allow-replica-migration": "no",
            "masterauth": self._password,
            "repl-diskless-sync-delay": "0",
            **self._options,
        }
        member = Member(Path(directory) / name, self._password, options, self._spawn)
        self._stack.callback(member.close)
        return member

    @property
    def members(self) -> list[Member]:
        return [*self.masters, *self.replicas]

    @property
    def password(self) -> str:
        return self._password

    @property
    def url(self) -> str:
        """What BRIDGE_REDIS_URL would be."""
        hosts = ",".join(f"{host}:{port}" for host, port in (one.address for one in self.masters))
        return f"redis+cluster://:{self._password}@{hosts}"

    def owner(self, slot: int) -> Member:
        """The master that itself says that it has the slot."""
        for one in self.members:
            if one.is_alive and slot in _own_slots(one):
                return one
        raise AssertionError(f"nobody has slot {slot}")

    def empty(self) -> None:
        """Forget everything."""
        for one in self.members:
            if one.is_master:
                one.redis.flushall()

    def begin_moving(self, slot: int, target: Member) -> Member:
        """Mark a slot as one that is being moved. Returns where it is until ``end_moving``."""
        source = self.owner(slot)
        target.says("CLUSTER", "SETSLOT", slot, "IMPORTING", source.id)
        source.says("CLUSTER", "SETSLOT", slot, "MIGRATING", target.id)
        return source

    def move_keys(self, slot: int, source: Member, target: Member, most: int) -> int:
        """Move some of a slot's keys. Returns how many."""
        found = cast("list[bytes]", source.do("CLUSTER", "GETKEYSINSLOT", slot, most))
        if found:
            source.do("MIGRATE", *target.address, "", 0, 5_000, "AUTH", self._password, "KEYS", *found)
        return len(found)

    def end_moving(self, slot: int, target: Member) -> None:
        """Give the slot to its new owner, who is told first: then nobody is sent to one that does not know yet."""
        others = (one for one in self.members if one is not target and one.is_master)
        for one in [target, *others]:
            one.says("CLUSTER", "SETSLOT", slot, "NODE", target.id)

    def move_slot(self, slot: int, target: Member, between: Callable[[], None] = lambda: None) -> None:
        """Move a slot key by key, as redis-cli does."""
        source = self.begin_moving(slot, target)
        while self.move_keys(slot, source, target, 10):
            between()
        self.end_moving(slot, target)

    def _await_health(self, members: Sequence[Member]) -> None:
        for one in members:
            until(
                lambda one=one: (  # type: ignore[misc]  # mypy cannot infer a lambda with a default
                    "cluster_state:ok" in one.says("CLUSTER", "INFO")
                    and f"cluster_known_nodes:{len(members)}" in one.says("CLUSTER", "INFO")
                    and "cluster_slots_assigned:16384" in one.says("CLUSTER", "INFO")
                ),
                30,
            )


@contextmanager
def real_cluster(
    *, masters: int = 3, replicas: int = 0, options: Mapping[str, str] | None = None
) -> Iterator[RealCluster]:
    """A cluster that ends with the block."""
    with ExitStack() as stack:
        yield RealCluster(stack, masters=masters, replicas=replicas, options=options)


def slot_of_shard(shard: int) -> int:
    """The slot that a shard's keys are in."""
    return key_slot(f"u{{{shard}}}:".encode())


def _own_slots(member: Member) -> set[int]:
    line = next(line for line in member.says("CLUSTER", "NODES").splitlines() if "myself" in line)
    found: set[int] = set()
    for part in line.split()[8:]:
        if not part.startswith("["):
            first, _, last = part.partition("-")
            found.update(range(int(first), int(last or first) + 1))
    return found

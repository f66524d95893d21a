"""Stores of several servers, for a world: a master that Sentinels watch, and a cluster. Workers reach them directly.

Each waits, after what it did to itself, until it is whole again: a second fault before that would leave no copy of
the data, which nothing promises to survive.
"""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import redis

from bridge.store.server import Spawn
from tests.clusters import Member, RealCluster, slot_of_shard
from tests.sentinels import Watched
from tests.waiting import wait_until

_WITHIN_S = 60.0

NONE: Sequence[tuple[int, int]] = ()
"""Spans of whose writes a server may have kept none: where there are several, faults say when they go back in time."""


class SentinelStore:
    """A master, its replica and three Sentinels."""

    def __init__(self, stack: ExitStack, directory: Path, spawn: Spawn) -> None:
        self._stack, self._directory, self._spawn = stack, directory, spawn
        self.kills = 0
        self.rolled_back = NONE
        self.group: Watched

    def start(self) -> None:
        self.group = Watched(self._stack, self._directory, spawn=self._spawn, durable=True)

    @property
    def url(self) -> str:
        return self.group.url

    @property
    def password(self) -> str:
        return self.group.password

    def client(self) -> Any:
        """A client of the master, whichever that is."""
        return self.group.client()

    def note_size(self) -> None:
        """Nothing: what a failover loses, the replica has not heard."""

    def kill_master(self) -> None:
        """``kill -9``; then it comes back as a replica."""
        master = self._master()
        self._kill(master)
        self._until("the replica becomes the master", lambda: self.group.is_master(1 - master))
        # It comes back as a master: to whom a Sentinel still sends others, they are two.
        self._until("all Sentinels name the new master", lambda: self.group.is_named(1 - master))
        self.group.revive(master)
        self._await_agreement()

    def freeze_master(self) -> None:
        """SIGSTOP until another is the master; then it wakes up, and is told."""
        master = self._master()
        pid = self.group.pids[master]
        os.kill(pid, signal.SIGSTOP)
        try:
            self._until("the replica becomes the master", lambda: self.group.is_master(1 - master))
        finally:
            os.kill(pid, signal.SIGCONT)
        self._until("the old master follows", lambda: self.group.is_replica(master))
        self._await_agreement()

    def switch_over(self) -> None:
        """The Sentinels make the replica the master, though nothing is wrong."""
        master = self._master()
        self._until("a Sentinel takes the order", self._may_fail_over)
        self._until("the replica becomes the master", lambda: self.group.is_master(1 - master))
        self._until("the old master follows", lambda: self.group.is_replica(master))
        self._await_agreement()

    def kill_replica(self) -> None:
        replica = 1 - self._master()
        self._kill(replica)
        self.group.revive(replica)
        self._await_agreement()

    def kill_sentinel(self, chance: random.Random) -> None:
        self.kills += 1
        self.group.replace_sentinel(chance.choice(self.group.sentinels))
        self._await_agreement()

    def _await_agreement(self) -> None:
        """A Sentinel that is killed before it has told the others of a new master lets them bring back the old one."""
        self._until("all Sentinels know one master and its replica", self.group.is_agreed)

    def _kill(self, place: int) -> None:
        self.kills += 1
        self.group.kill(place)

    def _may_fail_over(self) -> bool:
        try:
            self.group.fail_over()
        except redis.ResponseError:  # one is under way, or the replica is not yet known to be well
            return False
        return True

    def _master(self) -> int:
        return 0 if self.group.is_master(0) else 1

    @staticmethod
    def _until(what: str, condition: Callable[[], bool]) -> None:
        wait_until(what, condition, _WITHIN_S)


class ClusterStore:
    """Three masters with a replica each."""

    def __init__(self, stack: ExitStack, spawn: Spawn, shards: int) -> None:
        self._stack, self._spawn, self._shards = stack, spawn, shards
        self.kills = 0
        self.rolled_back = NONE
        self.cluster: RealCluster

    def start(self) -> None:
        options = {"appendonly": "yes"}
        self.cluster = RealCluster(self._stack, replicas=3, options=options, spawn=self._spawn)

    @property
    def url(self) -> str:
        return self.cluster.url

    @property
    def password(self) -> str:
        return self.cluster.password

    def client(self) -> Any:
        """A client of all masters, whichever those are."""
        host, port = self.cluster.masters[0].address
        return redis.RedisCluster(
            host, port, password=self.password, require_full_coverage=False, socket_timeout=30, protocol=2
        )

    def note_size(self) -> None:
        """Nothing: what a failover loses, the replica has not heard."""

    def kill_master(self, chance: random.Random) -> None:
        """``kill -9``; its replica takes over, and it comes back as a replica."""
        master, replica = self._pair(chance)
        self._kill(master)
        wait_until("its replica becomes a master", lambda: replica.is_master, _WITHIN_S)
        self._revive(master)

    def switch_over(self, chance: random.Random) -> None:
        """A replica takes its master's place, though nothing is wrong."""
        master, replica = self._pair(chance)
        replica.says("CLUSTER", "FAILOVER")
        wait_until("the replica becomes a master", lambda: replica.is_master, _WITHIN_S)
        wait_until("the old master follows", lambda: master.is_replica, _WITHIN_S)

    def kill_replica(self, chance: random.Random) -> None:
        _, replica = self._pair(chance)
        self._kill(replica)
        self._revive(replica)

    def move_slot(self, chance: random.Random) -> str:
        """A shard's slot goes to another master, key by key, while it is worked on."""
        slot = slot_of_shard(chance.randrange(self._shards))
        source = self.cluster.owner(slot)
        target = chance.choice([one for one in self.cluster.members if one.is_master and one is not source])
        self.cluster.move_slot(slot, target)
        return f"slot {slot} to {target.address[1]}"

    def _pair(self, chance: random.Random) -> tuple[Member, Member]:
        """A master and its replica, as they are now."""
        pair = chance.choice(list(zip(self.cluster.masters, self.cluster.replicas, strict=True)))
        wait_until("one of two is a master, the other follows", lambda: _is_whole(pair), _WITHIN_S)
        return pair if pair[0].is_master else (pair[1], pair[0])

    def _kill(self, member: Member) -> None:
        self.kills += 1
        member.kill()

    def _revive(self, member: Member) -> None:
        member.revive()
        wait_until("it follows", lambda: member.is_replica, _WITHIN_S)


def _is_whole(pair: tuple[Member, Member]) -> bool:
    return any(one.is_master and other.is_replica for one, other in (pair, pair[::-1]))

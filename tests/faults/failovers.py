"""Faults of a store of several servers. Functions as those of ``mischief``, which has the catalogue.

Replication is asynchronous: a failover may lose the last writes, as a crash may lose the last second.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import TYPE_CHECKING

from tests.faults.outages import Mischief
from tests.faults.records import Kind
from tests.faults.stores import ClusterStore, SentinelStore

if TYPE_CHECKING:
    from tests.faults.run import Run


def kill_sentinels_master(run: Run, _chance: random.Random) -> str:
    run.settle_all()
    _group(run).kill_master()
    return ""


def freeze_sentinels_master(run: Run, _chance: random.Random) -> str:
    run.settle_all()
    _group(run).freeze_master()
    return ""


def sentinel_failover(run: Run, _chance: random.Random) -> str:
    run.settle_all()
    _group(run).switch_over()
    return ""


def kill_sentinels_replica(run: Run, _chance: random.Random) -> str:
    _group(run).kill_replica()
    return ""


def kill_sentinel(run: Run, chance: random.Random) -> str:
    _group(run).kill_sentinel(chance)
    return ""


def kill_clusters_master(run: Run, chance: random.Random) -> str:
    run.settle_all()
    _cluster(run).kill_master(chance)
    return ""


def cluster_failover(run: Run, chance: random.Random) -> str:
    _cluster(run).switch_over(chance)
    return ""


def kill_clusters_replica(run: Run, chance: random.Random) -> str:
    _cluster(run).kill_replica(chance)
    return ""


def move_slot(run: Run, chance: random.Random) -> str:
    return _cluster(run).move_slot(chance)


def _group(run: Run) -> SentinelStore:
    assert isinstance(run.world.store, SentinelStore)
    return run.world.store


def _cluster(run: Run) -> ClusterStore:
    assert isinstance(run.world.store, ClusterStore)
    return run.world.store


_H, _L, _R = Kind.HARMLESS, Kind.LOSES_OUTCOMES, Kind.ROLLS_BACK
OF_SENTINEL: Mapping[str, tuple[Mischief, Kind]] = {
    "kill -9 of Sentinel's master": (kill_sentinels_master, _R),
    "SIGSTOP of Sentinel's master": (freeze_sentinels_master, _R),
    "SENTINEL FAILOVER": (sentinel_failover, _R),
    "kill -9 of Sentinel's replica": (kill_sentinels_replica, _H),
    "kill -9 of a Sentinel": (kill_sentinel, _H),
}
OF_CLUSTER: Mapping[str, tuple[Mischief, Kind]] = {
    "kill -9 of a cluster's master": (kill_clusters_master, _R),
    "CLUSTER FAILOVER": (cluster_failover, _L),
    "kill -9 of a cluster's replica": (kill_clusters_replica, _H),
    "slot moved": (move_slot, _L),
}
FAILOVERS = frozenset(
    name for name in (*OF_SENTINEL, *OF_CLUSTER) if "master" in name or "FAILOVER" in name or "slot" in name
)
"""Those that give a master's place, or a slot of it, to another server."""

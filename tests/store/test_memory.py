"""Whether the store is short of memory: asked of those servers that are written to."""

from __future__ import annotations

import os
import signal

from bridge.store.client import Client
from bridge.store.memory import Memory
from tests.clusters import real_cluster
from tests.parts import until


def test_of_a_cluster_each_master_counts_and_a_dead_replica_stops_nobody() -> None:
    """Fault: replicas were asked too. Until the cluster had noticed that one was dead, which takes 15 s by default, no
    worker tracked or polled.
    """
    with real_cluster(masters=3, replicas=1) as cluster:
        client = Client(cluster.url, timeout_s=0.5)
        replica = cluster.replicas[0]
        # A master names a replica once that has got something.
        client.commands([["SET", f"u{{{shard}}}:registry", "v"] for shard in range(8)])
        port = str(replica.address[1])
        until(lambda: all(port in str(one.do("CLUSTER", "SLOTS")) for one in cluster.masters))
        os.kill(replica.pid, signal.SIGSTOP)
        try:
            assert not Memory(client).is_short()
            cluster.masters[2].redis.config_set("maxmemory", 1)
            assert Memory(client).is_short()
        finally:
            os.kill(replica.pid, signal.SIGCONT)
            client.close()

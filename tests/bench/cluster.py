"""More workers on a cluster of three masters: what each event takes, and whether any key is hotter than its share."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from itertools import islice
from typing import cast

import msgspec

from bridge.cli.family import Family
from bridge.domain.accounts import DEFAULT_ACCOUNT
from bridge.domain.commits import Write
from bridge.wiring import Bridge
from tests.bench.delivery import records, write_of
from tests.bench.figures import Goal, Measured, by_name
from tests.bench.house import House, open_bridge
from tests.bench.machine import cpu_s
from tests.bench.receiver import Receiver
from tests.clusters import SLOTS, RealCluster, real_cluster, slot_of_shard

WORKERS = (2, 4, 8)
SUBSCRIPTIONS = 16
SHARDS = 8
_AT_ONCE = 100
_READY_WITHIN_S = 120.0


class Sizes(msgspec.Struct, frozen=True, kw_only=True):
    """How many events each number of workers is given.

    Script ``calls`` an event, and the busiest master's as a part of the mean. The hottest shard, and the hottest other
    slot, are parts of the mean shard: by bytes that came in, and by the servers' time, which on a busy machine counts
    waiting for a core.
    """

    events: int


def measure(sizes: Sizes) -> Measured:
    """Run 2, 4 and 8 workers, each on an emptied cluster."""
    with Family("bench") as family, ExitStack() as stack:
        cluster = stack.enter_context(real_cluster(masters=3, options={"cluster-slot-stats-enabled": "yes"}))
        house = House(family)
        house.environment |= {"BRIDGE_BROKER_URL": house.server.url, "BRIDGE_REDIS_URL": cluster.url}
        receiver = Receiver(family, house.directory)
        found = {number: _run(house, cluster, receiver, number, sizes.events) for number in WORKERS}
    cpu = "CPU µs/event, workers"
    hottest = max(max(one["hottest shard, by bytes"], one["hottest other key, by bytes"]) for one in found.values())
    fewest, most = (f"{number} workers" for number in (WORKERS[0], WORKERS[-1]))
    return Measured(
        about={"events": f"{sizes.events:,}", "subscriptions": str(SUBSCRIPTIONS), "masters": "3"},
        figures={f"{number} workers": by_name([one]) for number, one in found.items()},
        goals=(
            Goal(what="cluster: the hottest key, of its share", unit="×", samples=(hottest,), wanted=1.2),
            Goal(
                what=f"cluster: CPU an event with {most}, of {fewest}",
                unit="×",
                samples=(found[WORKERS[-1]][cpu] / found[WORKERS[0]][cpu],),
                reference=fewest,
            ),
        ),
    )


def _run(house: House, cluster: RealCluster, receiver: Receiver, number: int, count: int) -> dict[str, float]:
    cluster.empty()
    house.empty()
    bridge = open_bridge(house.environment)
    names = [bridge.subscribe(receiver.url)[0].id for _ in range(SUBSCRIPTIONS)]
    workers = [
        house.start(f"worker{number}-{place}", "-m", "tasks", "worker", "--concurrency", "4") for place in range(number)
    ]
    beat = house.start("beat", "-m", "tasks", "beat")
    try:
        _await_workers(house, bridge, number)
        for one in cluster.masters:
            one.says("CONFIG", "RESETSTAT")
        before, busy_s = receiver.requests(), sum(cpu_s(one.pid) for one in workers)
        servers_s, began_s = sum(cpu_s(one.pid) for one in cluster.masters), time.perf_counter()
        _commit(bridge, names, count)
        receiver.wait_for(before + count, 300)
        took_s = time.perf_counter() - began_s
        while any(bridge.queues.lengths(names).values()):
            time.sleep(0.05)  # the last outcomes
        calls = [_calls(one.redis.info("commandstats")) for one in cluster.masters]
        busy_s = sum(cpu_s(one.pid) for one in workers) - busy_s
        servers_s = sum(cpu_s(one.pid) for one in cluster.masters) - servers_s
        shard_bytes, other_bytes = _heat(_by_slot(cluster, b"network-bytes-in"))
        shard_cpu, other_cpu = _heat(_by_slot(cluster, b"cpu-usec"))
    finally:
        processes = [*workers, beat]
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(30)
        bridge.close()
    return {
        "events/s": count / took_s,
        "CPU µs/event, workers": busy_s / count * 1e6,
        "CPU µs/event, servers": servers_s / count * 1e6,
        "script calls/event": sum(calls) / count,
        "busiest master, of the mean": max(calls) / (sum(calls) / len(calls)),
        "hottest shard, by bytes": shard_bytes,
        "hottest other key, by bytes": other_bytes,
        "hottest shard, by time": shard_cpu,
        "hottest other key, by time": other_cpu,
    }


def _await_workers(house: House, bridge: Bridge, number: int) -> None:
    """Until every worker has started: Celery's own count of who answers."""
    from celery import Celery

    app = Celery(broker=house.server.url, set_as_current=False)
    deadline = time.monotonic() + _READY_WITHIN_S
    while len(app.control.ping(timeout=1.0) or ()) < number or bridge.index.last_tick_ms() is None:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{number} workers did not start within {_READY_WITHIN_S:.0f} s")
    app.close()


def _commit(bridge: Bridge, names: list[str], count: int) -> None:
    writes: Iterator[Write] = (
        write_of(record, names[place % len(names)]) for place, record in enumerate(records(count))
    )
    while batch := list(islice(writes, _AT_ONCE)):
        bridge.sessions.commit(DEFAULT_ACCOUNT, batch)


def _calls(stats: Mapping[str, Mapping[str, int]]) -> int:
    """Script calls: all that changes anything, and none that a script makes itself."""
    return sum(stats.get(f"cmdstat_{name}", {}).get("calls", 0) for name in ("evalsha", "eval"))


def _by_slot(cluster: RealCluster, figure: bytes) -> dict[int, int]:
    """A figure that the servers keep of each slot (Valkey 8 or newer)."""
    found: dict[int, int] = {}
    for one in cluster.masters:
        reply = one.do("CLUSTER", "SLOT-STATS", "SLOTSRANGE", 0, SLOTS - 1)
        for slot, flat in cast("list[tuple[int, list[object]]]", reply):
            said = dict(zip(flat[::2], flat[1::2], strict=True))
            found[slot] = found.get(slot, 0) + cast("int", said[figure])
    return found


def _heat(by_slot: Mapping[int, int]) -> tuple[float, float]:
    """The hottest shard, and the hottest key outside of them, each as a part of the mean shard."""
    shards = [by_slot.get(slot_of_shard(shard), 0) for shard in range(SHARDS)]
    others = [value for slot, value in by_slot.items() if slot not in map(slot_of_shard, range(SHARDS))]
    mean = sum(shards) / SHARDS
    return max(shards) / mean, max(others) / mean

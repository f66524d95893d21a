"""What waiting deliveries, logged events and outcomes take in the server's memory, by kind of key, all keys counted."""

from __future__ import annotations

from collections import Counter
from typing import cast

import msgspec
import redis

from bridge.cli.family import Family
from tests.bench.delivery import METADATA, fill
from tests.bench.figures import Goal, Measured
from tests.bench.house import House
from tests.bench.machine import apart
from tests.bench.receiver import Receiver
from tests.bench.senders import bridge_slices

_QUEUE = ("q", "l", "count")
_NOBODY = "http://127.0.0.1:9009/"


class Sizes(msgspec.Struct, frozen=True, kw_only=True):
    """Deliveries that wait, with metadata; and those that are made, without."""

    waiting: int
    delivered: int


def measure(sizes: Sizes) -> Measured:
    """Queue deliveries, one a phone, and ask the server what each key takes; then make some, for their outcomes."""
    with Family("bench") as family:
        house = House(family)
        store = redis.Redis.from_url(house.server.url, protocol=2)
        house.empty()
        before = _used(store)
        fill(house, _NOBODY, sizes.waiting)
        whole = _used(store) - before
        kinds = _by_kind(store)
        waiting = {
            "queue": sum(kinds[kind] for kind in _QUEUE) / sizes.waiting,
            f"log, with {len(METADATA)} bytes of metadata": kinds["log"] / sizes.waiting,
            "session, settled": (kinds["s"] + kinds["expiry"]) / sizes.waiting,
            "server, all of it": whole / sizes.waiting,
        }
        house.empty()
        receiver = Receiver(family, house.directory)
        fill(house, receiver.url, sizes.delivered, metadata="")
        logged = _by_kind(store)["log"] / sizes.delivered
        apart(bridge_slices, house.environment, sizes.delivered)
        outcome = _by_kind(store)["told"] / sizes.delivered
        store.close()
    figures = waiting | {"log, without metadata": logged, "outcome of a delivery": outcome}
    return Measured(
        about={"waiting": f"{sizes.waiting:,}", "delivered": f"{sizes.delivered:,}"},
        figures={what: {"bytes each": (size,)} for what, size in figures.items()},
        goals=(
            Goal(what="memory: a logged event without metadata", unit="B", samples=(logged,), wanted=300),
            Goal(what="memory: a queued delivery, beside the log", unit="B", samples=(waiting["queue"],), wanted=120),
            Goal(what="memory: the outcome of a delivery", unit="B", samples=(outcome,), wanted=24),
        ),
    )


def _by_kind(store: redis.Redis) -> Counter[str]:
    kinds: Counter[str] = Counter()
    for key in cast("list[bytes]", list(store.scan_iter(count=10_000))):
        # SAMPLES 0: every element is counted, none estimated.
        kinds[key.decode().split(":")[1]] += store.memory_usage(key, samples=0) or 0
    return kinds


def _used(store: redis.Redis) -> int:
    return int(cast("dict[str, int]", store.info("memory"))["used_memory"])

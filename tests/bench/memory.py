"""What waiting deliveries take in the server's memory, by kind of key, all keys counted."""

from __future__ import annotations

from typing import cast

import msgspec
import redis

from bridge.cli.family import Family
from tests.bench.delivery import fill
from tests.bench.house import House
from tests.bench.machine import describe_machine

_NOBODY = "http://127.0.0.1:9009/"
_QUEUE = ("q", "l", "count")


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes a waiting delivery: of the queue's keys (lanes and their due times), of the log, of sessions; of all that
    the server uses more than when it was empty."""

    about: dict[str, str]
    bytes: dict[str, float]


def measure(waiting: int) -> Memory:
    """Queue ``waiting`` deliveries, one a phone, and ask the server what each key takes."""
    with Family("bench") as family:
        house = House(family)
        store = redis.Redis.from_url(house.server.url, protocol=2)
        about = describe_machine(house.server.url) | {"waiting": f"{waiting:,}"}
        house.empty()
        before = _used(store)
        fill(house, _NOBODY, waiting)
        whole = _used(store) - before
        kinds: dict[str, int] = {}
        for key in cast("list[bytes]", list(store.scan_iter(count=10_000))):
            kind = key.decode().split(":")[1]
            # SAMPLES 0: every element is counted, none estimated.
            kinds[kind] = kinds.get(kind, 0) + (store.memory_usage(key, samples=0) or 0)
        found = {
            "queue": sum(kinds.get(kind, 0) for kind in _QUEUE),
            "log": kinds["log"],
            "session": kinds["s"] + kinds["expiry"],
            "server": whole,
        }
        return Memory(about=about, bytes={name: size / waiting for name, size in found.items()})


def _used(store: redis.Redis) -> int:
    return int(cast("dict[str, int]", store.info("memory"))["used_memory"])

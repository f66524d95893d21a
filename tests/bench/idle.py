"""What the whole system takes with ten subscriptions and nothing to do; beside a plain Celery worker and beat."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import cast

import msgspec
import redis

from bridge.cli.family import Child, Family
from tests.bench.house import House, open_bridge
from tests.bench.machine import cpu_s, describe_machine, median_by

_SUBSCRIPTIONS = 10
_SETTLED_S = 15.0  # after the start: imports and first ticks are over, and Flower's events have a rhythm


class Sizes(msgspec.Struct, frozen=True, kw_only=True):
    """For how long each is watched, and how often."""

    seconds: int
    rounds: int


class Idle(msgspec.Struct, frozen=True, kw_only=True):
    """Medians: commands a second at the server, and of each process the share of a core, in percent."""

    about: dict[str, str]
    bridge: dict[str, float]
    celery: dict[str, float]


def measure(sizes: Sizes) -> Idle:
    """Watch both in turns."""
    with Family("bench") as family:
        house = House(family)
        about = describe_machine(house.server.url) | {"rounds": str(sizes.rounds), "watched": f"{sizes.seconds} s each"}
        bridge, celery = [], []
        for _ in range(sizes.rounds):
            house.empty()
            bridge.append(_bridge(house, sizes.seconds))
            house.empty()
            celery.append(_plain(house, sizes.seconds))
        return Idle(about=about, bridge=median_by(bridge), celery=median_by(celery))


def _bridge(house: House, seconds: int) -> dict[str, float]:
    opened = open_bridge(house.environment)
    for number in range(_SUBSCRIPTIONS):
        opened.subscribe(f"http://127.0.0.1:9009/{number}")
    processes = {
        "worker": house.start("worker", "-m", "tasks", "worker", "--concurrency", "8"),
        "beat": house.start("beat", "-m", "tasks", "beat"),
        "web": house.start("web", "-m", "bridge.cli.main", "web", extra={"BRIDGE_LISTEN": "127.0.0.1:0"}),
    }
    try:
        deadline = time.monotonic() + 60
        while opened.index.last_tick_ms() is None:
            if time.monotonic() > deadline:
                raise TimeoutError("beat, broker and worker never came to a tick")
            time.sleep(0.1)
        return _watched(house, processes, seconds)
    finally:
        _end(processes)
        opened.close()


def _plain(house: House, seconds: int) -> dict[str, float]:
    celery = ["-m", "celery", "-A", "tests.bench.plain_celery"]
    extra = {"BENCH_REDIS_URL": house.server.url}
    schedule = str(house.directory / "schedule")
    processes = {
        "worker": house.start("worker", *celery, "worker", "--pool", "threads", "--concurrency", "8", extra=extra),
        "beat": house.start("beat", *celery, "beat", "--schedule", schedule, extra=extra),
    }
    try:
        return _watched(house, processes, seconds)
    finally:
        _end(processes)


def _watched(house: House, processes: Mapping[str, Child], seconds: int) -> dict[str, float]:
    store = redis.Redis.from_url(house.server.url, protocol=2)
    time.sleep(_SETTLED_S)
    # Those that this one sends itself are taken off: one each time.
    commands, busy, began_s = _commands(store), {name: cpu_s(one.pid) for name, one in processes.items()}, time.time()
    time.sleep(seconds)
    elapsed_s = time.time() - began_s
    found = {name: 100 * (cpu_s(one.pid) - busy[name]) / elapsed_s for name, one in processes.items()}
    found["commands"] = (_commands(store) - commands - 1) / elapsed_s
    store.close()
    return found


def _commands(store: redis.Redis) -> int:
    return int(cast("dict[str, int]", store.info("stats"))["total_commands_processed"])


def _end(processes: Mapping[str, Child]) -> None:
    for one in processes.values():
        one.terminate()
    for one in processes.values():
        one.wait(30)

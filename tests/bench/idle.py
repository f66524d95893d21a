"""What the whole system takes with ten subscriptions and nothing to do; beside a plain Celery worker and beat."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import cast

import msgspec
import redis

from bridge.cli.family import Child, Family
from tests.bench.figures import Goal, Measured, by_name
from tests.bench.house import House, open_bridge, wait_until
from tests.bench.machine import cpu_s, server_cpu_s

BRIDGE = "bridge, ten subscriptions"
PLAIN = "plain Celery, a task a second"
_SUBSCRIPTIONS = 10
_SETTLED_S = 15.0  # after the start: imports and first ticks are over, and Flower's events have a rhythm


class Sizes(msgspec.Struct, frozen=True, kw_only=True):
    """For how long each is watched, and how often."""

    seconds: int
    rounds: int


def measure(sizes: Sizes) -> Measured:
    """Watch both at once, each on a server of its own: neither takes enough to be in the other's way."""
    with Family("bench") as family, ExitStack() as stack:
        ours, theirs = House(family), House(family)
        watched = {
            BRIDGE: (ours, stack.enter_context(_bridge(ours))),
            PLAIN: (theirs, stack.enter_context(_plain(theirs))),
        }
        time.sleep(_SETTLED_S)
        rounds: dict[str, list[dict[str, float]]] = {name: [] for name in watched}
        for _ in range(sizes.rounds):
            for name, found in _watch(watched, sizes.seconds).items():
                rounds[name].append(found)
    figures = {name: by_name(found) for name, found in rounds.items()}
    bridge = figures[BRIDGE]
    return Measured(
        about={"watched": f"{sizes.seconds} s each", "subscriptions": str(_SUBSCRIPTIONS)},
        figures=figures,
        references=(PLAIN,),
        goals=(
            Goal(what="idle: commands a second", unit="", samples=bridge["commands/s"], wanted=25, reference=PLAIN),
            *(
                Goal(what=f"idle: {name}, of a core", unit="%", samples=bridge[f"CPU %, {name}"], wanted=1)
                for name in ("worker", "beat", "web")
            ),
        ),
    )


@contextmanager
def _bridge(house: House) -> Iterator[Mapping[str, Child]]:
    opened = open_bridge(house.environment)
    for number in range(_SUBSCRIPTIONS):
        opened.subscribe(f"http://127.0.0.1:9009/{number}")
    processes = {
        "worker": house.start("worker", "-m", "tasks", "worker", "--concurrency", "8"),
        "beat": house.start("beat", "-m", "tasks", "beat"),
        "web": house.start("web", "-m", "bridge.cli.main", "web", extra={"BRIDGE_LISTEN": "127.0.0.1:0"}),
    }
    try:
        wait_until("beat, broker and worker come to a tick", lambda: opened.index.last_tick_ms() is not None)
        yield processes
    finally:
        _end(processes)
        opened.close()


@contextmanager
def _plain(house: House) -> Iterator[Mapping[str, Child]]:
    celery = ["-m", "celery", "-A", "tests.bench.plain_celery"]
    extra = {"BENCH_REDIS_URL": house.server.url}
    schedule = str(house.directory / "schedule")
    processes = {
        "worker": house.start("worker", *celery, "worker", "--pool", "threads", "--concurrency", "8", extra=extra),
        "beat": house.start("beat", *celery, "beat", "--schedule", schedule, extra=extra),
    }
    try:
        yield processes
    finally:
        _end(processes)


def _watch(watched: Mapping[str, tuple[House, Mapping[str, Child]]], seconds: int) -> dict[str, dict[str, float]]:
    """What each of them took a second, in the same seconds."""
    begun = {name: _taken(house, processes) for name, (house, processes) in watched.items()}
    began_s = time.monotonic()
    time.sleep(seconds)
    elapsed_s = time.monotonic() - began_s
    ended = {name: _taken(house, processes) for name, (house, processes) in watched.items()}
    return {name: {what: (one[what] - begun[name][what]) / elapsed_s for what in one} for name, one in ended.items()}


def _taken(house: House, processes: Mapping[str, Child]) -> dict[str, float]:
    """Commands so far, and hundredths of a second of CPU."""
    with redis.Redis.from_url(house.server.url, protocol=2) as store:
        found = {"commands/s": float(_commands(store))}
    found |= {f"CPU %, {name}": 100 * cpu_s(child.pid) for name, child in processes.items()}
    return found | {"CPU %, server": 100 * server_cpu_s(house.server.url)}


def _commands(store: redis.Redis) -> int:
    return int(cast("dict[str, int]", store.info("stats"))["total_commands_processed"])


def _end(processes: Mapping[str, Child]) -> None:
    for one in processes.values():
        one.terminate()
    for one in processes.values():
        one.wait(30)

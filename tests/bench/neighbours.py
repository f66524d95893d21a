"""What 50 receivers that hang do to the callbacks of one that does not; beside that one alone."""

from __future__ import annotations

import multiprocessing
import os
import socket
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing.synchronize import Event

import msgspec

from bridge.cli.family import Family
from bridge.wiring import Bridge
from tasks.process import Process
from tests.bench.figures import Goal, Measured, by_name, quantiles, ratio
from tests.bench.house import House, open_bridge
from tests.bench.waiting import commit
from tests.hostile import Connection, ok, serving

HANGING = 50
_THREADS = 8  # a worker's
_TICK_S = 0.01  # in place of the commits' own wake-ups, which a poll sends
_PER_SECOND = 200
_BACKLOG = 100  # events that wait for each of those that hang, as it begins


class Sizes(msgspec.Struct, frozen=True, kw_only=True):
    """For how long each is measured, and how often."""

    seconds: int
    rounds: int


def measure(sizes: Sizes) -> Measured:
    """Both in turns, each with fresh processes on an emptied server."""
    with Family("bench") as family:
        house = House(family)
        rounds: tuple[list[dict[str, float]], list[dict[str, float]]] = ([], [])
        for _ in range(sizes.rounds):
            for found, hanging in zip(rounds, (0, HANGING), strict=True):
                found.append(_latencies(house, sizes.seconds, hanging))
    alone, beside = map(by_name, rounds)
    return Measured(
        about={"load of the healthy one": f"{_PER_SECOND} events/s for {sizes.seconds} s"},
        figures={"alone": alone, f"beside {HANGING} that hang": beside},
        goals=(
            Goal(
                what=f"neighbours: a receiver's p99 beside {HANGING} that hang, of alone",
                unit="×",
                samples=ratio(beside["p99 ms"], alone["p99 ms"]),
                wanted=2,
                reference="alone",
            ),
        ),
    )


def _latencies(house: House, seconds: int, hanging: int) -> dict[str, float]:
    house.empty()
    bridge = open_bridge(house.environment)
    arrived: dict[str, float] = {}

    def note(connection: Connection) -> None:
        while (request := connection.request()) is not None:
            arrived[msgspec.json.decode(request[1])["data"]["session_no"]] = time.monotonic()
            connection.sock.sendall(ok())

    # Never accepted: the kernel takes connections and requests, and nobody answers.
    with socket.create_server(("127.0.0.1", 0), backlog=4096) as stuck, serving(note) as well:
        url = f"http://127.0.0.1:{stuck.getsockname()[1]}"
        for number in range(hanging):
            name = bridge.subscribe(f"{url}/{number}")[0].id
            commit(bridge, name, [f"stuck{number:03d}n{one:05d}" for one in range(_BACKLOG)])
        healthy = bridge.subscribe(well.url)[0].id
        with _worker(house.environment):
            sent = _publish(bridge, healthy, seconds)
            deadline = time.monotonic() + 30
            while len(arrived) < len(sent) and time.monotonic() < deadline:
                time.sleep(0.05)
    bridge.close()
    return quantiles([1000 * (arrived.get(no, float("inf")) - at) for no, at in sent.items()])


def _publish(bridge: Bridge, name: str, seconds: int) -> dict[str, float]:
    """Ten events at a time, evenly; to when each was committed."""
    sent: dict[str, float] = {}
    began = time.monotonic()
    for turn in range(seconds * _PER_SECOND // 10):
        time.sleep(max(0.0, began + turn * 10 / _PER_SECOND - time.monotonic()))
        batch = [f"well{turn:06d}n{one}" for one in range(10)]
        at = time.monotonic()
        commit(bridge, name, batch)
        sent |= dict.fromkeys(batch, at)
    return sent


@contextmanager
def _worker(environment: Mapping[str, str]) -> Iterator[None]:
    """A process that does the work of ``bridge.tick`` and ``bridge.deliver``, until the block ends."""
    context = multiprocessing.get_context("spawn")
    ready, stop = context.Event(), context.Event()
    process = context.Process(target=_work, args=(dict(environment), ready, stop))
    process.start()
    try:
        ready.wait(30)
        yield
    finally:
        stop.set()
        process.join(60)


def _work(environment: Mapping[str, str], ready: Event, stop: Event) -> None:
    os.environ.update(environment)
    with ThreadPoolExecutor(_THREADS) as pool:
        process = Process(lambda name, _arguments: _send(pool, process, name))
        while not stop.wait(_TICK_S):
            process.tick()
            ready.set()
        process.stop()


def _send(pool: ThreadPoolExecutor, process: Process, name: str) -> None:
    if name == "bridge.deliver":
        pool.submit(process.deliver)

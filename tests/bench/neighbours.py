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
from bridge.domain import events
from bridge.domain.accounts import DEFAULT_ACCOUNT
from bridge.domain.commits import Due, Entry, Route, Write
from bridge.domain.receipts import Status
from bridge.domain.status import SessionState
from bridge.wiring import Bridge
from tasks.process import Process
from tests.bench.house import House, open_bridge
from tests.bench.machine import describe_machine, median_by
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


class Neighbours(msgspec.Struct, frozen=True, kw_only=True):
    """Medians, ms from an event's commit to its arrival at the healthy receiver."""

    about: dict[str, str]
    alone: dict[str, float]
    beside: dict[str, float]


def measure(sizes: Sizes) -> Neighbours:
    """Both in turns, each with fresh processes on an emptied server."""
    with Family("bench") as family:
        house = House(family)
        about = describe_machine(house.server.url) | {"rounds": str(sizes.rounds)}
        about |= {"load of the healthy one": f"{_PER_SECOND} events/s for {sizes.seconds} s"}
        alone, beside = [], []
        for _ in range(sizes.rounds):
            alone.append(_latencies(house, sizes.seconds, 0))
            beside.append(_latencies(house, sizes.seconds, HANGING))
        return Neighbours(about=about, alone=median_by(alone), beside=median_by(beside))


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
            _commit(bridge, name, [f"stuck{number:03d}n{one:05d}" for one in range(_BACKLOG)])
        healthy = bridge.subscribe(well.url)[0].id
        with _worker(house.environment):
            sent = _publish(bridge, healthy, seconds)
            deadline = time.monotonic() + 30
            while len(arrived) < len(sent) and time.monotonic() < deadline:
                time.sleep(0.05)
    bridge.close()
    took = sorted(1000 * (arrived.get(no, float("inf")) - at) for no, at in sent.items())
    return {"p50": took[len(took) // 2], "p99": took[len(took) * 99 // 100], "worst": took[-1], "events": len(took)}


def _publish(bridge: Bridge, name: str, seconds: int) -> dict[str, float]:
    """Ten events at a time, evenly; to when each was committed."""
    sent: dict[str, float] = {}
    began = time.monotonic()
    for turn in range(seconds * _PER_SECOND // 10):
        time.sleep(max(0.0, began + turn * 10 / _PER_SECOND - time.monotonic()))
        batch = [f"well{turn:06d}n{one}" for one in range(10)]
        at = time.monotonic()
        _commit(bridge, name, batch)
        sent |= dict.fromkeys(batch, at)
    return sent


def _commit(bridge: Bridge, name: str, session_nos: list[str]) -> None:
    bridge.sessions.commit(
        DEFAULT_ACCOUNT,
        [
            Write(no, b"", SessionState(sent_ms=1, tracked_ms=1), Due.NONE, None, [_entry(no, name)])
            for no in session_nos
        ],
    )


def _entry(session_no: str, name: str) -> Entry:
    now_ms = int(time.time() * 1000)
    phone = "(86)18500000000"
    record = events.Record(
        schema=events.SCHEMA,
        session_no=session_no,
        phone=phone,
        user_id="",
        status=int(Status.DELIVERED),
        previous=int(Status.TRACKED),
        sequence=1,
        corrected=False,
        late=False,
        result="发送成功",
        code="DELIVRD",
        description="",
        receipt_time=now_ms // 1000,
        segments=1,
        observed_ms=now_ms,
        previous_poll_ms=now_ms,
        metadata="",
    )
    return Entry(events.pack(record), [Route(name, events.lane_id(session_no, phone))])


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

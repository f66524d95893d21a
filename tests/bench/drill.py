"""A receiver that is down for hours while events wait for it, then back; and another one that is well all the while.

Time is compressed: the waits of the retry schedule and of the breaker are divided by ``Sizes.compress``, so that six
hours are a minute. Nothing else is: a real worker, a real beat that ticks each second, real sockets.

``python -m tests.bench.drill worker|receiver …`` are the processes that this starts.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path

import msgspec
from celery import Celery
from msgspec.structs import replace

from bridge.cli.family import Child, Family
from bridge.cli.house import compressed
from bridge.domain import events
from bridge.domain.accounts import DEFAULT_ACCOUNT
from bridge.domain.breaker import BreakerPolicy
from bridge.domain.commits import CommitResult, Due, Entry, Route, Write
from bridge.domain.deliveries import Part
from bridge.domain.receipts import Status
from bridge.domain.status import SessionState
from bridge.settings import load_settings
from bridge.wiring import Bridge
from tests.bench.house import House, open_bridge
from tests.bench.listener import EACH, Drained, ask, listens, serve
from tests.bench.machine import apart, cpu_s, describe_machine
from tests.bench.receiver import free_port

_AT_ONCE = 100
_WELL_EVERY_S = 0.1
_BEFORE = 30  # events of the healthy one before the other goes down
_BEAT_S = 1.0
_COMPRESSION = "BENCH_COMPRESS"


class Sizes(msgspec.Struct, frozen=True, kw_only=True):
    """``events`` that wait, ``hours`` of outage in uncompressed time, at which ``rate`` a second its receiver takes
    them (None: as fast as it can).
    """

    events: int
    hours: float = 6.0
    compress: float = 360.0
    rate: float | None = None
    within_s: float = 900.0

    @property
    def outage_s(self) -> float:
        """How long it is down."""
        return self.hours * 3600 / self.compress

    @property
    def breaker(self) -> BreakerPolicy:
        """The breaker's waits, compressed; it is never given up."""
        whole = BreakerPolicy()
        return replace(
            whole,
            first_ms=max(1, round(whole.first_ms / self.compress)),
            longest_ms=max(1, round(whole.longest_ms / self.compress)),
        )

    @property
    def within_probe_s(self) -> float:
        """The longest that a receiver that is back may wait for its first event: a probe's wait, and the next tick."""
        return self.breaker.longest_ms / 1000 + _BEAT_S


class Drill(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it. ``rss`` is the most that the worker had at any time, ``idle_rss`` before there was anything to
    do, in bytes; ``cpu`` its µs an event while it drained. ``beside`` are p50, p99 and worst, in ms from commit to
    arrival, of the healthy one by phase, and how many events were committed in it.
    """

    about: dict[str, str]
    drained: Drained
    probes: int
    first_after_s: float
    within_probe_s: float
    took_s: float
    rate: float
    cpu: float
    idle_rss: int
    rss: int
    dead: int
    waiting: int
    beside: dict[str, dict[str, float]]


def measure(sizes: Sizes, *, handle_signals: bool = True) -> Drill:
    """Run it once."""
    with Family("bench", handle_signals=handle_signals) as family:
        house = House(family)
        house.environment |= _settings(sizes, load_settings(house.environment, env_file=None).callback_retry_ms)
        about = describe_machine(house.server.url) | {
            "waiting": f"{sizes.events:,}, {EACH} a phone",
            "down for": f"{sizes.hours:g} h, as {sizes.outage_s:g} s (time ÷ {sizes.compress:g})",
        }
        bridge = open_bridge(house.environment)
        try:
            return _run(house, bridge, sizes, about)
        finally:
            bridge.close()


def _settings(sizes: Sizes, retry_ms: Sequence[int]) -> dict[str, str]:
    return {
        "BRIDGE_CALLBACK_RETRY": compressed(retry_ms, sizes.compress),
        # Room for all of them in whichever shard: what a limit does is not what is drilled here.
        "BRIDGE_MAX_BACKLOG": "10000000",
        "BRIDGE_LOG_BYTES": "8GB",
        _COMPRESSION: repr(sizes.compress),
    }


def _run(house: House, bridge: Bridge, sizes: Sizes, about: dict[str, str]) -> Drill:
    port = free_port()
    down = bridge.subscribe(f"http://127.0.0.1:{port}/", limited=lambda one: replace(one, rate=sizes.rate))[0].id
    with _Healthy(house, bridge) as healthy:
        worker = house.start("worker", "-m", "tests.bench.drill", "worker", "--concurrency", "8")
        house.start("beat", "-m", "tasks", "beat")
        _wait_until("the healthy receiver hears of its events", lambda: healthy.arrived > 0, 60)
        healthy.begin("before")
        quiet = healthy.arrived + _BEFORE
        _wait_until("it has heard enough to compare with", lambda: healthy.arrived >= quiet, 60)
        idle_rss = rss_of(worker)
        began_s = healthy.begin("down")
        apart(fill, house.environment, down, sizes.events)
        _wait_until("the outage is over", lambda: time.monotonic() >= began_s + sizes.outage_s, sizes.outage_s + 1)
        probes = _failures(bridge, down)
        house.start("receiver", "-m", "tests.bench.drill", "receiver", str(port))
        _wait_until("the receiver is back", lambda: listens(port), 30, 0.01)
        back_s = healthy.begin("draining")
        busy_s = cpu_s(worker.pid)
        _wait_until("all is drained", lambda: ask(port).phones_done(sizes.events // EACH), sizes.within_s, 0.2)
        cpu = (cpu_s(worker.pid) - busy_s) / sizes.events * 1e6
        drained = ask(port).drained
        _wait_until("it is all written down", lambda: not _waiting(bridge, down), 30)
        # The most it had while there was something to do: before that is read, it must have done it.
        rss = most_rss_of(worker)
    tally = bridge.queues.tallies([down])[down]
    return Drill(
        about=about,
        drained=drained,
        probes=probes,
        first_after_s=max(0.0, drained.first_s - back_s),
        within_probe_s=sizes.within_probe_s,
        took_s=drained.last_s - drained.first_s,
        rate=drained.requests / max(0.001, drained.last_s - drained.first_s),
        cpu=cpu,
        idle_rss=idle_rss,
        rss=rss,
        dead=tally.dead,
        waiting=tally.waiting,
        beside=healthy.figures(),
    )


def _failures(bridge: Bridge, name: str) -> int:
    return bridge.queues.health([Part(name)])[0].failures


def _waiting(bridge: Bridge, name: str) -> int:
    return bridge.queues.tallies([name])[name].waiting


def _wait_until(what: str, done: Callable[[], bool], within_s: float, every_s: float = 0.05) -> None:
    deadline = time.monotonic() + within_s
    while not done():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {within_s:.0f} s: {what}")
        time.sleep(every_s)


def rss_of(child: Child) -> int:
    """Bytes of memory that a process has."""
    return _status(child, "VmRSS")


def most_rss_of(child: Child) -> int:
    """The most bytes of memory that a process ever had."""
    return _status(child, "VmHWM")


def _status(child: Child, field: str) -> int:
    lines = Path(f"/proc/{child.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


# What waits


def fill(environment: Mapping[str, str], name: str, count: int) -> None:
    """Commit ``count`` events for one subscription, EACH of every phone, as polls would: all first ones, then the next.

    A phone a session, 100 sessions a commit.
    """
    bridge = open_bridge(environment)
    for sequence in range(1, EACH + 1):
        numbers = iter(range(count // EACH))
        while batch := list(islice(numbers, _AT_ONCE)):
            _commit(bridge, name, [f"down{number:011d}" for number in batch], sequence)
    bridge.close()


def _commit(bridge: Bridge, name: str, session_nos: Sequence[str], sequence: int = 1) -> None:
    versions = {}
    if sequence > 1:
        versions = {no: one.version for no, one in bridge.sessions.read(DEFAULT_ACCOUNT, session_nos).items()}
    state = SessionState(sent_ms=1, tracked_ms=1)
    writes = [
        Write(no, versions.get(no, b""), state, Due.NONE, None, [_entry(no, name, sequence)]) for no in session_nos
    ]
    if any(result is not CommitResult.WRITTEN for result in bridge.sessions.commit(DEFAULT_ACCOUNT, writes).values()):
        raise AssertionError("a commit was refused")


def _entry(session_no: str, name: str, sequence: int) -> Entry:
    now_ms = int(time.time() * 1000)
    phone = "(86)18500000000"
    record = events.Record(
        schema=events.SCHEMA,
        session_no=session_no,
        phone=phone,
        user_id="1213",
        status=int(Status.DELIVERED if sequence > 1 else Status.UNKNOWN),
        previous=int(Status.UNKNOWN if sequence > 1 else Status.TRACKED),
        sequence=sequence,
        corrected=False,
        late=False,
        result="发送成功" if sequence > 1 else "状态未知",
        code="DELIVRD" if sequence > 1 else "",
        description="",
        receipt_time=now_ms // 1000,
        segments=1,
        observed_ms=now_ms,
        previous_poll_ms=now_ms,
        metadata="",
    )
    return Entry(events.pack(record), [Route(name, events.lane_id(session_no, phone))])


# The one that is well


class _Healthy:
    """A receiver that answers at once, told ten events a second from beginning to end."""

    def __init__(self, house: House, bridge: Bridge) -> None:
        self._port = free_port()
        house.start("healthy", "-m", "tests.bench.drill", "receiver", str(self._port), "note")
        self._bridge = bridge
        self._app = Celery(broker=house.server.url, set_as_current=False)
        self._name = bridge.subscribe(f"http://127.0.0.1:{self._port}/")[0].id
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._publish, daemon=True)
        self._sent: dict[str, float] = {}
        self._phases: list[tuple[str, float]] = [("starting", time.monotonic())]
        self._heard: dict[str, float] = {}

    def __enter__(self) -> _Healthy:
        _wait_until("the healthy receiver listens", lambda: listens(self._port), 30)
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._stop.set()
        self._thread.join(10)
        self._app.close()
        if _error[0] is None:
            _wait_until("its last events arrive", lambda: self.arrived >= len(self._sent), 60)
            self._heard = ask(self._port).heard

    def begin(self, phase: str) -> float:
        """Count what is committed from now on to another phase. Returns when that is."""
        self._phases.append((phase, time.monotonic()))
        return self._phases[-1][1]

    @property
    def arrived(self) -> int:
        """How many of its events have arrived."""
        return ask(self._port, "count").drained.phones

    def figures(self) -> dict[str, dict[str, float]]:
        """ms from commit to arrival, by the phase of the commit."""
        found: dict[str, dict[str, float]] = {}
        ends = [at for _, at in self._phases[1:]] + [float("inf")]
        for (phase, begin), end in list(zip(self._phases, ends, strict=True))[1:]:
            took = sorted(1000 * (self._heard[no] - at) for no, at in self._sent.items() if begin <= at < end)
            if took:
                found[phase] = {
                    "events": len(took),
                    "p50": took[len(took) // 2],
                    "p99": took[len(took) * 99 // 100],
                    "worst": took[-1],
                }
        return found

    def _publish(self) -> None:
        number = 0
        while not self._stop.wait(_WELL_EVERY_S):
            session_no = f"well{number:08d}"
            at = time.monotonic()
            _commit(self._bridge, self._name, [session_no])
            if self._bridge.wakes.take("deliver", 2_000):
                self._app.send_task("bridge.deliver", queue="bridge.deliver")  # as a poll does
            self._sent[session_no] = at
            number += 1


# Processes of their own


def main(argv: Sequence[str]) -> int:
    """One of the processes that the drill starts."""
    kind, *options = argv
    if kind == "receiver":
        asyncio.run(serve(int(options[0]), note=options[1:] == ["note"]))
        return 0
    return _worker(options)


def _worker(options: Sequence[str]) -> int:
    """A worker as ``bridge worker`` is, but for its breaker's waits, which no setting can shorten."""
    from tasks.__main__ import main as tasks_main
    from tasks.app import processes

    bridge = processes.current().bridge
    breaker = Sizes(events=0, compress=float(os.environ[_COMPRESSION])).breaker
    bridge.delivery_policy = replace(bridge.delivery_policy, breaker=breaker)
    return tasks_main(["worker", *options])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

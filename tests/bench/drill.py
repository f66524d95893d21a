"""A receiver that is down for hours while events wait for it, then back; and another one that is well all the while.

Time is compressed: the waits of the retry schedule and of the breaker are divided by ``Sizes.compress``, so that six
hours are a minute. Nothing else is: a real worker, a real beat that ticks each second, real sockets.

``python -m tests.bench.drill …`` is the worker that this starts.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path

import msgspec
from celery import Celery
from msgspec.structs import replace

from bridge.cli.family import Child, Family
from bridge.cli.house import compressed
from bridge.domain.breaker import BreakerPolicy
from bridge.domain.deliveries import Part
from bridge.settings import load_settings
from bridge.wiring import Bridge
from tests.bench.figures import Goal, Measured, Samples, quantiles
from tests.bench.house import House, open_bridge, wait_until
from tests.bench.listener import EACH, Drained, ask, listens
from tests.bench.machine import apart, cpu_s, server_cpu_s
from tests.bench.waiting import commit
from tests.ports import unused_port

_AT_ONCE = 100
_BEAT_S = 1.0
_COMPRESSION = "BENCH_COMPRESS"


class Sizes(msgspec.Struct, frozen=True, kw_only=True):
    """``events`` that wait, ``hours`` of outage in uncompressed time, at which ``rate`` a second its receiver takes
    them (None: as fast as it can). The healthy one has an event each ``well_every_s``, ``before`` of them before the
    other goes down.
    """

    events: int
    hours: float = 6.0
    compress: float = 360.0
    rate: float | None = None
    well_every_s: float = 0.1
    before: int = 30
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
    do, in bytes; ``cpu`` its µs an event while it drained, ``server_cpu`` the store's. ``beside`` are p50, p99 and
    worst, in ms from commit to arrival, of the healthy one by phase, and how many events were committed in it.
    ``paced`` is the rate that was set, None without one.
    """

    about: dict[str, str]
    events: int
    drained: Drained
    probes: int
    first_after_s: float
    within_probe_s: float
    took_s: float
    rate: float
    cpu: float
    server_cpu: float
    idle_rss: int
    rss: int
    dead: int
    waiting: int
    beside: dict[str, dict[str, float]]
    paced: float | None


def measure(sizes: Sizes, *, handle_signals: bool = True) -> Drill:
    """Run it once."""
    with Family("bench", handle_signals=handle_signals) as family:
        house = House(family)
        house.environment |= _settings(sizes, load_settings(house.environment, env_file=None).callback_retry_ms)
        about = {
            "waiting": f"{sizes.events:,}, {EACH} a phone",
            "down for": f"{sizes.hours:g} h, as {sizes.outage_s:g} s (time ÷ {sizes.compress:g})",
        }
        bridge = open_bridge(house.environment)
        try:
            return _run(house, bridge, sizes, about)
        finally:
            bridge.close()


def told(found: Drill) -> Measured:
    """Its figures, and the targets they are held to."""
    seen = found.drained
    drained: dict[str, Samples] = {
        "probes in vain": (float(found.probes),),
        "first after s": (found.first_after_s,),
        "drained in s": (found.took_s,),
        "events/s": (found.rate,),
        "CPU µs/event, worker": (found.cpu,),
        "CPU µs/event, server": (found.server_cpu,),
        "worker MB": (found.rss / 1e6,),
        "idle worker MB": (found.idle_rss / 1e6,),
        "came again": (float(seen.repeated),),
    }
    beside: dict[str, dict[str, Samples]] = {
        f"a healthy one, {phase}": {what: (one,) for what, one in phase_figures.items()}
        for phase, phase_figures in found.beside.items()
    }
    lost = found.waiting + found.dead
    first = found.first_after_s / found.within_probe_s
    name = f"backlog, {found.events:,}" if found.paced is None else f"backlog at {found.paced:,.0f}/s"
    goals: tuple[Goal, ...] = (
        Goal(what=f"{name}: out of their phone's order", unit="", samples=(seen.out_of_order,), wanted=0, every=True),
        Goal(what=f"{name}: left waiting, or dead", unit="", samples=(lost,), wanted=0, every=True),
        Goal(what=f"{name}: first event, of a probe's wait and a tick", unit="×", samples=(first,), wanted=1),
        Goal(
            what=f"{name}: events a second of a core", unit="", samples=(1e6 / found.cpu,), wanted=5_000, better="more"
        ),
        Goal(what=f"{name}: the worker's memory", unit="MB", samples=(found.rss / 1e6,), wanted=200),
    )
    if found.paced is not None:
        # As fast as can be, all that the machine has goes into it: what others then wait is the machine's.
        slower = found.beside["draining"]["p99 ms"] / found.beside["before"]["p99 ms"]
        goals = (*goals, Goal(what=f"{name}: a healthy one's p99, of before", unit="×", samples=(slower,), wanted=2))
    return Measured(about=found.about, figures={"the one that came back": drained} | beside, goals=goals)


def _settings(sizes: Sizes, retry_ms: Sequence[int]) -> dict[str, str]:
    return {
        "BRIDGE_CALLBACK_RETRY": compressed(retry_ms, sizes.compress),
        # Room for all of them in whichever shard: what a limit does is not what is drilled here.
        "BRIDGE_MAX_BACKLOG": "10000000",
        "BRIDGE_LOG_BYTES": "8GB",
        _COMPRESSION: repr(sizes.compress),
    }


def _run(house: House, bridge: Bridge, sizes: Sizes, about: dict[str, str]) -> Drill:
    port = unused_port()
    down = bridge.subscribe(f"http://127.0.0.1:{port}/", limited=lambda one: replace(one, rate=sizes.rate))[0].id
    with _Healthy(house, bridge, sizes.well_every_s) as healthy:
        worker = house.start("worker", "-m", "tests.bench.drill", "--concurrency", "8")
        house.start("beat", "-m", "tasks", "beat")
        wait_until("the healthy receiver hears of its events", lambda: healthy.arrived > 0, 60)
        healthy.begin("before")
        quiet = healthy.arrived + sizes.before
        wait_until("it has heard enough to compare with", lambda: healthy.arrived >= quiet, 60)
        idle_rss = rss_of(worker)
        began_s = healthy.begin("down")
        apart(fill, house.environment, down, sizes.events)
        wait_until("the outage is over", lambda: time.monotonic() >= began_s + sizes.outage_s, sizes.outage_s + 1)
        probes = _failures(bridge, down)
        house.start("receiver", "-m", "tests.bench.listener", str(port))
        wait_until("the receiver is back", lambda: listens(port), 30, 0.01)
        back_s = healthy.begin("draining")
        busy_s, server_s = cpu_s(worker.pid), server_cpu_s(house.server.url)
        wait_until("all is drained", lambda: ask(port).phones_done(sizes.events // EACH), sizes.within_s, 0.2)
        cpu = (cpu_s(worker.pid) - busy_s) / sizes.events * 1e6
        server_cpu = (server_cpu_s(house.server.url) - server_s) / sizes.events * 1e6
        drained = ask(port).drained
        wait_until("it is all written down", lambda: not _waiting(bridge, down), 30)
        # The most it had while there was something to do: before that is read, it must have done it.
        rss = most_rss_of(worker)
    tally = bridge.queues.tallies([down])[down]
    return Drill(
        about=about,
        events=sizes.events,
        drained=drained,
        probes=probes,
        first_after_s=max(0.0, drained.first_s - back_s),
        within_probe_s=sizes.within_probe_s,
        took_s=drained.last_s - drained.first_s,
        rate=drained.requests / max(0.001, drained.last_s - drained.first_s),
        cpu=cpu,
        server_cpu=server_cpu,
        idle_rss=idle_rss,
        rss=rss,
        dead=tally.dead,
        waiting=tally.waiting,
        beside=healthy.figures(),
        paced=sizes.rate,
    )


def _failures(bridge: Bridge, name: str) -> int:
    return bridge.queues.health([Part(name)])[0].failures


def _waiting(bridge: Bridge, name: str) -> int:
    return bridge.queues.tallies([name])[name].waiting


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
            commit(bridge, name, [f"down{number:011d}" for number in batch], sequence)
    bridge.close()


# The one that is well


class _Healthy:
    """A receiver that answers at once, told an event each ``every_s`` from beginning to end."""

    def __init__(self, house: House, bridge: Bridge, every_s: float) -> None:
        self._every_s = every_s
        self._port = unused_port()
        house.start("healthy", "-m", "tests.bench.listener", str(self._port), "note")
        self._bridge = bridge
        self._app = Celery(broker=house.server.url, set_as_current=False)
        self._name = bridge.subscribe(f"http://127.0.0.1:{self._port}/")[0].id
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._publish, daemon=True)
        self._sent: dict[str, float] = {}
        self._phases: list[tuple[str, float]] = [("starting", time.monotonic())]
        self._heard: dict[str, float] = {}

    def __enter__(self) -> _Healthy:
        wait_until("the healthy receiver listens", lambda: listens(self._port), 30)
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._stop.set()
        self._thread.join(10)
        self._app.close()
        if _error[0] is None:
            wait_until("its last events arrive", lambda: self.arrived >= len(self._sent), 60)
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
            took = [1000 * (self._heard[no] - at) for no, at in self._sent.items() if begin <= at < end]
            if took:
                found[phase] = {"events": len(took)} | quantiles(took)
        return found

    def _publish(self) -> None:
        number = 0
        while not self._stop.wait(self._every_s):
            session_no = f"well{number:08d}"
            at = time.monotonic()
            commit(self._bridge, self._name, [session_no])
            if self._bridge.wakes.take("deliver", 2_000):
                self._app.send_task("bridge.deliver", queue="bridge.deliver")  # as a poll does
            self._sent[session_no] = at
            number += 1


# A process of its own


def main(options: Sequence[str]) -> int:
    """A worker as ``bridge worker`` is, but for its breaker's waits, which no setting can shorten."""
    from tasks.__main__ import main as tasks_main
    from tasks.app import processes

    bridge = processes.current().bridge
    breaker = Sizes(events=0, compress=float(os.environ[_COMPRESSION])).breaker
    bridge.delivery_policy = replace(bridge.delivery_policy, breaker=breaker)
    return tasks_main(["worker", *options])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

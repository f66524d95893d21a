"""The benchmarks by name: what each is given, of what the command line said and of its usual sizes."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable

from tests.bench import (
    calls,
    cluster,
    delivery,
    demo,
    drill,
    growth,
    idle,
    latency,
    memory,
    minutely,
    neighbours,
    polling,
    tls,
    tracking,
)
from tests.bench.figures import Measured

Benchmark = Callable[[Namespace], Measured]


def _size(options: Namespace, name: str, usual: int, small: int) -> int:
    """As asked for; else the usual size, or a small one that shows that it works and measures nothing."""
    given: int | None = getattr(options, name, None)
    return given or (small if options.small else usual)


def _rounds(options: Namespace, usual: int = 3) -> int:
    return _size(options, "rounds", usual, 2)


_MANY_ROUNDS = 9
"""Of what is told by a ratio of turns of a second each: a median of three is what the machine did just then."""


def _delivery(options: Namespace) -> Measured:
    sizes = delivery.Sizes(
        events=_size(options, "events", 20_000, 1_000),
        few=_size(options, "few", 500, 50),
        celery_pool=options.celery_pool,
        rounds=_rounds(options, _MANY_ROUNDS),
    )
    return delivery.measure(sizes)


def _tls(options: Namespace) -> Measured:
    return tls.measure(tls.Sizes(events=_size(options, "events", 20_000, 1_000), rounds=_rounds(options, 5)))


def _tracking(options: Namespace) -> Measured:
    sizes = tracking.Sizes(
        messages=_size(options, "messages", 500, 20),
        celery_sessions=_size(options, "few", 1_000, 50),
        rounds=_rounds(options),
    )
    return tracking.measure(sizes)


def _polling(options: Namespace) -> Measured:
    sizes = polling.Sizes(
        calls=_size(options, "calls", 40, 5), due=_size(options, "due", 20_000, 2_000), rounds=_rounds(options)
    )
    return polling.measure(sizes)


def _latency(options: Namespace) -> Measured:
    sizes = latency.Sizes(
        burst=_size(options, "events", 10_000, 1_000), seconds=_seconds(options), rounds=_rounds(options)
    )
    return latency.measure(sizes)


def _seconds(options: Namespace) -> int:
    return _size(options, "seconds", 8, 2)


def _idle(options: Namespace) -> Measured:
    return idle.measure(idle.Sizes(seconds=_size(options, "seconds", 10, 2), rounds=_rounds(options)))


def _memory(options: Namespace) -> Measured:
    sizes = memory.Sizes(
        waiting=_size(options, "waiting", 200_000, 5_000), delivered=_size(options, "events", 20_000, 2_000)
    )
    return memory.measure(sizes)


def _neighbours(options: Namespace) -> Measured:
    return neighbours.measure(neighbours.Sizes(seconds=_seconds(options), rounds=_rounds(options, 5)))


def _backlog(options: Namespace) -> Measured:
    sizes = drill.Sizes(
        events=_size(options, "events", 100_000, 2_000),
        hours=0.5 if options.small else options.hours,
        compress=options.compress,
        rate=options.rate,
    )
    return drill.told(drill.measure(sizes))


def _paced(options: Namespace) -> Measured:
    if options.small:
        return drill.told(drill.measure(drill.Sizes(events=2_000, hours=0.5, rate=1_000)))
    sizes = drill.Sizes(events=100_000, hours=1.5, rate=options.rate or 5_000, well_every_s=0.02, before=500)
    return drill.told(drill.measure(sizes))


def _million(options: Namespace) -> Measured:
    sizes = drill.Sizes(events=5_000 if options.small else 1_000_000, hours=0.5 if options.small else options.hours)
    return drill.told(drill.measure(sizes))


def _cluster(options: Namespace) -> Measured:
    return cluster.measure(cluster.Sizes(events=_size(options, "events", 20_000, 1_000)))


def _calls(options: Namespace) -> Measured:
    return calls.measure(calls.Sizes(sessions=1_000, seconds=60) if options.small else calls.Sizes())


def _growth(options: Namespace) -> Measured:
    usual = [3_000, 10_000] if options.small else [10_000, 100_000, 1_000_000]
    sizes = growth.Sizes(
        waiting=tuple(options.tracked or usual),
        messages=_size(options, "calls", 40, 20),
        events=_size(options, "events", 5_000, 500),
        rounds=_rounds(options),
    )
    return growth.measure(sizes)


def _demo(options: Namespace) -> Measured:
    return demo.measure(demo.Sizes(rounds=_rounds(options)))


def _minutely(options: Namespace) -> Measured:
    return minutely.measure(_followed(options, compress=6))


def _real_minutes(options: Namespace) -> Measured:
    return minutely.measure(_followed(options, compress=30 if options.small else 1))


def _followed(options: Namespace, compress: float) -> minutely.Sizes:
    if options.small:
        return minutely.Sizes(sessions=100, send_s=30, follow_s=120, compress=compress)
    return minutely.Sizes(sessions=2_000, send_s=120, follow_s=360, compress=compress)


ROWS: dict[str, Benchmark] = {
    "delivery": _delivery,
    "tls": _tls,
    "tracking": _tracking,
    "polling": _polling,
    "calls": _calls,
    "latency": _latency,
    "neighbours": _neighbours,
    "idle": _idle,
    "memory": _memory,
    "demo": _demo,
    "backlog": _backlog,
    "paced": _paced,
    "minutely": _minutely,
    "growth": _growth,
}
"""In the order in which ``all`` runs them."""

LONG_ROWS: dict[str, Benchmark] = {
    "cluster": _cluster,
    "million": _million,
    "minutes": _real_minutes,
}
"""Run by ``all --long``, or by name."""

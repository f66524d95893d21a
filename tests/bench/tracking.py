"""100 sessions a message, through Celery, to stored and due; beside one plain Celery task per session."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import msgspec
import redis

from bridge.cli.family import Child, Family
from bridge.domain.accounts import DEFAULT_ACCOUNT
from bridge.wiring import Bridge
from tests.bench.figures import Goal, Measured, by_name, ratio, total
from tests.bench.house import House, open_bridge, wait_until
from tests.bench.machine import apart, cpu_s, server_cpu_s

A_MESSAGE = 100
PLAIN = "Celery task a session"
_WARM_UP_MESSAGES = 20
_IDLE_S = 2.0
_ALL = "all sessions are stored"


class Sizes(msgspec.Struct, frozen=True, kw_only=True):
    """How much is tracked in each round, and how many rounds there are."""

    messages: int
    celery_sessions: int
    rounds: int


def measure(sizes: Sizes) -> Measured:
    """Run both in turns."""
    with Family("bench") as family:
        house = House(family)
        bridge, celery = [], []
        for _ in range(sizes.rounds):
            house.empty()
            bridge.append(_bridge(house, sizes.messages))
            house.empty()
            celery.append(_plain(house, sizes.celery_sessions))
    figures = {"bridge.track, 100 a message": by_name(bridge), PLAIN: by_name(celery)}
    ours, theirs = (
        total(one["CPU µs/session, sender"], one["CPU µs/session, worker"])
        for one in (by_name(bridge), by_name(celery))
    )
    return Measured(
        about={"sessions": f"{sizes.messages * A_MESSAGE:,}, and {sizes.celery_sessions:,} by plain tasks"},
        figures=figures,
        references=(PLAIN,),
        goals=(
            Goal(what="track: CPU a session, all but the server", unit="µs", samples=ours, wanted=40),
            Goal(
                what="track: less CPU than a Celery task a session",
                unit="×",
                samples=ratio(theirs, ours),
                better="more",
                reference=PLAIN,
            ),
        ),
    )


def _bridge(house: House, messages: int) -> dict[str, float]:
    worker = house.start("worker", "-m", "tasks", "worker", "--concurrency", "8")
    bridge = open_bridge(house.environment)
    try:
        apart(track_messages, house.server.url, "warm", _WARM_UP_MESSAGES)
        warm = _WARM_UP_MESSAGES * A_MESSAGE
        wait_until(_ALL, lambda: _due(bridge) == warm)
        return _timed(
            house,
            worker,
            messages * A_MESSAGE,
            lambda: apart(track_messages, house.server.url, "bench", messages),
            lambda: _due(bridge) == warm + messages * A_MESSAGE,
        )
    finally:
        _end(worker)
        bridge.close()


def _plain(house: House, sessions: int) -> dict[str, float]:
    arguments = ["-m", "celery", "-A", "tests.bench.plain_celery", "worker", "--pool", "threads", "--concurrency", "8"]
    worker = house.start("celery", *arguments, extra={"BENCH_REDIS_URL": house.server.url})
    client = redis.Redis.from_url(house.server.url, protocol=2)
    try:
        apart(track_plainly, house.server.url, "warm", A_MESSAGE)
        wait_until(_ALL, lambda: client.zcard("due") == A_MESSAGE)
        return _timed(
            house,
            worker,
            sessions,
            lambda: apart(track_plainly, house.server.url, "bench", sessions),
            lambda: client.zcard("due") == A_MESSAGE + sessions,
        )
    finally:
        _end(worker)
        client.close()


def _timed(
    house: House, worker: Child, sessions: int, send: Callable[[], float], done: Callable[[], bool]
) -> dict[str, float]:
    idle = _idle_share(worker)
    busy_s, server_s, began_s = cpu_s(worker.pid), server_cpu_s(house.server.url), time.perf_counter()
    sender = send() / sessions
    wait_until(_ALL, done, 300)
    elapsed_s = time.perf_counter() - began_s
    work = (cpu_s(worker.pid) - busy_s - idle * elapsed_s) / sessions * 1e6
    return {
        "sessions/s": sessions / elapsed_s,
        "CPU µs/session, sender": sender,
        "CPU µs/session, worker": work,
        "CPU µs/session, server": (server_cpu_s(house.server.url) - server_s) / sessions * 1e6,
    }


def _idle_share(worker: Child) -> float:
    """Seconds of CPU a second that a worker takes with nothing to do."""
    busy_s = cpu_s(worker.pid)
    time.sleep(_IDLE_S)
    return (cpu_s(worker.pid) - busy_s) / _IDLE_S


def _due(bridge: Bridge) -> int:
    return sum(bridge.sessions.due_counts(DEFAULT_ACCOUNT, 1 << 50))


def _end(worker: Child) -> None:
    worker.terminate()
    worker.wait(30)


def track_messages(broker: str, prefix: str, messages: int) -> float:
    """Send messages of 100 SessionNos, as a service does. Returns µs of CPU in all, the first one's imports apart."""
    from bridge.sender import track

    os.environ["BRIDGE_BROKER_URL"] = broker
    track([f"{prefix}{number:011d}" for number in range(A_MESSAGE)])
    began_s = time.process_time()
    for message in range(messages):
        track([f"{prefix}{message * A_MESSAGE + number:011d}" for number in range(A_MESSAGE)])
    return (time.process_time() - began_s) * 1e6


def track_plainly(broker: str, prefix: str, sessions: int) -> float:
    """Send a task a session. Returns µs of CPU in all."""
    from celery import Celery

    app = Celery("publisher", broker=broker, set_as_current=False)
    app.send_task("plain.track", (f"{prefix}0",), ignore_result=True)
    began_s = time.process_time()
    for number in range(sessions):
        app.send_task("plain.track", (f"{prefix}{number}",), ignore_result=True)
    return (time.process_time() - began_s) * 1e6

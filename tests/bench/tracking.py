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
from tests.bench.house import House, open_bridge
from tests.bench.machine import apart, cpu_s, describe_machine, median_by

A_MESSAGE = 100
_WARM_UP_MESSAGES = 20
_IDLE_S = 2.0
_WITHIN_S = 300.0


class Sizes(msgspec.Struct, frozen=True, kw_only=True):
    """How much is tracked in each round, and how many rounds there are."""

    messages: int
    celery_sessions: int
    rounds: int


class Tracking(msgspec.Struct, frozen=True, kw_only=True):
    """Medians: sessions a second, µs of CPU a session of the sender, of the worker, and of both."""

    about: dict[str, str]
    bridge: dict[str, float]
    celery: dict[str, float]


def measure(sizes: Sizes) -> Tracking:
    """Run both in turns."""
    with Family("bench") as family:
        house = House(family)
        about = describe_machine(house.server.url)
        about["sessions"] = f"{sizes.messages * A_MESSAGE:,}, and {sizes.celery_sessions:,} by plain tasks"
        about["rounds"] = str(sizes.rounds)
        bridge, celery = [], []
        for _ in range(sizes.rounds):
            house.empty()
            bridge.append(_bridge(house, sizes.messages))
            house.empty()
            celery.append(_plain(house, sizes.celery_sessions))
        return Tracking(about=about, bridge=median_by(bridge), celery=median_by(celery))


def _bridge(house: House, messages: int) -> dict[str, float]:
    worker = house.start("worker", "-m", "tasks", "worker", "--concurrency", "8")
    bridge = open_bridge(house.environment)
    try:
        apart(track_messages, house.server.url, "warm", _WARM_UP_MESSAGES)
        warm = _WARM_UP_MESSAGES * A_MESSAGE
        _wait_until(lambda: _due(bridge) == warm)
        idle = _idle_share(worker)
        return _timed(
            worker,
            idle,
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
        _wait_until(lambda: client.zcard("due") == A_MESSAGE)
        idle = _idle_share(worker)
        return _timed(
            worker,
            idle,
            sessions,
            lambda: apart(track_plainly, house.server.url, "bench", sessions),
            lambda: client.zcard("due") == A_MESSAGE + sessions,
        )
    finally:
        _end(worker)
        client.close()


def _timed(
    worker: Child, idle: float, sessions: int, send: Callable[[], float], done: Callable[[], bool]
) -> dict[str, float]:
    busy_s, began_s = cpu_s(worker.pid), time.perf_counter()
    sender = send() / sessions
    _wait_until(done)
    elapsed_s = time.perf_counter() - began_s
    work = (cpu_s(worker.pid) - busy_s - idle * elapsed_s) / sessions * 1e6
    return {"rate": sessions / elapsed_s, "sender": sender, "worker": work, "cpu": sender + work}


def _idle_share(worker: Child) -> float:
    """Seconds of CPU a second that a worker takes with nothing to do."""
    busy_s = cpu_s(worker.pid)
    time.sleep(_IDLE_S)
    return (cpu_s(worker.pid) - busy_s) / _IDLE_S


def _due(bridge: Bridge) -> int:
    return sum(bridge.sessions.due_counts(DEFAULT_ACCOUNT, 1 << 50))


def _wait_until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _WITHIN_S
    while not done():
        if time.monotonic() > deadline:
            raise TimeoutError("not all sessions were stored")
        time.sleep(0.02)


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

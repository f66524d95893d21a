"""Clocks that are off, beats that are two or none, tasks that come ten times: timing only, and no event twice."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec
import redis

from bridge.cli.demo import expected_statuses
from bridge.cli.receiver import Answer, Receiver, Request
from tasks.beat import MOST_WAITING
from tests.faults.house import Running, foreign_app, running, wait_until
from tests.servers import bridge_on, environ_for, valkey
from tests.simulator import RunningSimulator, running_simulator

HOUR_S = 3600
UNKNOWN, DELIVERED = {"result": "状态未知"}, {"result": "发送成功", "code": "DELIVRD"}
SCENARIO = {
    "seed": 3,
    "phones": [{"share": 1.0, "timeline": [UNKNOWN | {"delay": 1}, DELIVERED | {"delay": 5}]}],
    "default": [DELIVERED],
}


@contextmanager
def skewed(directory: Path, environ: dict[str, str], off_s: float, *argv: str) -> Iterator[tuple[Running, Path]]:
    """A process whose wall clock is off, and the file that says by how much."""
    directory.mkdir(parents=True, exist_ok=True)
    file = directory / f"clock-{time.monotonic_ns()}"
    file.write_text(str(off_s))
    with running(directory, environ, *argv, module=("tests.faults.skewed", str(file))) as process:
        yield process, file


@contextmanager
def ten_times_each(broker_url: str) -> Iterator[None]:
    """Every task, ten times, again and again."""
    stopped = threading.Event()

    def send() -> None:
        with foreign_app(broker_url) as app:
            while not stopped.wait(2.0):
                for kind in ("tick", "poll", "deliver", "trim"):
                    queue = "bridge.control" if kind in ("tick", "trim") else f"bridge.{kind}"
                    for _ in range(10):
                        app.send_task(f"bridge.{kind}", queue=queue)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()


def test_no_event_comes_twice_of_clocks_that_are_off_two_beats_and_tasks_ten_times(tmp_path: Path) -> None:
    heard: list[tuple[str, tuple[str, str, str], str]] = []

    def respond(request: Request) -> Answer:
        event = msgspec.json.decode(request.body)
        data = event["data"]
        heard.append((event["id"], (data["session_no"], data["phone"], data["user_id"]), data["status"]))
        return Answer(status=204)

    with ExitStack() as stack:
        url = stack.enter_context(valkey())
        simulator = stack.enter_context(running_simulator(SCENARIO))
        receiver = stack.enter_context(Receiver(respond=respond))
        bridge = stack.enter_context(bridge_on(url, allow_http="yes"))
        receiver.set_secret(bridge.subscribe(receiver.url)[1])
        schedule = ",".join(f"{second}s" for second in range(1, 13))
        environ = environ_for(url, provider_url=simulator.url, poll_schedule=schedule, allow_http="yes")
        watched = [
            stack.enter_context(skewed(tmp_path, environ, off_s, kind))[0]
            for kind in ("worker", "beat")
            for off_s in (HOUR_S, -HOUR_S)
        ]
        sessions = [simulator.send(f"(86)186{number:08d}") for number in range(30)]
        app = stack.enter_context(foreign_app(url))
        stack.enter_context(ten_times_each(url))
        for session in sessions:
            for _ in range(10):
                app.send_task("bridge.track", [[session]], queue="bridge.track")

        def is_told() -> bool:
            told = expected_statuses(msgspec.to_builtins(one) for one in simulator.told())
            by_phone: dict[tuple[str, str, str], list[str]] = {}
            for _, phone, status in heard:
                by_phone.setdefault(phone, []).append(status)
            return len(told) == len(sessions) and by_phone == told and all(s[-1] == "delivered" for s in told.values())

        wait_until("all is told", is_told, *watched)
        assert max(Counter(number for number, _, _ in heard).values()) == 1
        assert receiver.counts.bad_signatures == 0, "their time-stamps are right too"


def test_beats_without_workers_gather_no_flood_and_wait_for_nobody(tmp_path: Path) -> None:
    with ExitStack() as stack:
        url = stack.enter_context(valkey())
        bridge = stack.enter_context(bridge_on(url))
        queues = stack.enter_context(redis.Redis.from_url(url))
        beats = [stack.enter_context(running(tmp_path, environ_for(url), "beat")) for _ in range(2)]
        for beat in beats:
            wait_until("it sends no more", lambda beat=beat: "no worker takes" in beat.log, beat)  # type: ignore[misc] # mypy cannot infer a lambda with a default
        # Each looks every 5 s, and sends six messages meanwhile at most.
        assert MOST_WAITING <= queues.llen("bridge.control") <= MOST_WAITING + 12
        worker = stack.enter_context(running(tmp_path, environ_for(url), "worker"))
        wait_until("a tick ran", bridge.index.last_tick_ms, worker)
        wait_until("all are taken", lambda: not queues.exists("bridge.control"), worker)
        first = bridge.index.last_tick_ms() or 0
        wait_until("beats go on", lambda: (bridge.index.last_tick_ms() or 0) > first, worker, *beats)


def test_a_clock_that_is_set_back_stops_no_beat_and_no_worker(tmp_path: Path) -> None:
    """Fault of Celery's schedule: it compares wall clocks, and slept until the hour had come again."""
    with ExitStack() as stack:
        url = stack.enter_context(valkey())
        bridge = stack.enter_context(bridge_on(url))
        environ = environ_for(url)
        worker, workers_clock = stack.enter_context(skewed(tmp_path, environ, 0, "worker"))
        beat, beats_clock = stack.enter_context(skewed(tmp_path, environ, 0, "beat"))
        wait_until("a tick ran", bridge.index.last_tick_ms, worker, beat)
        for off_s in (-HOUR_S, HOUR_S):
            beats_clock.write_text(str(off_s))
            workers_clock.write_text(str(off_s))
            seen = bridge.index.last_tick_ms() or 0
            wait_until(
                "three more ticks ran",
                lambda seen=seen: (bridge.index.last_tick_ms() or 0) > seen + 2_500,  # type: ignore[misc] # as above
                worker,
                beat,
                deadline_s=20,
            )


def polls(simulator: RunningSimulator) -> int:
    return len(simulator.log().entries)


def test_a_beat_that_was_away_is_caught_up_with_once(tmp_path: Path) -> None:
    """Everything that came due meanwhile is polled in full calls, not in one for each tick that was missed."""
    with ExitStack() as stack:
        url = stack.enter_context(valkey())
        simulator = stack.enter_context(running_simulator())
        bridge = stack.enter_context(bridge_on(url))
        environ = environ_for(url, provider_url=simulator.url, poll_schedule="50ms,100ms,150ms,200ms")
        worker = stack.enter_context(running(tmp_path, environ, "worker"))
        sessions = [simulator.send(f"(86)186{number:08d}") for number in range(200)]
        with foreign_app(url) as app:
            items = [{"session_no": session, "phone_count": 1} for session in sessions]
            app.send_task("bridge.track", [items], queue="bridge.track")
        wait_until(
            "all are due", lambda: sum(bridge.sessions.due_counts("default", bridge.clock.now_ms())) == 200, worker
        )
        assert polls(simulator) == 0
        beat = stack.enter_context(running(tmp_path, environ, "beat"))
        wait_until("all are polled", lambda: len(simulator.told()) == 200, worker, beat)
        assert polls(simulator) <= 4

"""From the provider's answer to the callback that tells of it, through a real worker and beat, at half load.

Half load: half the rate at which the same machine gets through sessions that are all due at once. The provider and
the receiver are threads here; each session has one phone, and its receipt is final.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from urllib.parse import parse_qsl

import msgspec

from bridge.cli.family import Child, Family
from bridge.domain.accounts import DEFAULT_ACCOUNT
from bridge.domain.commits import ABSENT, Write
from bridge.domain.status import SessionState
from bridge.wiring import Bridge
from tests.bench.figures import Goal, Measured, by_name, quantiles
from tests.bench.house import House, open_bridge, wait_until
from tests.bench.machine import cpu_s
from tests.hostile import Connection, ok, serving

_A_COMMIT = 100
_ALL = "every session is told of"


class Sizes(msgspec.Struct, frozen=True, kw_only=True):
    """Sessions that are due at once, for how long half load is kept up, and how often."""

    burst: int
    seconds: int
    rounds: int


class _World:
    """The provider and the receiver, and when each session was answered for and told of (monotonic seconds)."""

    def __init__(self) -> None:
        self.answered: dict[str, float] = {}
        self.told: dict[str, float] = {}

    def provide(self, connection: Connection) -> None:
        """Answer each call: every phone has its message."""
        while (request := connection.request()) is not None:
            asked = [value for name, value in parse_qsl(request[1].decode()) if name.startswith("SessionNoSet.")]
            body = json.dumps(
                {"RetCode": 0, "Action": "GetUSMSSendReceiptResponse", "Data": [_receipt(no) for no in asked]}
            )
            answer = ok(body.encode(), "Content-Type: application/json")
            now = time.monotonic()
            for session_no in asked:
                self.answered.setdefault(session_no, now)
            connection.sock.sendall(answer)

    def receive(self, connection: Connection) -> None:
        """Accept each callback."""
        while (request := connection.request()) is not None:
            self.told[msgspec.json.decode(request[1])["data"]["session_no"]] = time.monotonic()
            connection.sock.sendall(ok())


def measure(sizes: Sizes) -> Measured:
    """Find the full load, then keep up half of it."""
    rounds: tuple[list[dict[str, float]], list[dict[str, float]]] = ([], [])
    with Family("bench") as family:
        house = House(family)
        for _ in range(sizes.rounds):
            for found, one in zip(rounds, _round(house, sizes), strict=True):
                found.append(one)
    full, half = map(by_name, rounds)
    return Measured(
        about={"half load": f"{sizes.seconds} s", "full load": f"{sizes.burst:,} sessions at once"},
        figures={"full load": full, "half load": half},
        goals=(
            Goal(what="latency: provider's answer to callback, p50", unit="ms", samples=half["p50 ms"], wanted=15),
            Goal(what="latency: provider's answer to callback, p99", unit="ms", samples=half["p99 ms"], wanted=100),
        ),
    )


def _round(house: House, sizes: Sizes) -> tuple[dict[str, float], dict[str, float]]:
    """Full load, then half of it, with fresh processes on an emptied server."""
    house.empty()
    world = _World()
    with serving(world.provide) as provider, serving(world.receive) as receiver:
        extra = {"BRIDGE_PROVIDER_URL": provider.url, "BRIDGE_PROVIDER_RATE": "1000"}
        worker = house.start("worker", "-m", "tasks", "worker", "--concurrency", "8", extra=extra)
        beat = house.start("beat", "-m", "tasks", "beat", extra=extra)
        bridge = open_bridge(house.environment)
        try:
            bridge.subscribe(receiver.url)
            bridge.tracking.note_account(DEFAULT_ACCOUNT)
            # The first calls of a worker import and connect: they are nobody's latency.
            _store(bridge, (f"warm{number:09d}" for number in range(_A_COMMIT)), lambda now_ms: now_ms)
            wait_until(_ALL, lambda: len(world.told) == _A_COMMIT)
            full = _full(bridge, world, sizes, worker)
            return full, _half(bridge, world, sizes, full["sessions/s"])
        finally:
            beat.terminate()
            worker.terminate()
            beat.wait(30)
            worker.wait(30)
            bridge.close()


def _full(bridge: Bridge, world: _World, sizes: Sizes, worker: Child) -> dict[str, float]:
    """How many sessions a second when all are due at once, and the CPU of each that is polled and told of."""
    busy_s = cpu_s(worker.pid)
    _store(bridge, (f"full{number:09d}" for number in range(sizes.burst)), lambda now_ms: now_ms)
    wait_until(_ALL, lambda: len(world.told) == _A_COMMIT + sizes.burst)
    told = [at for no, at in world.told.items() if no.startswith("full")]
    answered = [at for no, at in world.answered.items() if no.startswith("full")]
    return {
        "sessions/s": sizes.burst / (max(told) - min(answered)),
        "CPU µs/session, worker": (cpu_s(worker.pid) - busy_s) / sizes.burst * 1e6,
    }


def _half(bridge: Bridge, world: _World, sizes: Sizes, rate: float) -> dict[str, float]:
    """Half as many a second, evenly: ms from each session's answer to its callback."""
    before, count = len(world.told), int(rate / 2 * sizes.seconds)
    begin_ms = bridge.clock.now_ms() + 2_000
    due = iter(range(count))
    _store(
        bridge, (f"half{number:09d}" for number in range(count)), lambda _now: begin_ms + int(next(due) * 2000 / rate)
    )
    wait_until(_ALL, lambda: len(world.told) == before + count)
    took = [1000 * (at - world.answered[no]) for no, at in world.told.items() if no.startswith("half")]
    return {"sessions/s": rate / 2} | quantiles(took)


def _store(bridge: Bridge, session_nos: Iterator[str], due_ms: Callable[[int], int]) -> None:
    """Sessions as ``bridge.track`` stores them, but each with a due time that is given."""
    now_ms = bridge.clock.now_ms()
    state = SessionState(sent_ms=now_ms, tracked_ms=now_ms, expected_count=1)
    writes = [Write(no, ABSENT, state, due_ms(now_ms), None) for no in session_nos]
    for start in range(0, len(writes), _A_COMMIT):
        bridge.sessions.commit(DEFAULT_ACCOUNT, writes[start : start + _A_COMMIT])


def _receipt(session_no: str) -> dict[str, object]:
    receipt = {
        "Phone": "(86)185" + session_no[-8:],
        "CostCount": 1,
        "ReceiptResult": "发送成功",
        "ReceiptCode": "DELIVRD",
        "ReceiptDesc": "",
        "ReceiptTime": int(time.time()),
        "UserId": "",
    }
    return {"SessionNo": session_no, "ReceiptSet": [receipt]}

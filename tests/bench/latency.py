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

from bridge.cli.family import Family
from bridge.domain.accounts import DEFAULT_ACCOUNT
from bridge.domain.commits import ABSENT, Write
from bridge.domain.status import SessionState
from bridge.wiring import Bridge
from tests.bench.house import House, open_bridge
from tests.bench.machine import describe_machine, median_by
from tests.hostile import Connection, ok, serving

_A_COMMIT = 100
_WITHIN_S = 120.0


class Sizes(msgspec.Struct, frozen=True, kw_only=True):
    """Sessions that are due at once, for how long half load is kept up, and how often."""

    burst: int
    seconds: int
    rounds: int


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """Medians: sessions a second at full load, and at half load ms from the answer to the callback's arrival."""

    about: dict[str, str]
    full: dict[str, float]
    half: dict[str, float]


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


def measure(sizes: Sizes) -> Latency:
    """Find the full load, then keep up half of it."""
    with Family("bench") as family:
        house = House(family)
        about = describe_machine(house.server.url) | {"rounds": str(sizes.rounds)}
        about |= {"half load": f"{sizes.seconds} s", "full load": f"{sizes.burst:,} sessions at once"}
        full: list[dict[str, float]] = []
        half: list[dict[str, float]] = []
        for _ in range(sizes.rounds):
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
                    _round(bridge, world, sizes, full, half)
                finally:
                    beat.terminate()
                    worker.terminate()
                    beat.wait(30)
                    worker.wait(30)
                    bridge.close()
        return Latency(about=about, full=median_by(full), half=median_by(half))


def _round(
    bridge: Bridge, world: _World, sizes: Sizes, full: list[dict[str, float]], half: list[dict[str, float]]
) -> None:
    # The first calls of a worker import and connect: they are nobody's latency.
    _store(bridge, (f"warm{number:09d}" for number in range(_A_COMMIT)), lambda now_ms: now_ms)
    _wait(lambda: len(world.told) == _A_COMMIT)
    _store(bridge, (f"full{number:09d}" for number in range(sizes.burst)), lambda now_ms: now_ms)
    _wait(lambda: len(world.told) == _A_COMMIT + sizes.burst)
    told = [at for no, at in world.told.items() if no.startswith("full")]
    answered = [at for no, at in world.answered.items() if no.startswith("full")]
    rate = sizes.burst / (max(told) - min(answered))
    full.append({"rate": rate})
    count = int(rate / 2 * sizes.seconds)
    begin_ms = bridge.clock.now_ms() + 2_000
    due = iter(range(count))
    _store(
        bridge, (f"half{number:09d}" for number in range(count)), lambda _now: begin_ms + int(next(due) * 2000 / rate)
    )
    _wait(lambda: len(world.told) == _A_COMMIT + sizes.burst + count)
    took = sorted(1000 * (at - world.answered[no]) for no, at in world.told.items() if no.startswith("half"))
    half.append({"rate": rate / 2, "p50": took[len(took) // 2], "p99": took[len(took) * 99 // 100], "worst": took[-1]})


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


def _wait(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _WITHIN_S
    while not done():
        if time.monotonic() > deadline:
            raise TimeoutError("not every session was told of")
        time.sleep(0.02)

"""Slices of the delivery loop on a real store, and receivers that remember what reached them and when."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import msgspec

from bridge.delivery.loop import Attempted, Report, Slice, Surroundings
from bridge.domain.policy import DeliveryPolicy
from bridge.wiring import Bridge
from tests.hostile import Connection, ok
from tests.parts import Parts, entry

QUICK = DeliveryPolicy(retry_ms=(10,) * 60, timeout_ms=10_000, concurrency=8)
HANGING_MS = 25_000
"""A time-out longer than ``until`` waits: what hangs does so for as long as a test looks."""
FAILED = b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n"


class Arrival(msgspec.Struct, frozen=True):
    """One POST: which event, when, and whether it was answered with 200."""

    id: str
    session_no: str
    phone: str
    sequence: int
    at: float
    accepted: bool


class _Data(msgspec.Struct):
    session_no: str
    phone: str
    sequence: int


class _Event(msgspec.Struct):
    id: str
    data: _Data


_events = msgspec.json.Decoder(_Event)
"""Made here, in one thread: two that decode a type for the first time at once can crash the interpreter (msgspec)."""


class Receiver:
    """Answers each event with 200, unless ``refuses`` it, after ``takes_s``. Notes how many it had at once."""

    def __init__(
        self, *, refuses: Callable[[int], bool] = lambda _number: False, takes_s: float = 0.0, then: bool = True
    ) -> None:
        self._refuses = refuses
        self._takes_s = takes_s
        self._answers = then
        self._lock = threading.Lock()
        self._now = 0
        self.most = 0
        self.arrivals: list[Arrival] = []
        self.on_arrival: Callable[[Arrival], None] = lambda _arrival: None

    def __call__(self, connection: Connection) -> None:
        while (request := connection.request()) is not None:
            event = _events.decode(request[1])
            with self._lock:
                self._now += 1
                self.most = max(self.most, self._now)
                accepted = not self._refuses(len(self.arrivals))
                data = event.data
                arrival = Arrival(event.id, data.session_no, data.phone, data.sequence, time.monotonic(), accepted)
                self.arrivals.append(arrival)
            self.on_arrival(arrival)
            time.sleep(self._takes_s)
            with self._lock:
                self._now -= 1
            if not self._answers:
                connection.gone()
                return
            connection.sock.sendall(ok() if accepted else FAILED)

    @property
    def accepted(self) -> list[tuple[str, str, int]]:
        """(SessionNo, phone, sequence) of what was accepted, sorted."""
        return sorted((one.session_no, one.phone, one.sequence) for one in self.arrivals if one.accepted)


def hanging() -> Receiver:
    """Takes a request and never answers."""
    return Receiver(then=False)


class Around:
    """What a slice acts with, and what came of it."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.attempts: list[Attempted] = []
        self.complaints: list[tuple[str, str]] = []
        self.disabled: list[tuple[str, str]] = []
        self.kept_awake = self.asked_for_help = 0
        self.handed_over = threading.Event()

    def surroundings(self) -> Surroundings:
        return Surroundings(
            chance=lambda: 0.5,
            user_agent="usms-bridge/test",
            stopping=self.stop.is_set,
            observe=self.attempts.append,
            complain=lambda name, trouble: self.complaints.append((name, trouble)),
            disabled=lambda name, reason: self.disabled.append((name, reason)),
            call_help=self._helped,
            keep_awake=self._awake,
            hand_over=self.handed_over.set,
        )

    def _helped(self) -> None:
        self.asked_for_help += 1

    def _awake(self) -> None:
        self.kept_awake += 1


def run(bridge: Bridge, policy: DeliveryPolicy = QUICK, around: Around | None = None) -> Report:
    """One slice, from start to end."""
    with bridge.transport() as transport:
        return Slice(
            bridge.delivery_ports,
            transport,
            policy,
            (around or Around()).surroundings(),
            shards=bridge.settings.shards,
        ).run()


def deliver(bridge: Bridge) -> None:
    """One slice as a worker runs it, in which every subscription can be served."""
    around = Around()
    run(bridge, bridge.delivery_policy, around)
    assert around.complaints == []


class Running:
    """A slice in a thread of its own: ``with Running(bridge) as slice_:``. It is stopped when the block ends."""

    def __init__(self, bridge: Bridge, policy: DeliveryPolicy = QUICK) -> None:
        self._bridge = bridge
        self._policy = policy
        self.around = Around()
        self.report: Report | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        self.report = run(self._bridge, self._policy, self.around)

    def __enter__(self) -> Running:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.around.stop.set()
        self.join()

    def join(self) -> None:
        self._thread.join(30)
        assert not self._thread.is_alive(), "the slice did not end"

    @property
    def ended(self) -> bool:
        return not self._thread.is_alive()


def drain(bridge: Bridge, policy: DeliveryPolicy = QUICK, within_s: float = 30.0) -> Report:
    """Run slices until nothing waits any more; their reports added up."""
    total = Report()
    deadline = time.monotonic() + within_s
    names = list(bridge.subscriptions.load().by_id())
    while sum(bridge.queues.lengths(names).values()):
        assert time.monotonic() < deadline, "the queues never ran empty"
        report = run(bridge, policy)
        total.accepted += report.accepted
        total.retrying += report.retrying
        total.dead += report.dead
        total.unsettled += report.unsettled
        total.unnoted += report.unnoted
    return total


def subscribe(bridge: Bridge, url: str) -> str:
    """A new subscription's id."""
    return bridge.subscribe(url)[0].id


def publish(parts: Parts, *names: str, sessions: int, phones: int = 1, each: int = 1) -> list[tuple[str, str, int]]:
    """Commit events, ``each`` of every phone. Returns (SessionNo, phone, sequence) of all, sorted."""
    told = []
    for session in range(sessions):
        for sequence in range(1, each + 1):
            session_no = f"s{session}"
            numbers = [f"1850000{number:04}" for number in range(phones)]
            parts.write(session_no, *(entry(session_no, one, to=names, sequence=sequence) for one in numbers))
            told += [(session_no, one, sequence) for one in numbers]
    return sorted(told)

"""A provider that says what a test tells it to, and remembers what it was asked."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from threading import Lock

import msgspec

from bridge.domain.erasure import tombstone
from bridge.domain.policy import PollPolicy
from bridge.domain.receipts import Receipt
from bridge.domain.tracking import SessionRequest
from bridge.errors import ProviderError, RequestError, TransientProviderError
from bridge.polling.answers import Recorder
from bridge.polling.commits import Committer
from bridge.polling.poll import Poller
from bridge.polling.ports import Provider
from bridge.polling.track import Tracker
from tests.parts import Parts

HOUR_MS = 3_600_000
POLICY = PollPolicy(
    ages_ms=(1_000, 60_000, HOUR_MS),
    overdue_ms=12 * HOUR_MS,
    give_up_ms=72 * HOUR_MS,
    keep_settled_ms=HOUR_MS,
    lease_ms=60_000,
)
DOWN = TransientProviderError("no answer")


def receipt(phone: str = "18500000001", result: str = "Success", time: int = 1_700_000_000) -> Receipt:
    return Receipt(phone, "", result, "DELIVRD", "", time, 1)


class Answer(msgspec.Struct, frozen=True):
    by_session: Mapping[str, Sequence[Receipt]]
    skipped: int = 0
    strangers: int = 0
    unseen_results: frozenset[str] = frozenset()


class Scripted:
    """Says of a session what ``says`` holds; raises the next of ``failures`` before; refuses calls with ``bad``."""

    def __init__(self, says: Mapping[str, Sequence[Receipt]] | None = None, *, bad: Iterable[str] = ()) -> None:
        self.says = dict(says or {})
        self.bad = set(bad)
        self.failures: deque[ProviderError | None] = deque()
        self.asked: list[list[str]] = []
        self.meanwhile: Callable[[], None] = lambda: None
        self._lock = Lock()

    def fetch_receipts(self, session_nos: Sequence[str]) -> Answer:
        with self._lock:
            self.asked.append(list(session_nos))
            failure = self.failures.popleft() if self.failures else None
        self.meanwhile()
        if failure is not None:
            raise failure
        if self.bad.intersection(session_nos):
            raise RequestError("RetCode 18001: SessionNo is wrong", 18001)
        return Answer({no: self.says.get(no, ()) for no in session_nos})


def committer(parts: Parts) -> Committer:
    return Committer(parts.sessions, parts.subscriptions, parts.clock)


def recorder(parts: Parts, policy: PollPolicy = POLICY) -> Recorder:
    return Recorder(
        committer=committer(parts),
        policy=policy,
        chance=lambda: 0.5,
        tombstone=lambda phone: tombstone(bytes(32), phone),
    )


class Everywhere:
    """Gives every account the same provider."""

    def __init__(self, provider: Scripted) -> None:
        self._provider = provider

    def of(self, _account: str) -> Scripted:
        return self._provider

    def rate(self, _account: str) -> float:
        return 1_000

    def close(self) -> None: ...


def poller(
    parts: Parts,
    provider: Provider,
    policy: PollPolicy = POLICY,
    *,
    calls_per_second: float = 1_000,
    recording: Recorder | None = None,
) -> Poller:
    return Poller(
        sessions=parts.sessions,
        recorder=recording or recorder(parts, policy),
        rate=parts.rate,
        clock=parts.clock,
        provider=lambda _account: provider,
        calls_per_second=lambda _account: calls_per_second,
        policy=policy,
        chance=lambda: 0.5,
    )


def knowing_poller(parts: Parts, provider: Provider) -> Poller:
    """One that has read the registry as it is now."""
    recording = recorder(parts, POLICY)
    recording.record("default", {}, {})
    return poller(parts, provider, recording=recording)


def tracker(parts: Parts, policy: PollPolicy = POLICY) -> Tracker:
    return Tracker(sessions=parts.sessions, clock=parts.clock, policy=policy, chance=lambda: 0.5)


def track(parts: Parts, *names: str, phone_count: int | None = 1) -> None:
    """Track sessions, and let them be due."""
    tracker(parts).track("default", [SessionRequest(name, phone_count=phone_count) for name in names])
    parts.make_due()

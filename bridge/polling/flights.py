"""Several calls of one account under way at once: a provider that takes long to answer must not lower the rate."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

import msgspec

from bridge.domain.rate import MOST_IN_FLIGHT, most_in_flight
from bridge.polling.poll import Poller, Step

_LONGEST_NAP_S = 1.0


class Surroundings(msgspec.Struct, frozen=True, kw_only=True):
    """What a run is told by, and tells: when to stop, how to sleep, that it goes on, what each step did.

    ``hand_over`` lets another run begin, while calls of this one are still under way.
    """

    stopping: Callable[[], bool]
    sleep: Callable[[float], None]
    keep_awake: Callable[[], None]
    report: Callable[[Step], None]
    hand_over: Callable[[], None]


class Flights:
    """Polls an account until nothing is due or ``budget_s`` seconds are over; then waits for what is under way."""

    def __init__(self, poller: Poller, around: Surroundings, budget_s: float) -> None:
        self._poller = poller
        self._around = around
        self._budget_s = budget_s
        self._running: set[Future[Step]] = set()
        self._limit = MOST_IN_FLIGHT

    def run(self, account: str) -> int:
        """Returns for how long (ms) nobody need ask again, 0 where that is not known."""
        with ThreadPoolExecutor(MOST_IN_FLIGHT, thread_name_prefix="poll") as pool:
            try:
                asleep_ms = self._fly(account, pool)
                if self._running:
                    # One call that hangs must not keep the account's others waiting until it has timed out.
                    self._around.hand_over()
            finally:
                wait(self._running)
            self._land()
        return asleep_ms

    def _fly(self, account: str, pool: ThreadPoolExecutor) -> int:
        deadline = time.monotonic() + self._budget_s
        while time.monotonic() < deadline and not self._around.stopping():
            self._around.keep_awake()
            self._land()
            if len(self._running) >= self._limit:
                self._nap()
                continue
            prepared = self._poller.prepare(account)
            if not isinstance(prepared, Step):
                self._limit = most_in_flight(prepared.failures)
                self._running.add(pool.submit(self._poller.finish, prepared))
                continue
            self._around.report(prepared)
            if not self._running and (not prepared.left or prepared.wait_ms > _LONGEST_NAP_S * 1000):
                return prepared.wait_ms
            self._nap(prepared.wait_ms / 1000)
        return 0

    def _land(self) -> None:
        """Report what has ended; a fault of ours ends the run."""
        landed = {one for one in self._running if one.done()}
        self._running -= landed
        for one in landed:
            self._around.report(one.result())

    def _nap(self, seconds: float = _LONGEST_NAP_S) -> None:
        """Wait for a call to end, for ``seconds`` at most (0: until something may have come due)."""
        seconds = min(_LONGEST_NAP_S, seconds or _LONGEST_NAP_S)
        if self._running:
            wait(self._running, seconds, FIRST_COMPLETED)
        else:
            self._around.sleep(seconds)

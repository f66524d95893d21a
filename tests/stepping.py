"""Actors whose every exchange with the store waits for its turn, so that a test says in which order they happen."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from bridge.store.client import Client, Request

_PATIENCE_S = 30.0


class Actor:
    """Does ``act`` in a thread of its own, an exchange of ``client`` with the store for each ``step``."""

    def __init__(self, client: Client, act: Callable[[], object]) -> None:
        self._client = client
        self._act = act
        self._ask = client.ask
        self._turn = threading.Semaphore(0)
        self._waits = threading.Semaphore(0)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._fault: BaseException | None = None
        self._killed = False
        self.steps = 0
        self.ended = False

    def __enter__(self) -> Actor:
        self._client.ask = self._take_turn  # type: ignore[method-assign]  # an exchange of this one actor alone
        self._thread.start()
        self._wait()
        return self

    def __exit__(self, *_error: object) -> None:
        self.finish()
        del self._client.ask  # what the class has is there again
        self._thread.join(_PATIENCE_S)

    def step(self) -> bool:
        """Let it exchange something, and do what follows from that. Returns whether there was anything left to do."""
        if self.ended:
            return False
        self.steps += 1
        self._turn.release()
        self._wait()
        return True

    def finish(self) -> None:
        """Let it do all that is left."""
        while self.step():
            pass

    def kill(self) -> None:
        """Let it do no more: what it has not exchanged by now never happens."""
        self._killed = True
        while not self.ended:
            self._turn.release()
            assert self._waits.acquire(timeout=_PATIENCE_S), "it does not end"
        self._fault = None

    def _wait(self) -> None:
        assert self._waits.acquire(timeout=_PATIENCE_S), "it neither asks the store nor ends"
        if self._fault is not None:
            raise self._fault

    def _take_turn(self, requests: Sequence[Request]) -> list[object]:
        self._waits.release()
        assert self._turn.acquire(timeout=_PATIENCE_S)
        if self._killed:
            raise SystemExit
        return self._ask(requests)

    def _run(self) -> None:
        try:
            self._act()
        except BaseException as fault:  # noqa: BLE001 - raised again by whoever steps it
            self._fault = fault
        self.ended = True
        self._waits.release()

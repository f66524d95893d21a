"""A writer that counts up in one session, whatever becomes of the server: what is lost or done twice is a step."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from bridge.domain.commits import Due, Write
from bridge.errors import StoreUnreachable
from tests.parts import OPEN, Parts, entry


class Counter:
    """Writes one more than it reads, with an event each, until it is stopped. ``steps`` are between what it read."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._count)
        self.reached = 0
        self.steps: list[int] = []

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        self._thread.join(30)

    def _count(self) -> None:
        while not self._ended.is_set():
            try:
                stored = self._parts.sessions.read("default", ["s1"])["s1"]
                at = stored.state.polled_ms if stored.state else 0
                self.steps.append(at - self.reached)
                self.reached = at
                following = msgspec.structs.replace(OPEN, polled_ms=at + 1)
                event = entry("s1", sequence=at + 1)
                self._parts.sessions.commit(
                    "default", [Write("s1", stored.version, following, Due.KEEP, None, [event])]
                )
            except StoreUnreachable:
                self._ended.wait(0.02)


@contextmanager
def counting(parts: Parts) -> Iterator[Counter]:
    """While in it, something counts; afterwards nothing does."""
    counter = Counter(parts)
    counter.start()
    try:
        yield counter
    finally:
        counter.stop()

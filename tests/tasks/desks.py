"""A worker process without its worker: its tasks are called, and what it sends is looked at."""

from __future__ import annotations

from bridge.wiring import Bridge
from tasks.process import Process
from tests.polling.scripted import Everywhere, Scripted


class Desk:
    """A process on a bridge, and the messages that it sent."""

    def __init__(self, bridge: Bridge) -> None:
        self.bridge = bridge
        self.provider = Scripted()
        bridge.__dict__["providers"] = Everywhere(self.provider)
        self.sent: list[tuple[str, tuple[str, ...]]] = []
        self.process = Process(lambda name, args: self.sent.append((name, args)))
        self.process.__dict__["bridge"] = bridge

    def rejected(self, account: str = "default") -> list[tuple[str, str]]:
        return [(one.item, one.reason) for one in self.bridge.tracking.rejected(account)]

    def tracked(self, account: str = "default") -> set[str]:
        return {name for name, _ in self.bridge.sessions.scan(account)}

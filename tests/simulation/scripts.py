"""The model's server: its clock, and how its scripts are run. Each is run whole, or not at all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar, TypeVarTuple

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Scripts(Protocol):
    """Runs scripts, at a time that is the store's (Unix ms)."""

    now_ms: int

    def run(self, name: str, script: Callable[[*Ts], T], *args: *Ts) -> T:
        """Run a script of this name; what comes between asking and hearing is the runner's to say."""


class Plain:
    """Runs each once."""

    def __init__(self) -> None:
        self.now_ms = 0

    def run(self, name: str, script: Callable[[*Ts], T], *args: *Ts) -> T:  # noqa: ARG002 - others go by the name
        return script(*args)

"""What the delivery loop needs of the store."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import msgspec

from bridge.domain.breaker import Health
from bridge.domain.credentials import Credentials
from bridge.domain.deliveries import FailedAttempt, Lane, Settlement
from bridge.domain.subscriptions import Subscription


class DueNow(Protocol):
    """(subscription, shard) of the queues that have due lanes."""

    @property
    def queues(self) -> Sequence[tuple[str, int]]: ...


class Index(Protocol):
    """What is due."""

    def due(self, now_ms: int, limit: int) -> DueNow: ...


class Queues(Protocol):
    """Subscriptions' queues."""

    def claim(
        self, token: bytes, wanted: Sequence[tuple[str, int, int]], hold_ms: int
    ) -> tuple[int, list[list[bytes] | None]]: ...
    def peek(self, wanted: Sequence[tuple[str, int, Sequence[bytes]]]) -> list[list[Lane]]: ...
    def settle(
        self, token: bytes, settled: Mapping[tuple[str, int], Sequence[Settlement]]
    ) -> Mapping[tuple[str, int], int]: ...
    def release(self, token: bytes, held: Iterable[tuple[str, int]]) -> None: ...
    def health(self, subscriptions: Sequence[str]) -> Sequence[Health]: ...
    def note_health(self, token: bytes, subscription: str, health: Health) -> bool: ...
    def hasten(self, token: bytes, subscription: str, limit: int) -> bool: ...
    def park(self, subscription: str, versions: Mapping[int, bytes]) -> None: ...
    def kept(self, subscription: str, wanted: Mapping[int, Sequence[bytes]]) -> Mapping[tuple[int, bytes], bytes]: ...
    def remove(self, subscription: str) -> None: ...


class Attempts(Protocol):
    """Keeps failed attempts for people. Raises ``BridgeError`` where it cannot."""

    def add(self, attempts: Sequence[tuple[str, FailedAttempt]]) -> None: ...


class Log(Protocol):
    """The event log."""

    def fetch(self, account: str, wanted: Mapping[int, Sequence[bytes]]) -> Mapping[tuple[int, bytes], bytes]: ...


class Registry(Protocol):
    """Who is subscribed, with the shards' versions that this was read at."""

    @property
    def versions(self) -> Mapping[int, bytes]: ...
    def by_id(self) -> Mapping[str, Subscription]: ...


class Registries(Protocol):
    """Loads the registry, and disables what its receiver wants no more of.

    ``version`` is another once any of it was changed.
    """

    def load(self) -> Registry: ...
    def version(self) -> bytes: ...
    def disable(self, subscription: str, reason: str, now_ms: int) -> bool: ...


class Secrets(Protocol):
    """A subscription's keys and whatever else of it is sealed. Raises ``SecretsUnreadable``."""

    def of(self, subscription: Subscription) -> Credentials: ...


class Clock(Protocol):
    """The store's time."""

    def now_ms(self) -> int: ...
    def note(self, now_ms: int) -> None: ...


class Ports(msgspec.Struct, frozen=True, kw_only=True):
    """All of them, as a slice is given them."""

    index: Index
    queues: Queues
    log: Log
    attempts: Attempts
    registries: Registries
    secrets: Secrets
    clock: Clock

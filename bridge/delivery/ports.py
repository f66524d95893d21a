"""What the delivery loop needs of the store."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol, TypeVar

import msgspec

from bridge.domain.breaker import Health
from bridge.domain.credentials import Credentials
from bridge.domain.deliveries import Claimed, FailedAttempt, Part, Settlement, Wanted
from bridge.domain.subscriptions import Subscription

T_co = TypeVar("T_co", covariant=True)


class DueNow(Protocol):
    """(subscription, shard) of the queues that have due lanes; ``registry`` is another once that was changed."""

    @property
    def queues(self) -> Sequence[tuple[str, int]]: ...
    @property
    def registry(self) -> bytes: ...


class Errand(Protocol[T_co]):
    """Something that the store was asked, and need not be waited for."""

    def done(self) -> bool: ...
    def result(self) -> T_co: ...


class Line(Protocol):
    """Asks the store one thing after the other, over a connection of its own."""

    def due(self, now_ms: int, limit: int) -> Errand[DueNow]: ...
    def claim(self, token: bytes, wanted: Sequence[Wanted], hold_ms: int) -> Errand[Claimed]: ...
    def settle(
        self, token: bytes, settled: Mapping[tuple[str, int], Sequence[Settlement]]
    ) -> Errand[Mapping[tuple[str, int], int]]: ...
    def close(self) -> None: ...


class Queues(Protocol):
    """Subscriptions' queues."""

    def claim(
        self, token: bytes, wanted: Sequence[tuple[str, int, int]], hold_ms: int
    ) -> tuple[int, list[list[bytes] | None]]: ...
    def release(self, token: bytes, held: Iterable[tuple[str, int]]) -> None: ...
    def held(self, wanted: Sequence[tuple[str, int]]) -> list[bool]: ...
    def health(self, parts: Sequence[Part]) -> Sequence[Health]: ...
    def note_health(self, token: bytes, part: Part, health: Health) -> bool: ...
    def hasten(self, token: bytes, part: Part, limit: int) -> bool: ...
    def park(self, subscription: str, versions: Mapping[int, bytes]) -> None: ...
    def remove(self, subscription: str, versions: Mapping[int, bytes]) -> Sequence[int]: ...


class Attempts(Protocol):
    """Keeps failed attempts for people. Raises ``BridgeError`` where it cannot."""

    def add(self, attempts: Sequence[tuple[str, FailedAttempt]]) -> None: ...


class Registry(Protocol):
    """Who is subscribed, with the shards' versions that this was read at."""

    @property
    def versions(self) -> Mapping[int, bytes]: ...
    def by_id(self) -> Mapping[str, Subscription]: ...


class Registries(Protocol):
    """Loads the registry, and disables what its receiver wants no more of."""

    def load(self) -> Registry: ...
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

    line: Callable[[], Line]
    queues: Queues
    attempts: Attempts
    registries: Registries
    secrets: Secrets
    clock: Clock

"""What polling needs of the store and the provider."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from bridge.domain.commits import CommitResult, Stored, Write
from bridge.domain.receipts import Receipt


class Sessions(Protocol):
    """Sessions and their due times."""

    def due_counts(self, account: str, now_ms: int) -> Sequence[int]: ...
    def claim(self, account: str, wanted: Mapping[int, int], lease_ms: int) -> tuple[int, list[str]]: ...
    def read(self, account: str, session_nos: Sequence[str]) -> Mapping[str, Stored]: ...
    def commit(
        self, account: str, writes: Iterable[Write], registry_versions: Mapping[int, bytes] | None = None
    ) -> Mapping[str, CommitResult]: ...
    def reschedule(self, account: str, due_ms: Mapping[str, int]) -> None: ...
    def drop_due(self, account: str, session_nos: Sequence[str]) -> None: ...


class Registry(Protocol):
    """Who is subscribed, with the versions that fence a commit."""

    @property
    def versions(self) -> Mapping[int, bytes]: ...
    @property
    def erased(self) -> Mapping[bytes, int]: ...
    def audience(self, account: str, callback: str, status: int) -> Sequence[str]: ...


class Registries(Protocol):
    """Loads the registry."""

    def load(self) -> Registry: ...


class Rate(Protocol):
    """The account's calls: its bucket, and its pauses after failures."""

    def take(self, account: str, per_second: float) -> int: ...
    def pause(self, account: str, reason: str, pause_ms: int) -> int: ...
    def paused(self, account: str) -> tuple[int, int, str]: ...
    def resume(self, account: str) -> None: ...


class Clock(Protocol):
    """The store's time."""

    def now_ms(self) -> int: ...
    def note(self, now_ms: int) -> None: ...


class Answered(Protocol):
    """A successful answer: receipts by SessionNo, one entry for each that was asked."""

    @property
    def by_session(self) -> Mapping[str, Sequence[Receipt]]: ...


class Provider(Protocol):
    """``GetUSMSSendReceipt``. Raises ``ProviderError``."""

    def fetch_receipts(self, session_nos: Sequence[str]) -> Answered: ...

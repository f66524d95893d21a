"""What polling needs of the store and the provider."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from bridge.domain.commits import CommitResult, Stored, Watched, Write
from bridge.domain.packing import Wanted
from bridge.domain.rate import Slowed
from bridge.domain.receipts import Receipt


class Sessions(Protocol):
    """Sessions and their due times."""

    def due_counts(self, account: str, now_ms: int) -> Sequence[int]: ...
    def claim(
        self, account: str, wanted: Mapping[int, Wanted], lease_end_ms: int, soon_ms: int
    ) -> tuple[int, Mapping[str, int]]: ...
    def read(self, account: str, session_nos: Sequence[str]) -> Mapping[str, Stored]: ...
    def commit(
        self, account: str, writes: Iterable[Write], registry_versions: Mapping[int, bytes] | None = None
    ) -> Mapping[str, CommitResult]: ...
    def reschedule(self, account: str, due_ms: Mapping[str, int], lease_end_ms: int) -> None: ...
    def drop_due(self, account: str, session_nos: Sequence[str]) -> None: ...
    def set_aside(self, account: str, session_nos: Sequence[str]) -> None: ...
    def watched(self, now_ms: int, most: int) -> Sequence[Watched]: ...
    def unwatch(self, looked_at: Watched) -> None: ...


class Registry(Protocol):
    """Who is subscribed, with the versions that fence a commit."""

    @property
    def versions(self) -> Mapping[int, bytes]: ...
    @property
    def erased(self) -> Mapping[bytes, int]: ...
    def audience(self, account: str, callback: str, status: int) -> Sequence[str]: ...
    def asking_for(self, account: str, event_type: int) -> Sequence[str]: ...


class Registries(Protocol):
    """Loads the registry."""

    def load(self) -> Registry: ...


class Standing(Protocol):
    """How an account stands with the provider."""

    @property
    def pause_ms(self) -> int: ...
    @property
    def failures(self) -> int: ...
    @property
    def slowed(self) -> Slowed | None: ...


class Rate(Protocol):
    """The account's calls: its bucket, and its pauses after failures."""

    def take(self, account: str, per_second: float) -> int: ...
    def standing(self, account: str) -> Standing: ...
    def pause(self, account: str, reason: str, pause_ms: int, *, refused: bool = False) -> tuple[int, bool]: ...
    def slow(self, account: str, slowed: Slowed) -> None: ...
    def resume(self, account: str) -> None: ...


class Clock(Protocol):
    """The store's time."""

    def now_ms(self) -> int: ...
    def note(self, now_ms: int) -> None: ...


class Answered(Protocol):
    """A successful answer: receipts by SessionNo, one entry for each that was asked.

    ``skipped`` counts malformed receipts, ``strangers`` sessions that nobody asked for, ``unseen_results`` holds each
    ReceiptResult that no document names.
    """

    @property
    def by_session(self) -> Mapping[str, Sequence[Receipt]]: ...
    @property
    def skipped(self) -> int: ...
    @property
    def strangers(self) -> int: ...
    @property
    def unseen_results(self) -> frozenset[str]: ...


class Provider(Protocol):
    """``GetUSMSSendReceipt``. Raises ``ProviderError``."""

    def fetch_receipts(self, session_nos: Sequence[str]) -> Answered: ...

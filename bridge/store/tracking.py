"""Who has tracked at all, and what could not be tracked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import cast

import msgspec

from bridge.store import keys
from bridge.store.client import Client

_MOST_REJECTED = 10_000


class Rejected(msgspec.Struct, frozen=True, gc=False):
    """An item that arrived and was wrong: as it came (JSON, cut at 4 kB), and why. ``at_ms`` is Unix milliseconds."""

    id: str
    at_ms: int
    item: str
    reason: str


class TrackingStore:
    """Accounts that have sessions, and rejected items, by account."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._known: set[str] = set()

    def note_account(self, account: str) -> None:
        """Remember that an account tracks."""
        if account not in self._known:
            self._client.commands([["SADD", keys.ACCOUNTS, account]])
            self._known.add(account)

    def accounts(self) -> list[str]:
        """Every account that has tracked."""
        (reply,) = self._client.commands([["SMEMBERS", keys.ACCOUNTS]])
        return sorted(name.decode() for name in cast("list[bytes]", reply))

    def reject(self, account: str, items: Sequence[tuple[str, str]]) -> None:
        """Keep bad items, as (JSON text, reason): the newest 10,000 of an account."""
        self._client.commands(
            [
                ["XADD", keys.rejected(account), "MAXLEN", "~", _MOST_REJECTED, "*", "i", item[:4096], "w", reason]
                for item, reason in items
            ]
        )

    def rejected(self, account: str) -> Iterator[Rejected]:
        """What was rejected, the newest first."""
        (reply,) = self._client.commands([["XREVRANGE", keys.rejected(account), "+", "-"]])
        for stream_id, flat in cast("list[tuple[bytes, list[bytes]]]", reply):
            fields = dict(zip(flat[::2], flat[1::2], strict=True))
            yield Rejected(
                stream_id.decode(),
                int(stream_id.partition(b"-")[0]),
                fields[b"i"].decode(),
                fields[b"w"].decode(),
            )

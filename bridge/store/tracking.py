"""Who has tracked at all, and what could not be tracked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import cast

import msgspec

from bridge.errors import BridgeError, Unreachable
from bridge.store import keys
from bridge.store.client import Client

_MOST_REJECTED = 10_000
_DISK_WITHIN_MS = 3_000
"""An append-only file is synced each second; twice that on a busy disk. Below the client's own time-out of 5 s."""


class Rejected(msgspec.Struct, frozen=True, gc=False):
    """An item that arrived and was wrong: as it came (JSON, cut at 4 kB), and why. ``at_ms`` is Unix milliseconds."""

    id: str
    at_ms: int
    item: str
    reason: str


class TrackingStore:
    """Accounts that have sessions, and rejected items, by account."""

    def __init__(self, client: Client, shards: int) -> None:
        self._client = client
        self._shards = shards
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

    def await_disk(self, session_nos: Sequence[str]) -> None:
        """Wait until all that was written of these sessions is in the server's append-only file, on its disk.

        WAITAOF waits for what its own connection wrote, and pooled ones did the writing: so each shard of theirs gets
        a write more, which the file has after them.

        Raises:
            BridgeError: not within 3 s, or the server has no append-only file.
        """
        if self._client.is_cluster:
            raise BridgeError("BRIDGE_TRACK_DURABLE is not for a store on a cluster: unset it")
        shards = sorted({keys.shard_of(no, self._shards) for no in session_nos})
        writes: list[list[str | int]] = [["SET", keys.durable(shard), 1, "PX", 60_000] for shard in shards]
        try:
            (*_, synced) = self._client.commands([*writes, ["WAITAOF", 1, 0, _DISK_WITHIN_MS]])
        except Unreachable:
            raise
        except BridgeError as error:
            raise BridgeError(
                f"{error}: BRIDGE_TRACK_DURABLE needs a server with `appendonly yes` (Redis 7.2, Valkey 8 or newer)"
            ) from error
        if cast("list[int]", synced)[0] < 1:
            raise BridgeError(
                f"what was tracked is not on the store's disk within {_DISK_WITHIN_MS // 1000} s: see its disk and load"
            )

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

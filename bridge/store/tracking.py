"""Who has tracked at all, from where, and what could not be tracked."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from time import monotonic
from typing import cast

import msgspec

from bridge.domain.tracking import is_account
from bridge.errors import BridgeError, Unreachable
from bridge.store import keys
from bridge.store.client import Argument, Client

_MOST_REJECTED = 10_000
MOST_ORIGINS = 16_383
_ORIGIN_KEPT_S = 3_600.0
_NOTED_S = 60.0
_DISK_WITHIN_MS = 3_000
"""An append-only file is synced each second; twice that on a busy disk. Below the client's own time-out of 5 s."""


class Rejected(msgspec.Struct, frozen=True, gc=False):
    """An item that arrived and was wrong: as it came (JSON, cut at 4 kB), and why. ``at_ms`` is Unix milliseconds."""

    id: str
    at_ms: int
    item: str
    reason: str

    def names(self, session_no: str) -> bool:
        """Whether it is, or was a list with, an item of this session."""
        try:
            found: object = msgspec.json.decode(self.item)
        except (msgspec.MsgspecError, RecursionError):  # it was cut
            return msgspec.json.encode(session_no).decode() in self.item
        parts = found if isinstance(found, list) else [found]
        return session_no in [part.get("session_no") if isinstance(part, dict) else part for part in parts]


class Origins:
    """The machines that track, by a number each: one to three bytes of a session instead of a name.

    Numbers go round: a session's is given to another only after 16,383 new machines tracked within the three weeks
    that sessions live for at most. Two processes that meet a name at once may give it two numbers: both mean it.
    """

    def __init__(self, client: Client, ticking: Callable[[], float] = monotonic) -> None:
        self._client = client
        self._ticking = ticking
        self._known: dict[str, tuple[int, float]] = {}

    def number(self, name: str) -> int:
        """The number of a name, a new one where it has none; 0 for ""."""
        if not name:
            return 0
        known = self._known.get(name)
        if known is None or self._ticking() - known[1] > _ORIGIN_KEPT_S:
            if len(self._known) >= MOST_ORIGINS:
                self._known.clear()
            known = self._known[name] = self._look_up(name), self._ticking()
        return known[0]

    def name(self, number: int) -> str:
        """The name of a number, "" where there is none."""
        (name,) = self._client.commands([["HGET", keys.ORIGINS, f"n{number}"]])
        return cast("bytes", name).decode() if name is not None else ""

    def _look_up(self, name: str) -> int:
        (found,) = self._client.commands([["HGET", keys.ORIGINS, f"m{name}"]])
        if found is not None:
            return int(cast("bytes", found))
        (count,) = self._client.commands([["HINCRBY", keys.ORIGINS, "last", 1]])
        number = (cast("int", count) - 1) % MOST_ORIGINS + 1
        (before,) = self._client.commands([["HGET", keys.ORIGINS, f"n{number}"]])
        if before is not None:
            self._client.commands([["HDEL", keys.ORIGINS, f"m{cast('bytes', before).decode()}"]])
        self._client.commands([["HSET", keys.ORIGINS, f"n{number}", name, f"m{name}", number]])
        return number


class TrackingStore:
    """Accounts that have sessions, and rejected items, by account."""

    def __init__(self, client: Client, shards: int, ticking: Callable[[], float] = monotonic) -> None:
        self._client = client
        self._shards = shards
        self._ticking = ticking
        self._noted: dict[str, float] = {}

    def note_account(self, account: str) -> None:
        """Remember that an account tracks: once a minute, for an operator may have removed it meanwhile."""
        now = self._ticking()
        if now - self._noted.get(account, -_NOTED_S) >= _NOTED_S:
            self._client.commands([["SADD", keys.ACCOUNTS, account]])
            self._noted[account] = now

    def accounts(self) -> list[str]:
        """Every account that has tracked."""
        (reply,) = self._client.commands([["SMEMBERS", keys.ACCOUNTS]])
        names = [name.decode(errors="replace") for name in cast("list[bytes]", reply)]
        return sorted(name for name in names if is_account(name))

    def await_disk(self, session_nos: Sequence[str]) -> None:
        """Wait until all that was written of these sessions is in the servers' append-only files, on their disks.

        WAITAOF waits for what its own connection wrote, and pooled ones did the writing: so each shard of theirs gets
        a write more, which the file has after them. Of a cluster each master that has such a shard is waited for.

        Raises:
            BridgeError: not within 3 s, or a server has no append-only file.
            StoreUnreachable: no answer, or one of the shards is being moved to another master now.
        """
        shards = sorted({keys.shard_of(no, self._shards) for no in session_nos})
        writes: list[list[str | int]] = [["SET", keys.durable(shard), 1, "PX", 60_000] for shard in shards]
        try:
            (*_, synced) = self._client.commands([*writes, ["WAITAOF", 1, 0, _DISK_WITHIN_MS]])
        except Unreachable:
            raise
        except BridgeError as error:
            raise BridgeError(
                f"{error}: BRIDGE_TRACK_DURABLE needs a server (of a cluster each) with `appendonly yes`, and "
                "Redis 7.2, Valkey 8 or newer"
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
                fields[b"i"].decode(errors="replace"),
                fields[b"w"].decode(errors="replace"),
            )

    def drop(self, account: str, ids: Sequence[str]) -> int:
        """Forget rejected items. Returns how many of these there were."""
        (dropped,) = self._client.commands([["XDEL", keys.rejected(account), *ids]])
        return cast("int", dropped)

    def drop_before(self, account: str, before_ms: int | None) -> int:
        """Forget what was rejected before then (Unix ms), None for all of it. Returns how many."""
        name = keys.rejected(account)
        command: list[Argument] = ["XTRIM", name, "MAXLEN", 0]
        if before_ms is not None:
            command = ["XTRIM", name, "MINID", f"{max(0, before_ms)}-0"]
        (dropped,) = self._client.commands([command])
        return cast("int", dropped)

"""Filling a new subscription's queue with what the log has since a time, beside the events that come in meanwhile.

The order of what it does follows from one fact: once the registry has the subscription, each commit in a shard routes
to it; what was committed there before is older, and in the log. So all that is missing is what the log has up to its
end at that time, and it belongs before what waits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import cast

import msgspec

from bridge.domain import events
from bridge.domain.events import Record
from bridge.domain.policy import DEFAULT_LIMITS, Limits
from bridge.store import keys, positions
from bridge.store.client import Argument, Call, Client

PAGE = 500
_STALE, _FULL = -1, -2


class Page(msgspec.Struct, frozen=True):
    """Events of a shard's log, the oldest first, each with its position; ``upto`` is how far it was looked through."""

    shard: int
    events: Sequence[tuple[bytes, Record]]
    upto: bytes


class Gap(msgspec.Struct, frozen=True):
    """What a log no longer has: whatever was recorded after ``after_ms`` and before ``before_ms`` (Unix ms)."""

    after_ms: int
    before_ms: int


class FillStore:
    """Reads a log without a gap, and puts what is found into a queue."""

    def __init__(self, client: Client, shards: int, limits: Limits = DEFAULT_LIMITS) -> None:
        self._client = client
        self._shards = shards
        self._most = limits.share(shards).backlog

    def begins_ms(self, account: str) -> int:
        """From when on an account's log is whole (Unix ms), 0 if nothing of it was ever dropped."""
        replies = self._client.commands([["GET", keys.begin(shard, account)] for shard in range(self._shards)])
        begins = [positions.from_id(cast("bytes", reply)) for reply in replies if reply]
        # The first event that it still has may be of the same millisecond as one that it dropped.
        return max((int.from_bytes(one[:8]) + 1 for one in begins), default=0)

    def pages(self, account: str, subscription: str, since_ms: int, ends: dict[int, bytes]) -> Iterator[Page | Gap]:
        """The logs' events from ``since_ms`` up to ``ends`` (by shard), from where filling left off before.

        Ends with a gap where the log was trimmed before it was read. A page whose events were not put (their commit
        was refused) comes again.
        """
        for shard, end in sorted(ends.items()):
            while True:
                done = self._filled(subscription, shard)
                start = positions.next_after(done) if done else positions.of(since_ms)
                if start > end:
                    break
                page = self._page(account, shard, start, end)
                yield page
                if isinstance(page, Gap):
                    return

    def put(self, subscription: str, page: Page, wanted: Sequence[tuple[bytes, Record]], version: bytes) -> int | None:
        """Queue events of a page, and note it as done; returns how many were not there yet.

        None where the registry has another version than ``version``: the page must be read and decided again. -1 where
        they would be too many to wait.
        """
        shard = page.shard
        names = [keys.registry(shard)]
        names += [make(shard, subscription) for make in (keys.queue, keys.counts, keys.state)]
        args: list[Argument] = [version, self._most, page.upto]
        for position, event in wanted:
            lane = events.lane_id(event.session_no, event.phone)
            names.append(keys.lanes(shard, subscription, lane))
            args += (lane, position)
        count = cast("int", self._client.run([Call("fill_lanes", names, args)])[0])
        return None if count == _STALE else -1 if count == _FULL else count

    def _filled(self, subscription: str, shard: int) -> bytes | None:
        (reply,) = self._client.commands([["HGET", keys.state(shard, subscription), "filled"]])
        return cast("bytes | None", reply)

    def _page(self, account: str, shard: int, start: bytes, end: bytes) -> Page | Gap:
        # The log first: what is dropped in between is missed by neither, at worst said of a page that was whole.
        span = [keys.log(shard, account), positions.to_id(start), positions.to_id(end)]
        reply, begin = self._client.commands([["XRANGE", *span, "COUNT", PAGE], ["GET", keys.begin(shard, account)]])
        if begin and (first := positions.from_id(cast("bytes", begin))) > start:
            return Gap(int.from_bytes(start[:8]), int.from_bytes(first[:8]))
        entries = cast("list[tuple[bytes, list[bytes]]]", reply)
        found = [(positions.from_id(stream_id), events.readable(fields[1])) for stream_id, fields in entries]
        logged = [(place, event) for place, event in found if event is not None]
        return Page(shard, logged, found[-1][0] if len(found) == PAGE else end)

"""The event log: one stream an account and shard, each event once. Queues refer to it by position."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import cast

import msgspec

from bridge.domain import events
from bridge.store import keys, positions
from bridge.store.client import Argument, Call, Client, Steps

_Reply = list[tuple[bytes, list[bytes]]]
_PAGE = 500
_GAP = 50
"""Entries that a page may read in vain: they cost less than another round trip."""


class Logged(msgspec.Struct, frozen=True, gc=False):
    """An event with its place: the shard and the 12-byte position."""

    shard: int
    position: bytes
    record: bytes


class EventLog:
    """Reads and trims the logs; ``commit`` writes them."""

    def __init__(self, client: Client, shards: int) -> None:
        self._client = client
        self._shards = shards

    def fetch(self, account: str, wanted: Mapping[int, Sequence[bytes]]) -> dict[tuple[int, bytes], bytes]:
        """The records at ``wanted[shard]`` positions. What is not in the log any more is absent from the answer.

        Positions are read as ranges: a page from the lowest one wanted, then from the next one that is missing. A
        single-entry XRANGE costs the server as much as a page of dozens.
        """
        return self._client.drive(self.fetching(account, wanted))

    def fetching(self, account: str, wanted: Mapping[int, Sequence[bytes]]) -> Steps[dict[tuple[int, bytes], bytes]]:
        """The steps of ``fetch``."""
        found: dict[tuple[int, bytes], bytes] = {}
        pending = {shard: sorted(set(group)) for shard, group in wanted.items() if group}
        while pending:
            commands: list[list[Argument]] = []
            for shard, group in pending.items():
                span = [keys.log(shard, account), positions.to_id(group[0]), positions.to_id(group[-1])]
                commands.append(["XRANGE", *span, "COUNT", _GAP + 2 * len(group)])
            replies = yield commands
            for (shard, group), reply in zip(list(pending.items()), replies, strict=True):
                rest = _take_page(shard, group, _entries(reply), _GAP + 2 * len(group), found)
                if rest:
                    pending[shard] = rest
                else:
                    del pending[shard]
        return found

    def read(self, account: str, *, since_ms: int = 0, newest_first: bool = False) -> Iterator[Logged]:
        """Walk an account's events by time, over all shards."""
        walks = [self._walk(account, shard, since_ms, newest_first) for shard in range(self._shards)]
        heads: list[tuple[Logged, Iterator[Logged]]] = []
        for walk in walks:
            first = next(walk, None)
            if first is not None:
                heads.append((first, walk))
        choose = max if newest_first else min
        while heads:
            place = choose(range(len(heads)), key=lambda i: heads[i][0].position)
            logged, walk = heads[place]
            yield logged
            following = next(walk, None)
            if following is None:
                del heads[place]
            else:
                heads[place] = (following, walk)

    def of_session(self, account: str, session_no: str, since_ms: int = 0) -> Iterator[Logged]:
        """A session's events by time: all of its shard's since then are looked through."""
        wanted = session_no.encode()
        for logged in self._walk(account, keys.shard_of(session_no, self._shards), since_ms, newest_first=False):
            # Most are of other sessions, and unpacking costs ten times as much as looking.
            if wanted in logged.record:
                event = events.readable(logged.record)
                if event is not None and event.session_no == session_no:
                    yield logged

    def length(self, account: str) -> int:
        """How many events an account has in its log."""
        replies = self._client.commands([["XLEN", keys.log(shard, account)] for shard in range(self._shards)])
        return sum(cast("list[int]", replies))

    def ends(self, account: str) -> dict[int, bytes]:
        """The newest position of each shard; a shard without events is absent."""
        replies = self._client.commands(
            [["XREVRANGE", keys.log(shard, account), "+", "-", "COUNT", 1] for shard in range(self._shards)]
        )
        return {shard: page[0][0] for shard, reply in enumerate(replies) if (page := _entries(reply))}

    def after(self, account: str, ends: Mapping[int, bytes]) -> list[Logged]:
        """Events newer than ``ends`` (as ``ends()`` gave it), at most 500 a shard, by time."""
        commands: list[list[Argument]] = []
        for shard in range(self._shards):
            start = f"({positions.to_id(ends[shard])}" if shard in ends else "-"
            commands.append(["XRANGE", keys.log(shard, account), start, "+", "COUNT", _PAGE])
        fresh = [
            Logged(shard, position, record)
            for shard, reply in enumerate(self._client.commands(commands))
            for position, record in _entries(reply)
        ]
        return sorted(fresh, key=lambda logged: logged.position)

    def trim(self, account: str, subscriptions: Sequence[str], before_ms: int) -> tuple[int, int]:
        """Drop records older than ``before_ms`` (Unix ms). Returns how many, and how many of them were kept aside.

        A record that one of ``subscriptions`` still has in its queue is first copied to that queue's kept records.
        """
        dropped = kept = 0
        for shard in range(self._shards):
            while page := self._page(shard, account, f"({before_ms}-0"):
                kept += self._drop(shard, account, subscriptions, page)
                dropped += len(page)
        return dropped, kept

    def size(self, accounts: Iterable[str]) -> int:
        """Bytes that the logs of these accounts take, by the server's estimate."""
        asked = [["MEMORY", "USAGE", keys.log(shard, name)] for name in accounts for shard in range(self._shards)]
        return sum(cast("int | None", size) or 0 for size in self._client.commands(asked))

    def trim_to(self, audiences: Mapping[str, Sequence[str]], most_bytes: int) -> int:
        """Drop the oldest records of all logs while these take more than ``most_bytes``. Returns how many.

        ``audiences`` has the subscriptions of each account. What these still have in their queues is kept aside. A
        log's size is the server's estimate; what a page of it takes is its part of that.
        """
        places = [(account, shard) for account in audiences for shard in range(self._shards)]
        asked = [["MEMORY", "USAGE", keys.log(shard, account)] for account, shard in places]
        asked += [["XLEN", keys.log(shard, account)] for account, shard in places]
        replies = cast("list[int | None]", self._client.commands(asked))
        sizes, lengths = replies[: len(places)], replies[len(places) :]
        excess = float(sum(size or 0 for size in sizes) - most_bytes)
        each = {
            place: size / length for place, size, length in zip(places, sizes, lengths, strict=True) if size and length
        }
        dropped = 0
        # The oldest first, whichever log it is in: a quiet account keeps its events for as long as a busy one.
        heads = [
            (page[0][0], account, shard) for account, shard in each if (page := self._page(shard, account, "+", 1))
        ]
        heapq.heapify(heads)
        while excess > 0 and heads:
            _, account, shard = heapq.heappop(heads)
            page = self._page(shard, account, "+")
            self._drop(shard, account, audiences[account], page)
            dropped += len(page)
            excess -= len(page) * each[account, shard]
            following = self._page(shard, account, "+", 1)
            if following:
                heapq.heappush(heads, (following[0][0], account, shard))
        return dropped

    def _page(self, shard: int, account: str, limit: str, count: int = _PAGE) -> list[tuple[bytes, bytes]]:
        """The oldest records of a log, up to ``limit``."""
        (reply,) = self._client.commands([["XRANGE", keys.log(shard, account), "-", limit, "COUNT", count]])
        return _entries(reply)

    def _drop(self, shard: int, account: str, subscriptions: Sequence[str], page: list[tuple[bytes, bytes]]) -> int:
        call = _trim_call(shard, account, self._with_queue(shard, subscriptions), page)
        return cast("int", self._client.run([call])[0])

    def _with_queue(self, shard: int, subscriptions: Sequence[str]) -> list[str]:
        replies = self._client.commands([["EXISTS", keys.queue(shard, name)] for name in subscriptions])
        return [name for name, exists in zip(subscriptions, replies, strict=True) if exists]

    def _walk(self, account: str, shard: int, since_ms: int, newest_first: bool) -> Iterator[Logged]:
        low, high = str(since_ms), "+"
        while True:
            span = ["XREVRANGE", keys.log(shard, account), high, low]
            if not newest_first:
                span = ["XRANGE", keys.log(shard, account), low, high]
            (reply,) = self._client.commands([[*span, "COUNT", _PAGE]])
            page = _entries(reply)
            for position, record in page:
                yield Logged(shard, position, record)
            if len(page) < _PAGE:
                return
            edge = f"({positions.to_id(page[-1][0])}"
            low, high = (low, edge) if newest_first else (edge, high)


def _entries(reply: object) -> list[tuple[bytes, bytes]]:
    from_id = positions.from_id
    return [(from_id(stream_id), fields[1]) for stream_id, fields in cast("_Reply", reply)]


def _take_page(
    shard: int,
    wanted: list[bytes],
    page: list[tuple[bytes, bytes]],
    size: int,
    found: dict[tuple[int, bytes], bytes],
) -> list[bytes]:
    """Note what of ``wanted`` (sorted) is in the page; return what may still come after it."""
    records = dict(page)
    for position in wanted:
        record = records.get(position)
        if record is not None:
            found[shard, position] = record
    if len(page) < size:
        return []
    return [position for position in wanted if position > page[-1][0]]


def _trim_call(shard: int, account: str, subscriptions: Sequence[str], page: list[tuple[bytes, bytes]]) -> Call:
    names = [keys.log(shard, account), keys.begin(shard, account)]
    args: list[Argument] = []
    count = 0
    for position, record in page:
        event = events.readable(record)
        if event is None:
            continue  # no queue could send it, and it must not keep the others in the log for ever
        lane = events.lane_id(event.session_no, event.phone)
        for subscription in subscriptions:
            names += [keys.lanes(shard, subscription, lane), keys.kept(shard, subscription)]
            args += [len(names) - 1, len(names), lane, position, record]
            count += 1
    return Call("trim_log", names, [positions.id_after(page[-1][0]), count, *args])

"""Was this application told? What became of one event for one subscription, for as long as the event is kept.

Accepted deliveries are noted by the call that settles them: in a string a subscription, shard and hour of settling,
blocks of ``>IH`` (the lowest 32 bits of the Unix ms, how many follow) and for each delivery 10 bytes: the lowest 32
bits of its position's milliseconds, its sequence, the attempts that failed before, and the HTTP status less 200.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import cast

import msgspec

from bridge.domain import events
from bridge.domain.deliveries import DeadLetter
from bridge.store import keys, positions
from bridge.store.client import Call, Client
from bridge.store.queues import QueueStore

_HEAD = struct.Struct(">IH")
_ENTRY = 10
_HOUR_MS = 3_600_000
_HOURS_AT_ONCE = 6
_LONGEST_MS = 91 * 24 * _HOUR_MS
"""A day more than a log may keep events for, and outcomes with them."""
_LANES_AT_ONCE = 500


class Told(msgspec.Struct, frozen=True, gc=False):
    """An accepted delivery: when it was settled (Unix ms), at which attempt, with which HTTP status."""

    at_ms: int
    attempt: int
    status: int


class Waits(msgspec.Struct, frozen=True, gc=False):
    """A delivery that waits: attempts made, when its line is due (Unix ms), how many events are before it in it."""

    attempts: int
    due_ms: int
    behind: int


class Fate(msgspec.Struct, frozen=True, gc=False):
    """All that is known of one event for one subscription; any of them may be there beside another."""

    waits: Waits | None
    dead: DeadLetter | None
    told: tuple[Told, ...]


class OutcomeStore:
    """Reads outcomes: for people, not for delivery, so that it may take its time."""

    def __init__(self, client: Client, queues: QueueStore) -> None:
        self._client = client
        self._queues = queues

    def fate(self, subscription: str, shard: int, position: bytes, record: bytes, now_ms: int) -> Fate:
        """What became of the event at a position for a subscription, or is becoming of it."""
        return self.fates(subscription, shard, {position: record}, now_ms)[position]

    def fates(self, subscription: str, shard: int, wanted: Mapping[bytes, bytes], now_ms: int) -> dict[bytes, Fate]:
        """The same of several events of a shard (position: record)."""
        dead: dict[bytes, DeadLetter] = {}
        for letter in self._queues.dead_letters(subscription, shard):
            if letter.position in wanted:
                dead.setdefault(letter.position, letter)
        waits = self._waits(subscription, shard, wanted)
        told = self._told(subscription, shard, list(wanted), now_ms)
        return {place: Fate(waits.get(place), dead.get(place), tuple(told[place])) for place in wanted}

    def accepted(self, subscription: str, shard: int, since_ms: int, now_ms: int) -> set[bytes]:
        """The events of a shard's log that a subscription accepted, of those recorded since a time (Unix ms).

        By the last 8 bytes of their positions (``mark_of``): the milliseconds before come again after 49 days, longer
        than any log.
        """
        found: set[bytes] = set()
        for _, noted in self._noted(subscription, shard, since_ms, now_ms):
            at = 0
            while at + _HEAD.size <= len(noted):
                _, count = _HEAD.unpack_from(noted, at)
                at += _HEAD.size
                found.update(noted[place : place + 8] for place in range(at, at + count * _ENTRY, _ENTRY))
                at += count * _ENTRY
        return found

    def _waits(self, subscription: str, shard: int, wanted: Mapping[bytes, bytes]) -> dict[bytes, Waits]:
        lanes: list[bytes] = []
        owners: list[bytes] = []
        for position, record in wanted.items():
            event = events.readable(record)
            if event is None:
                continue
            lanes += (events.lane_id(event.session_no, event.phone), events.resend_lane(position))
            owners += (position, position)
        found: dict[bytes, Waits] = {}
        for start in range(0, len(lanes), _LANES_AT_ONCE):
            page = lanes[start : start + _LANES_AT_ONCE]
            call = Call("peek_lanes", [keys.lanes(shard, subscription, lane) for lane in page], page)
            values = cast("list[bytes]", self._client.run([call])[0])
            scores = self._client.commands([["ZSCORE", keys.queue(shard, subscription), lane] for lane in page])
            for position, value, score in zip(owners[start:], values, cast("list[bytes | None]", scores), strict=False):
                attempts, places = positions.split(value) if value else (0, [])
                if position in places and position not in found:
                    behind = places.index(position)
                    found[position] = Waits(0 if behind else attempts, int(float(score or 0)), behind)
        return found

    def _told(self, subscription: str, shard: int, wanted: Sequence[bytes], now_ms: int) -> dict[bytes, list[Told]]:
        found: dict[bytes, list[Told]] = {position: [] for position in wanted}
        first = min((int.from_bytes(position[:8]) for position in wanted), default=now_ms)
        for hour, noted in self._noted(subscription, shard, first, now_ms):
            for position in wanted:
                found[position] += _find(noted, mark_of(position), hour)
        return found

    def _noted(self, subscription: str, shard: int, since_ms: int, now_ms: int) -> Iterator[tuple[int, bytes]]:
        """What was noted, by hour. From the hour before its own on: a holder's clock may be seconds behind."""
        hours = range(max(since_ms, now_ms - _LONGEST_MS) // _HOUR_MS - 1, now_ms // _HOUR_MS + 2)
        for start in range(0, len(hours), _HOURS_AT_ONCE):
            page = hours[start : start + _HOURS_AT_ONCE]
            replies = self._client.commands([["GET", keys.told(shard, subscription, hour)] for hour in page])
            for hour, noted in zip(page, cast("list[bytes | None]", replies), strict=True):
                if noted:
                    yield hour, noted


def mark_of(position: bytes) -> bytes:
    """What of an event's position is noted with its outcome."""
    return position[4:]


def _find(noted: bytes, wanted: bytes, hour: int) -> Iterator[Told]:
    at = 0
    while at + _HEAD.size <= len(noted):
        low, count = _HEAD.unpack_from(noted, at)
        at += _HEAD.size
        end = at + count * _ENTRY
        found = noted.find(wanted, at, end) if end <= len(noted) else -1
        while found >= 0:
            if (found - at) % _ENTRY == 0:
                yield Told(_whole_ms(low, hour), noted[found + 8] + 1, 200 + noted[found + 9])
                break
            found = noted.find(wanted, found + 1, end)
        at = end


def _whole_ms(low: int, hour: int) -> int:
    """The time with these lowest 32 bits that is nearest to an hour: they come again after 49 days."""
    base = hour * _HOUR_MS
    return base + (low - base + 2**31) % 2**32 - 2**31

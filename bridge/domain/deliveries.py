"""Deliveries: an event on its way to one subscription, as the queues hold it and the loop settles it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from zlib import crc32

import msgspec

from bridge.domain.outcome import Verdict


class Part(msgspec.Struct, frozen=True):
    """What of a subscription one slice serves: every ``of``-th shard from ``number`` on; all of them where it is one.

    A subscription that one process cannot serve is split so. Each part has a holder, a breaker and a rate of its own.
    """

    subscription: str
    number: int = 0
    of: int = 1

    def shards(self, shards: int) -> range:
        """Its shards, of so many."""
        return range(self.number, shards, self.of)

    def home(self, shards: int) -> int:
        """The shard whose hold decides who serves it, and that keeps how its receiver is."""
        own = self.shards(shards)
        return own[crc32(self.subscription.encode()) % len(own)]


def part_with(shard: int, subscription: str, partitions: int | None, shards: int) -> Part:
    """The part of a subscription that a shard belongs to: at most one a shard."""
    of = min(partitions or 1, shards)
    return Part(subscription, shard % of, of)


def parts_of(subscription: str, partitions: int | None, shards: int) -> list[Part]:
    """The parts of a subscription."""
    return [part_with(number, subscription, partitions, shards) for number in range(min(partitions or 1, shards))]


class Lane(msgspec.Struct, frozen=True, gc=False):
    """A claimed lane: its first event's position and the attempts already made for it.

    ``bucket`` is the key under which the store keeps it.
    """

    shard: int
    lane: bytes
    bucket: str
    position: bytes
    attempts: int

    @property
    def event(self) -> tuple[bytes, bytes]:
        """Which event it stands for: with the next one of its phone it is another."""
        return self.lane, self.position


class Ready(msgspec.Struct, frozen=True, gc=False):
    """A claimed lane with its event's record (None where neither log nor kept records have it any more)."""

    lane: Lane
    record: bytes | None
    lease_end_ms: int


class Wanted(msgspec.Struct, frozen=True, gc=False):
    """At most ``most`` lanes of a part of a subscription in one of its shards."""

    part: Part
    account: str
    shard: int
    most: int


class Claimed(msgspec.Struct, frozen=True, kw_only=True):
    """What was claimed by ``now_ms`` (Unix ms, the store's), of each part the oldest event first.

    ``held`` are the (part, shard) that were the caller's to claim from, ``refused`` those that another holds.
    """

    now_ms: int
    held: Sequence[tuple[Part, int]]
    refused: Sequence[tuple[Part, int]]
    ready: Mapping[Part, list[Ready]]


class Settlement(msgspec.Struct, frozen=True, gc=False):
    """What became of a lane's first event. ``verdict`` None hands it back untried, due at ``due_ms``.

    ``status`` is the HTTP status (2xx) of what was accepted.
    """

    lane: Lane
    verdict: Verdict | None
    attempts: int = 0
    due_ms: int = 0
    record: bytes = b""
    error: str = ""
    status: int = 200


KEPT_BODY = 1_024
"""Bytes of an answer's body that are kept for people."""


class FailedAttempt(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One attempt that was not accepted, as it is kept for people.

    ``at_ms`` is Unix milliseconds; ``attempt`` counts from 1; ``status`` is the HTTP status, 0 where none came;
    ``body`` is at most KEPT_BODY of the answer, undecoded. ``phone`` is 8 bytes of a hash (``events.phone_tag``):
    enough to find what belongs to a phone, and no more.
    """

    at_ms: int
    event: str
    attempt: int
    status: int
    elapsed_ms: int
    error: str
    body: bytes
    phone: bytes


class Waiting(msgspec.Struct, frozen=True, gc=False):
    """A lane as ``deliveries list`` shows it; ``due_ms`` is its next attempt or, while claimed, its lease's end."""

    shard: int
    lane: bytes
    attempts: int
    due_ms: int
    positions: tuple[bytes, ...]


class Tally(msgspec.Struct, frozen=True, gc=False):
    """A subscription's counts: events that wait, dead letters there are, and what its limits did since it was made.

    ``over_backlog`` became dead letters because too much waited, ``over_kept`` because too much waited that the log
    had dropped; ``dead_dropped`` were the oldest of too many dead letters. ``of_ours`` are those of these three that
    operators' events brought about. ``exhausted`` became dead letters after their last retry, or were aborted;
    operators' events are not among them.
    """

    waiting: int = 0
    dead: int = 0
    over_backlog: int = 0
    over_kept: int = 0
    dead_dropped: int = 0
    of_ours: tuple[int, int, int] = (0, 0, 0)
    exhausted: int = 0

    @property
    def limited(self) -> int:
        """How often a limit was applied."""
        return self.over_backlog + self.over_kept + self.dead_dropped


class DeadLetter(msgspec.Struct, frozen=True, gc=False):
    """An event given up for one subscription. ``died_ms`` is Unix milliseconds; ``record`` is empty where it is lost.

    ``shard`` and ``position`` are the event's place in the log, ``id`` is the letter's own within its shard.
    """

    record: bytes
    error: str
    attempts: int
    died_ms: int
    shard: int
    position: bytes
    id: str

"""What is written together when a session changes: its state, its events with their queues, its next due time."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

import msgspec

from bridge.domain.status import SessionState

ABSENT = b""


class Stored(msgspec.Struct, frozen=True, gc=False):
    """A session as it was read: the version fences the commit; ``ABSENT`` where there is none.

    ``damaged``: there is one, and its bytes are none that this release reads.
    """

    version: bytes
    state: SessionState | None
    damaged: bool = False


class Due(Enum):
    """A due time that is not a time: none, the present one or else now, the present one or none."""

    NONE = ""
    KEEP = "keep"
    LEAVE = "leave"


class Route(msgspec.Struct, frozen=True, gc=False):
    """An event's way into one subscription's queue."""

    subscription: str
    lane: bytes


class Entry(msgspec.Struct, frozen=True, gc=False):
    """One event to record, packed, with the queues it goes to."""

    record: bytes
    routes: Sequence[Route]


class Write(msgspec.Struct, frozen=True, gc=False):
    """One session's part of a commit.

    ``expires_ms`` is when a settled session may be removed, None for one that is open, ``Due.KEEP`` where that was so
    before; ``watch_ms`` is when to look whether it is overdue (both Unix ms). ``leased``: whoever writes has leased
    the session, and where somebody made it due meanwhile, sooner than ``due``, that stays.
    """

    session_no: str
    version: bytes
    state: SessionState
    due: int | Due
    expires_ms: int | Due | None
    events: Sequence[Entry] = ()
    watch_ms: int | None = None
    leased: bool = False


class Watched(msgspec.Struct, frozen=True, gc=False):
    """The first sessions of a list to be looked at from ``at_ms`` (Unix ms) on."""

    shard: int
    account: str
    at_ms: int
    session_nos: tuple[str, ...]


class CommitResult(Enum):
    """What became of a session's part of a commit."""

    WRITTEN = 0
    CONFLICT = 1
    """Somebody else wrote the session meanwhile: read it and decide again."""
    STALE_REGISTRY = -1
    """A subscription was added or removed meanwhile: load the registry and decide again who wants the events."""

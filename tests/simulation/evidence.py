"""What a run leaves to be judged: what was committed, what was heard, what operators did."""

from __future__ import annotations

from collections import defaultdict

import msgspec

from bridge.domain.events import Record
from tests.simulation.world import Heard

Where = tuple[int, bytes]
"""A shard and a position."""


class Committed(msgspec.Struct, frozen=True):
    """An event as it was committed: where, its id and bytes, who wanted it then for sure, and where it was sent."""

    account: str
    place: Where
    record: Record
    id: str
    body: bytes
    wanted: frozenset[str]
    routed: list[str]


class Evidence:
    """The records of a run."""

    def __init__(self) -> None:
        self.committed: list[Committed] = []
        self.posts: list[Heard] = []
        self.sent: dict[str, int] = {}
        """When each session was sent (Unix ms)."""
        self.tracked: dict[str, int] = {}
        self.expecting: set[str] = set()
        """Sessions of which it was told whose receipts, or how many, are to come."""
        self.forgotten: dict[str, list[int]] = defaultdict(list)
        """When an operator let a session be forgotten (Unix ms)."""
        self.erased: dict[str, int] = {}
        """When the erasing of a phone (its digits) began."""
        self.resent: set[tuple[str, Where]] = set()

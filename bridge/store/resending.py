"""Putting events into a subscription's queue again: out of the log, or out of its dead letters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import msgspec

from bridge.domain import events
from bridge.domain.policy import DEFAULT_LIMITS, Limits
from bridge.store import keys
from bridge.store.client import Argument, Call, Client


class Again(msgspec.Struct, frozen=True, gc=False):
    """An event to send again, with the ids of the dead letters that it replaces."""

    shard: int
    position: bytes
    record: bytes
    letters: tuple[str, ...] = ()


class Resent(msgspec.Struct, frozen=True, gc=False):
    """How many were put, were waiting already, and had no room."""

    queued: int = 0
    waiting: int = 0
    no_room: int = 0


class ResendStore:
    """Puts events again, outside the promise of order: each has a lane of its own."""

    def __init__(self, client: Client, shards: int, limits: Limits = DEFAULT_LIMITS) -> None:
        self._client = client
        self._most = limits.share(shards).backlog

    def put(self, subscription: str, again: Sequence[Again]) -> Resent:
        """Queue events for a subscription, a call a shard. Their dead letters go in the same call."""
        groups: dict[int, list[Again]] = {}
        for one in again:
            groups.setdefault(one.shard, []).append(one)
        calls = [self._call(subscription, shard, group) for shard, group in groups.items()]
        verdicts = [verdict for reply in self._client.run(calls) for verdict in cast("list[int]", reply)]
        return Resent(verdicts.count(1), verdicts.count(0), verdicts.count(-1))

    def _call(self, subscription: str, shard: int, group: Sequence[Again]) -> Call:
        names = [keys.index(shard)]
        names += [make(shard, subscription) for make in (keys.queue, keys.dead, keys.kept, keys.counts, keys.state)]
        args: list[Argument] = [keys.queue_member(subscription), self._most]
        for one in group:
            event = events.unpack(one.record)
            lane, own = events.lane_id(event.session_no, event.phone), events.resend_lane(one.position)
            names += [keys.lanes(shard, subscription, lane), keys.lanes(shard, subscription, own)]
            args += (lane, own, one.position, one.record, " ".join(one.letters))
        return Call("resend_events", names, args)

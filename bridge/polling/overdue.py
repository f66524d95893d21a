"""Telling of sessions that are overdue: by the clock alone, whether the provider answers or not."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from bridge.domain import events
from bridge.domain.commits import Due, Entry, Route, Stored, Watched, Write
from bridge.domain.session_events import is_overdue, record_of_overdue
from bridge.polling.commits import Committer
from bridge.polling.ports import Clock, Registry, Sessions

_AT_ONCE = 500


class Told(msgspec.Struct, frozen=True):
    """What one look did: sessions looked at, those of them found overdue, and deliveries queued."""

    looked_at: int = 0
    overdue: int = 0
    routed: int = 0


class Watch:
    """Looks at sessions when they have been sent for so long that a final status is overdue."""

    def __init__(self, *, sessions: Sessions, committer: Committer, clock: Clock, overdue_ms: int) -> None:
        self._sessions = sessions
        self._committer = committer
        self._clock = clock
        self._overdue_ms = overdue_ms

    def look(self) -> Told | None:
        """Look at the next sessions of each shard; None where no list of them is to be looked at by now."""
        lists = self._sessions.watched(self._clock.now_ms(), _AT_ONCE)
        if not lists:
            return None
        told = Told()
        for one in lists:
            more = self._tell(one)
            told = Told(told.looked_at + more.looked_at, told.overdue + more.overdue, told.routed + more.routed)
        return told

    def _tell(self, one: Watched) -> Told:
        stored = self._sessions.read(one.account, one.session_nos)
        done: list[Write] = []
        self._committer.commit(
            one.account,
            stored,
            lambda registry, pending, now_ms: self._writes(one.account, registry, pending, now_ms),
            done.append,
        )
        # Last: a crash before looks at them again, and finds nothing to tell.
        self._sessions.unwatch(one)
        routed = sum(len(entry.routes) for write in done for entry in write.events)
        return Told(len(one.session_nos), len(done), routed)

    def _writes(self, account: str, registry: Registry, pending: Mapping[str, Stored], now_ms: int) -> list[Write]:
        audience = registry.asking_for(account, events.OVERDUE)
        writes = []
        for session_no, stored in pending.items():
            state = stored.state
            if state is None or not is_overdue(state, now_ms, self._overdue_ms):
                continue
            entries = []
            if audience:
                lane = events.lane_id(session_no, "")
                record = record_of_overdue(account, session_no, state, now_ms)
                entries = [Entry(events.pack(record), [Route(name, lane) for name in audience])]
            after = msgspec.structs.replace(state, overdue=True)
            writes.append(Write(session_no, stored.version, after, Due.KEEP, Due.KEEP, entries))
        return writes

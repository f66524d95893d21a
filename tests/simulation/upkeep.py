"""What ``bridge.trim`` and ``bridge erase`` promise of queues and logs: the other half of the model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from bridge.domain import events
from bridge.domain.commits import CommitResult, Due, Write
from bridge.domain.erasure import without_phone
from bridge.domain.policy import Limits, allowances
from bridge.domain.receipts import normalise_phone
from bridge.store import positions
from tests.simulation.queues import Queue, QueueModel
from tests.simulation.scripts import Scripts
from tests.simulation.sessions import SessionModel


class UpkeepModel:
    """Limits, trimming and erasing, over what the other two hold."""

    def __init__(self, scripts: Scripts, queues: QueueModel, sessions: SessionModel, limits: Limits) -> None:
        self._scripts = scripts
        self._queues = queues
        self._sessions = sessions
        self._limits = limits
        self.erased: list[dict[bytes, int]] = [{} for _ in sessions.shards]

    # limits

    def bury(self, queue: Queue, records: Mapping[bytes, bytes], error: str) -> int:
        """Make dead letters of events that wait; of error "" none are left. Returns how many there were."""
        return self._scripts.run("bury_lanes", self._bury, queue, records, error)

    def _bury(self, queue: Queue, records: Mapping[bytes, bytes], error: str) -> int:
        found = queue.take_out(list(records), self._scripts.now_ms)
        if error:
            for place in found:
                self._queues.die(queue, place, records[place], error)
            queue.buried += len(found)
            self._queues.limit_dead_of(queue)
        return len(found)

    def limit_kept(self, names: Sequence[str]) -> int:
        """Make dead letters of the oldest kept records, where there are too many over all shards."""
        buried = 0
        for name in names:
            queues = self._queues.of(name)
            over = sum([len(queue.kept) for queue in queues]) - self._limits.kept
            if over <= 0:
                continue
            excess = sorted([(place, shard) for shard, queue in enumerate(queues) for place in queue.kept])[:over]
            for shard, queue in enumerate(queues):
                gone = {place: queue.kept[place] for place, of in excess if of == shard}
                if gone:
                    buried += self.bury(queue, gone, "too many events waited for longer than the log keeps them")
        return buried

    def limit_dead(self, names: Sequence[str]) -> int:
        """Drop the oldest dead letters, where there are too many over all shards, counted."""
        dropped = 0
        for name in names:
            queues = self._queues.of(name)
            over = sum([len(queue.dead) for queue in queues]) - self._limits.dead
            if over <= 0:
                continue
            excess = sorted([(one.died, shard) for shard, queue in enumerate(queues) for one in queue.dead])[:over]
            for shard, queue in enumerate(queues):
                gone = len([True for _, of in excess if of == shard])
                if gone:
                    dropped += self._scripts.run("drop_dead", self._queues.drop_dead, queue, gone)
        return dropped

    def share_backlog(self, names: Sequence[str]) -> None:
        """Share out anew how many events may wait, where a shard's part is nearly used up."""
        for name in names:
            queues = self._queues.of(name)
            waiting = [queue.size for queue in queues]
            is_near = 2 * max(waiting) > self._limits.share(len(queues)).backlog
            shares: Sequence[int | None] = (
                allowances(self._limits.backlog, waiting) if is_near else [None] * len(queues)
            )
            for queue, most in zip(queues, shares, strict=True):
                queue.most = most

    def trim(self, account: str, names: Sequence[str], before_ms: int) -> int:
        """Drop records older than that; what still waits in its phone's lane is kept aside. Returns how many."""
        dropped = 0
        limit = positions.of(before_ms)
        for shard in range(len(self._sessions.shards)):
            dropped += self._scripts.run("trim_log", self._trim, shard, account, names, limit)
        return dropped

    def _trim(self, shard: int, account: str, names: Sequence[str], limit: bytes) -> int:
        log = self._sessions.shards[shard].log.get(account, {})
        old = [place for place in log if place < limit]
        for place in old:
            logged = log.pop(place)
            for name in names:
                queue = self._queues.at(name, shard)
                line = queue.lines.get(logged.lane)
                if line is not None and place in line.waiting:
                    queue.kept[place] = logged.record
        return len(old)

    # erasing

    def erase(self, phone: str, account: str, names: Sequence[str]) -> None:
        """Remove all of a phone: of sessions, then of queues, the log and the dead letters. Its tombstone is set."""
        digits = normalise_phone(phone)
        for shard, here in enumerate(self._sessions.shards):
            for of, no in list(here.stored):
                if of == account:
                    self._erase_from(account, no, digits)
            found = _mine({place: one.record for place, one in here.log.get(account, {}).items()}, digits)
            for name in names:
                self.bury(self._queues.at(name, shard), found, "")
            self._erase_places(shard, account, found)
            for name in names:
                queue = self._queues.at(name, shard)
                kept = _mine(queue.kept, digits)
                # Their places first: the log has none of them, and what was taken out here is found nowhere again.
                self._erase_places(shard, account, kept)
                self.bury(queue, kept, "")
                self._erase_letters(shard, account, queue, digits)

    def _erase_from(self, account: str, session_no: str, digits: str) -> None:
        while True:
            stored = self._sessions.read(account, [session_no])[session_no]
            state = stored.state and without_phone(stored.state, digits)
            if not state:
                return
            write = Write(session_no, stored.version, state, Due.KEEP, None)
            if state.settled_ms:
                write = msgspec.structs.replace(write, due=Due.NONE, expires_ms=Due.KEEP)
            if self._sessions.commit(account, [write])[session_no] is CommitResult.WRITTEN:
                return

    def _erase_places(self, shard: int, account: str, places: Iterable[bytes]) -> None:
        self._scripts.run("erase_events", self._forget_places, shard, account, list(places))

    def _forget_places(self, shard: int, account: str, places: Sequence[bytes]) -> None:
        log = self._sessions.shards[shard].log.get(account, {})
        for place in places:
            log.pop(place, None)
            self.erased[shard][place] = int.from_bytes(place[:8])

    def _erase_letters(self, shard: int, account: str, queue: Queue, digits: str) -> None:
        mine = [one for one in queue.dead if one.record and _is_of(one.record, digits)]
        self._erase_places(shard, account, [one.position for one in mine])
        queue.dead = [one for one in queue.dead if one not in mine]


def _mine(records: Mapping[bytes, bytes], digits: str) -> dict[bytes, bytes]:
    return {place: record for place, record in records.items() if _is_of(record, digits)}


def _is_of(record: bytes, digits: str) -> bool:
    return normalise_phone(events.unpack(record).phone) == digits

"""What sessions promise, in plain Python: their versions and due times, the fenced commit, the log that it writes.

The contract of ``bridge.store.sessions`` and of the scripts behind it; see ``queues``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec

from bridge.domain.commits import ABSENT, CommitResult, Due, Stored, Watched, Write
from bridge.domain.packing import Wanted
from bridge.domain.status import SessionState
from bridge.store import keys, positions
from tests.simulation.queues import QueueModel
from tests.simulation.scripts import Scripts

LEASED = 0.5
"""A lease ends this much of a millisecond later than it says, and is so told from a due time."""


def is_due(at_ms: float, now_ms: int) -> bool:
    """Whether a due time or a lease is over. The half by which leases are told from due times has passed too: the clock
    beside which this is checked goes on between two calls."""
    return int(at_ms) <= now_ms


Named = tuple[str, str]
"""An account and a SessionNo."""


class Logged(msgspec.Struct, frozen=True):
    """An event in the log. ``lane`` is its phone's."""

    record: bytes
    lane: bytes


class Shard(msgspec.Struct):
    """What one shard holds of sessions. ``hinted`` is forgotten as a whole at ``hinted_until``."""

    registry: bytes = keys.NO_REGISTRY
    stored: dict[Named, tuple[bytes, SessionState]] = {}
    due: dict[str, dict[str, float]] = {}
    expiry: dict[Named, int] = {}
    hinted: dict[str, dict[str, int]] = {}
    hinted_until: dict[str, int] = {}
    watches: dict[tuple[str, int], list[str]] = {}
    log: dict[str, dict[bytes, Logged]] = {}


class SessionModel:
    """The sessions of all accounts, by shard. ``place`` gives an event its position in a shard's log.

    ``written`` hears of each write, with its shard, account and the positions of its events.
    """

    def __init__(self, scripts: Scripts, shards: int, queues: QueueModel) -> None:
        self._scripts = scripts
        self._queues = queues
        self._made = 0
        self._last: dict[int, tuple[int, int]] = {}
        self.shards = [Shard() for _ in range(shards)]
        self.place: Callable[[int], bytes] = self._next_place
        self.written: Callable[[int, str, Write, Sequence[bytes]], None] = lambda *_: None

    @property
    def now(self) -> int:
        return self._scripts.now_ms

    def shard_of(self, session_no: str) -> int:
        """The shard that a session lives in."""
        return keys.shard_of(session_no, len(self.shards))

    def by_shard(self, session_nos: Iterable[str]) -> dict[int, list[str]]:
        """SessionNos by their shard."""
        groups: dict[int, list[str]] = {}
        for session_no in session_nos:
            groups.setdefault(self.shard_of(session_no), []).append(session_no)
        return groups

    def _next_place(self, shard: int) -> bytes:
        """As a stream numbers what is added to it: by the clock, and counted within a millisecond."""
        at, number = self._last.get(shard, (0, 0))
        self._last[shard] = (at, number + 1) if at >= self.now else (self.now, 0)
        return positions.from_id(b"%d-%d" % self._last[shard])

    # what pollers do

    def read(self, account: str, session_nos: Sequence[str]) -> dict[str, Stored]:
        """Sessions as they are."""
        found = {no: self.shards[self.shard_of(no)].stored.get((account, no)) for no in session_nos}
        return {no: Stored(ABSENT, None) if one is None else Stored(*one) for no, one in found.items()}

    def due_counts(self, account: str, now_ms: int) -> list[int]:
        """How many are due, by shard."""
        return [
            len([True for at in shard.due[account].values() if is_due(at, now_ms)]) if account in shard.due else 0
            for shard in self.shards
        ]

    def claim(
        self, account: str, wanted: Mapping[int, Wanted], lease_end_ms: int, soon_ms: int
    ) -> tuple[int, dict[str, int]]:
        """Lease due sessions: as ``SessionStore.claim``."""
        claimed: dict[str, int] = {}
        for shard, most in wanted.items():
            claimed |= self._scripts.run("claim_sessions", self._claim, shard, account, most, lease_end_ms, soon_ms)
        return self.now, claimed

    def _claim(self, shard: int, account: str, most: Wanted, lease_end_ms: int, soon_ms: int) -> dict[str, int]:
        ordered = sorted([(at, no) for no, at in self.due_of(shard, account).items()])
        due = [no for at, no in ordered if is_due(at, self.now)]
        soon = [(at, no) for at, no in ordered[len(due) :] if at <= self.now + soon_ms][: most.soon]
        chosen = dict.fromkeys(due[: most.oldest] + due[::-1][: most.newest])
        chosen |= dict.fromkeys([no for at, no in soon if at % 1 != LEASED])
        return self.lease(shard, account, list(chosen), lease_end_ms)

    def lease(self, shard: int, account: str, session_nos: Sequence[str], lease_end_ms: int) -> dict[str, int]:
        """Move due times to a lease's end. Returns what they were."""
        due = self.due_of(shard, account)
        before = {no: int(due[no]) for no in session_nos}
        due.update(dict.fromkeys(session_nos, lease_end_ms + LEASED))
        return before

    def due_of(self, shard: int, account: str) -> dict[str, float]:
        """The due times of an account's sessions in a shard."""
        return self.shards[shard].due.setdefault(account, {})

    def commit(
        self, account: str, writes: Iterable[Write], registry_versions: Mapping[int, bytes] | None = None
    ) -> dict[str, CommitResult]:
        """Write sessions with their events and queues: as ``SessionStore.commit``, however many events there are."""
        groups: dict[int, list[Write]] = {}
        for write in writes:
            groups.setdefault(self.shard_of(write.session_no), []).append(write)
        verdicts: dict[str, CommitResult] = {}
        for shard, group in groups.items():
            version = registry_versions[shard] if registry_versions else b""
            verdicts |= self._scripts.run("commit", self._commit, shard, account, group, version)
        return verdicts

    def _commit(self, shard: int, account: str, group: Sequence[Write], version: bytes) -> dict[str, CommitResult]:
        here = self.shards[shard]
        if version and here.registry != version:
            return {write.session_no: CommitResult.STALE_REGISTRY for write in group}
        fresh = [write for write in group if self.is_current(shard, account, write)]
        for write in fresh:
            self._write(shard, account, write)
        for name in {route.subscription for write in fresh for entry in write.events for route in entry.routes}:
            self._queues.limit_dead_of(self._queues.at(name, shard))
        written = {write.session_no for write in fresh}
        return {
            write.session_no: CommitResult.WRITTEN if write.session_no in written else CommitResult.CONFLICT
            for write in group
        }

    def is_current(self, shard: int, account: str, write: Write) -> bool:
        """Whether a session is still as its writer read it."""
        stored = self.shards[shard].stored.get((account, write.session_no))
        return (stored[0] if stored else ABSENT) == write.version

    def _write(self, shard: int, account: str, write: Write) -> None:
        here, name = self.shards[shard], (account, write.session_no)
        here.stored[name] = (self._version_after(write.version), write.state)
        self._set_due(self.due_of(shard, account), write)
        if write.expires_ms is None:
            here.expiry.pop(name, None)
        elif not isinstance(write.expires_ms, Due):
            here.expiry[name] = write.expires_ms
        if write.watch_ms is not None:
            here.watches.setdefault((account, write.watch_ms), []).append(write.session_no)
        places = [self.place(shard) for _ in write.events]
        for position, entry in zip(places, write.events, strict=True):
            lane = entry.routes[0].lane if entry.routes else b""
            here.log.setdefault(account, {})[position] = Logged(entry.record, lane)
            for route in entry.routes:
                self._queues.receive(self._queues.at(route.subscription, shard), route.lane, position, entry.record)
        self.written(shard, account, write, places)

    def _set_due(self, due: dict[str, float], write: Write) -> None:
        no, held = write.session_no, due.get(write.session_no)
        if write.leased and held is not None and held % 1 != LEASED and self._is_sooner(held, write.due):
            return
        match write.due:
            case Due.NONE:
                due.pop(no, None)
            case Due.KEEP:
                due.setdefault(no, self.now)
            case int(at):
                due[no] = at

    @staticmethod
    def _is_sooner(held: float, due: int | Due) -> bool:
        return due is Due.NONE or (isinstance(due, int) and held < due)

    def _version_after(self, version: bytes) -> bytes:
        """A session that is made anew never has a version that it had."""
        if version != ABSENT:
            return (int.from_bytes(version) + 1).to_bytes(4)
        self._made += 1
        return (self._made << 12).to_bytes(4)

    def reschedule(self, account: str, due_ms: Mapping[str, int], lease_end_ms: int) -> None:
        """Give claimed sessions, whose lease is still theirs, other due times."""
        for shard, group in self.by_shard(due_ms).items():
            self._scripts.run("reschedule_sessions", self._reschedule, shard, account, group, due_ms, lease_end_ms)

    def _reschedule(
        self, shard: int, account: str, group: Sequence[str], due_ms: Mapping[str, int], lease_end_ms: int
    ) -> None:
        due = self.due_of(shard, account)
        due.update({no: due_ms[no] for no in group if due.get(no) == lease_end_ms + LEASED})

    def drop_due(self, account: str, session_nos: Sequence[str]) -> None:
        """Forget the due times of those that do not exist."""
        for shard, group in self.by_shard(session_nos).items():
            self._scripts.run("drop_sessions", self._drop_due, shard, account, group)

    def _drop_due(self, shard: int, account: str, group: Sequence[str]) -> None:
        for no in group:
            if (account, no) not in self.shards[shard].stored:
                self.due_of(shard, account).pop(no, None)

    def set_aside(self, account: str, session_nos: Sequence[str]) -> None:
        """Of damaged ones the model has none."""
        raise AssertionError(f"{account}: {session_nos} cannot be damaged")

    # what makes sessions due, or ends them

    def poll_now(self, account: str, session_nos: Sequence[str]) -> set[str]:
        """Make sessions due now. Returns those that there are."""
        found: set[str] = set()
        for shard, group in self.by_shard(dict.fromkeys(session_nos)).items():
            found |= self._scripts.run("hasten_sessions", self._poll_now, shard, account, group)
        return found

    def _poll_now(self, shard: int, account: str, group: Sequence[str]) -> set[str]:
        there = {no for no in group if (account, no) in self.shards[shard].stored}
        self.due_of(shard, account).update(dict.fromkeys(there, self.now))
        return there

    def hint(self, account: str, session_nos: Sequence[str], gap_ms: int) -> tuple[int, int]:
        """Make sessions due now, each at most once in a gap: as ``PushStore.hint``."""
        known = sooner = 0
        for shard, group in self.by_shard(dict.fromkeys(session_nos)).items():
            there, moved = self._scripts.run("hint_sessions", self._hint, shard, account, group, gap_ms)
            known, sooner = known + there, sooner + moved
        return known, sooner

    def _hint(self, shard: int, account: str, group: Sequence[str], gap_ms: int) -> tuple[int, int]:
        here, due = self.shards[shard], self.due_of(shard, account)
        hinted = here.hinted.setdefault(account, {})
        if here.hinted_until.get(account, 0) <= self.now:
            hinted.clear()
        known = [no for no in group if no in due or (account, no) in here.stored]
        at = {no: max(self.now, hinted[no] + gap_ms) if no in hinted else self.now for no in known}
        # The half of a lease that ends in this very millisecond is over: see ``is_due``.
        sooner = {no: at[no] for no in known if no not in due or at[no] < int(due[no])}
        if sooner:
            for no in [no for no, last in hinted.items() if last <= self.now - gap_ms]:
                del hinted[no]
            hinted |= sooner
            due.update(sooner)
            here.hinted_until[account] = self.now + 2 * gap_ms
        return len(known), len(sooner)

    def expire(self, now_ms: int, limit: int) -> int:
        """Remove sessions that settled long enough ago: as ``SessionStore.expire``."""
        gone = 0
        for shard in self.shards:
            members = [name for at, name in sorted([(at, name) for name, at in shard.expiry.items()]) if at <= now_ms]
            if members:
                gone += self._scripts.run("expire_sessions", self._expire, shard, members[:limit])
        return gone

    def _expire(self, shard: Shard, members: Sequence[Named]) -> int:
        gone = [name for name in members if name in shard.expiry and shard.expiry[name] <= self.now]
        for name in gone:
            del shard.expiry[name]
            shard.stored.pop(name, None)
        return len(gone)

    def forget(self, account: str, session_nos: Sequence[str]) -> list[str]:
        """Remove sessions: their events stay. Returns those that there were."""
        there: list[str] = []
        for shard, group in self.by_shard(dict.fromkeys(session_nos)).items():
            there += self._scripts.run("forget_sessions", self._forget, shard, account, group)
        return there

    def _forget(self, shard: int, account: str, group: Sequence[str]) -> list[str]:
        here = self.shards[shard]
        there = [no for no in group if (account, no) in here.stored]
        for no in group:
            here.stored.pop((account, no), None)
            here.expiry.pop((account, no), None)
            self.due_of(shard, account).pop(no, None)
            here.hinted.get(account, {}).pop(no, None)
        return there

    # who is overdue

    def watched(self, now_ms: int, most: int) -> list[Watched]:
        """Lists of sessions to be looked at by now: of each shard the first one's first ``most``."""
        found = []
        for number, shard in enumerate(self.shards):
            due = sorted([(at, account) for account, at in shard.watches if at <= now_ms])
            if due:
                at, account = due[0]
                found.append(Watched(number, account, at, tuple(shard.watches[account, at][:most])))
        return found

    def unwatch(self, looked_at: Watched) -> None:
        """Forget the sessions of a list that were looked at."""
        self._scripts.run("trim_watch", self._unwatch, looked_at)

    def _unwatch(self, one: Watched) -> None:
        watches, name = self.shards[one.shard].watches, (one.account, one.at_ms)
        left = watches.get(name, [])
        if left[:1] == list(one.session_nos[:1]):
            left = left[len(one.session_nos) :]
        if left:
            watches[name] = left
        else:
            watches.pop(name, None)

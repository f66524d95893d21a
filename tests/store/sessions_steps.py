"""What may happen to sessions: each step is done to the model and to the store, and both must answer alike.

Due times, leases and watches are given by the caller, and so may be the same to both clocks; what a script takes of its
own clock (now) is over in either by the time that anybody looks.
"""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import rule

from bridge.domain.commits import CommitResult, Due, Stored, Watched, Write
from bridge.domain.packing import Wanted
from bridge.domain.status import SessionState
from bridge.store.pushes import HINT_GAP_MS
from tests.parts import entry
from tests.simulation.sessions import LEASED, is_due
from tests.store.queues_model import ACCOUNT, PHONES, PLACE, SHARDS, SUBS, UNIT_MS, picked
from tests.store.queues_upkeep import Upkeep

SESSIONS = ("s1", "s3", "s4", "s5")  # two of each shard
NAMES = st.lists(st.sampled_from(SESSIONS), min_size=1, max_size=4, unique=True)
AGAIN = st.booleans()
SOME = st.integers(0, 2)
MANY = 100
WATCHED_MS = 1_800_000_000_000
DUE = st.one_of(st.sampled_from(Due), st.integers(1, 4))
"""Or so many units from now."""
EXPIRES = st.one_of(st.none(), st.just(Due.KEEP), st.integers(0, 2))

Times = tuple[Due | int, Due | int | None, int | None]
"""When it is due, when it expires, and when it is to be looked at."""

Read = tuple[Stored, Stored]
"""A session as it was read of the store, and of the model."""


class Sessions(Upkeep):
    """The machine."""

    def __init__(self) -> None:
        super().__init__()
        self.read_before: dict[str, Read] = {}
        self.leases: list[int] = []
        self.seen: list[Watched] = []
        self.written = 0

    def _both(self, ahead: int) -> tuple[int, int]:
        """A time so many units ahead, by the store's clock and by the model's. Behind what either calls now."""
        return self.base_ms + ahead * UNIT_MS, self.now + ahead * UNIT_MS

    def _read(self, name: str) -> Read:
        return self.parts.sessions.read(ACCOUNT, [name])[name], self.sessions.read(ACCOUNT, [name])[name]

    # what trackers and pollers do

    @rule(names=NAMES)
    def read(self, names: list[str]) -> None:
        """Whoever decides by this may be overtaken."""
        for name in names:
            stored, twin = self.read_before[name] = self._read(name)
            assert stored.state == twin.state, "what is read is what was written"
            assert bool(stored.version) == bool(twin.version), "what is not there has no version"

    @rule(
        names=NAMES,
        phones=st.lists(st.sampled_from(PHONES), max_size=2),
        times=st.tuples(DUE, EXPIRES, st.one_of(st.none(), st.integers(1, 3))),
        how=st.sampled_from(["now", "now", "as read before", "as if new", "under an old registry"]),
        again=AGAIN,
    )
    def commit(
        self,
        names: list[str],
        phones: list[str],
        times: Times,
        how: str,
        again: bool,
    ) -> None:
        """Of several sessions at once, of which some may have been written by others since they were read."""
        writes: dict[str, tuple[Write, Write]] = {}
        for name in names:
            read = self._read(name)
            if how == "as read before":
                read = self.read_before.get(name, read)
            elif how == "as if new":
                read = (Stored(b"", None), Stored(b"", None))
            writes[name] = self._writes(name, read, phones, times)
        versions = self.parts.subscriptions.load().versions
        twins = {shard: here.registry for shard, here in enumerate(self.sessions.shards)}
        if how == "under an old registry":
            versions, twins = dict.fromkeys(versions, b"old"), dict.fromkeys(twins, b"old")
        for _ in range(1 + again):
            said = self.commit_both(writes, versions, twins)
            if how == "under an old registry":
                assert set(said.values()) == {CommitResult.STALE_REGISTRY}, "an old registry writes nothing"

    def _writes(self, name: str, read: Read, phones: list[str], times: Times) -> tuple[Write, Write]:
        due, expires, watch = times
        self.written += 1
        state = SessionState(sent_ms=1, tracked_ms=1, polled_ms=self.written)
        entries = [entry(name, phone, to=SUBS, sequence=self.written * 8 + n) for n, phone in enumerate(phones)]
        made = []
        for place, one in enumerate(read):
            made.append(
                Write(
                    name,
                    one.version,
                    state,
                    due if isinstance(due, Due) else self._both(due)[place],
                    expires if expires is None or isinstance(expires, Due) else self._both(expires)[place],
                    entries,
                    # Kept by the time in its name: that is the caller's, and passes for neither clock.
                    None if watch is None else WATCHED_MS + watch * UNIT_MS,
                    leased=bool(self.written % 2),  # every other one; a draw more would make each fault rarer
                )
            )
        return made[0], made[1]

    @rule(oldest=SOME, newest=SOME, soon=st.booleans(), ahead=st.integers(1, 2), units=st.integers(1, 3))
    def claim(self, oldest: int, newest: int, soon: bool, ahead: int, units: int) -> None:
        wanted = dict.fromkeys(range(SHARDS), Wanted(oldest, newest, MANY if soon else 0))
        lease, twin = self._both(units)
        # Half a unit more: by the store's clock a little of one has passed.
        soon_ms = ahead * UNIT_MS + UNIT_MS // 2
        _, claimed = self.parts.sessions.claim(ACCOUNT, wanted, lease, soon_ms)
        self.leases.append(twin)
        for shard in range(SHARDS):
            mine = {no: at for no, at in claimed.items() if self.sessions.shard_of(no) == shard}
            due = self.sessions.due_of(shard, ACCOUNT)
            late = {no for no, at in due.items() if is_due(at, self.now)}
            early = {no for no, at in due.items() if self.now < at <= self.now + soon_ms and at % 1 != LEASED}
            assert mine.keys() & early == (early if soon else set()), "what comes due soon may ride along"
            assert mine.keys() - early <= late, "what is claimed is due"
            assert len(mine.keys() - early) == min(oldest + newest, len(late)), "what is due must be claimed"
            before = self.sessions.lease(shard, ACCOUNT, list(mine), twin)
            assert all(self._is_at(at, before[no]) for no, at in mine.items()), "it had this due time"

    @rule(place=PLACE, names=NAMES, ahead=st.integers(0, 2), again=AGAIN)
    def reschedule(self, place: int, names: list[str], ahead: int, again: bool) -> None:
        """By whoever claimed them, or by another one."""
        twin = next(iter(picked(self.leases, [place])), self.now)
        lease = self.base_ms + twin - self.now
        due, twin_due = self._both(ahead)
        for _ in range(1 + again):
            self.parts.sessions.reschedule(ACCOUNT, dict.fromkeys(names, due), lease)
            self.sessions.reschedule(ACCOUNT, dict.fromkeys(names, twin_due), twin)

    @rule(names=NAMES, again=AGAIN)
    def drop_due(self, names: list[str], again: bool) -> None:
        for _ in range(1 + again):
            self.parts.sessions.drop_due(ACCOUNT, names)
            self.sessions.drop_due(ACCOUNT, names)

    @rule()
    def count(self) -> None:
        now_ms = self.parts.now_ms()
        counted = self.parts.sessions.due_counts(ACCOUNT, now_ms)
        assert counted == self.sessions.due_counts(ACCOUNT, self.now), "as many are due"

    # what others do

    @rule(names=NAMES, again=AGAIN)
    def hasten(self, names: list[str], again: bool) -> None:
        for _ in range(1 + again):
            found = self.parts.sessions.poll_now(ACCOUNT, names)
            assert found == self.sessions.poll_now(ACCOUNT, names), "who there is to be polled"

    @rule(names=NAMES)
    def hint(self, names: list[str]) -> None:
        """Once in a gap, that is: what of a second one is sooner depends on the milliseconds in between."""
        if any(here.hinted_until.get(ACCOUNT, 0) > self.now for here in self.sessions.shards):
            return
        said = self.parts.pushes.hint(ACCOUNT, names)
        assert said == self.sessions.hint(ACCOUNT, names, HINT_GAP_MS), "how many are known, and sooner"

    @rule(names=NAMES, again=AGAIN)
    def forget(self, names: list[str], again: bool) -> None:
        for _ in range(1 + again):
            gone = self.parts.sessions.forget(ACCOUNT, names)
            assert gone == self.sessions.forget(ACCOUNT, names), "who there is to be forgotten"

    @rule(ahead=SOME)
    def expire(self, ahead: int) -> None:
        """By a caller whose clock may be ahead: what is over is the server's to say."""
        ahead_ms = ahead * UNIT_MS
        gone = self.parts.sessions.expire(self.parts.now_ms() + ahead_ms, MANY)
        assert gone == self.sessions.expire(self.now + ahead_ms, MANY), "what settled long ago goes"

    @rule()
    def change_the_registry(self) -> None:
        self.parts.subscriptions.bump()
        for shard, version in self.parts.subscriptions.load().versions.items():
            self.sessions.shards[shard].registry = version

    @rule(units=st.integers(0, 4), most=st.integers(1, 2))
    def look(self, units: int, most: int) -> None:
        found = self.parts.sessions.watched(WATCHED_MS + units * UNIT_MS, most)
        assert found == self.sessions.watched(WATCHED_MS + units * UNIT_MS, most), "who is to be looked at"
        self.seen += found

    @rule(place=PLACE, again=AGAIN)
    def unwatch(self, place: int, again: bool) -> None:
        """What was looked at before, perhaps by two at once."""
        nothing = Watched(0, ACCOUNT, WATCHED_MS + UNIT_MS, ())
        one = next(iter(picked(self.seen, [place])), nothing)
        for _ in range(1 + again):
            self.parts.sessions.unwatch(one)
            self.sessions.unwatch(one)

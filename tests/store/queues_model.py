"""What the store is to be, whatever happens to it: the simulation's model, driven beside the real scripts.

Time is counted in units of a lease. It passes by moving every due time, gate and hold of the store into the past, so
that nothing waits and nothing depends on how fast the machine is: within one unit all of an example happens.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar, cast

import msgspec
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant

from bridge.domain import events
from bridge.domain.breaker import WELL, Health
from bridge.domain.commits import CommitResult, Write
from bridge.domain.deliveries import Lane
from bridge.domain.outcome import Verdict
from bridge.domain.policy import Limits
from bridge.store import keys, positions
from bridge.store.client import Argument
from bridge.store.log import Logged
from bridge.store.sessions import unpack
from tests.parts import Parts, subscription
from tests.simulation.queues import Queue, QueueModel
from tests.simulation.scripts import Plain
from tests.simulation.sessions import SessionModel
from tests.simulation.upkeep import UpkeepModel

T = TypeVar("T")

UNIT_MS = 45_000
SHARDS = 2
ACCOUNT = "default"
LIMITS = Limits(backlog=8, dead=2, kept=6)
SUBS = ("sub_a", "sub_b")
TOKENS = (b"1" * 16, b"2" * 16)
SESSIONS = ("s1", "s2")  # of different shards
PHONES = ("18500000001", "18500000002")
TOO_MANY = 1_000


class Event(msgspec.Struct, frozen=True):
    """An event that was committed: where, of which phone's lane, for whom."""

    shard: int
    position: bytes
    record: bytes
    lane: bytes
    phone: str
    to: tuple[str, ...]


class InHand(msgspec.Struct, frozen=True):
    """A lane that was claimed, as its holder knows it."""

    token: bytes
    name: str
    lane: Lane


VERDICTS = st.sampled_from([Verdict.ACCEPTED, Verdict.RETRY, Verdict.DEAD, None])
PLACE = st.integers(0, 11)
NAMES, TOKEN, AGAIN = st.sampled_from(SUBS), st.sampled_from(TOKENS), st.booleans()


def picked(among: Sequence[T], places: Iterable[int]) -> list[T]:
    """Those at these places, counted round and round; none of nothing.

    Not drawn of what there is: of lanes that are due in the same millisecond the store serves either first, and a draw
    that had another number of them to choose from when it is played again would be no draw of the same example.
    """
    return [among[place % len(among)] for place in places] if among else []


class Checked(RuleBasedStateMachine):
    """The model beside the store, and what must be true of the two.

    ``parts`` is set by the test: SHARDS shards under LIMITS.
    """

    parts: Parts

    def __init__(self) -> None:
        super().__init__()
        self.parts.redis.flushall()
        for name in SUBS:
            self.parts.subscriptions.put(subscription(name))
        self.base_ms = self.parts.now_ms()
        self.server = Plain()
        self.queues = QueueModel(self.server, SHARDS, LIMITS)
        self.sessions = SessionModel(self.server, SHARDS, self.queues)
        self.sessions.place = self._place
        self.upkeep = UpkeepModel(self.server, self.queues, self.sessions, LIMITS)
        self.places: dict[int, deque[bytes]] = {shard: deque() for shard in range(SHARDS)}
        self.events: list[Event] = []
        self.in_hand: list[InHand] = []
        self.told: dict[tuple[str, bytes], bytes] = {}
        self.sequence = 0

    @property
    def now(self) -> int:
        return self.server.now_ms

    def _place(self, shard: int) -> bytes:
        """Where the store put it."""
        assert self.places[shard], "an event each"
        return self.places[shard].popleft()

    def since(self, at_ms: float) -> float:
        """A time of the store's, by the model's clock: within the unit that it lies in."""
        return self.now + (at_ms - self.base_ms) // UNIT_MS * UNIT_MS

    def _logged(self) -> set[bytes]:
        return {place for shard in self.sessions.shards for place in shard.log.get(ACCOUNT, {})}

    def _of(self, name: str) -> list[Queue]:
        return self.queues.of(name)

    def _event(self, shard: int, position: bytes) -> Event:
        return next(one for one in self.events if (one.shard, one.position) == (shard, position))

    def commit_both(
        self,
        writes: Mapping[str, tuple[Write, Write]],
        versions: Mapping[int, bytes] | None = None,
        expected: Mapping[int, bytes] | None = None,
    ) -> dict[str, CommitResult]:
        """Commit (the store's, the model's) write of each session, each fenced by its own registry's versions."""
        known = {one.position for one in self.parts.log.read(ACCOUNT)}
        said = self.parts.sessions.commit(ACCOUNT, [one for one, _ in writes.values()], versions)
        fresh = [one for one in self.parts.log.read(ACCOUNT) if one.position not in known]
        for one in fresh:
            self.places[one.shard].append(one.position)
        assert self.sessions.commit(ACCOUNT, [one for _, one in writes.values()], expected) == said, "what is fenced"
        assert not any(self.places.values()), "an event each"
        self._note(fresh, [one for one, _ in writes.values()])
        return said

    def _note(self, fresh: list[Logged], writes: list[Write]) -> None:
        to = {
            entry.record: tuple(route.subscription for route in entry.routes) for one in writes for entry in one.events
        }
        for one in fresh:
            self.events.append(event_of(one, to[one.record]))

    # what must be true of the store, whatever happened

    @invariant()
    def all_is_as_it_should_be(self) -> None:
        store = Snapshot(self.parts)
        for shard in range(SHARDS):
            erased = set(store.scores(keys.erased(shard, ACCOUNT)))
            assert erased == self.upkeep.erased[shard].keys(), "what was erased is known as erased"
            logged = {place for place, _ in store.entries(keys.log(shard, ACCOUNT))}
            assert logged == self.sessions.shards[shard].log.get(ACCOUNT, {}).keys(), "each event is in the log once"
            self._check_sessions(store, shard)
            for name in SUBS:
                queue = self.queues.at(name, shard)
                self._check_lanes(store, name, shard, queue)
                self._check_index(store, name, shard, queue)
                self._check_records(store, name, shard, queue)
        for name in SUBS:
            self._check_counts(store, name)
            self._check_nothing_is_absent(store, name)

    def _is_at(self, at_ms: float, expected: float) -> bool:
        """Whether a time of the store's is the model's; what is over is over."""
        return self.since(at_ms) == expected or max(self.since(at_ms), expected) <= self.now

    def _check_sessions(self, store: Snapshot, shard: int) -> None:
        here = self.sessions.shards[shard]
        states = {no: unpack(value).state for no, value in store.sessions(shard).items()}
        assert states == {no: state for (_, no), (_, state) in here.stored.items()}, "a session is what was written"
        due = {no.decode(): at for no, at in store.scores(keys.due(shard, ACCOUNT)).items()}
        expected = here.due.get(ACCOUNT, {})
        assert due.keys() == expected.keys(), "a session is asked for until it settled"
        for no, at in due.items():
            assert at % 1 == expected[no] % 1, "what is leased is told from what is due"
            assert self._is_at(at, expected[no] - expected[no] % 1), "a session is due when it should"
        first = min(due.values(), default=None)
        assert store.scores(keys.index(shard)).get(b"p:default") == first, "an account is looked for when it is due"
        expiry = {name.decode(): at for name, at in store.scores(keys.expiry(shard)).items()}
        assert expiry.keys() == {f"{account}:{no}" for account, no in here.expiry}, "what settled expires"
        for (account, no), until in here.expiry.items():
            assert self._is_at(expiry[f"{account}:{no}"], until), "a session expires when it should"
        watched = {member.decode() for member in store.scores(keys.watches(shard))}
        assert watched == {f"{account}:{at}" for account, at in here.watches}, "who is watched is looked at"
        for (account, at), names in here.watches.items():
            assert store.texts(keys.watch(shard, account, at)) == names, "each is looked at once"

    def _check_lanes(self, store: Snapshot, name: str, shard: int, queue: Queue) -> None:
        expected = {lane: (line.attempts, line.waiting) for lane, line in queue.lines.items()}
        assert store.lanes(shard, name) == expected, "what waits, in its order, with its attempts"
        due = store.scores(keys.queue(shard, name))
        assert due.keys() == expected.keys(), "a lane is queued while something waits in it"
        for lane, line in queue.lines.items():
            assert self._is_at(due[lane], line.due), "a lane is due when it should"

    def _check_index(self, store: Snapshot, name: str, shard: int, queue: Queue) -> None:
        """A queue's place is that of its first lane, or its gate; at worst earlier, never later."""
        at = store.scores(keys.index(shard)).get(keys.queue_member(name).encode())
        first = min(store.scores(keys.queue(shard, name)).values(), default=None)
        gate = store.hash(keys.state(shard, name)).get(b"gate")
        assert (gate is None) == (queue.gate is None), "it is gated as it should be"
        if first is not None and not queue.parked:
            expected = max(first, float(gate or 0))
            assert at is not None, "a queue that is due some time is in the index"
            assert at <= expected, "a queue is looked for when its first lane is due"
            assert at == expected or queue.loose, "a queue is not looked for in vain"
        else:
            assert at is None or queue.loose, "a queue that is parked or empty is in no index"

    def _check_records(self, store: Snapshot, name: str, shard: int, queue: Queue) -> None:
        kept = store.hash(keys.kept(shard, name))
        logged = {place for place, _ in store.entries(keys.log(shard, ACCOUNT))}
        assert set(queue.waiting) <= kept.keys() | logged, "what waits can be read"
        assert kept == queue.kept, "nothing is kept that nobody needs"

    def _check_counts(self, store: Snapshot, name: str) -> None:
        for shard, queue in enumerate(self._of(name)):
            counted = store.hash(keys.counts(shard, name))
            expected = {b"w": queue.size, b"o": queue.over, b"k": queue.buried, b"d": queue.forgotten}
            assert {field: int(counted.get(field, 0)) for field in expected} == expected, "counts are what is there"
            assert store.dead(shard, name) == [one.position for one in queue.dead], "each dead letter, the oldest first"
            state = store.hash(keys.state(shard, name))
            assert int(state.get(b"dropped", 0)) == queue.dropped, "what an operator drops is counted"
            packed = state.get(b"health")
            health = msgspec.msgpack.decode(packed, type=Health) if packed else WELL
            assert self._by_the_model(health) == queue.health, "how its receiver is"

    def _by_the_model(self, health: Health) -> Health:
        return msgspec.structs.replace(
            health,
            probe_ms=int(self.since(health.probe_ms)) if health.probe_ms else 0,
            quiet_ms=int(self.since(health.quiet_ms)) if health.quiet_ms else 0,
            opened_ms=int(self.since(health.opened_ms)) if health.opened_ms else 0,
        )

    def _check_nothing_is_absent(self, store: Snapshot, name: str) -> None:
        """By the store alone: what was committed waits, is dead, was accepted or erased, or was dropped and counted."""
        absent = counted = 0
        for shard in range(SHARDS):
            found = {place for _, places in store.lanes(shard, name).values() for place in places}
            found |= {*store.dead(shard, name), *store.scores(keys.erased(shard, ACCOUNT))}
            told = store.told(shard, name)
            for one in self.events:
                if one.shard == shard and name in one.to and one.position not in found:
                    absent += one.position[4:] not in told
            counted += int(store.hash(keys.state(shard, name)).get(b"dropped", 0))
            counted += int(store.hash(keys.counts(shard, name)).get(b"d", 0))
        assert absent <= counted, "nothing is absent"


def event_of(one: Logged, to: tuple[str, ...]) -> Event:
    """An event as the log has it."""
    record = events.unpack(one.record)
    lane = events.lane_id(record.session_no, record.phone)
    return Event(one.shard, one.position, one.record, lane, record.phone, to)


class Snapshot:
    """All that is stored, read in two round trips."""

    def __init__(self, parts: Parts) -> None:
        names = [key.decode() for key in cast("list[bytes]", parts.redis.keys("u{*"))]
        commands: list[list[Argument]] = []
        for name in names:
            kind = name.split(":")[1]
            if kind in {"q", "index", "due", "expiry", "erased", "hinted", "watches"}:
                commands.append(["ZRANGE", name, 0, -1, "WITHSCORES"])
            elif kind in {"l", "state", "kept", "count"}:
                commands.append(["HGETALL", name])
            elif kind in {"log", "dead"}:
                commands.append(["XRANGE", name, "-", "+"])
            elif kind == "watch":
                commands.append(["LRANGE", name, 0, -1])
            else:
                commands.append(["GET", name])
        self._found = dict(zip(names, parts.client.commands(commands), strict=True))

    def scores(self, key: str) -> dict[bytes, float]:
        """A due-set: members and their due times."""
        return {member: float(score) for member, score in self.hash(key).items()}

    def texts(self, key: str) -> list[str]:
        """What is in a list."""
        return [one.decode() for one in cast("list[bytes]", self._found.get(key, []))]

    def sessions(self, shard: int) -> dict[str, bytes]:
        """The sessions of the account, as they are stored."""
        prefix = keys.session(shard, ACCOUNT, "")
        found = self._found.items()
        return {name.removeprefix(prefix): cast("bytes", one) for name, one in found if name.startswith(prefix)}

    def hash(self, key: str) -> dict[bytes, bytes]:
        """A hash's fields."""
        flat = cast("list[bytes]", self._found.get(key, []))
        return dict(zip(flat[::2], flat[1::2], strict=True))

    def lanes(self, shard: int, name: str) -> dict[bytes, tuple[int, list[bytes]]]:
        """What waits in each lane: attempts, and positions."""
        found = [key for key in self._found if key.startswith(f"u{{{shard}}}:l:{name}:")]
        return {lane: positions.split(value) for key in found for lane, value in self.hash(key).items()}

    def entries(self, key: str) -> list[tuple[bytes, list[bytes]]]:
        """A stream's entries, by position."""
        page = cast("list[tuple[bytes, list[bytes]]]", self._found.get(key, []))
        return [(positions.from_id(at), fields) for at, fields in page]

    def dead(self, shard: int, name: str) -> list[bytes]:
        """Positions of dead letters, the oldest first."""
        return [fields[fields.index(b"p") + 1] for _, fields in self.entries(keys.dead(shard, name))]

    def told(self, shard: int, name: str) -> bytes:
        """What was noted of accepted deliveries."""
        prefix = f"u{{{shard}}}:told:{name}:"
        return b"".join(cast("bytes", value) for key, value in self._found.items() if key.startswith(prefix))

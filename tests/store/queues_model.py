"""What queues are to be, whatever happens to them: a model of a few lanes that is driven beside the real scripts.

Time is counted in units of a lease. It passes by moving every due time, gate and hold of the store into the past, so
that nothing waits and nothing depends on how fast the machine is: within one unit all of an example happens.
"""

from __future__ import annotations

from typing import cast

import msgspec
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant

from bridge.domain.breaker import WELL, Health
from bridge.domain.deliveries import Lane
from bridge.domain.outcome import Verdict
from bridge.domain.policy import Limits
from bridge.store import keys, positions
from bridge.store.client import Argument
from tests.parts import Parts, subscription

UNIT_MS = 45_000
SHARDS = 2
LIMITS = Limits(backlog=8, dead=2, kept=6)
SUBS = ("sub_a", "sub_b")
TOKENS = (b"1" * 16, b"2" * 16)
SESSIONS = ("s1", "s2")  # of different shards
PHONES = ("18500000001", "18500000002")
TOO_MANY = 1_000

Place = tuple[str, int]
"""A subscription and a shard."""


class Line(msgspec.Struct):
    """A lane: the events that wait, the attempts of the first, and when it is due, in units."""

    waiting: list[bytes]
    due: int
    attempts: int = 0


class Queue(msgspec.Struct):
    """A subscription's queue in one shard. ``loose``: its place in the index may be earlier than need be."""

    lines: dict[bytes, Line] = {}
    hold: tuple[bytes, int] = (b"", 0)
    gate: int | None = None
    parked: bool = False
    loose: bool = False
    kept: set[bytes] = set()
    dead: list[bytes] = []
    over: int = 0
    buried: int = 0
    dropped: int = 0
    forgotten: int = 0
    most: int | None = None

    @property
    def waiting(self) -> list[bytes]:
        """All positions that wait."""
        return [place for line in self.lines.values() for place in line.waiting]

    def may_hold(self, token: bytes, now: int) -> bool:
        """Whether no other token holds it."""
        return self.hold[1] <= now or self.hold[0] == token

    def take_first(self, lane: bytes, now: int) -> None:
        """Its first event is done with."""
        line = self.lines[lane]
        self.kept.discard(line.waiting.pop(0))
        line.attempts, line.due = 0, now
        if not line.waiting:
            del self.lines[lane]


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
NAMES, TOKEN, AGAIN = st.sampled_from(SUBS), st.sampled_from(TOKENS), st.booleans()


class Checked(RuleBasedStateMachine):
    """The model's state, and what must be true of the store.

    ``parts`` is set by the test: SHARDS shards under LIMITS.
    """

    parts: Parts

    def __init__(self) -> None:
        super().__init__()
        self.parts.redis.flushall()
        for name in SUBS:
            self.parts.subscriptions.put(subscription(name))
        self.base_ms = self.parts.now_ms()
        self.now = 0
        self.queues: dict[Place, Queue] = {(name, shard): Queue() for name in SUBS for shard in range(SHARDS)}
        self.health: dict[Place, Health] = dict.fromkeys(self.queues, WELL)
        self.events: list[Event] = []
        self.logged: set[bytes] = set()
        self.in_hand: list[InHand] = []
        self.erased: set[bytes] = set()
        self.told: dict[tuple[str, bytes], bytes] = {}
        self.sequence = 0

    # limits

    def _room(self, queue: Queue) -> int:
        return LIMITS.backlog // SHARDS if queue.most is None else queue.most

    def _limit_dead(self, queue: Queue) -> None:
        over = max(0, len(queue.dead) - LIMITS.dead)
        queue.forgotten += over
        del queue.dead[:over]

    def _oldest(self, found: list[tuple[bytes, int]], most: int) -> dict[int, list[bytes]]:
        """What of (position, shard) is too much over all shards, by shard."""
        oldest: dict[int, list[bytes]] = {shard: [] for shard in range(SHARDS)}
        for position, shard in sorted(found)[: max(0, len(found) - most)]:
            oldest[shard].append(position)
        return oldest

    def _of(self, name: str) -> list[tuple[Place, Queue]]:
        return [(place, queue) for place, queue in self.queues.items() if place[0] == name]

    def _event(self, position: bytes) -> Event:
        return next(one for one in self.events if one.position == position)

    # what must be true of the store, whatever happened

    @invariant()
    def all_is_as_it_should_be(self) -> None:
        store = Snapshot(self.parts)
        erased = {place for shard in range(SHARDS) for place in store.scores(keys.erased(shard, "default"))}
        assert erased == self.erased, "what was erased is known as erased"
        for (name, shard), queue in self.queues.items():
            self._check_lanes(store, name, shard, queue)
            self._check_index(store, name, shard, queue)
            self._check_records(store, name, shard, queue)
        for name in SUBS:
            self._check_counts(store, name)
            self._check_nothing_is_absent(store, name)

    def _check_lanes(self, store: Snapshot, name: str, shard: int, queue: Queue) -> None:
        expected = {lane: (line.attempts, line.waiting) for lane, line in queue.lines.items()}
        assert store.lanes(shard, name) == expected, "what waits, in its order, with its attempts"
        due = store.scores(keys.queue(shard, name))
        units = {lane: self.now + int((at - self.base_ms) // UNIT_MS) for lane, at in due.items()}
        assert units.keys() == expected.keys(), "a lane is queued while something waits in it"
        for lane, line in queue.lines.items():
            assert units[lane] == line.due or max(units[lane], line.due) <= self.now, "a lane is due when it should"

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
        logged = {place for place, _ in store.entries(keys.log(shard, "default"))}
        assert set(queue.waiting) <= kept.keys() | logged, "what waits can be read"
        assert kept.keys() == queue.kept, "nothing is kept that nobody needs"

    def _check_counts(self, store: Snapshot, name: str) -> None:
        for (_, shard), queue in self._of(name):
            counted = store.hash(keys.counts(shard, name))
            expected = {b"w": len(queue.waiting), b"o": queue.over, b"k": queue.buried, b"d": queue.forgotten}
            assert {field: int(counted.get(field, 0)) for field in expected} == expected, "counts are what is there"
            assert store.dead(shard, name) == queue.dead, "each dead letter, the oldest first"
            state = store.hash(keys.state(shard, name))
            assert int(state.get(b"dropped", 0)) == queue.dropped, "what an operator drops is counted"
            packed = state.get(b"health")
            health = msgspec.msgpack.decode(packed, type=Health) if packed else WELL
            assert health == self.health[name, shard], "how its receiver is"

    def _check_nothing_is_absent(self, store: Snapshot, name: str) -> None:
        """By the store alone: what was committed waits, is dead, was accepted or erased, or was dropped and counted."""
        absent = counted = 0
        for shard in range(SHARDS):
            found = {place for _, places in store.lanes(shard, name).values() for place in places}
            found |= {*store.dead(shard, name), *store.scores(keys.erased(shard, "default"))}
            told = store.told(shard, name)
            for one in self.events:
                if one.shard == shard and name in one.to and one.position not in found:
                    absent += one.position[4:] not in told
            counted += int(store.hash(keys.state(shard, name)).get(b"dropped", 0))
            counted += int(store.hash(keys.counts(shard, name)).get(b"d", 0))
        assert absent <= counted, "nothing is absent"


class Snapshot:
    """All that is stored, read in two round trips."""

    def __init__(self, parts: Parts) -> None:
        names = [key.decode() for key in cast("list[bytes]", parts.redis.keys("u{*"))]
        commands: list[list[Argument]] = []
        for name in names:
            kind = name.split(":")[1]
            if kind in {"q", "index", "due", "expiry", "erased"}:
                commands.append(["ZRANGE", name, 0, -1, "WITHSCORES"])
            elif kind in {"l", "state", "kept", "count"}:
                commands.append(["HGETALL", name])
            elif kind in {"log", "dead"}:
                commands.append(["XRANGE", name, "-", "+"])
            else:
                commands.append(["GET", name])
        self._found = dict(zip(names, parts.client.commands(commands), strict=True))

    def scores(self, key: str) -> dict[bytes, float]:
        """A due-set: members and their due times."""
        return {member: float(score) for member, score in self.hash(key).items()}

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

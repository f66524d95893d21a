"""What queues promise, in plain Python: a subscription's lanes, their leases and the hold on them, by shard.

The contract of ``bridge.store.queues`` and of the scripts behind it. ``tests/store`` drives it beside them with the
same commands, so that neither drifts from the other; the simulation drives the rules over it for weeks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from bridge.domain import events
from bridge.domain.breaker import WELL, Health
from bridge.domain.deliveries import Lane, Part, Settlement
from bridge.domain.outcome import Verdict
from bridge.domain.policy import Limits
from bridge.domain.subscriptions import Deliver
from bridge.store.resending import Again, Resent
from tests.simulation.scripts import Scripts

LONGEST_LEASE_MS = 45_000

Place = tuple[str, int]
"""A subscription and a shard."""


class Line(msgspec.Struct):
    """A lane: the events that wait, the attempts of the first, and when it is due (Unix ms)."""

    waiting: list[bytes]
    due: int
    attempts: int = 0


class Letter(msgspec.Struct, frozen=True):
    """A dead letter: ``died`` tells its place among all of its subscription."""

    position: bytes
    record: bytes
    error: str
    died: tuple[int, int]


class Queue(msgspec.Struct):
    """A subscription's queue in one shard. ``loose``: its place in the index may be earlier than need be.

    ``told``, ``given_up`` and ``discarded`` are what was ever accepted, a dead letter, or dropped with a count.
    """

    lines: dict[bytes, Line] = {}
    holder: bytes = b""
    held_until: int = 0
    gate: int | None = None
    parked: bool = False
    health: Health = WELL
    loose: bool = False
    kept: dict[bytes, bytes] = {}
    dead: list[Letter] = []
    told: set[bytes] = set()
    given_up: set[bytes] = set()
    discarded: set[bytes] = set()
    over: int = 0
    buried: int = 0
    dropped: int = 0
    forgotten: int = 0
    most: int | None = None

    @property
    def waiting(self) -> list[bytes]:
        """All positions that wait."""
        return [place for line in self.lines.values() for place in line.waiting]

    @property
    def size(self) -> int:
        """How many wait."""
        return sum([len(line.waiting) for line in self.lines.values()])

    def may_hold(self, token: bytes, now: int) -> bool:
        """Whether no other token holds it."""
        return self.held_until <= now or self.holder == token

    def is_held(self, token: bytes, now: int) -> bool:
        """Whether this token does."""
        return self.held_until > now and self.holder == token

    def is_served(self, now: int) -> bool:
        """Whether lanes are given out."""
        return not self.parked and (self.gate is None or self.gate <= now)

    def due_at(self) -> int | None:
        """When somebody is to look at it; None where nobody need."""
        if self.parked or not self.lines:
            return None
        return max(min([line.due for line in self.lines.values()]), self.gate or 0)

    def due(self, now: int) -> list[bytes]:
        """The lanes that are due, the longest due first."""
        found = sorted([(line.due, lane) for lane, line in self.lines.items() if line.due <= now])
        return [lane for _, lane in found]

    def lease(self, lanes: Sequence[bytes], until: int) -> None:
        """Give lanes out."""
        for lane in lanes:
            self.lines[lane].due = until

    def take_first(self, lane: bytes, now: int) -> None:
        """Its first event is done with."""
        line = self.lines[lane]
        self.kept.pop(line.waiting.pop(0), None)
        line.attempts, line.due = 0, now
        if not line.waiting:
            del self.lines[lane]

    def take_out(self, chosen: Sequence[bytes], now: int) -> list[bytes]:
        """Take events out of their lanes. What waits behind a first one goes when its lease would have ended."""
        found = []
        for place in chosen:
            lane = next((lane for lane, line in self.lines.items() if place in line.waiting), None)
            self.kept.pop(place, None)
            if lane is None:
                continue
            line = self.lines[lane]
            if line.waiting[0] == place:
                line.attempts, line.due = 0, min(line.due, now + LONGEST_LEASE_MS)
            line.waiting.remove(place)
            found.append(place)
            if not line.waiting:
                del self.lines[lane]
            self.loose = bool(self.lines) and not self.parked
        return found


class _Note(msgspec.Struct, frozen=True):
    """What is noted of a receiver in a shard: before when nothing is sent; ``health`` None is as it was."""

    gate: int | None
    health: Health | None
    loose: bool = False


class QueueModel:
    """The queues of all subscriptions, by shard; under ``limits``."""

    def __init__(self, scripts: Scripts, shards: int, limits: Limits) -> None:
        self._scripts = scripts
        self._shards = shards
        self._limits = limits
        self._share = limits.share(shards)
        self._deaths = 0
        self.queues: dict[Place, Queue] = {}

    @property
    def now(self) -> int:
        return self._scripts.now_ms

    def at(self, name: str, shard: int) -> Queue:
        """A queue, an empty one where there is none yet."""
        found = self.queues.get((name, shard))
        if found is None:
            found = self.queues[name, shard] = Queue()
        return found

    def of(self, name: str) -> list[Queue]:
        """A subscription's, by shard."""
        return [self.at(name, shard) for shard in range(self._shards)]

    def room(self, queue: Queue) -> int:
        """How many events may wait in it."""
        return self._share.backlog if queue.most is None else queue.most

    def receive(self, queue: Queue, lane: bytes, position: bytes, record: bytes) -> None:
        """Let an event wait; it becomes a dead letter where it would be one too many. Part of a commit."""
        if queue.size >= self.room(queue):
            queue.over += 1
            self.die(queue, position, record, "too many events were waiting")
        elif lane in queue.lines:
            queue.lines[lane].waiting.append(position)
        else:
            queue.lines[lane] = Line([position], self.now)

    def limit_dead_of(self, queue: Queue) -> None:
        """Of too many dead letters in a shard the oldest go, counted."""
        self.drop_dead(queue, max(0, len(queue.dead) - self._limits.dead))

    def drop_dead(self, queue: Queue, count: int) -> int:
        """Drop so many of the oldest dead letters, counted."""
        queue.discarded.update([one.position for one in queue.dead[:count]])
        queue.forgotten += count
        del queue.dead[:count]
        return count

    def die(self, queue: Queue, position: bytes, record: bytes, error: str) -> None:
        """Add a dead letter. Part of other scripts."""
        self._deaths += 1
        queue.given_up.add(position)
        queue.dead.append(Letter(position, record, error, (self.now, self._deaths)))

    # what a slice does

    def claim(
        self, token: bytes, wanted: Sequence[tuple[str, int, int]], hold_ms: int
    ) -> tuple[int, list[list[bytes] | None]]:
        """Hold queues and lease their due lanes: as ``QueueStore.claim``."""
        claimed = [
            self._scripts.run("claim_lanes", self.claim_one, token, (name, shard), most, hold_ms)
            for name, shard, most in wanted
        ]
        return self.now, claimed

    def claim_one(
        self, token: bytes, place: Place, most: int, hold_ms: int, *, chosen: Sequence[bytes] | None = None
    ) -> list[bytes] | None:
        """One queue's part of it; of what is due ``chosen``, where the order is not this clock's."""
        queue = self.at(*place)
        if not queue.may_hold(token, self.now):
            return None
        queue.holder, queue.held_until = token, self.now + hold_ms
        if not queue.is_served(self.now):
            queue.loose = False
            return []
        if not most:
            return []
        # By a gate that is over its place in the index may be a little early.
        queue.loose = queue.gate is not None
        due = queue.due(self.now)[:most] if chosen is None else list(chosen)
        queue.lease(due, self.now + hold_ms)
        return due

    def peek(self, name: str, shard: int, lanes: Sequence[bytes]) -> list[Lane]:
        """Claimed lanes, without those that are gone."""
        lines = self.at(name, shard).lines
        return [
            Lane(shard, lane, "", line.waiting[0], line.attempts)
            for lane in lanes
            if (line := lines.get(lane)) is not None
        ]

    def settle(self, token: bytes, settled: Mapping[Place, Sequence[Settlement]]) -> dict[Place, int]:
        """Write outcomes down: as ``QueueStore.settle``."""
        return {
            place: self._scripts.run("settle_lanes", self.settle_one, token, place, group)
            for place, group in settled.items()
        }

    def settle_one(self, token: bytes, place: Place, group: Sequence[Settlement]) -> int:
        """One queue's part of it: how many applied, -1 where another token holds it."""
        queue, died = self.at(*place), False
        if not queue.is_held(token, self.now):
            return -1
        planned: set[bytes] = set()
        for one in sorted(group, key=lambda one: one.verdict is not Verdict.ACCEPTED):
            lane = one.lane.lane
            line = queue.lines.get(lane)
            if line is None or not self.is_first(line, one) or lane in planned:
                continue
            planned.add(lane)
            if one.verdict is None:
                line.due = one.due_ms
            elif one.verdict is Verdict.RETRY:
                line.attempts, line.due = one.attempts, one.due_ms
            else:
                if one.verdict is Verdict.DEAD:
                    self.die(queue, one.lane.position, one.record, one.error)
                    died = True
                else:
                    queue.told.add(one.lane.position)
                queue.take_first(lane, self.now)
        if died:
            self.limit_dead_of(queue)
        queue.loose = False
        return len(planned)

    def is_first(self, line: Line, one: Settlement) -> bool:
        """Whether an outcome is of the event that its lane begins with."""
        return line.waiting[0] == one.lane.position

    def release(self, token: bytes, held: Iterable[Place]) -> None:
        """Let go of queues that this token holds."""
        for place in held:
            self._scripts.run("release_hold", self._release, token, self.at(*place))

    def _release(self, token: bytes, queue: Queue) -> None:
        if queue.holder == token:
            queue.holder, queue.held_until = b"", 0

    def held(self, wanted: Sequence[Place]) -> list[bool]:
        """Whether some slice holds each queue."""
        return [self.at(*place).held_until > self.now for place in wanted]

    # how receivers are

    def health(self, parts: Sequence[Part]) -> list[Health]:
        """How each receiver has been."""
        return [self.at(part.subscription, part.home(self._shards)).health for part in parts]

    def note_health(self, token: bytes, part: Part, health: Health, *, held: bool = True) -> bool:
        """Note how a receiver is, and gate its queue: as ``QueueStore.note_health``."""
        home = part.home(self._shards)
        at_home = self.at(part.subscription, home)
        note = _Note(health.gate_ms or None, health, loose=health.hastening)
        if not self._scripts.run("gate_queue", self._gate, token, at_home, note, held):
            return False
        for shard in part.shards(self._shards):
            if shard != home:
                other = self.at(part.subscription, shard)
                self._scripts.run(
                    "gate_queue", self._gate, token, other, _Note(note.gate, None, loose=note.loose), False
                )
        return True

    def _gate(self, token: bytes, queue: Queue, note: _Note, held: bool) -> bool:
        if not (queue.is_held(token, self.now) if held else queue.may_hold(token, self.now)):
            return False
        queue.gate, queue.loose = note.gate, note.loose
        if note.health is not None:
            queue.health = note.health
        return True

    def forget_health(self, name: str, token: bytes) -> None:
        """Forget how a receiver was, in every shard that no other token holds."""
        for queue in self.of(name):
            self._scripts.run("gate_queue", self._gate, token, queue, _Note(None, WELL), False)

    def hasten(self, token: bytes, part: Part, limit: int) -> bool:
        """Make retries due now: as ``QueueStore.hasten``."""
        more = False
        for shard in part.shards(self._shards):
            queue = self.at(part.subscription, shard)
            more |= self._scripts.run("hasten_lanes", self._hasten, token, queue, limit) >= limit
        return more

    def _hasten(self, token: bytes, queue: Queue, limit: int) -> int:
        if not queue.may_hold(token, self.now):
            return -1
        queue.loose = False
        later = sorted([(line.due, lane) for lane, line in queue.lines.items() if line.due > self.now])[:limit]
        queue.lease([lane for _, lane in later], self.now)
        return len(later)

    # what operators do

    def park_shards(self, name: str, shards: Sequence[int]) -> None:
        """Serve nothing of it any more. Which shards' registries still say so, the caller knows."""
        for shard in shards:
            queue = self.at(name, shard)
            queue.parked, queue.gate, queue.loose, queue.health = True, None, False, WELL

    def start_anew(self, name: str, deliver: Deliver) -> int:
        """Let a parked queue's events start anew, or drop some of them. Returns how many were dropped."""
        return sum([self._scripts.run("release_lanes", self._start_anew, queue, deliver) for queue in self.of(name)])

    def _start_anew(self, queue: Queue, deliver: Deliver) -> int:
        dropped = 0
        for lane, line in list(queue.lines.items()) if queue.parked else ():
            waiting = line.waiting
            gone = {Deliver.ALL: [], Deliver.NONE: waiting, Deliver.LATEST: waiting[:-1]}[deliver]
            dropped += len(gone)
            queue.discarded.update(gone)
            for place in gone:
                queue.kept.pop(place, None)
            left = waiting[len(gone) :]
            queue.lines[lane] = Line(left, self.now)
            if not left:
                del queue.lines[lane]
        queue.dropped += dropped
        return dropped

    def unpark(self, name: str) -> None:
        """Serve it again."""
        for queue in self.of(name):
            self._scripts.run("unpark_queue", self._unpark, queue)

    def _unpark(self, queue: Queue) -> None:
        queue.parked, queue.gate, queue.loose, queue.health = False, None, False, WELL

    def resend(self, name: str, chosen: Sequence[Again]) -> Resent:
        """Put events again, each in a lane of its own: as ``ResendStore.put``."""
        found = {1: 0, 0: 0, -1: 0}
        for shard in {one.shard: None for one in chosen}:
            group = [one for one in chosen if one.shard == shard]
            for verdict in self._scripts.run("resend_events", self._resend, self.at(name, shard), group):
                found[verdict] += 1
        return Resent(found[1], found[0], found[-1])

    def _resend(self, queue: Queue, group: Sequence[Again]) -> list[int]:
        room, verdicts = self.room(queue) - queue.size, []
        for one in group:
            if one.position in queue.waiting:
                verdicts.append(0)
            elif room <= 0:
                verdicts.append(-1)
            else:
                room -= 1
                verdicts.append(1)
                queue.lines[events.resend_lane(one.position)] = Line([one.position], self.now)
                queue.kept[one.position] = one.record
                if one.letters:
                    queue.dead = [letter for letter in queue.dead if letter.position != one.position]
        return verdicts

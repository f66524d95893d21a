"""What may happen to queues: each step is done to the model and to the store, and both must answer alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule

from bridge.domain import events
from bridge.domain.breaker import AT_ONCE, WELL, Health
from bridge.domain.commits import CommitResult, Due, Write
from bridge.domain.deliveries import Lane, Part, Settlement
from bridge.domain.outcome import Verdict
from bridge.domain.subscriptions import Deliver
from bridge.store.erasure import Eraser, Tombstones
from bridge.store.resending import Again, Resent
from bridge.store.secrets import SecretBox
from tests.parts import OPEN, entry
from tests.store.queues_model import SHARDS, SUBS, UNIT_MS, Event, InHand, Line, Place, Queue
from tests.store.queues_upkeep import Upkeep

TOKENS = (b"1" * 16, b"2" * 16)
SESSIONS = ("s3", "s4")  # of different shards
PHONES = ("18500000001", "18500000002")
TOO_MANY = 1_000
VERDICTS = st.sampled_from([Verdict.ACCEPTED, Verdict.RETRY, Verdict.DEAD, Verdict.DEAD, None])
PARTS = st.sampled_from([Part(name, number, of) for name in SUBS for of in (1, 2) for number in range(of)])
NAMES, TOKEN, AGAIN = st.sampled_from(SUBS), st.sampled_from(TOKENS), st.booleans()


class Queues(Upkeep):
    """The machine."""

    # what the poller does

    @initialize(session=st.sampled_from(SESSIONS), phones=st.lists(st.sampled_from(PHONES), min_size=2, max_size=4))
    def begin(self, session: str, phones: list[str]) -> None:
        self.commit(session, phones, SUBS, again=False)

    @rule(
        session=st.sampled_from(SESSIONS),
        phones=st.lists(st.sampled_from(PHONES), min_size=1, max_size=4),
        to=st.sampled_from([SUBS, SUBS[:1], SUBS[1:]]),
        again=AGAIN,
    )
    def commit(self, session: str, phones: list[str], to: tuple[str, ...], again: bool) -> None:
        known = {one.position for one in self.parts.log.read("default")}
        shard, sessions = self.parts.shard(session), self.parts.sessions
        entries = [entry(session, phone, to=to, sequence=self.sequence + n) for n, phone in enumerate(phones)]
        self.sequence += len(phones)
        version = sessions.read("default", [session])[session].version
        write = Write(session, version, OPEN, Due.KEEP, None, entries)
        assert sessions.commit("default", [write])[session] is CommitResult.WRITTEN
        if again:
            assert sessions.commit("default", [write])[session] is not CommitResult.WRITTEN
        fresh = [one for one in self.parts.log.read("default") if one.position not in known]
        assert len(fresh) == len(phones)
        for one, phone in zip(fresh, phones, strict=True):
            event = Event(shard, one.position, one.record, events.lane_id(session, phone), phone, to)
            self.events.append(event)
            self.logged.add(one.position)
            for name in to:
                self._receive(self.queues[name, shard], event)
        for name in to:
            self._limit_dead(self.queues[name, shard])

    def _receive(self, queue: Queue, event: Event) -> None:
        if len(queue.waiting) >= self._room(queue):
            queue.over += 1
            queue.dead.append(event.position)
        elif event.lane in queue.lines:
            queue.lines[event.lane].waiting.append(event.position)
        else:
            queue.lines[event.lane] = Line([event.position], self.now)

    # what a slice does

    @rule(token=TOKEN, name=NAMES, most=st.integers(0, 4), units=st.integers(1, 2))
    def claim(self, token: bytes, name: str, most: int, units: int) -> None:
        for shard in range(SHARDS):
            for lane in self._claim(token, name, shard, most, units):
                self.in_hand.append(InHand(token, name, lane))

    @rule(
        token=TOKEN,
        name=NAMES,
        verdicts=st.lists(VERDICTS, min_size=1, max_size=4),
        meanwhile=st.sampled_from(["nothing", "parked", "gated"]),
        again=AGAIN,
    )
    def serve(self, token: bytes, name: str, verdicts: list[Verdict | None], meanwhile: str, again: bool) -> None:
        """All at once: claim and settle, whatever comes in between."""
        groups = {}
        for shard in range(SHARDS):
            lanes = self._claim(token, name, shard, len(verdicts), 1)
            if lanes:  # with more outcomes than lanes, the first of them has two
                pairs = zip(lanes + lanes[:1], verdicts, strict=False)
                groups[name, shard] = [self._settlement(*pair) for pair in pairs]
        if meanwhile == "parked":
            self.park(name, set(range(SHARDS)), is_late=False, again=False)
        elif meanwhile == "gated":
            self.note_health(token, Part(name), ("open", 2), held=True, again=False)
        self._settle(token, groups, again=again)

    @rule(token=TOKEN, name=NAMES, shard=st.integers(0, SHARDS - 1))
    def claim_and_lose_the_reply(self, token: bytes, name: str, shard: int) -> None:
        """The slice claims again, or is gone: what it does not know of is due when the lease ends."""
        self._claim(token, name, shard, 2, 1)

    def _claim(self, token: bytes, name: str, shard: int, most: int, units: int) -> list[Lane]:
        queue = self.queues[name, shard]
        _, (claimed,) = self.parts.queues.claim(token, [(name, shard, most)], units * UNIT_MS)
        if not queue.may_hold(token, self.now):
            assert claimed is None, "another one holds it"
            return []
        assert claimed is not None
        queue.hold = (token, self.now + units)
        is_gated = queue.gate is not None and queue.gate > self.now
        due = {lane for lane, line in queue.lines.items() if line.due <= self.now}
        if queue.parked or is_gated:
            due, queue.loose = set(), False
        assert set(claimed) <= due, "what is claimed must be due"
        assert len(claimed) == min(most, len(due)), "what is due must be claimed"
        # By a gate that is over it may be a little early.
        if most and not (queue.parked or is_gated):
            queue.loose = queue.gate is not None
        (lanes,) = self.parts.queues.peek([(name, shard, claimed)])
        for lane in lanes:
            line = queue.lines[lane.lane]
            assert (lane.position, lane.attempts) == (line.waiting[0], line.attempts), "a lane gives its first event"
            line.due = self.now + units
        return lanes

    @precondition(lambda self: self.in_hand)
    @rule(data=st.data(), verdicts=st.lists(VERDICTS, min_size=1, max_size=3), again=AGAIN, forgets=AGAIN)
    def settle(self, data: st.DataObject, verdicts: list[Verdict | None], again: bool, forgets: bool) -> None:
        first = data.draw(st.sampled_from(self.in_hand))
        mine = [one for one in self.in_hand if (one.token, one.name) == (first.token, first.name)]
        chosen = [first, *data.draw(st.lists(st.sampled_from([first, *mine]), max_size=len(verdicts) - 1))]
        groups: dict[Place, list[Settlement]] = {}
        for one, verdict in zip(chosen, verdicts, strict=False):
            groups.setdefault((one.name, one.lane.shard), []).append(self._settlement(one.lane, verdict))
            if forgets and one in self.in_hand:
                self.in_hand.remove(one)
        self._settle(first.token, groups, again=again)

    def _settle(self, token: bytes, groups: dict[Place, list[Settlement]], *, again: bool) -> None:
        for _ in range(1 + again):
            expected = {place: self._apply(token, place, group) for place, group in groups.items()}
            assert self.parts.queues.settle(token, groups) == expected, "how many outcomes apply"

    def _settlement(self, lane: Lane, verdict: Verdict | None) -> Settlement:
        due_ms = self.parts.now_ms() + (0 if verdict is None else 2 * UNIT_MS)
        return Settlement(lane, verdict, lane.attempts + 1, due_ms, self._event(lane.position).record, "error")

    def _apply(self, token: bytes, place: Place, group: Sequence[Settlement]) -> int:
        queue, applied, planned, died = self.queues[place], 0, set(), False
        if queue.hold[0] != token or queue.hold[1] <= self.now:
            return -1
        for one in sorted(group, key=lambda one: one.verdict is not Verdict.ACCEPTED):
            lane = one.lane.lane
            line = queue.lines.get(lane)
            if line is None or line.waiting[0] != one.lane.position or lane in planned:
                continue
            planned.add(lane)
            applied += 1
            if one.verdict is None:
                line.due = self.now
            elif one.verdict is Verdict.RETRY:
                line.attempts, line.due = one.attempts, self.now + 2
            else:
                self._finish(place[0], queue, one.lane)
                died |= one.verdict is Verdict.DEAD
                if one.verdict is Verdict.DEAD:
                    queue.dead.append(one.lane.position)
        if died:
            self._limit_dead(queue)
        queue.loose = False
        return applied

    def _finish(self, name: str, queue: Queue, lane: Lane) -> None:
        """Outcomes of a phone's own lane come in its order: what is sent again has a lane of its own."""
        if self._event(lane.position).lane == lane.lane:
            assert self.told.get((name, lane.lane), b"") < lane.position, "a phone's events are done with in order"
            self.told[name, lane.lane] = lane.position
        queue.take_first(lane.lane, self.now)

    @rule(token=TOKEN, name=NAMES, again=AGAIN)
    def release(self, token: bytes, name: str, again: bool) -> None:
        for _ in range(1 + again):
            self.parts.queues.release(token, [(name, shard) for shard in range(SHARDS)])
        for shard in range(SHARDS):
            queue = self.queues[name, shard]
            if queue.hold[0] == token:
                queue.hold = (b"", 0)

    @rule(
        token=TOKEN,
        part=PARTS,
        how=st.tuples(st.sampled_from(["open", "quiet", "well", "at once", "failing"]), st.integers(1, 3)),
        held=st.booleans(),
        again=AGAIN,
    )
    def note_health(self, token: bytes, part: Part, how: tuple[str, int], held: bool, again: bool) -> None:
        """A breaker that opens, a probe that failed, a receiver that asked for quiet, one that is back."""
        kind, units = how
        gate_ms = self.parts.now_ms() + units * UNIT_MS
        health = {
            "open": Health(10, 1, 1, gate_ms),
            "quiet": Health(1, quiet_ms=gate_ms),
            "well": WELL,
            "at once": AT_ONCE,
            "failing": Health(3),
        }[kind]
        place = (part.subscription, part.home(SHARDS))
        home = self.queues[place]
        is_ours = home.hold == (token, home.hold[1]) and home.hold[1] > self.now
        may = is_ours or (not held and home.hold[1] <= self.now)
        for _ in range(1 + again):
            assert self.parts.queues.note_health(token, part, health, held=held) is may
        if may:
            self.health[place] = health
            self._gate(token, part, units if health.gate_ms else None, loose=health.hastening)

    def _gate(self, token: bytes, part: Part, units: int | None, *, loose: bool = False) -> list[Place]:
        """Where no other holds a shard, it is gated for so long; None: not at all."""
        found = [(part.subscription, shard) for shard in part.shards(SHARDS)]
        mine = [place for place in found if self.queues[place].may_hold(token, self.now)]
        for place in mine:
            self.queues[place].gate = None if units is None else self.now + units
            self.queues[place].loose = loose
        return mine

    @rule(token=TOKEN, name=NAMES, again=AGAIN)
    def forget_health(self, token: bytes, name: str, again: bool) -> None:
        """Its parts are cut anew."""
        for _ in range(1 + again):
            self.parts.queues.forget_health(name, token)
        for place in self._gate(token, Part(name), None):
            self.health[place] = WELL

    @rule(token=TOKEN, part=PARTS, again=AGAIN)
    def hasten(self, token: bytes, part: Part, again: bool) -> None:
        """What no slice does with lanes in hand; of another one's the leases may still run."""
        name, shards = part.subscription, part.shards(SHARDS)
        self.in_hand = [one for one in self.in_hand if one.name != name or one.lane.shard not in shards]
        for _ in range(1 + again):
            assert not self.parts.queues.hasten(token, part, TOO_MANY)
        for shard in shards:
            queue = self.queues[name, shard]
            if queue.may_hold(token, self.now):
                queue.loose = False
                for line in queue.lines.values():
                    line.due = min(line.due, self.now)

    # what operators do

    @rule(name=NAMES, shards=st.sets(st.integers(0, SHARDS - 1), min_size=1), is_late=AGAIN, again=AGAIN)
    def park(self, name: str, shards: set[int], is_late: bool, again: bool) -> None:
        """Some shards alone: whoever does it may be stopped. Late: it was resumed since, and nothing is done."""
        versions = self.parts.subscriptions.load().versions
        for _ in range(1 + again):
            self.parts.queues.park(name, {shard: b"another" if is_late else versions[shard] for shard in shards})
        for shard in () if is_late else shards:
            queue = self.queues[name, shard]
            queue.parked, queue.gate, queue.loose = True, None, False
            self.health[name, shard] = WELL

    @rule(name=NAMES, deliver=st.sampled_from(Deliver), again=AGAIN)
    def start_anew(self, name: str, deliver: Deliver, again: bool) -> None:
        """The first half of resuming; parked queues alone are touched."""
        dropped = 0
        for shard in range(SHARDS):
            queue = self.queues[name, shard]
            for lane, line in list(queue.lines.items()) if queue.parked else ():
                gone = {Deliver.ALL: [], Deliver.NONE: line.waiting, Deliver.LATEST: line.waiting[:-1]}[deliver]
                queue.dropped += len(gone)
                dropped += len(gone)
                queue.kept.difference_update(gone)
                left = line.waiting[len(gone) :]
                queue.lines[lane] = Line(left, self.now)
                if not left:
                    del queue.lines[lane]
        assert self.parts.queues.start_anew(name, deliver) == dropped
        if again:
            assert self.parts.queues.start_anew(name, deliver) == 0

    @rule(name=NAMES, again=AGAIN)
    def unpark(self, name: str, again: bool) -> None:
        """The second half of it."""
        for _ in range(1 + again):
            self.parts.queues.unpark(name)
        for shard in range(SHARDS):
            self.health[name, shard] = WELL
            queue = self.queues[name, shard]
            queue.parked, queue.gate, queue.loose = False, None, False

    @rule(name=NAMES, deliver=st.sampled_from(Deliver))
    def pause_and_resume(self, name: str, deliver: Deliver) -> None:
        """As the commands do, one after the other."""
        self.park(name, set(range(SHARDS)), is_late=False, again=False)
        self.start_anew(name, deliver, again=False)
        self.unpark(name, again=False)

    @precondition(lambda self: self.events)
    @rule(data=st.data(), name=NAMES, from_letters=st.booleans(), again=AGAIN)
    def resend(self, data: st.DataObject, name: str, from_letters: bool, again: bool) -> None:
        chosen = self._to_resend(data, name, from_letters)
        expected = Resent(*(len(group) for group in self._put(name, chosen)))
        assert self.parts.resending.put(name, chosen) == expected
        if again:
            left = [one for one in chosen if one.position not in self.queues[name, one.shard].waiting]
            assert self.parts.resending.put(name, chosen) == Resent(0, len(chosen) - len(left), len(left))

    def _to_resend(self, data: st.DataObject, name: str, from_letters: bool) -> list[Again]:
        if from_letters:
            letters = list(self.parts.queues.dead_letters(name))
            picked = data.draw(st.lists(st.sampled_from(letters), max_size=3)) if letters else []
            ids: dict[tuple[int, bytes], list[str]] = {(one.shard, one.position): [] for one in letters}
            for one in letters:
                ids[one.shard, one.position].append(one.id)
            return [Again(one.shard, one.position, one.record, tuple(ids[one.shard, one.position])) for one in picked]
        events_ = [one for one in self.events if one.position in self.logged]
        chosen = data.draw(st.lists(st.sampled_from(events_), max_size=3)) if events_ else []
        return [Again(one.shard, one.position, one.record) for one in chosen]

    def _put(self, name: str, chosen: list[Again]) -> Iterator[list[Again]]:
        found: list[list[Again]] = [[], [], []]
        rooms = {shard: self._room(queue) - len(queue.waiting) for (_, shard), queue in self._of(name)}
        for one in chosen:
            queue = self.queues[name, one.shard]
            if one.position in queue.waiting:
                found[1].append(one)
            elif rooms[one.shard] <= 0:
                found[2].append(one)
            else:
                rooms[one.shard] -= 1
                found[0].append(one)
                queue.lines[events.resend_lane(one.position)] = Line([one.position], self.now)
                queue.kept.add(one.position)
                if one.letters:
                    queue.dead = [place for place in queue.dead if place != one.position]
        yield from found

    @rule(phone=st.sampled_from(PHONES), again=AGAIN)
    def erase(self, phone: str, again: bool) -> None:
        for _ in range(1 + again):
            eraser = Eraser(self.parts.client, SHARDS, keep_settled_ms=UNIT_MS, tell=lambda _count: None, dry=False)
            tombstones = Tombstones(self.parts.client, SecretBox([bytes(32)]))
            eraser.erase(phone, ["default"], tombstones, self.parts.now_ms())
        gone = {one.position for one in self.events if one.phone == phone}
        self.erased |= gone & self.logged
        self.logged -= gone
        for queue in self.queues.values():
            self.erased |= gone & {*queue.kept, *queue.dead}
            queue.dead = [place for place in queue.dead if place not in gone]
            self._take_out(queue, [place for place in queue.waiting if place in gone])

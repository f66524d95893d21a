"""What may happen to queues: each step is done to the model and to the store, and both must answer alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec
from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule

from bridge.domain.breaker import AT_ONCE, WELL, Health
from bridge.domain.commits import CommitResult, Due, Write
from bridge.domain.deliveries import Lane, Part, Settlement
from bridge.domain.outcome import Verdict
from bridge.domain.subscriptions import Deliver
from bridge.store.erasure import Eraser, Tombstones
from bridge.store.resending import Again
from bridge.store.secrets import SecretBox
from tests.parts import OPEN, entry
from tests.simulation.queues import Line, Place
from tests.store.queues_model import ACCOUNT, PLACE, SHARDS, SUBS, UNIT_MS, InHand, picked
from tests.store.queues_upkeep import Upkeep

TOKENS = (b"1" * 16, b"2" * 16)
SESSIONS = ("s3", "s4")  # of different shards
PHONES = ("18500000001", "18500000002")
TOO_MANY = 1_000
VERDICTS = st.sampled_from([Verdict.ACCEPTED, Verdict.RETRY, Verdict.DEAD, Verdict.DEAD, None])
PARTS = st.sampled_from([Part(name, number, of) for name in SUBS for of in (1, 2) for number in range(of)])
NAMES, TOKEN, AGAIN = st.sampled_from(SUBS), st.sampled_from(TOKENS), st.booleans()

HOW: Mapping[str, Callable[[int, int], Health]] = {
    "well": lambda _gate_ms, _now_ms: WELL,
    "failing": lambda _gate_ms, _now_ms: Health(3),
    "open": lambda gate_ms, now_ms: Health(10, now_ms, 1, gate_ms),
    "quiet": lambda gate_ms, _now_ms: Health(1, quiet_ms=gate_ms),
    "at once": lambda _gate_ms, _now_ms: AT_ONCE,
    "at once, but quiet": lambda gate_ms, _now_ms: Health(hastening=True, quiet_ms=gate_ms),
}
"""How a receiver may be, by until when nothing is to be sent and what time it is."""

Both = tuple[Settlement, Settlement]
"""An outcome by the store's clock, and by the model's."""


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
        entries = [entry(session, phone, to=to, sequence=self.sequence + n) for n, phone in enumerate(phones)]
        self.sequence += len(phones)
        version = self.parts.sessions.read(ACCOUNT, [session])[session].version
        write = Write(session, version, OPEN, Due.KEEP, None, entries)
        twin = msgspec.structs.replace(write, version=self.sessions.read(ACCOUNT, [session])[session].version)
        before = len(self.events)
        assert self.commit_both({session: (write, twin)})[session] is CommitResult.WRITTEN
        if again:
            assert self.commit_both({session: (write, twin)})[session] is not CommitResult.WRITTEN
        assert len(self.events) - before == len(phones)

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
        queue = self.queues.at(name, shard)
        _, (claimed,) = self.parts.queues.claim(token, [(name, shard, most)], units * UNIT_MS)
        # Which of those that are due first: the store's clock tells them apart, the model's may not.
        chosen = claimed or []
        due = queue.due(self.now) if queue.is_served(self.now) else []
        if claimed is not None:
            assert set(chosen) <= set(due), "what is claimed must be due"
            assert len(chosen) == min(most, len(due)), "what is due must be claimed"
        expected = self.queues.claim_one(token, (name, shard), most, units * UNIT_MS, chosen=chosen)
        assert claimed == expected, "another one holds it"
        (lanes,) = self.parts.queues.peek([(name, shard, chosen)])
        known = [(one.lane, one.position, one.attempts) for one in self.queues.peek(name, shard, chosen)]
        assert [(one.lane, one.position, one.attempts) for one in lanes] == known, "a lane gives its first event"
        return lanes

    @rule(
        places=st.tuples(PLACE, PLACE, PLACE),
        verdicts=st.lists(VERDICTS, min_size=1, max_size=3),
        again=AGAIN,
        forgets=AGAIN,
    )
    def settle(self, places: tuple[int, int, int], verdicts: list[Verdict | None], again: bool, forgets: bool) -> None:
        if not self.in_hand:
            return
        (first,) = picked(self.in_hand, places[:1])
        mine = [one for one in self.in_hand if (one.token, one.name) == (first.token, first.name)]
        chosen = [first, *picked(mine, places[1:])]
        groups: dict[Place, list[Both]] = {}
        for one, verdict in zip(chosen, verdicts, strict=False):
            groups.setdefault((one.name, one.lane.shard), []).append(self._settlement(one.lane, verdict))
            if forgets and one in self.in_hand:
                self.in_hand.remove(one)
        self._settle(first.token, groups, again=again)

    def _settle(self, token: bytes, groups: Mapping[Place, Sequence[Both]], *, again: bool) -> None:
        stored = {place: [one for one, _ in group] for place, group in groups.items()}
        twins = {place: [one for _, one in group] for place, group in groups.items()}
        for _ in range(1 + again):
            firsts = {(*place, lane): line.waiting[0] for place in groups for lane, line in self._lines(place)}
            expected = self.queues.settle(token, twins)
            self._finish(firsts)
            assert self.parts.queues.settle(token, stored) == expected, "how many outcomes apply"

    def _lines(self, place: Place) -> list[tuple[bytes, Line]]:
        return list(self.queues.at(*place).lines.items())

    def _settlement(self, lane: Lane, verdict: Verdict | None) -> Both:
        ahead_ms = 0 if verdict is None else 2 * UNIT_MS
        record = self._event(lane.shard, lane.position).record
        one = Settlement(lane, verdict, lane.attempts + 1, self.parts.now_ms() + ahead_ms, record, "error")
        return one, msgspec.structs.replace(one, due_ms=self.now + ahead_ms)

    def _finish(self, firsts: Mapping[tuple[str, int, bytes], bytes]) -> None:
        """Outcomes of a phone's own lane come in its order: what is sent again has a lane of its own."""
        for (name, shard, lane), position in firsts.items():
            line = self.queues.at(name, shard).lines.get(lane)
            if (line is None or line.waiting[0] != position) and self._event(shard, position).lane == lane:
                assert self.told.get((name, lane), b"") < position, "a phone's events are done with in order"
                self.told[name, lane] = position

    @rule(token=TOKEN, name=NAMES, again=AGAIN)
    def release(self, token: bytes, name: str, again: bool) -> None:
        held = [(name, shard) for shard in range(SHARDS)]
        for _ in range(1 + again):
            self.parts.queues.release(token, held)
            self.queues.release(token, held)
        assert self.parts.queues.held(held) == self.queues.held(held), "who holds it"

    @rule(
        token=TOKEN,
        part=PARTS,
        how=st.tuples(st.sampled_from(list(HOW)), st.integers(1, 3)),
        held=st.booleans(),
        again=AGAIN,
    )
    def note_health(self, token: bytes, part: Part, how: tuple[str, int], held: bool, again: bool) -> None:
        """A breaker that opens, a probe that failed, a receiver that asked for quiet, one that is back."""
        kind, units = how
        stored = HOW[kind](self.parts.now_ms() + units * UNIT_MS, self.parts.now_ms())
        twin = HOW[kind](self.now + units * UNIT_MS, self.now)
        for _ in range(1 + again):
            may = self.queues.note_health(token, part, twin, held=held)
            assert self.parts.queues.note_health(token, part, stored, held=held) is may

    @rule(token=TOKEN, name=NAMES, again=AGAIN)
    def forget_health(self, token: bytes, name: str, again: bool) -> None:
        """Its parts are cut anew."""
        for _ in range(1 + again):
            self.parts.queues.forget_health(name, token)
            self.queues.forget_health(name, token)

    @rule(token=TOKEN, part=PARTS, again=AGAIN)
    def hasten(self, token: bytes, part: Part, again: bool) -> None:
        """What no slice does with lanes in hand; of another one's the leases may still run."""
        name, shards = part.subscription, part.shards(SHARDS)
        self.in_hand = [one for one in self.in_hand if one.name != name or one.lane.shard not in shards]
        for _ in range(1 + again):
            assert not self.parts.queues.hasten(token, part, TOO_MANY)
            assert not self.queues.hasten(token, part, TOO_MANY)

    # what operators do

    @rule(name=NAMES, shards=st.sets(st.integers(0, SHARDS - 1), min_size=1), is_late=AGAIN, again=AGAIN)
    def park(self, name: str, shards: set[int], is_late: bool, again: bool) -> None:
        """Some shards alone: whoever does it may be stopped. Late: it was resumed since, and nothing is done."""
        versions = self.parts.subscriptions.load().versions
        for _ in range(1 + again):
            self.parts.queues.park(name, {shard: b"another" if is_late else versions[shard] for shard in shards})
            self.queues.park_shards(name, () if is_late else sorted(shards))

    @rule(name=NAMES, deliver=st.sampled_from(Deliver), again=AGAIN)
    def start_anew(self, name: str, deliver: Deliver, again: bool) -> None:
        """The first half of resuming; parked queues alone are touched."""
        for _ in range(1 + again):
            assert self.parts.queues.start_anew(name, deliver) == self.queues.start_anew(name, deliver)

    @rule(name=NAMES, again=AGAIN)
    def unpark(self, name: str, again: bool) -> None:
        """The second half of it."""
        for _ in range(1 + again):
            self.parts.queues.unpark(name)
            self.queues.unpark(name)

    @rule(name=NAMES, deliver=st.sampled_from(Deliver))
    def pause_and_resume(self, name: str, deliver: Deliver) -> None:
        """As the commands do, one after the other."""
        self.park(name, set(range(SHARDS)), is_late=False, again=False)
        self.start_anew(name, deliver, again=False)
        self.unpark(name, again=False)

    @rule(places=st.lists(PLACE, max_size=3), name=NAMES, from_letters=st.booleans(), again=AGAIN)
    def resend(self, places: list[int], name: str, from_letters: bool, again: bool) -> None:
        chosen = self._to_resend(places, name, from_letters)
        for _ in range(1 + again):
            assert self.parts.resending.put(name, chosen) == self.queues.resend(name, chosen)

    def _to_resend(self, places: list[int], name: str, from_letters: bool) -> list[Again]:
        if from_letters:
            letters = list(self.parts.queues.dead_letters(name))
            ids: dict[tuple[int, bytes], list[str]] = {(one.shard, one.position): [] for one in letters}
            for one in letters:
                ids[one.shard, one.position].append(one.id)
            return [
                Again(one.shard, one.position, one.record, tuple(ids[one.shard, one.position]))
                for one in picked(letters, places)
            ]
        logged = self._logged()
        events_ = [one for one in self.events if one.position in logged]
        return [Again(one.shard, one.position, one.record) for one in picked(events_, places)]

    @rule(phone=st.sampled_from(PHONES), again=AGAIN)
    def erase(self, phone: str, again: bool) -> None:
        for _ in range(1 + again):
            eraser = Eraser(self.parts.client, SHARDS, keep_settled_ms=UNIT_MS, tell=lambda _count: None, dry=False)
            tombstones = Tombstones(self.parts.client, SecretBox([bytes(32)]))
            eraser.erase(phone, [ACCOUNT], tombstones, self.parts.now_ms())
            self.upkeep.erase(phone, ACCOUNT, SUBS)

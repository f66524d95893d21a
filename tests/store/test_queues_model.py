"""Whatever happens to a queue, in any order: no lane's order breaks, nothing is lost, nothing is invented.

A model of a few lines is driven beside the real scripts; after every step all that is stored must be the model's.
"""

from __future__ import annotations

import msgspec
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from bridge.domain import events
from bridge.domain.deliveries import Lane, Settlement
from bridge.domain.outcome import Verdict
from bridge.store import keys
from tests.parts import Parts, entry

SUBS = ("sub_a", "sub_b")
TOKENS = (b"1" * 16, b"2" * 16)
SESSION = "s1"
PHONES = tuple(f"1850000000{number}" for number in range(3))
LANES = {phone: events.lane_id(SESSION, phone) for phone in PHONES}


class Line(msgspec.Struct):
    """A lane, as it should be: the events that wait, the attempts of the first, and whether it may be claimed."""

    waiting: list[bytes] = []
    attempts: int = 0
    due: bool = True

    def drop_first(self) -> None:
        del self.waiting[0]
        self.attempts, self.due = 0, True


class Queues(RuleBasedStateMachine):
    """The machine; ``parts`` is set by the test, as the store is its fixture's."""

    parts: Parts

    def __init__(self) -> None:
        super().__init__()
        self.parts.redis.flushall()
        self.shard = self.parts.shard(SESSION)
        self.lines = {(name, lane): Line([]) for name in SUBS for lane in LANES.values()}
        self.holder: dict[str, bytes] = {}
        self.in_hand: list[tuple[bytes, str, Lane]] = []
        self.sequence = 0
        self.told: list[tuple[str, bytes]] = []
        self.recorded: list[tuple[str, bytes]] = []

    @rule(phones=st.lists(st.sampled_from(PHONES), min_size=1, max_size=4), names=st.sampled_from([SUBS, SUBS[:1]]))
    def commit(self, phones: list[str], names: tuple[str, ...]) -> None:
        before = {logged.position for logged in self.parts.log.read("default")}
        self.sequence += len(phones)
        self.parts.write(SESSION, *(entry(SESSION, phone, to=names, sequence=self.sequence) for phone in phones))
        fresh = [logged.position for logged in self.parts.log.read("default") if logged.position not in before]
        for phone, position in zip(phones, fresh, strict=True):
            for name in names:
                line = self.lines[name, LANES[phone]]
                if not line.waiting:
                    line.attempts, line.due = 0, True
                line.waiting.append(position)
                self.recorded.append((name, position))

    @rule(token=st.sampled_from(TOKENS), name=st.sampled_from(SUBS), most=st.integers(0, 4))
    def claim(self, token: bytes, name: str, most: int) -> None:
        claimed = self.parts.claim(token, SESSION, to=name, most=most)
        if self.holder.setdefault(name, token) != token:
            assert claimed is None
            return
        due = {lane for lane in LANES.values() if self._line(name, lane).waiting and self._line(name, lane).due}
        assert claimed is not None
        assert len(claimed) == min(most, len(due))
        assert set(claimed) <= due
        for read in self.parts.queues.peek([(name, self.shard, claimed)])[0]:
            line = self._line(name, read.lane)
            assert (read.position, read.attempts) == (line.waiting[0], line.attempts)
            line.due = False
            self.in_hand.append((token, name, read))

    @precondition(lambda self: self.in_hand)
    @rule(data=st.data(), verdict=st.sampled_from([*Verdict, None]), again=st.booleans())
    def settle(self, data: st.DataObject, verdict: Verdict | None, again: bool) -> None:
        token, name, lane = data.draw(st.sampled_from(self.in_hand))
        if not again:
            self.in_hand.remove((token, name, lane))
        later_ms = 1 if verdict is None else self.parts.now_ms() + 3_600_000
        one = Settlement(lane, verdict, lane.attempts + 1, later_ms, b"record", "error")
        applied = self.parts.queues.settle(token, {(name, self.shard): [one]})[name, self.shard]
        if self.holder.get(name) != token:
            assert applied == -1
            return
        line = self._line(name, lane.lane)
        fits = line.waiting[:1] == [lane.position]
        assert applied == fits
        if not fits:
            return
        if verdict is None:
            line.due = True
        elif verdict is Verdict.RETRY:
            line.attempts, line.due = lane.attempts + 1, False
        else:
            self.told.append((name, lane.position))
            line.drop_first()

    @rule(token=st.sampled_from(TOKENS), name=st.sampled_from(SUBS))
    def release(self, token: bytes, name: str) -> None:
        self.parts.queues.release(token, [(name, self.shard)])
        if self.holder.get(name) == token:
            del self.holder[name]

    @rule(name=st.sampled_from(SUBS))
    def a_hold_ends(self, name: str) -> None:
        self.parts.redis.delete(keys.hold(self.shard, name))
        self.holder.pop(name, None)

    @rule()
    def hours_pass(self) -> None:
        """Leases end, retries come due."""
        self.parts.make_due()
        for line in self.lines.values():
            line.due = True

    @rule(all_of_them=st.booleans())
    def trim(self, all_of_them: bool) -> None:
        self.parts.log.trim("default", SUBS, self.parts.now_ms() + 3_600_000 if all_of_them else 1)

    @invariant()
    def what_is_stored_is_the_models(self) -> None:
        self.parts.assert_index_is_right()
        for name in SUBS:
            expected = {
                lane: (self._line(name, lane).attempts, self._line(name, lane).waiting)
                for lane in LANES.values()
                if self._line(name, lane).waiting
            }
            assert self.parts.lanes(self.shard, name) == expected

    @invariant()
    def every_record_that_is_still_needed_can_be_read(self) -> None:
        for name in SUBS:
            needed = [place for lane in LANES.values() for place in self._line(name, lane).waiting]
            logged = self.parts.log.fetch("default", {self.shard: needed})
            kept = self.parts.queues.kept(name, {self.shard: needed})
            assert {position for _, position in logged.keys() | kept.keys()} == set(needed)

    def teardown(self) -> None:
        """Every event became exactly one thing for each subscription, and a lane's in order."""
        left = [(name, place) for (name, _), line in self.lines.items() for place in line.waiting]
        assert sorted(self.told + left) == sorted(self.recorded)

    def _line(self, name: str, lane: bytes) -> Line:
        return self.lines[name, lane]


def test_no_order_breaks_nothing_is_lost_and_nothing_invented(parts: Parts) -> None:
    machine = type("BoundQueues", (Queues,), {"parts": parts})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=40, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )

"""What ``bridge.trim`` does to queues, and what time does: steps of the model."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import strategies as st
from hypothesis.stateful import rule

from bridge.domain.policy import allowances
from bridge.store import positions
from tests.parts import older
from tests.store.queues_model import LIMITS, SHARDS, SUBS, UNIT_MS, Checked, Queue

NAMES, AGAIN = st.sampled_from(SUBS), st.booleans()


class Upkeep(Checked):
    """Steps that nobody asked for."""

    # what bridge.trim does

    @rule(data=st.data(), name=NAMES, shard=st.integers(0, SHARDS - 1), again=AGAIN)
    def bury(self, data: st.DataObject, name: str, shard: int, again: bool) -> None:
        queue = self.queues[name, shard]
        waiting = queue.waiting
        held_up = [one.waiting[0] for one in queue.lines.values() if len(one.waiting) > 1 and one.due > self.now + 1]
        chosen = sorted(data.draw(st.sets(st.sampled_from(held_up or waiting), max_size=3))) if waiting else []
        records = {place: self._event(place).record for place in chosen}
        assert self.parts.queues.take_out(name, shard, records, dry=True) == len(chosen)
        assert self.parts.queues.bury(name, shard, records, "why") == len(chosen)
        if again:
            assert self.parts.queues.bury(name, shard, records, "why") == 0
        self._bury(queue, chosen)

    def _bury(self, queue: Queue, chosen: Sequence[bytes]) -> None:
        self._take_out(queue, chosen)
        queue.dead += chosen
        queue.buried += len(chosen)
        self._limit_dead(queue)

    def _take_out(self, queue: Queue, chosen: Sequence[bytes]) -> None:
        """What waits behind a first one that was taken out goes when its lease would have ended, at the latest."""
        for place in chosen:
            lane, line = next((lane, line) for lane, line in queue.lines.items() if place in line.waiting)
            if line.waiting[0] == place:
                line.attempts, line.due = 0, min(line.due, self.now + 1)
            line.waiting.remove(place)
            queue.kept.discard(place)
            if not line.waiting:
                del queue.lines[lane]
            queue.loose = bool(queue.lines) and not queue.parked

    @rule(all_of_them=st.booleans())
    def trim(self, all_of_them: bool) -> None:
        self.parts.log.trim("default", SUBS, self.parts.now_ms() + UNIT_MS if all_of_them else 1)
        if all_of_them:
            for queue in self.queues.values():
                queue.kept.update(place for place in queue.waiting if place in self.logged)
            self.logged.clear()

    @rule()
    def limit_kept(self) -> None:
        expected = 0
        for name in SUBS:
            kept = [(position, shard) for (_, shard), queue in self._of(name) for position in queue.kept]
            for shard, gone in self._oldest(kept, LIMITS.kept).items():
                self._bury(self.queues[name, shard], gone)
                expected += len(gone)
        assert self.parts.limits.limit_kept(SUBS) == expected

    @rule(again=AGAIN)
    def limit_dead(self, again: bool) -> None:
        expected = 0
        for name in SUBS:
            letters = [(positions.from_id(one.id.encode()), one.shard) for one in self.parts.queues.dead_letters(name)]
            for shard, gone in self._oldest(letters, LIMITS.dead).items():
                queue = self.queues[name, shard]
                del queue.dead[: len(gone)]
                queue.forgotten += len(gone)
                expected += len(gone)
        assert self.parts.limits.limit_dead(SUBS) == expected
        if again:
            assert self.parts.limits.limit_dead(SUBS) == 0

    @rule(again=AGAIN)
    def share_backlog(self, again: bool) -> None:
        for name in SUBS:
            mine = [queue for _, queue in self._of(name)]
            waiting = [len(queue.waiting) for queue in mine]
            is_near = 2 * max(waiting) > LIMITS.backlog // SHARDS
            shares = allowances(LIMITS.backlog, waiting) if is_near else [None] * SHARDS
            for queue, most in zip(mine, shares, strict=True):
                queue.most = most
        for _ in range(1 + again):
            self.parts.limits.share_backlog(SUBS)

    # time

    @rule(units=st.integers(1, 3))
    def time_passes(self, units: int) -> None:
        """Holds and leases end, retries and gates come due."""
        self.now += units
        self.parts.pass_ms(units * UNIT_MS)
        for place, health in self.health.items():
            self.health[place] = older(health, units * UNIT_MS)

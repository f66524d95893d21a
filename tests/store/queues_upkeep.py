"""What ``bridge.trim`` does to queues, and what time does: steps of the model."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import rule

from bridge.store import positions
from tests.store.queues_model import ACCOUNT, LIMITS, PLACE, SHARDS, SUBS, UNIT_MS, Checked, picked

NAMES, AGAIN = st.sampled_from(SUBS), st.booleans()


class Upkeep(Checked):
    """Steps that nobody asked for."""

    # what bridge.trim does

    @rule(places=st.lists(PLACE, max_size=3), name=NAMES, shard=st.integers(0, SHARDS - 1), again=AGAIN)
    def bury(self, places: list[int], name: str, shard: int, again: bool) -> None:
        queue = self.queues.at(name, shard)
        waiting, lines = queue.waiting, queue.lines.values()
        held_up = [one.waiting[0] for one in lines if len(one.waiting) > 1 and one.due > self.now + UNIT_MS]
        chosen = sorted(set(picked(held_up or waiting, places)))
        records = {place: self._event(shard, place).record for place in chosen}
        assert self.parts.queues.take_out(name, shard, records, dry=True) == len(chosen)
        for _ in range(1 + again):
            assert self.parts.queues.bury(name, shard, records, "why") == self.upkeep.bury(queue, records, "why")

    @rule(all_of_them=st.booleans())
    def trim(self, all_of_them: bool) -> None:
        """All of them, or none: by either clock there is nothing in between."""
        after_all = self.parts.now_ms() + UNIT_MS if all_of_them else 1
        dropped, _ = self.parts.log.trim(ACCOUNT, SUBS, after_all)
        assert self.upkeep.trim(ACCOUNT, SUBS, after_all) == dropped

    @rule()
    def limit_kept(self) -> None:
        assert self.parts.limits.limit_kept(SUBS) == self.upkeep.limit_kept(SUBS)

    @rule(again=AGAIN)
    def limit_dead(self, again: bool) -> None:
        """Which are the oldest the store's clock says: the model's stands still within a unit."""
        expected = 0
        for name in SUBS:
            letters = [(positions.from_id(one.id.encode()), one.shard) for one in self.parts.queues.dead_letters(name)]
            for _, shard in sorted(letters)[: max(0, len(letters) - LIMITS.dead)]:
                expected += self.queues.drop_dead(self.queues.at(name, shard), 1)
        assert self.parts.limits.limit_dead(SUBS) == expected
        if again:
            assert self.parts.limits.limit_dead(SUBS) == self.upkeep.limit_dead(SUBS) == 0

    @rule(again=AGAIN)
    def share_backlog(self, again: bool) -> None:
        for _ in range(1 + again):
            self.parts.limits.share_backlog(SUBS)
            self.upkeep.share_backlog(SUBS)

    # time

    @rule(units=st.integers(1, 3))
    def time_passes(self, units: int) -> None:
        """Holds and leases end, retries and gates come due."""
        self.server.now_ms += units * UNIT_MS
        self.parts.pass_ms(units * UNIT_MS)

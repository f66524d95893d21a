"""What a slice claims: lanes with their first events, each leased for as long as its own server says."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from bridge.domain.deliveries import Part, Wanted
from bridge.store.client import Steps
from bridge.store.line import Line
from bridge.store.queues import QueueStore
from tests.parts import SUB, Parts, entry

HOLD_MS = 45_000
AWAY_MS = 3_000


def test_a_lane_is_leased_from_when_its_own_server_gave_it_out(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fault: while a cluster's master was replaced a slice waited for what it had claimed there. What the other masters
    had given out to it at once was leased no more by the time that it sent it, and another slice had sent it too.

    Cause: all was taken for claimed when the last of them answered. Fix: each lease counts from its own server's time.
    """
    claiming = QueueStore.claiming
    asked: dict[int, int] = {}

    def apart(
        self: QueueStore, token: bytes, wanted: Sequence[tuple[str, int, int]], hold_ms: int
    ) -> Steps[tuple[list[int], list[list[bytes] | None]]]:
        times_ms, claimed = yield from claiming(self, token, wanted, hold_ms)
        times_ms = [at_ms + number * AWAY_MS for number, at_ms in enumerate(times_ms)]
        asked.update(zip([shard for _, shard, _ in wanted], times_ms, strict=True))
        return times_ms, claimed

    monkeypatch.setattr(QueueStore, "claiming", apart)
    parts.write("s1", entry("s1"))
    parts.write("s2", entry("s2"))
    shards = [parts.shard("s1"), parts.shard("s2")]
    assert len(set(shards)) == 2
    line = Line(parts.client, parts.index, parts.queues, parts.log)
    claimed = line.claim(b"m" * 16, [Wanted(Part(SUB), "default", shard, 10) for shard in shards], HOLD_MS).result()
    line.close()
    ends_ms = {ready.lane.shard: ready.lease_end_ms for ready in claimed.ready[Part(SUB)]}
    assert ends_ms == {shard: at_ms + HOLD_MS for shard, at_ms in asked.items()}
    assert max(ends_ms.values()) - min(ends_ms.values()) >= AWAY_MS
    assert claimed.now_ms == max(asked.values()), "the server's time is the latest"

"""A subscription's limits, over all shards: what no one script can keep, for none sees more than its own shard.

``bridge.trim`` applies them, each minute. What a shard's own scripts keep is in ``policy.Limits.share``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import cast

from bridge.domain.policy import DEFAULT_LIMITS, Limits, allowances
from bridge.store import keys, positions
from bridge.store.client import Argument, Call, Client
from bridge.store.queues import QueueStore
from bridge.store.reading import is_ours, whole

_AT_ONCE = 500
_OVER_KEPT = "too many events waited for longer than the log keeps them"


class LimitStore:
    """Applies limits, and finds out what they did."""

    def __init__(self, client: Client, shards: int, queues: QueueStore, limits: Limits = DEFAULT_LIMITS) -> None:
        self._client = client
        self._shards = range(shards)
        self._queues = queues
        self._limits = limits
        self._share = limits.share(shards)

    def share_backlog(self, subscriptions: Sequence[str]) -> None:
        """Share out anew, over the shards, how many events may wait of those that come near a shard's own part."""
        told: list[list[Argument]] = []
        for name, rows in self._by_shard(
            subscriptions, lambda shard, name: ["HMGET", keys.counts(shard, name), "w", "m"]
        ):
            own = cast("list[list[bytes | None]]", rows)
            waiting = [whole(row[0]) for row in own]
            if 2 * max(waiting) > self._share.backlog:
                shares = enumerate(allowances(self._limits.backlog, waiting))
                told += [["HSET", keys.counts(shard, name), "m", most] for shard, most in shares]
            else:
                told += [["HDEL", keys.counts(shard, name), "m"] for shard in self._shards if own[shard][1]]
        if told:
            self._client.commands(told)

    def limit_kept(self, subscriptions: Sequence[str]) -> int:
        """Make dead letters of the oldest kept records, where there are too many. Returns how many."""
        buried = 0
        for name, excess in self._excess(subscriptions, "HLEN", keys.kept, self._limits.kept):
            replies = self._client.commands([["HKEYS", keys.kept(shard, name)] for shard in self._shards])
            places = [(place, shard) for shard in self._shards for place in cast("list[bytes]", replies[shard])]
            oldest: dict[int, list[bytes]] = {}
            for place, shard in sorted(places)[:excess]:
                oldest.setdefault(shard, []).append(place)
            for shard, group in oldest.items():
                for start in range(0, len(group), _AT_ONCE):
                    found = self._queues.kept(name, {shard: group[start : start + _AT_ONCE]})
                    ours = {place: one for (_, place), one in found.items() if is_ours(one)}
                    others = {place: one for (_, place), one in found.items() if place not in ours}
                    buried += self._queues.bury(name, shard, others, _OVER_KEPT)
                    buried += self._queues.bury(name, shard, ours, _OVER_KEPT, apart=True)
        return buried

    def limit_dead(self, subscriptions: Sequence[str]) -> int:
        """Drop the oldest dead letters, where there are too many, and count them. Returns how many."""
        dropped = 0
        for name, excess in self._excess(subscriptions, "XLEN", keys.dead, self._limits.dead):
            for start in range(0, excess, _AT_ONCE):
                dropped += self._drop_dead(name, min(_AT_ONCE, excess - start))
        return dropped

    def _drop_dead(self, name: str, count: int) -> int:
        pages = self._client.commands(
            [["XRANGE", keys.dead(shard, name), "-", "+", "COUNT", count] for shard in self._shards]
        )
        found = [
            (positions.from_id(at), shard, is_ours(flat[1]))
            for shard, page in enumerate(cast("list[list[tuple[bytes, list[bytes]]]]", pages))
            for at, flat in page
        ]
        last: dict[int, bytes] = {}
        ours: Counter[int] = Counter()
        for place, shard, told_by_us in sorted(found)[:count]:
            last[shard] = place
            ours[shard] += told_by_us
        calls = [
            Call(
                "drop_dead",
                [keys.dead(shard, name), keys.counts(shard, name)],
                [positions.id_after(place), ours[shard]],
            )
            for shard, place in last.items()
        ]
        return sum(cast("list[int]", self._client.run(calls)))

    def _excess(
        self, subscriptions: Sequence[str], length: str, key: Callable[[int, str], str], most: int
    ) -> Iterator[tuple[str, int]]:
        """The subscriptions that have more than ``most`` of something, and how many more."""
        for name, lengths in self._by_shard(subscriptions, lambda shard, name: [length, key(shard, name)]):
            excess = sum(cast("list[int]", lengths)) - most
            if excess > 0:
                yield name, excess

    def _by_shard(
        self, subscriptions: Sequence[str], ask: Callable[[int, str], list[Argument]]
    ) -> Iterator[tuple[str, list[object]]]:
        """What each shard says of each subscription, asked in one round trip."""
        replies = self._client.commands([ask(shard, name) for name in subscriptions for shard in self._shards])
        for place, name in enumerate(subscriptions):
            yield name, replies[place * len(self._shards) : (place + 1) * len(self._shards)]

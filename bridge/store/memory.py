"""How near the store is to its limit of memory, so that what adds to it can stop while what frees it goes on."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import cast

from bridge.domain.policy import MEMORY_SHORT
from bridge.store.client import Client

_LOOK_AGAIN_S = 1.0


class Memory:
    """The store's memory, asked for at most each second."""

    def __init__(self, client: Client, ticking: Callable[[], float] = monotonic) -> None:
        self._client = client
        self._ticking = ticking
        # One value, replaced whole: threads share it.
        self._seen: tuple[float, bool] | None = None

    def is_short(self) -> bool:
        """Whether 90 % of maxmemory are used; False where there is no maxmemory."""
        now = self._ticking()
        seen = self._seen
        if seen is None or now - seen[0] > _LOOK_AGAIN_S:
            seen = self._seen = (now, self._look())
        return seen[1]

    def _look(self) -> bool:
        """Whether any master is short: what is tracked or polled spreads over all."""
        masters = [node for node in self._client.nodes() if node.master]
        replies = [self._client.ask_node(node, [["INFO", "memory"]])[0] for node in masters]
        return any(_is_short(cast("bytes", reply)) for reply in replies)


def _is_short(info: bytes) -> bool:
    fields = dict(line.split(b":", 1) for line in info.splitlines() if b":" in line)
    most = int(fields.get(b"maxmemory", 0))
    return bool(most) and int(fields.get(b"used_memory", 0)) >= MEMORY_SHORT * most

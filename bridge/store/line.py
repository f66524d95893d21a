"""Asking the store while POSTs go on: an errand is sent, and looked after from time to time.

Not in a thread: that one's turns at the interpreter cost a slice a fifth more CPU than they saved it in waiting.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Generic, TypeVar

from bridge.domain.deliveries import Claimed, Lane, Part, Ready, Settlement, Wanted
from bridge.errors import BridgeError
from bridge.store.client import Client, Conversation, Request, Steps
from bridge.store.index import DueNow, Index
from bridge.store.log import EventLog
from bridge.store.queues import QueueStore

T = TypeVar("T")


class Errand(Generic[T]):
    """Steps under way. For one thread."""

    __slots__ = ("_asked", "_client", "_conversation", "_result", "_steps")

    def __init__(self, client: Client, conversation: Conversation, steps: Steps[T]) -> None:
        self._client = client
        self._conversation = conversation
        self._steps = steps
        self._asked: Sequence[Request] | None = None
        self._result: T
        self._go_on(None)

    def done(self) -> bool:
        """Take in what has arrived and ask what follows from it, never waiting. Returns whether ``result`` is there.

        Raises:
            StoreUnreachable: no answer.
            BridgeError: the server refused a request.
        """
        while self._asked is not None:
            try:
                if not self._conversation.is_answered():
                    return False
            except BridgeError:
                # Every request may be repeated: by the client, which knows when to give up.
                replies = self._client.ask(self._asked)
            else:
                replies = self._client.checked(self._asked, self._conversation.replies)
            self._go_on(replies)
        return True

    def result(self) -> T:
        """What the steps return; waits for it. Raises as ``done``."""
        while not self.done():
            self._conversation.wait()
        return self._result

    def _go_on(self, replies: list[object] | None) -> None:
        try:
            self._asked = next(self._steps) if replies is None else self._steps.send(replies)
        except StopIteration as end:
            self._asked = None
            self._result = end.value
            return
        except BaseException:
            self._asked = None
            raise
        self._conversation.begin(self._asked)


class Line:
    """What a slice asks over one connection, one thing after the other."""

    def __init__(self, client: Client, index: Index, queues: QueueStore, log: EventLog) -> None:
        self._client = client
        self._index = index
        self._queues = queues
        self._log = log
        self._conversation = Conversation(client)

    def due(self, now_ms: int, limit: int) -> Errand[DueNow]:
        """What is due at ``now_ms``, at most ``limit`` due-sets a shard."""
        return self._start(self._index.looking(now_ms, limit))

    def claim(self, token: bytes, wanted: Sequence[Wanted], hold_ms: int) -> Errand[Claimed]:
        """Claim lanes under the queues' holds, and read their first events."""
        return self._start(self._claiming(token, wanted, hold_ms))

    def settle(
        self, token: bytes, settled: Mapping[tuple[str, int], Sequence[Settlement]]
    ) -> Errand[Mapping[tuple[str, int], int]]:
        """Write outcomes down, by (subscription, shard): how many applied, -1 where the hold was lost."""
        return self._start(self._queues.settling(token, settled))

    def close(self) -> None:
        """Give the connection back. What was asked and not heard of may have been done."""
        self._conversation.close()

    def _start(self, steps: Steps[T]) -> Errand[T]:
        return Errand(self._client, self._conversation, steps)

    def _claiming(self, token: bytes, wanted: Sequence[Wanted], hold_ms: int) -> Steps[Claimed]:
        places = [(one.part.subscription, one.shard, one.most) for one in wanted]
        times_ms, replies = yield from self._queues.claiming(token, places, hold_ms)
        ends_ms = {(one.part, one.shard): at_ms + hold_ms for one, at_ms in zip(wanted, times_ms, strict=True)}
        held: list[tuple[Part, int]] = []
        refused: list[tuple[Part, int]] = []
        found: list[tuple[Part, int, list[bytes]]] = []
        for one, lanes in zip(wanted, replies, strict=True):
            (refused if lanes is None else held).append((one.part, one.shard))
            if lanes:
                found.append((one.part, one.shard, lanes))
        lanes_of: dict[Part, list[Lane]] = {}
        if found:
            read = yield from self._queues.peeking([(part.subscription, shard, lanes) for part, shard, lanes in found])
            for (part, _, _), group in zip(found, read, strict=True):
                lanes_of.setdefault(part, []).extend(group)
        accounts = {one.part: one.account for one in wanted}
        ready = yield from self._reading(accounts, lanes_of, ends_ms)
        return Claimed(now_ms=max(times_ms, default=0), held=held, refused=refused, ready=ready)

    def _reading(
        self, accounts: Mapping[Part, str], lanes_of: Mapping[Part, list[Lane]], ends_ms: Mapping[tuple[Part, int], int]
    ) -> Steps[dict[Part, list[Ready]]]:
        """Read the lanes' first events, an account at a time; what its log has dropped is kept beside the queue."""
        by_account: dict[str, dict[int, list[bytes]]] = {}
        for part, lanes in lanes_of.items():
            positions = by_account.setdefault(accounts[part], {})
            for lane in lanes:
                positions.setdefault(lane.shard, []).append(lane.position)
        records: dict[str, dict[tuple[int, bytes], bytes]] = {}
        for account, positions in by_account.items():
            records[account] = yield from self._log.fetching(account, positions)
        ready: dict[Part, list[Ready]] = {}
        for part, lanes in lanes_of.items():
            events = records[accounts[part]]
            missing: dict[int, list[bytes]] = {}
            for lane in lanes:
                if (lane.shard, lane.position) not in events:
                    missing.setdefault(lane.shard, []).append(lane.position)
            if missing:
                events = events | (yield from self._queues.reading_kept(part.subscription, missing))
            lanes.sort(key=lambda lane: lane.position)
            ready[part] = [
                Ready(lane, events.get((lane.shard, lane.position)), ends_ms[part, lane.shard]) for lane in lanes
            ]
        return ready

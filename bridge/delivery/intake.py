"""What a slice takes on: which queues are due, the holds on them, and their lanes with the events to send."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import attrgetter
from zlib import crc32

from bridge.delivery.ports import Ports
from bridge.delivery.queue import HeldQueue, Ready
from bridge.domain.deliveries import Lane, Settlement
from bridge.domain.policy import DeliveryPolicy
from bridge.domain.subscriptions import Subscription
from bridge.errors import SecretsUnreadable

MAX_QUEUES = 64
_DUE_AT_ONCE = 128
_position = attrgetter("position")
_CHECK_EVERY_MS = 100
_ASK_AGAIN_MS = 200
"""How soon to ask again for a queue that another slice holds."""


class Intake:
    """The queues that one slice holds, under one token."""

    def __init__(
        self, ports: Ports, policy: DeliveryPolicy, *, shards: int, complain: Callable[[str, str], None]
    ) -> None:
        self._ports = ports
        self._policy = policy
        self._shards = shards
        self._complain = complain
        self._token = secrets.token_bytes(16)
        self._subscriptions: Mapping[str, Subscription] = {}
        self._version = b""
        self._checked_ms = 0
        self._load()
        self._not_before_ms: dict[tuple[str, int], int] = {}
        self.queues: dict[str, HeldQueue] = {}
        self.full = False
        """Whether due queues had to be left to another slice."""

    def look(self, now_ms: int, *, accept_new: bool) -> int:
        """Claim what is due and has room; returns how many lanes became ready."""
        self._refresh(now_ms)
        shards: dict[str, list[int]] = {}
        # Those that may not be asked for yet stand first, as the longest due: they must not hide the others.
        limit = _DUE_AT_ONCE + len(self._not_before_ms)
        for name, shard in self._ports.index.due(now_ms, limit).queues:
            if self._not_before_ms.get((name, shard), 0) <= now_ms:
                shards.setdefault(name, []).append(shard)
        new = [name for name in shards if name not in self.queues]
        if new and accept_new:
            self._hold(new[: MAX_QUEUES - len(self.queues)], now_ms)
        self.full = len(new) > 0 and len(self.queues) >= MAX_QUEUES
        wanted = []
        for name, group in shards.items():
            queue = self.queues.get(name)
            if queue is not None and queue.room:
                share = -(-queue.room // len(group))
                wanted += [(name, shard, share) for shard in group]
        return self._claim(wanted) if wanted else 0

    def settle(self, queues: Iterable[HeldQueue]) -> int:
        """Write down what their attempts came to. Returns how many outcomes could not be: another slice took over."""
        groups: dict[tuple[str, int], list[Settlement]] = {}
        for queue in queues:
            for one in queue.settled:
                groups.setdefault((queue.id, one.lane.shard), []).append(one)
            queue.settled = []
        if not groups:
            return 0
        unsettled = 0
        for (name, shard), applied in self._ports.queues.settle(self._token, groups).items():
            unsettled += len(groups[name, shard]) - max(0, applied)
            if applied < 0:
                self._lose(name)
        return unsettled

    def renew(self) -> None:
        """Go on holding what is held."""
        held = [(queue.id, shard, 0) for queue in self.queues.values() for shard in queue.shards]
        if not held:
            return
        now_ms, replies = self._ports.queues.claim(self._token, held, self._policy.hold_ms)
        self._ports.clock.note(now_ms)
        for (name, _, _), reply in zip(held, replies, strict=True):
            if reply is None:
                self._lose(name)

    def release(self, queues: Iterable[HeldQueue]) -> None:
        """Let go of queues of which nothing is left here."""
        held = []
        for queue in list(queues):
            held += [(queue.id, shard) for shard in queue.shards]
            self.queues.pop(queue.id, None)
        if held:
            self._ports.queues.release(self._token, held)

    def _load(self) -> None:
        registry = self._ports.registries.load()
        self._subscriptions, self._version = registry.by_id(), registry.versions[0]

    def _refresh(self, now_ms: int) -> None:
        """Take up what became of the subscriptions that are held: a key that leaked must not sign for long."""
        if now_ms - self._checked_ms < _CHECK_EVERY_MS:
            return
        self._checked_ms = now_ms
        if self._ports.registries.version() == self._version:
            return
        self._load()
        for queue in self.queues.values():
            subscription = self._subscriptions.get(queue.id, queue.subscription)
            if subscription == queue.subscription:
                continue
            try:
                queue.adopt(subscription, self._ports.secrets.of(subscription))
            except SecretsUnreadable as error:
                self._complain(queue.id, str(error))

    def _lose(self, name: str) -> None:
        queue = self.queues.pop(name, None)
        if queue is not None:
            queue.lost = True
            queue.ready.clear()
            queue.shards.clear()

    def _hold(self, names: Sequence[str], now_ms: int) -> None:
        """Take the hold that decides who serves a subscription: the one in its home shard."""
        opened = {name: queue for name in names if (queue := self._open(name, now_ms)) is not None}
        if not opened:
            return
        homes = [(name, crc32(name.encode()) % self._shards, 0) for name in opened]
        at_ms, replies = self._ports.queues.claim(self._token, homes, self._policy.hold_ms)
        self._ports.clock.note(at_ms)
        for (name, home, _), reply in zip(homes, replies, strict=True):
            if reply is None:
                for shard in range(self._shards):
                    self._not_before_ms[name, shard] = now_ms + _ASK_AGAIN_MS
            else:
                opened[name].shards.add(home)
                self.queues[name] = opened[name]

    def _open(self, name: str, now_ms: int) -> HeldQueue | None:
        if name not in self._subscriptions:
            self._load()
        subscription = self._subscriptions.get(name)
        if subscription is None:
            # Removed. Commits stopped routing to it before it left the registry, so this is all there will be.
            self._ports.queues.remove(name)
            return None
        try:
            credentials = self._ports.secrets.of(subscription)
        except SecretsUnreadable as error:
            # Its events wait, untried, until somebody mends BRIDGE_SECRET_KEYS.
            self._complain(name, str(error))
            for shard in range(self._shards):
                self._not_before_ms[name, shard] = now_ms + self._policy.hold_ms
            return None
        return HeldQueue(subscription, credentials, self._policy.concurrency)

    def _claim(self, wanted: Sequence[tuple[str, int, int]]) -> int:
        now_ms, replies = self._ports.queues.claim(self._token, wanted, self._policy.hold_ms)
        self._ports.clock.note(now_ms)
        found: list[tuple[str, int, list[bytes]]] = []
        for (name, shard, _), lanes in zip(wanted, replies, strict=True):
            if lanes is None:
                self._not_before_ms[name, shard] = now_ms + _ASK_AGAIN_MS
                continue
            self.queues[name].shards.add(shard)
            if lanes:
                found.append((name, shard, lanes))
        if not found:
            return 0
        lanes_of: dict[str, list[Lane]] = {}
        for (name, _, _), read in zip(found, self._ports.queues.peek(found), strict=True):
            lanes_of.setdefault(name, []).extend(read)
        return self._fill(lanes_of, now_ms)

    def _fill(self, lanes_of: Mapping[str, list[Lane]], now_ms: int) -> int:
        """Read the lanes' first events, an account at a time, and make them ready, the oldest first."""
        lease_end_ms = now_ms + self._policy.hold_ms
        by_account: dict[str, dict[int, list[bytes]]] = {}
        for name, lanes in lanes_of.items():
            wanted = by_account.setdefault(self.queues[name].subscription.account, {})
            for lane in lanes:
                wanted.setdefault(lane.shard, []).append(lane.position)
        records = {account: self._ports.log.fetch(account, wanted) for account, wanted in by_account.items()}
        for name, lanes in lanes_of.items():
            queue = self.queues[name]
            logged = records[queue.subscription.account]
            missing: dict[int, list[bytes]] = {}
            lanes.sort(key=_position)
            for lane in lanes:
                if (lane.shard, lane.position) not in logged:
                    missing.setdefault(lane.shard, []).append(lane.position)
            kept = self._ports.queues.kept(name, missing) if missing else {}
            events = {**logged, **kept} if kept else logged
            queue.ready += [Ready(lane, events.get((lane.shard, lane.position)), lease_end_ms) for lane in lanes]
            queue.took(len(lanes), now_ms)
        return sum(map(len, lanes_of.values()))

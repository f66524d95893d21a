"""What a slice takes on: which queues are due, the holds on them, and their lanes with the events to send."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import attrgetter
from urllib.parse import urlsplit

from bridge.delivery.ports import Ports
from bridge.delivery.queue import HeldQueue, Host, Ready
from bridge.domain.breaker import AT_ONCE, WELL, Health
from bridge.domain.credentials import Credentials
from bridge.domain.deliveries import Lane, Settlement, home_of
from bridge.domain.policy import DeliveryPolicy
from bridge.domain.subscriptions import Subscription
from bridge.errors import SecretsUnreadable

MAX_QUEUES = 64
_DUE_AT_ONCE = 128
_position = attrgetter("position")
_ASK_AGAIN_MS = 50
"""How soon to ask again for a queue that another slice holds: what comes in between waits for as long."""
_HASTEN_AT_ONCE = 1_000


class Intake:
    """The queues that one slice holds, under one token."""

    def __init__(
        self,
        ports: Ports,
        policy: DeliveryPolicy,
        *,
        shards: int,
        complain: Callable[[str, str], None],
        disabled: Callable[[str, str], None],
    ) -> None:
        self._ports = ports
        self._policy = policy
        self._shards = shards
        self._complain = complain
        self._disabled = disabled
        self._token = secrets.token_bytes(16)
        self._subscriptions: Mapping[str, Subscription] = {}
        self._versions: Mapping[int, bytes] = {}
        self._load()
        self._hosts: dict[str, Host] = {}
        self._not_before_ms: dict[tuple[str, int], int] = {}
        self.queues: dict[str, HeldQueue] = {}

    def _load(self) -> None:
        registry = self._ports.registries.load()
        self._versions = registry.versions
        self._subscriptions = registry.by_id()

    def look(self, now_ms: int, *, accept_new: bool) -> int:
        """Claim what is due and has room; returns how many lanes became ready."""
        shards: dict[str, list[int]] = {}
        # Those that may not be asked for yet stand first, as the longest due: they must not hide the others.
        limit = _DUE_AT_ONCE + len(self._not_before_ms)
        for name, shard in self._ports.index.due(now_ms, limit).queues:
            if self._not_before_ms.get((name, shard), 0) <= now_ms:
                shards.setdefault(name, []).append(shard)
        new = [name for name in shards if name not in self.queues]
        if new and accept_new:
            self._hold(new[: MAX_QUEUES - len(self.queues)], now_ms)
        wanted = []
        for name, group in shards.items():
            queue = self.queues.get(name)
            if queue is not None and (room := queue.room):
                share = -(-room // len(group))
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
        now_ms = self._ports.clock.now_ms()
        for queue in list(queues):
            left = queue.to_leave(now_ms)
            if not queue.lost and not queue.parked and (left != queue.noted or left.hastening):
                self._ports.queues.note_health(self._token, queue.id, left)
            held += [(queue.id, shard) for shard in queue.shards]
            self.queues.pop(queue.id, None)
        if held:
            self._ports.queues.release(self._token, held)

    def refresh(self) -> list[HeldQueue]:
        """Go by what the registry says now. Returns the queues whose subscriptions were paused or disabled since."""
        if self._ports.registries.version() == self._versions[self._shards - 1]:
            return []
        self._load()
        stopped = []
        for queue in list(self.queues.values()):
            new = self._subscriptions.get(queue.id)
            if new is None or new == queue.subscription:
                continue  # one that was removed is lost with the next settlement: its holds went with it
            if new.is_active and (credentials := self._credentials_of(new)) is not None:
                if new.url != queue.subscription.url:
                    queue.health = AT_ONCE  # what is known is known of another receiver
                queue.configure(new, credentials, self._policy)
            else:
                queue.parked = True
                stopped.append(queue)
        return stopped

    def tend(self, queue: HeldQueue, now_ms: int) -> bool:
        """Note how a queue's receiver is, and do what follows from it. Returns whether that is done."""
        if queue.ending and not queue.parked and not queue.lost:
            queue.parked = True
            self._disable(queue, now_ms)
        if queue.is_to_be_noted and not queue.parked and not queue.lost:
            self.settle([queue])  # it would put the queue's place in the index back to its first retry
            self._note(queue, queue.health)
        if queue.parked or queue.lost or not queue.health.hastening:
            return True
        if queue.ready or queue.in_flight or queue.settled:
            return False  # its leases are no retries
        if self._ports.queues.hasten(self._token, queue.id, _HASTEN_AT_ONCE):
            return False
        self._note(queue, WELL)
        return True

    def _note(self, queue: HeldQueue, health: Health) -> None:
        queue.health = queue.noted = health
        if not self._ports.queues.note_health(self._token, queue.id, health):
            self._lose(queue.id)

    def _disable(self, queue: HeldQueue, now_ms: int) -> None:
        if self._ports.registries.disable(queue.id, queue.ending, now_ms):
            self._disabled(queue.id, queue.ending)
        self._load()
        self._park(queue.id)

    def _park(self, name: str) -> None:
        found = self._subscriptions.get(name)
        if found is not None and not found.is_active:
            self._ports.queues.park(name, self._versions)

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
        homes = [(name, home_of(name, self._shards), 0) for name in opened]
        at_ms, replies = self._ports.queues.claim(self._token, homes, self._policy.hold_ms)
        self._ports.clock.note(at_ms)
        taken: list[HeldQueue] = []
        for (name, home, _), reply in zip(homes, replies, strict=True):
            if reply is None:
                for shard in range(self._shards):
                    self._not_before_ms[name, shard] = now_ms + _ASK_AGAIN_MS
            else:
                opened[name].shards.add(home)
                taken.append(opened[name])
        # Read once they are held: nobody else changes it from then on.
        for queue, health in zip(taken, self._ports.queues.health([queue.id for queue in taken]), strict=True):
            queue.take_over(health)
            self.queues[queue.id] = queue

    def _open(self, name: str, now_ms: int) -> HeldQueue | None:
        known = self._subscriptions.get(name)
        if known is None or not known.is_active:
            self._load()
        subscription = self._subscriptions.get(name)
        if subscription is None:
            # Removed. Commits stopped routing to it before it left the registry, so this is all there will be.
            self._ports.queues.remove(name)
            return None
        if not subscription.is_active:
            # Whoever paused or disabled it was stopped before it was parked everywhere.
            self._park(name)
            return None
        credentials = self._credentials_of(subscription)
        if credentials is None:
            for shard in range(self._shards):
                self._not_before_ms[name, shard] = now_ms + self._policy.hold_ms
            return None
        return HeldQueue(subscription, credentials, self._policy, self._host_of(subscription.url))

    def _credentials_of(self, subscription: Subscription) -> Credentials | None:
        try:
            return self._ports.secrets.of(subscription)
        except SecretsUnreadable as error:
            # Its events wait, untried, until somebody mends BRIDGE_SECRET_KEYS.
            self._complain(subscription.id, str(error))
            return None

    def _host_of(self, url: str) -> Host:
        return self._hosts.setdefault(urlsplit(url).netloc, Host())

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
            if queue.health.is_open:
                # Each shard gave its longest due: the oldest of them is the probe, the others go back untried.
                queue.settled += [Settlement(lane, None, due_ms=now_ms) for lane in lanes[1:]]
                del lanes[1:]
            queue.ready += [Ready(lane, events.get((lane.shard, lane.position)), lease_end_ms) for lane in lanes]
            queue.took(len(lanes), now_ms)
        return sum(map(len, lanes_of.values()))

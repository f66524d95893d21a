"""What a slice takes on: which queues are due, the holds on them, and their lanes with the events to send."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from urllib.parse import urlsplit

from bridge.delivery.ports import DueNow, Errand, Ports
from bridge.delivery.queue import HeldQueue, Host
from bridge.domain.breaker import AT_ONCE, WELL, Health
from bridge.domain.credentials import Credentials
from bridge.domain.deliveries import Claimed, Settlement, Wanted, home_of
from bridge.domain.policy import DeliveryPolicy
from bridge.domain.subscriptions import Subscription
from bridge.errors import SecretsUnreadable

MAX_QUEUES = 64
_DUE_AT_ONCE = 128
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
        self._looks, self._settles = ports.line(), ports.line()
        self._due: Errand[DueNow] | None = None
        self._claim: Errand[Claimed] | None = None
        self._settling: Errand[Mapping[tuple[str, int], int]] | None = None
        self._sent: dict[tuple[str, int], list[Settlement]] = {}
        self._shards = shards
        self._complain = complain
        self._disabled = disabled
        self._token = secrets.token_bytes(16)
        self._subscriptions: Mapping[str, Subscription] = {}
        self._versions: Mapping[int, bytes] = {}
        self._load()
        self._heard = self._versions[shards - 1]
        self._hosts: dict[str, Host] = {}
        self._not_before_ms: dict[tuple[str, int], int] = {}
        self.queues: dict[str, HeldQueue] = {}

    def _load(self) -> None:
        registry = self._ports.registries.load()
        self._versions = registry.versions
        self._subscriptions = registry.by_id()

    @property
    def looking(self) -> bool:
        """Whether a look is under way."""
        return self._due is not None or self._claim is not None

    def look(self, now_ms: int, *, accept_new: bool, aside: bool) -> int:
        """Go on with the look under way, or begin one; returns how many lanes became ready.

        ``aside``: not waiting for the store, for there are POSTs to go on with.
        """
        if self._claim is None:
            if self._due is None:
                # Those that may not be asked for yet stand first, as the longest due: they must not hide the others.
                limit = _DUE_AT_ONCE + len(self._not_before_ms)
                self._due = self._looks.due(now_ms, limit)
            if aside and not self._due.done():
                return 0
            due, self._due = self._due.result(), None
            self._heard = due.registry
            wanted = self._plan(due.queues, now_ms, accept_new=accept_new)
            if not wanted:
                return 0
            self._claim = self._looks.claim(self._token, wanted, self._policy.hold_ms)
        if aside and not self._claim.done():
            return 0
        claimed, self._claim = self._claim.result(), None
        return self._take_in(claimed)

    def finish(self) -> None:
        """Take in what a look under way still brings, so that it can be handed back."""
        if self._due is not None:
            self._due.result()
            self._due = None
        if self._claim is not None:
            claimed, self._claim = self._claim.result(), None
            self._take_in(claimed)

    def close(self) -> None:
        """Give back the connections to the store."""
        self._looks.close()
        self._settles.close()

    def _plan(self, due: Sequence[tuple[str, int]], now_ms: int, *, accept_new: bool) -> list[Wanted]:
        """What to claim of what is due, by the room that its queues have; queues that are new are held first."""
        shards: dict[str, list[int]] = {}
        for name, shard in due:
            if self._not_before_ms.get((name, shard), 0) <= now_ms:
                shards.setdefault(name, []).append(shard)
        new = [name for name in shards if name not in self.queues]
        if new and accept_new:
            self._hold(new[: MAX_QUEUES - len(self.queues)], now_ms)
        wanted = []
        for name, group in shards.items():
            queue = self.queues.get(name)
            if queue is not None and (room := queue.room):
                queue.awaited = True
                share = -(-room // len(group))
                wanted += [Wanted(name, queue.subscription.account, shard, share) for shard in group]
        return wanted

    def _take_in(self, claimed: Claimed) -> int:
        self._ports.clock.note(claimed.now_ms)
        for place in claimed.refused:
            self._not_before_ms[place] = claimed.now_ms + _ASK_AGAIN_MS
        for name, shard in claimed.held:
            if name in self.queues:
                self.queues[name].shards.add(shard)
        for queue in self.queues.values():
            queue.awaited = False
        # Of one that was lost meanwhile, the lanes are its next holder's when their lease ends.
        return sum(
            self.queues[name].take(ready, claimed.now_ms)
            for name, ready in claimed.ready.items()
            if name in self.queues
        )

    def settle(self, *, aside: bool) -> int:
        """Write down what attempts came to. Returns how many outcomes could not be: another slice took over.

        ``aside``: without waiting for the store; what it says is taken in by a later call.
        """
        unsettled = 0
        if self._settling is not None:
            if aside and not self._settling.done():
                return 0
            unsettled = self._settled(self._settling.result())
        sent: dict[tuple[str, int], list[Settlement]] = {}
        for queue in self.queues.values():
            for one in queue.settled:
                sent.setdefault((queue.id, one.lane.shard), []).append(one)
            queue.settling, queue.settled = bool(queue.settled), []
        if sent:
            self._sent = sent
            self._settling = self._settles.settle(self._token, sent)
            if not aside:
                unsettled += self._settled(self._settling.result())
        return unsettled

    def _settled(self, applied: Mapping[tuple[str, int], int]) -> int:
        unsettled = 0
        for (name, shard), count in applied.items():
            unsettled += len(self._sent[name, shard]) - max(0, count)
            if count < 0:
                self._lose(name)
        self._settling = None
        for queue in self.queues.values():
            queue.settling = False
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
        if self._heard == self._versions[self._shards - 1]:
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
            self.settle(aside=False)  # it would put the queue's place in the index back to its first retry
            self._note(queue, queue.health)
        if queue.parked or queue.lost or not queue.health.hastening:
            return True
        if queue.has_leases:
            return False  # they are no retries
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

"""What a slice takes on: which queues are due, the holds on them, and their lanes with the events to send."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from urllib.parse import urlsplit

from bridge.delivery.ports import DueNow, Errand, Ports
from bridge.delivery.queue import HeldQueue, Host
from bridge.domain.breaker import AT_ONCE, WELL, Health, hastened
from bridge.domain.credentials import Credentials
from bridge.domain.deliveries import Claimed, Part, Settlement, Wanted
from bridge.domain.outcome import Verdict
from bridge.domain.policy import DeliveryPolicy
from bridge.domain.subscriptions import Subscription
from bridge.errors import SecretsUnreadable

MAX_QUEUES = 256
_DUE_AT_ONCE = 128
_ASK_AGAIN_MS = 50
"""How soon to ask again for a queue that another slice holds: what comes in between waits for as long."""
_HASTEN_AT_ONCE = 100
_HASTEN_FOR_MS = 4
"""How long, a turn, a slice sees to the retries of a receiver that is back: a million of them are the server's work
for a second, and neither it nor this slice is to keep others waiting for so long.
"""
_DONE_WITH = frozenset({Verdict.ACCEPTED, Verdict.DEAD})
_PATIENCE_MS = 1_000
"""How long a slice leaves a second part of a subscription to others, before it serves that too; and how often it asks
for another slice, where more queues are due than it holds."""


class Intake:
    """The queues that one slice holds, under one token.

    ``unsettled`` is how many outcomes could not be written down, because another slice had taken over.
    """

    def __init__(
        self,
        ports: Ports,
        policy: DeliveryPolicy,
        *,
        shards: int,
        complain: Callable[[str, str], None],
        disabled: Callable[[str, str], None],
        call_help: Callable[[], None],
    ) -> None:
        self._ports = ports
        self._policy = policy
        self._looks, self._settles = ports.line(), ports.line()
        self._due: Errand[DueNow] | None = None
        self._claim: Errand[Claimed] | None = None
        self._settling: Errand[Mapping[tuple[str, int], int]] | None = None
        self._sent: dict[tuple[str, int], list[Settlement]] = {}
        self._done: list[tuple[HeldQueue, tuple[bytes, bytes]]] = []
        self._shards = shards
        self._complain = complain
        self._disabled = disabled
        self._call_help = call_help
        self._token = secrets.token_bytes(16)
        self._subscriptions: Mapping[str, Subscription] = {}
        self._versions: Mapping[int, bytes] = {}
        self._load()
        self._heard = self._versions[shards - 1]
        self._hosts: dict[str, Host] = {}
        self._not_before_ms: dict[tuple[str, int], int] = {}
        self._unserved_ms: dict[Part, int] = {}
        self._helped_ms = 0
        self.queues: dict[Part, HeldQueue] = {}
        self.unsettled = 0

    def _load(self) -> None:
        registry = self._ports.registries.load()
        self._versions = registry.versions
        self._subscriptions = registry.by_id()

    @property
    def waiting(self) -> bool:
        """Whether something is due that this slice leaves to others for now, and that none of them serves yet."""
        return bool(self._unserved_ms)

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
                # Those that may not be asked for yet, and those held of which no more is taken, stand first, as the
                # longest due: they must not hide the others.
                limit = _DUE_AT_ONCE + len(self._not_before_ms) + len(self.queues)
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
        cut = {queue.id: queue.part.of for queue in self.queues.values()}
        groups: dict[Part, list[int]] = {}
        for name, shard in due:
            if self._not_before_ms.get((name, shard), 0) <= now_ms:
                of = cut.get(name) or self._partitions(name)
                groups.setdefault(Part(name, shard % of, of), []).append(shard)
        if accept_new:
            self._take_on(self._new(groups, cut, now_ms), now_ms)
        else:
            self._unserved_ms.clear()  # whoever looks for new queues now sees to them
        wanted = []
        for part, group in groups.items():
            queue = self.queues.get(part)
            if queue is not None and (room := queue.room):
                queue.awaited = True
                share = -(-room // len(group))
                wanted += [Wanted(part, queue.subscription.account, shard, share) for shard in group]
        return wanted

    def _take_on(self, new: Sequence[Part], now_ms: int) -> None:
        """Hold as many as there are places for; for the others somebody else is asked."""
        places = MAX_QUEUES - len(self.queues)
        if len(new) > places and now_ms - self._helped_ms >= _PATIENCE_MS:
            self._helped_ms = now_ms
            self._call_help()
        self._hold(new[:places], now_ms)

    def _partitions(self, name: str) -> int:
        known = self._subscriptions.get(name)
        return min((known and known.partitions) or 1, self._shards)

    def _new(self, due: Collection[Part], cut: Mapping[str, int], now_ms: int) -> list[Part]:
        """The parts to take on: of each subscription one; a second one only once nobody else came to take it."""
        self._unserved_ms = {part: seen_ms for part, seen_ms in self._unserved_ms.items() if part in due}
        served = set(cut)
        new: list[Part] = []
        unserved: list[Part] = []
        for part in due:
            if part in self.queues:
                continue
            if part.subscription not in served:
                served.add(part.subscription)
                new.append(part)
            elif self._partitions(part.subscription) == part.of:  # else what is held of it is to be let go first
                seen_ms = self._unserved_ms.get(part)
                if seen_ms is None:
                    unserved.append(part)
                elif now_ms - seen_ms >= _PATIENCE_MS:
                    new.append(part)
        if unserved:
            homes = [(part.subscription, part.home(self._shards)) for part in unserved]
            for part, is_held in zip(unserved, self._ports.queues.held(homes), strict=True):
                if is_held:
                    self._leave_alone(part, now_ms + _PATIENCE_MS)
                else:
                    self._unserved_ms[part] = now_ms
                    self._call_help()
        return new

    def _take_in(self, claimed: Claimed) -> int:
        self._ports.clock.note(claimed.now_ms)
        for part, shard in claimed.refused:
            self._not_before_ms[part.subscription, shard] = claimed.now_ms + _ASK_AGAIN_MS
        astray = []
        for part, shard in claimed.held:
            if part in self.queues:
                self.queues[part].shards.add(shard)
            else:
                astray.append((part.subscription, shard))
        self._ports.queues.release(self._token, astray)
        for queue in self.queues.values():
            queue.awaited = False
        # Of one that was lost meanwhile, the lanes are its next holder's when their lease ends.
        here = [(self.queues[part], ready) for part, ready in claimed.ready.items() if part in self.queues]
        return sum(queue.take(ready, claimed.now_ms) for queue, ready in here)

    @property
    def settling(self) -> bool:
        """Whether outcomes are being written down, and what the store says of them was not taken in yet."""
        return self._settling is not None

    def settle(self, *, aside: bool) -> None:
        """Write down what attempts came to.

        ``aside``: without waiting for the store; what it says is taken in by a later call.
        """
        if self._settling is not None:
            if aside and not self._settling.done():
                return
            self._settled(self._settling.result())
        sent: dict[tuple[str, int], list[Settlement]] = {}
        for queue in self.queues.values():
            settled, queue.settled, queue.settling = queue.settled, [], False
            for one in settled:
                if one.lane.shard not in queue.shards:
                    # Another slice's by now, which does not ask what came of it.
                    self.unsettled += one.verdict is not None
                    queue.in_hand.discard(one.lane.event)
                    continue
                queue.settling = True
                sent.setdefault((queue.id, one.lane.shard), []).append(one)
                if one.verdict in _DONE_WITH:
                    self._done.append((queue, one.lane.event))
                else:
                    queue.in_hand.discard(one.lane.event)
        if sent:
            self._sent = sent
            self._settling = self._settles.settle(self._token, sent)
            if not aside:
                self._settled(self._settling.result())

    def _settled(self, applied: Mapping[tuple[str, int], int]) -> None:
        for (name, shard), count in applied.items():
            self.unsettled += len(self._sent[name, shard]) - max(0, count)
            if count < 0:
                self._lose(self._holding(name, shard), shard)
        self._settling = None
        for queue, event in self._done:
            queue.in_hand.discard(event)
        self._done.clear()
        for queue in self.queues.values():
            queue.settling = False

    def renew(self) -> None:
        """Go on holding what is held."""
        held = [(queue.id, shard, 0) for queue in self.queues.values() for shard in queue.shards]
        if not held:
            return
        now_ms, replies = self._ports.queues.claim(self._token, held, self._policy.hold_ms)
        self._ports.clock.note(now_ms)
        for (name, shard, _), reply in zip(held, replies, strict=True):
            if reply is None:
                self._lose(self._holding(name, shard), shard)

    def release(self, queues: Iterable[HeldQueue]) -> None:
        """Let go of queues of which nothing is left here."""
        held = []
        now_ms = self._ports.clock.now_ms()
        for queue in list(queues):
            left = WELL if queue.leaving else queue.to_leave(now_ms)
            if not queue.lost and not queue.parked and (left != queue.noted or left.hastening):
                self._ports.queues.note_health(self._token, queue.part, left)
            held += [(queue.id, shard) for shard in queue.shards]
            self.queues.pop(queue.part, None)
        if held:
            self._ports.queues.release(self._token, held)

    def refresh(self) -> list[HeldQueue]:
        """Go by what the registry says now. Returns the queues of which nothing more is to be sent by this slice."""
        if self._heard == self._versions[self._shards - 1]:
            return []
        self._load()
        stopped = []
        for queue in list(self.queues.values()):
            new = self._subscriptions.get(queue.id)
            if new is None or new == queue.subscription:
                continue  # one that was removed is lost with the next settlement: its holds went with it
            if new.is_active and (credentials := self._credentials_of(new)) is not None:
                shown = (credentials.headers, credentials.identity)
                if new.url != queue.subscription.url or shown != (queue.headers, queue.identity):
                    queue.health = AT_ONCE  # what is known is known of another receiver, or of what it was shown
                queue.configure(new, credentials, self._policy)
                if self._partitions(new.id) != queue.part.of:
                    queue.leaving = True
                    stopped.append(queue)
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
        while self._ports.queues.hasten(self._token, queue.part, _HASTEN_AT_ONCE):
            if self._ports.clock.now_ms() - now_ms >= _HASTEN_FOR_MS:
                return False
        self._note(queue, hastened(queue.health, self._ports.clock.now_ms()))
        return True

    def _note(self, queue: HeldQueue, health: Health) -> None:
        queue.health = queue.noted = health
        if not self._ports.queues.note_health(self._token, queue.part, health):
            self._lose(queue, queue.part.home(self._shards))

    def _disable(self, queue: HeldQueue, now_ms: int) -> None:
        if self._ports.registries.disable(queue.id, queue.ending, now_ms):
            self._disabled(queue.id, queue.ending)
        self._load()
        self._park(queue.id)

    def _park(self, name: str) -> None:
        found = self._subscriptions.get(name)
        if found is not None and not found.is_active:
            self._ports.queues.park(name, self._versions)

    def _holding(self, name: str, shard: int) -> HeldQueue | None:
        return next(
            (one for one in self.queues.values() if one.id == name and shard % one.part.of == one.part.number), None
        )

    def _lose(self, queue: HeldQueue | None, shard: int) -> None:
        """Another slice serves a queue's shard. The others are held until what is under way in them is written down."""
        if queue is not None:
            queue.lose(shard, self._ports.clock.now_ms())

    def _hold(self, parts: Sequence[Part], now_ms: int) -> None:
        """Take the holds that decide who serves what: of each part the one in its home shard."""
        opened = [queue for part in parts if (queue := self._open(part, now_ms)) is not None]
        if not opened:
            return
        homes = [(queue.id, queue.part.home(self._shards), 0) for queue in opened]
        at_ms, replies = self._ports.queues.claim(self._token, homes, self._policy.hold_ms)
        self._ports.clock.note(at_ms)
        taken: list[HeldQueue] = []
        for queue, (_, home, _), reply in zip(opened, homes, replies, strict=True):
            self._unserved_ms.pop(queue.part, None)
            if reply is None:
                self._leave_alone(queue.part, now_ms + (_ASK_AGAIN_MS if queue.part.of == 1 else _PATIENCE_MS))
            else:
                queue.shards.add(home)
                taken.append(queue)
        # Read once they are held: nobody else changes it from then on.
        for queue, health in zip(taken, self._ports.queues.health([queue.part for queue in taken]), strict=True):
            queue.take_over(health)
            self.queues[queue.part] = queue

    def _leave_alone(self, part: Part, until_ms: int) -> None:
        for shard in part.shards(self._shards):
            self._not_before_ms[part.subscription, shard] = until_ms

    def _open(self, part: Part, now_ms: int) -> HeldQueue | None:
        name = part.subscription
        known = self._subscriptions.get(name)
        if known is None or not known.is_active:
            self._load()
        subscription = self._subscriptions.get(name)
        if subscription is None:
            # Removed, by one that was stopped. Where the registry is another by now it may be there again, with events
            # that were committed since: the next look finds it.
            self._ports.queues.remove(name, self._versions)
            return None
        if not subscription.is_active:
            # Whoever paused or disabled it was stopped before it was parked everywhere.
            self._park(name)
            return None
        credentials = self._credentials_of(subscription)
        if credentials is None:
            self._leave_alone(part, now_ms + self._policy.hold_ms)
            return None
        if self._partitions(name) != part.of:
            return None  # what was known of it was old: the next look finds its parts as they are now
        return HeldQueue(part, subscription, credentials, self._policy, self._host_of(subscription.url))

    def _credentials_of(self, subscription: Subscription) -> Credentials | None:
        try:
            return self._ports.secrets.of(subscription)
        except SecretsUnreadable as error:
            # Its events wait, untried, until somebody mends BRIDGE_SECRET_KEYS.
            self._complain(subscription.id, str(error))
            return None

    def _host_of(self, url: str) -> Host:
        return self._hosts.setdefault(urlsplit(url).netloc, Host())

"""One subscription's queue while a slice holds it: what is ready to send, what is under way, what is to settle.

How many attempts it may have under way follows from its own limits and from how its receiver has been.
"""

from __future__ import annotations

from collections import deque

import msgspec

from bridge.domain import batches, breaker
from bridge.domain.breaker import BreakerPolicy, Health
from bridge.domain.credentials import FOREVER_MS, Credentials
from bridge.domain.deliveries import Part, Ready, Settlement
from bridge.domain.durations import format_duration_ms
from bridge.domain.formats import renderer
from bridge.domain.outcome import Outcome, Verdict
from bridge.domain.policy import DeliveryPolicy
from bridge.domain.signing import Signer
from bridge.domain.subscriptions import Subscription

_LARGEST_BUFFER = 1024
_SOON_MS = 50
"""Claims that follow one another sooner than this are too small: each costs four round trips, however much it takes."""
_AHEAD_MS = 50
"""Of what is sent at a rate so much is claimed ahead, so that a turn of the loop is short for the others in it."""
_LEAST_AHEAD = 64
_CATCH_UP_MS = 100
"""How far behind its rate a subscription may fall and still make up for it: turns of the loop are not to the ms."""
_MOST_A_HOST = 128
"""Connections to one host, however many subscriptions name it: a quarter of a slice's."""


class Host:
    """How many attempts a slice has under way to one host, of all subscriptions."""

    __slots__ = ("in_flight",)

    def __init__(self) -> None:
        self.in_flight = 0


class HeldQueue:
    """A part of a subscription's queue that this slice holds.

    ``lost`` once another one does, of ``shards`` at least one; ``ending``, why it is to be disabled.
    ``most_batch`` is how many events a callback may carry by its subscription, ``batch`` by what became of the last
    ones; 0: each callback is one event.
    ``awaited``: lanes of it are being claimed; ``settling``: outcomes of it are being written down. ``in_hand``: of
    which lanes which events are ready or sent, until what came of that is on its way to the store; where it is the last
    word on an event, until the store has that: a claim that overtakes it may still give the event out.
    ``health`` is how its receiver is, ``noted`` what the store knows of that. ``parked`` once its subscription is
    paused or disabled: nothing more of it is started. ``leaving`` once its subscription is cut into other parts, or it
    is lost.
    """

    def __init__(
        self,
        part: Part,
        subscription: Subscription,
        credentials: Credentials,
        policy: DeliveryPolicy,
        host: Host,
    ) -> None:
        self.part = part
        self.host = host
        self.ending = ""
        self.concurrency = self.limit = self.most_batch = self.batch = 0
        self.parked = self.leaving = False
        self._is_probing = False
        self.configure(subscription, credentials, policy)
        self.take_over(breaker.WELL)
        self.shards: set[int] = set()
        self.ready: deque[Ready] = deque()
        self.in_flight = 0
        self.in_hand: set[tuple[bytes, bytes]] = set()
        self.settled: list[Settlement] = []
        self.awaited = self.settling = False
        self.lost = False
        self._buffer = max(32, self.concurrency, self.most_batch)
        self._took_ms = 0

    def take_over(self, health: Health) -> None:
        """Go on from how the receiver was when the last holder left it."""
        self.health = breaker.WELL if health == breaker.WELL else health
        self.noted = health
        self._next_ms = float(health.pace_ms)
        # A receiver that is just back, or asked for quiet, gets one at first, and one more for each it accepts.
        self.limit = 1 if health.gate_ms or health.hastening else self.concurrency

    def configure(self, subscription: Subscription, credentials: Credentials, policy: DeliveryPolicy) -> None:
        """Go by what its subscription says now: it may be edited while it is held."""
        self.subscription = subscription
        self.headers = credentials.headers
        self.identity = credentials.identity
        self.render = renderer(subscription, credentials.phone_key)
        self._keys = credentials.keys
        self._signer = Signer(())
        self._signs_until_ms = 0
        # Its parts together keep the subscription's limits.
        self.concurrency = self.limit = -(-(subscription.concurrency or policy.concurrency) // self.part.of)
        if self.most_batch != (subscription.max_batch or 0):
            self.most_batch = self.batch = subscription.max_batch or 0
        self.retry_ms = policy.retry_ms if subscription.retry_ms is None else subscription.retry_ms
        rate = subscription.rate or policy.rate
        self._timeout_ms = policy.timeout_ms
        self._interval_ms = 1000 * self.part.of / rate if rate else 0.0
        self._most_ready = self._attempts_ahead(policy.renew_ms) * max(1, self.most_batch)

    def _attempts_ahead(self, renew_ms: int) -> int:
        """How many attempts' lanes may be ready: what waits for its turn by the rate must be sent within its lease."""
        if not self._interval_ms:
            return _LARGEST_BUFFER
        enough = max(_LEAST_AHEAD, round(_AHEAD_MS / self._interval_ms))
        return max(1, min(enough, round(renew_ms / self._interval_ms)))

    def sign(self, message_id: str, now_ms: int, body: bytes) -> str:
        """The ``webhook-signature`` header, with the keys that sign now."""
        if now_ms >= self._signs_until_ms:
            self._keys = tuple(one for one in self._keys if now_ms < one.until_ms)
            self._signer = Signer([one.key for one in self._keys])
            self._signs_until_ms = min((one.until_ms for one in self._keys), default=FOREVER_MS)
        return self._signer.sign(message_id, now_ms // 1000, body)

    @property
    def id(self) -> str:
        """The subscription's id."""
        return self.subscription.id

    @property
    def idle(self) -> bool:
        """Whether nothing of it is left in this slice."""
        return not (self.has_leases or (self.health.hastening and not (self.parked or self.lost)))

    @property
    def has_leases(self) -> bool:
        """Whether any lane of it is leased to this slice, or may be."""
        return bool(self.ready or self.in_flight or self.settled or self.awaited or self.settling)

    @property
    def room(self) -> int:
        """How many more lanes to claim: none while enough are ready, one where it is to be a probe."""
        if self.parked or self.leaving or self.ending or self.health.hastening:
            return 0
        if self.health.is_open:
            return int(not (self.ready or self.in_flight))
        size = min(self._buffer, self._most_ready)
        return 0 if len(self.ready) > size // 2 else size - len(self.ready)

    def take(self, claimed: list[Ready], now_ms: int) -> int:
        """Take in lanes that were claimed at ``now_ms``, the oldest first. Returns how many are to be sent.

        The others go back untried: all of them where meanwhile nothing is to be sent any more, or not yet; all but the
        oldest where that one is to be a probe. What is in hand here is neither: its lease ended while the store was
        waited for, or went with a store that was replaced. What is ready of it goes on with the new one, and what comes
        of what is under way counts under that.
        """
        again = self.in_hand.intersection(one.lane.event for one in claimed)
        if again:
            self.in_hand.difference_update(one.lane.event for one in self.ready if one.lane.event in again)
            self.ready = deque(one for one in self.ready if one.lane.event not in again)
            claimed = [one for one in claimed if one.lane.event not in self.in_hand]
        keep = len(claimed)
        if self.parked or self.leaving or self.ending or self.health.hastening or now_ms < self.health.gate_ms:
            keep = 0
        elif self.health.is_open:
            keep = 1
        self.ready += claimed[:keep]
        self.in_hand.update(one.lane.event for one in claimed[:keep])
        self.settled += [Settlement(one.lane, None, due_ms=now_ms) for one in claimed[keep:]]
        # A backlog that is sent as fast as it is claimed gets a larger buffer, for fewer claims.
        if len(claimed) >= self._buffer // 2 and now_ms - self._took_ms < _SOON_MS:
            self._buffer = min(_LARGEST_BUFFER, 2 * self._buffer)
        self._took_ms = now_ms
        return keep

    @property
    def may_start(self) -> bool:
        """Whether something is ready, and its limits on what is under way leave room for it."""
        return bool(self.ready) and self.in_flight < self.limit and self.host.in_flight < _MOST_A_HOST

    def next(self, now_ms: int, share: int) -> Ready | None:
        """The next lane to start, None where nothing is ready, or enough is under way: at most ``share``, in any case.

        What is returned counts against the rate.
        """
        if not self.may_start or self.in_flight >= share:
            return None
        if self._interval_ms:
            if self._next_ms > now_ms:
                return None
            # What has waited for longer than it is leased takes no turn: it would be one for nothing.
            while self.ready and not self.is_in_time(self.ready[0], now_ms):
                self.hand_back(self.ready.popleft(), now_ms)
            if not self.ready:
                return None
            self._next_ms = max(self._next_ms, now_ms - _CATCH_UP_MS) + self._interval_ms
        self._is_probing = self.health.is_open
        return self.ready.popleft()

    def is_in_time(self, ready: Ready, now_ms: int) -> bool:
        """Whether an attempt that starts now ends before its lane's lease."""
        return now_ms + self._timeout_ms <= ready.lease_end_ms

    def hand_back(self, ready: Ready, now_ms: int) -> None:
        """Let a lane be claimed again: now, or when its lease ends, where that may come before this is settled.

        By then it may have been claimed again, and handing it back would take it from there: sent twice at once.
        """
        if now_ms + self._timeout_ms // 2 < ready.lease_end_ms:
            self.settled.append(Settlement(ready.lane, None, due_ms=now_ms))
        else:
            self.in_hand.discard(ready.lane.event)

    def hand_all_back(self, now_ms: int) -> None:
        """Let all that is ready be claimed again, and be careful with what follows."""
        self.limit = 1
        while self.ready:
            self.hand_back(self.ready.popleft(), now_ms)

    def lose(self, shard: int, now_ms: int) -> None:
        """Start nothing more: another slice has taken over in ``shard``, and is to have the others soon."""
        self.shards.discard(shard)
        self.lost = self.leaving = True
        self.hand_all_back(now_ms)

    def bury(self, ready: Ready, error: str) -> None:
        """Make a dead letter of what cannot be sent. The letter holds its record, whatever it is."""
        lane = ready.lane
        self.settled.append(Settlement(lane, Verdict.DEAD, lane.attempts, record=ready.record or b"", error=error))

    def sent(self, events: int, *, accepted: bool) -> None:
        """Learn what became of a batch of so many events: the next ones may be larger, or must be smaller."""
        if self.most_batch:
            self.batch = batches.larger(self.batch, self.most_batch) if accepted else batches.smaller(events)

    def succeeded(self, now_ms: int) -> bool:
        """Learn that an attempt was accepted. Returns whether there is something to note or do about it."""
        if self.limit < self.concurrency and not self.ending:
            self.limit += 1
        if self.health is breaker.WELL:
            return False
        self.health = breaker.succeeded(self.health, now_ms)
        return self.is_to_be_noted or self.health.hastening

    def failed(self, outcome: Outcome, policy: BreakerPolicy, now_ms: int) -> bool:
        """Learn that an attempt failed. Returns whether there is something to note or do about it."""
        self.health = breaker.failed(self.health, policy, now_ms, probe=self._is_probing, quiet_ms=outcome.slow_ms)
        if breaker.is_beyond_hope(self.health, policy, now_ms) and self._is_probing:
            self.ending = f"no attempt succeeded for {format_duration_ms(policy.disable_ms)}"
        return self.is_to_be_noted or bool(self.ending)

    @property
    def is_to_be_noted(self) -> bool:
        """Whether others must know at once: what is sent, and when, depends on it."""
        return self.health.gate_ms != self.noted.gate_ms or self.health.hastening != self.noted.hastening

    def to_leave(self, now_ms: int) -> Health:
        """How its receiver is, for the next one who holds it."""
        # What may be made up for of a time that is over is theirs too, and not anew.
        recent = self._interval_ms and self._next_ms > now_ms - _CATCH_UP_MS
        pace_ms = round(self._next_ms) if recent else 0
        if pace_ms == self.health.pace_ms:
            return self.health
        return msgspec.structs.replace(self.health, pace_ms=pace_ms)

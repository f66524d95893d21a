"""One subscription's queue while a slice holds it: what is ready to send, what is under way, what is to settle."""

from __future__ import annotations

from collections import deque

import msgspec

from bridge.domain.credentials import FOREVER_MS, Credentials
from bridge.domain.deliveries import Lane, Settlement
from bridge.domain.formats import renderer
from bridge.domain.signing import Signer
from bridge.domain.subscriptions import Subscription

_LARGEST_BUFFER = 1024
_SOON_MS = 50
"""Claims that follow one another sooner than this are too small: each costs four round trips, however much it takes."""


class Ready(msgspec.Struct, frozen=True, gc=False):
    """A claimed lane with its event's record (None where neither log nor kept records have it any more)."""

    lane: Lane
    record: bytes | None
    lease_end_ms: int


class HeldQueue:
    """A queue that this slice holds. ``lost`` once another one does."""

    def __init__(self, subscription: Subscription, credentials: Credentials, concurrency: int) -> None:
        self.adopt(subscription, credentials)
        self.concurrency = concurrency
        self.shards: set[int] = set()
        self.ready: deque[Ready] = deque()
        self.in_flight = 0
        self.settled: list[Settlement] = []
        self.lost = False
        self._buffer = max(32, concurrency)
        self._took_ms = 0

    def adopt(self, subscription: Subscription, credentials: Credentials) -> None:
        """Send as the subscription says now: it may be edited while it is held."""
        self.subscription = subscription
        self.headers = credentials.headers
        self.identity = credentials.identity
        self.render = renderer(subscription, credentials.phone_key)
        self._keys = credentials.keys
        self._signer = Signer(())
        self._signs_until_ms = 0

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
        return not (self.ready or self.in_flight or self.settled)

    @property
    def room(self) -> int:
        """How many more lanes to claim: none while enough are ready."""
        if len(self.ready) > self._buffer // 2:
            return 0
        return self._buffer - len(self.ready)

    def took(self, lanes: int, now_ms: int) -> None:
        """Learn from a claim: a backlog sent as fast as it is claimed gets a larger buffer, for fewer claims."""
        if lanes >= self._buffer // 2 and now_ms - self._took_ms < _SOON_MS:
            self._buffer = min(_LARGEST_BUFFER, 2 * self._buffer)
        self._took_ms = now_ms

    def next(self) -> Ready | None:
        """The next lane to start, None where the subscription has enough under way or nothing is ready."""
        if self.in_flight >= self.concurrency or not self.ready:
            return None
        return self.ready.popleft()

"""Batches: one POST that carries several events, for a subscription that asked for it (``max_batch``).

A batch that failed is not kept: its members retry, each by its own schedule, in batches of at most half the size for
each failure that they have had, until whatever is wrong with one of them stands alone. The next batch after a failure
is half as large at most, and each success doubles that again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from bridge.domain.events import base32, iso_millis
from bridge.domain.formats import PUSH_END, PUSH_START
from bridge.domain.subscriptions import BodyFormat

BATCH = "bridge.batch"
MOST_EVENTS = 1_000
MOST_BYTES = 1_000_000
_ENVELOPE_BYTES = 100
"""What stands around the events, and more."""


def most_for(attempts: int, most: int) -> int:
    """How large a batch with an event may be that has had ``attempts``: half of ``most`` for each, and at least 1."""
    return max(1, most >> attempts)


def smaller(sent: int) -> int:
    """How large batches may be after one of ``sent`` events failed."""
    return max(1, sent // 2)


def larger(size: int, most: int) -> int:
    """How large they may be after one was accepted while ``size`` was the limit."""
    return min(most, 2 * size)


class Batch:
    """What one POST is to carry: at most ``most`` events and 1 MB, at most one event of a phone."""

    __slots__ = ("_bytes", "_most", "_newest_ms", "_phones", "bodies", "ids")

    def __init__(self, most: int) -> None:
        self._most = most
        self._bytes = _ENVELOPE_BYTES
        self._newest_ms = 0
        self._phones: set[str] = set()
        self.ids: list[str] = []
        self.bodies: list[bytes] = []

    def has_room(self, most: int) -> bool:
        """Whether one more event may join that itself allows a batch of ``most``."""
        return len(self.ids) < min(self._most, most)

    def holds(self, phone: str) -> bool:
        """Whether an event of this phone (as phones are compared; "" for none) is in it already."""
        return phone in self._phones

    def add(self, message_id: str, body: bytes, phone: str, observed_ms: int, most: int) -> bool:
        """Let an event join, where it fits. ``most`` is how large a batch it allows."""
        if self.ids and self._bytes + len(body) + 1 > MOST_BYTES:
            return False
        self._most = min(self._most, most)
        self._bytes += len(body) + 1
        self._newest_ms = max(self._newest_ms, observed_ms)
        if phone:
            self._phones.add(phone)
        self.ids.append(message_id)
        self.bodies.append(body)
        return True

    def render(self, subscription: str, body_format: BodyFormat) -> tuple[str, bytes]:
        """Its webhook-id and its body: an envelope around the events' own bodies, byte for byte."""
        message_id = batch_id(subscription, self.ids)
        if body_format is BodyFormat.USMS:
            receipts = [body[len(PUSH_START) : -len(PUSH_END)] for body in self.bodies]
            # A test has none.
            return message_id, PUSH_START + b",".join(filter(None, receipts)) + PUSH_END
        head = f'{{"type":"{BATCH}","timestamp":"{iso_millis(self._newest_ms)}","data":['
        return message_id, head.encode() + b",".join(self.bodies) + b"]}"


def batch_id(subscription: str, ids: Sequence[str]) -> str:
    """``bat_`` and 26 characters: a hash of the subscription and of its events' ids in their order."""
    digest = hashlib.sha256("\0".join((subscription, *ids)).encode()).digest()
    return "bat_" + base32(digest)

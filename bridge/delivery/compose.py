"""What one POST carries: an event or, where its subscription takes batches, several, with the headers that sign it."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from bridge.delivery.queue import HeldQueue
from bridge.delivery.transport import Request
from bridge.domain import events
from bridge.domain.batches import Batch, most_for
from bridge.domain.deliveries import Ready
from bridge.domain.policy import DeliveryPolicy
from bridge.domain.receipts import normalise_phone

_MOST_PASSED = 100
"""Events that a batch may pass over, each of a phone that it has already, in looking for others."""


class Flight(msgspec.Struct, frozen=True, gc=False):
    """What a transfer carries through the transport and back: one event, or those of a batch."""

    queue: HeldQueue
    members: tuple[Ready, ...]


_Rendered = tuple[events.Record, str, bytes]
"""An event, its id and its body."""


class Composer:
    """Makes requests of what is ready. ``unreadable`` hears of what became a dead letter instead, and why."""

    def __init__(self, policy: DeliveryPolicy, user_agent: str, unreadable: Callable[[HeldQueue, str], None]) -> None:
        self._timeout_ms = policy.timeout_ms
        self._headers = [b"Content-Type: application/json", f"User-Agent: {user_agent}".encode()]
        self._unreadable = unreadable

    def compose(self, queue: HeldQueue, ready: Ready, now_ms: int) -> Request | None:
        """What to send of ``ready`` and, in a batch, of what is ready behind it; None where that cannot be sent."""
        first = self._rendered(queue, ready, now_ms)
        if first is None:
            return None
        if queue.most_batch:
            members, message_id, body = self._gather(queue, ready, first, now_ms)
        else:
            members, (_, message_id, body) = (ready,), first
        headers = [
            *self._headers,
            *queue.headers,
            f"webhook-id: {message_id}".encode(),
            f"webhook-timestamp: {now_ms // 1000}".encode(),
            f"webhook-signature: {queue.sign(message_id, now_ms, body)}".encode(),
        ]
        flight = Flight(queue, members)
        return Request(flight, queue.subscription.url, headers, body, self._timeout_ms, queue.identity)

    def _rendered(self, queue: HeldQueue, ready: Ready, now_ms: int) -> _Rendered | None:
        """An event with its id and body; None where it cannot be sent, which is seen to here."""
        if not queue.is_in_time(ready, now_ms):
            queue.hand_back(ready, now_ms)
        elif ready.record is None:
            self._bury(queue, ready, "the event was no longer in the log")
        else:
            try:
                event = events.unpack(ready.record)
                return event, *queue.render(event)
            except (msgspec.MsgspecError, ValueError, OverflowError, IndexError, OSError):
                # One record must not end every slice that comes upon it.
                self._bury(queue, ready, "the event's record could not be read")
        return None

    def _gather(
        self, queue: HeldQueue, ready: Ready, first: _Rendered, now_ms: int
    ) -> tuple[tuple[Ready, ...], str, bytes]:
        """A batch of an event and what is ready behind it. What may not join stays ready, in its order."""
        batch, members, passed = Batch(queue.batch), [], []
        candidate: _Rendered | None = first
        while candidate is not None:
            event, message_id, body = candidate
            most = most_for(ready.lane.attempts, queue.most_batch)
            phone = normalise_phone(event.phone)
            if batch.holds(phone):
                passed.append(ready)
            elif batch.add(message_id, body, phone, event.observed_ms, most):
                members.append(ready)
            else:
                queue.ready.appendleft(ready)
                break
            candidate = None
            while candidate is None and queue.ready and len(passed) < _MOST_PASSED:
                if not batch.has_room(most_for(queue.ready[0].lane.attempts, queue.most_batch)):
                    break
                ready = queue.ready.popleft()
                candidate = self._rendered(queue, ready, now_ms)
        queue.ready.extendleft(reversed(passed))
        return (tuple(members), *batch.render(queue.id, queue.subscription.format))

    def _bury(self, queue: HeldQueue, ready: Ready, error: str) -> None:
        queue.bury(ready, error)
        self._unreadable(queue, error)

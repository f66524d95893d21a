"""What a channel has taken: each message's lease, its renewal, and its way back."""

from __future__ import annotations

from collections.abc import Sequence
from time import monotonic
from typing import Any
from weakref import WeakSet

from kombu.transport import redis as kombu_redis
from kombu.transport import virtual
from redis.exceptions import ResponseError

from bridge.observe.logs import get_logger

_log = get_logger(__name__)

TAKEN = "bridge.taken"
LEASES = "bridge.leases"

_RESTORED_AT_ONCE = 100


class QoS(kombu_redis.QoS):
    """What a channel has taken and not acknowledged: here by tag and, with its lease, in the broker."""

    channel: Any
    _delivered: Any
    _dirty: set[str]

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._renewed_at = 0.0
        self._done: set[str] = set()
        _in_use.add(self)

    def append(self, message: Any, delivery_tag: str) -> None:
        # The take has written it down.
        virtual.QoS.append(self, message, delivery_tag)

    def ack(self, delivery_tag: str) -> None:
        """Be done with a message, whatever the broker says.

        Were a broker that refuses it (its disk is full, its replicas are gone) to leave the message among those that
        are worked on, a worker would soon have as many as it may take, and take none any more. What cannot be told now
        is told later; until then its lease is renewed, or somebody would do the work again.
        """
        self._done.add(delivery_tag)
        virtual.QoS.ack(self, delivery_tag)
        self._tell([delivery_tag])

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """Give a message back, or be done with it. What cannot be given back now goes back when its lease ends."""
        if not requeue:
            self.ack(delivery_tag)
            return
        virtual.QoS.ack(self, delivery_tag)
        try:
            self.channel.put_back(delivery_tag, "last", "any")
        except self._failures as error:
            _log.warning("a message stays taken until its lease ends", reason=repr(error))

    @property
    def _failures(self) -> tuple[type[Exception], ...]:
        return (*self.channel.connection_errors, ResponseError)

    def _tell(self, done: Sequence[str]) -> None:
        """Tell the broker which messages are done with, as far as it takes that now."""
        try:
            for tag in done:
                self.channel.forget(tag)
                self._done.discard(tag)
        except self._failures as error:
            _log.warning("messages are done with, and the broker does not take that yet", reason=repr(error))

    def held(self) -> list[str]:
        """The tags of what is held."""
        return [tag for tag in list(self._delivered) if tag not in self._dirty]

    def restore_unacked(self, client: Any = None) -> None:
        """Put back what is held: the channel closes. Where the broker is gone, the leases' end does it."""
        held = self.held()
        self._tell(list(self._done))
        try:
            # The last first: each goes to the front, and the first one taken is to be the first again.
            for tag in reversed(held):
                self.channel.put_back(tag, "next", "any", client)
        except self._failures as error:
            _log.warning("messages stay taken until their leases end", count=len(held), reason=type(error).__name__)
        self._delivered.clear()
        self._dirty.clear()

    def restore_visible(self, start: int = 0, num: int | None = None, interval: int = 1) -> None:  # noqa: ARG002 - kombu's
        """Renew the leases of what is held, and put back what nobody holds any more."""
        now = monotonic()
        if now - self._renewed_at < self.channel.unacked_restore_interval / 2:
            return
        self._renewed_at = now
        lease_ms = int(self.channel.visibility_timeout * 1000)
        if self._done:
            self._tell(list(self._done))
        held = [*self.held(), *self._done]
        over = self.channel.run("renew_leases", [LEASES], [lease_ms, num or _RESTORED_AT_ONCE, *held])
        returned = sum(self.channel.put_back(tag.decode(), "next", "over") for tag in reversed(over))
        if returned:
            _log.info("messages of dead workers are back in their queues", count=returned)


_in_use: WeakSet[QoS] = WeakSet()


def hand_back() -> None:
    """Put back all that this process has taken: it ends now, whatever is at work on it."""
    for qos in list(_in_use):
        qos.channel.undo_take()
        qos.restore_unacked()

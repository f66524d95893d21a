"""Taking a subscription away with all that waits for it."""

from __future__ import annotations

from bridge.errors import BridgeError
from bridge.store.attempts import AttemptLog
from bridge.store.queues import QueueStore
from bridge.store.subscriptions import SubscriptionStore

_TRIES = 20


class Remover:
    """Takes subscriptions away, and nothing of one that comes again under the same id meanwhile."""

    def __init__(self, subscriptions: SubscriptionStore, queues: QueueStore, attempts: AttemptLog) -> None:
        self._subscriptions = subscriptions
        self._queues = queues
        self._attempts = attempts

    def remove(self, subscription: str) -> None:
        """Remove a subscription with all that waits for it.

        Raises:
            NotFound: there is none of this id.
            BridgeError: as of ``clear``.
        """
        self._subscriptions.remove(subscription)
        self.clear(subscription)

    def clear(self, subscription: str) -> None:
        """Remove what is kept for a subscription that has left the registry, unless it is back there.

        Raises:
            BridgeError: the registry kept being changed; the slice that comes upon what waits removes it.
        """
        for _ in range(_TRIES):
            versions = self._subscriptions.versions_without(subscription)
            if versions is None:
                return  # it was named again: what waits, waits for that one
            if not self._queues.remove(subscription, versions):
                self._attempts.remove(subscription)
                return
        raise BridgeError(
            f"{subscription} is removed, but not all that was kept for it, because subscriptions kept being changed"
        )

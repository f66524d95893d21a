"""Subscriptions that exist because sessions name their URL: made when it is named, removed when nothing can use them.

Their ids come again with their URL, and neither making nor removing one is a single step: the registry, the queues and
the count of URLs are in different slots of a cluster. What keeps an event of a URL that is named while its subscription
is removed:

- Whoever names a URL notes that first, and looks at the registry then. Whoever removes one marks it there first, and
  looks when it was named then. So one of both sees the other: the first takes the mark away, or the second gives up.
- A queue is removed at the versions at which the registry was without its subscription. Before commits route to one
  that is new, every version was made another: so no event is in a queue that can still be removed.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import cast

from msgspec.structs import replace

from bridge.domain.subscriptions import Passage, Stage, Subscription, callback_id
from bridge.errors import BridgeError, UsageError
from bridge.store import keys
from bridge.store.client import Call, Client
from bridge.store.queues import QueueStore
from bridge.store.subscriptions import Found, SubscriptionStore

MOST_CALLBACK_URLS = 1_000
_TRIES = 20


class CallbackUrls:
    """The URLs that an account's sessions name: at most 1,000, each counted until it was not named for long."""

    def __init__(
        self, client: Client, subscriptions: SubscriptionStore, queues: QueueStore, clear: Callable[[str], None]
    ) -> None:
        """``clear`` removes what is kept for a subscription that has left the registry."""
        self._client = client
        self._subscriptions = subscriptions
        self._queues = queues
        self._clear = clear

    def subscribe(self, account: str, url: str, now_ms: int) -> str:
        """The id of the subscription for ``url``, which every later commit knows, and is noted as used now.

        Raises:
            UsageError: the account has 1,000 other URLs.
        """
        name = callback_id(account, url)
        used = Call("use_callback", [keys.callbacks(account)], [name, now_ms, MOST_CALLBACK_URLS])
        if self._client.run([used]) != [1]:
            raise UsageError(
                f"callback_url: the account's sessions name {MOST_CALLBACK_URLS:,} URLs already; use one of them, "
                "and tell sessions apart by their metadata"
            )
        self._settle(Subscription(id=name, account=account, url=url, created_ms=now_ms, secrets=(), implicit=True))
        return name

    def remove_unused(self, account: str, before_ms: int) -> int:
        """Remove those that nothing waits for and no session named since ``before_ms`` (Unix ms). Returns how many."""
        (reply,) = self._client.commands([["ZRANGEBYSCORE", keys.callbacks(account), "-inf", f"({before_ms}"]])
        unused = [name.decode() for name in cast("list[bytes]", reply)]
        waiting = self._queues.lengths(unused)
        return sum(self._remove(account, name, before_ms) for name in unused if not waiting[name])

    def _remove(self, account: str, name: str, before_ms: int) -> bool:
        found = self._subscriptions.find(name)
        if found is not None:
            if found.subscription.passage is not None:
                self._subscriptions.bump()  # whoever had begun something was stopped: nobody knows where
            leaving = self._subscriptions.swap(found, _at(found, Stage.LEAVING))
            if leaving is None:
                return False  # it is being named again, or removed
            (named,) = self._client.commands([["ZSCORE", keys.callbacks(account), name]])
            if named is None or float(cast("bytes", named)) >= before_ms:
                self._settle(leaving.subscription)
                return False
            if not self._subscriptions.drop(leaving):
                return False
            self._subscriptions.bump()
            if self._queues.lengths([name])[name]:
                # Something could use it after all, until a moment ago.
                self._settle(leaving.subscription)
                return False
            self._clear(name)
        forgotten = Call("forget_callback", [keys.callbacks(account)], [name, before_ms])
        return self._client.run([forgotten]) == [1]

    def _settle(self, wanted: Subscription) -> None:
        """Have a subscription simply there: the one of this id, or ``wanted`` where there is none.

        Raises:
            BridgeError: others kept changing it.
        """
        for _ in range(_TRIES):
            # Asked each time: a worker that remembered would go on for one that was removed by hand.
            found = self._subscriptions.find(wanted.id)
            if found is None:
                self._subscriptions.begin(replace(wanted, passage=_passage(Stage.ARRIVING)))
                continue
            passage = found.subscription.passage
            if passage is None:
                return
            self._subscriptions.bump()
            self._subscriptions.swap(found, _at(found, Stage.ARRIVED if passage.stage is Stage.ARRIVING else None))
        raise BridgeError(f"{wanted.id} kept being changed by others; try again")


def _passage(stage: Stage) -> Passage:
    return Passage(stage, secrets.token_hex(8))


def _at(found: Found, stage: Stage | None) -> Subscription:
    return replace(found.subscription, passage=None if stage is None else _passage(stage))

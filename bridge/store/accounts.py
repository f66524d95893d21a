"""The subscriptions that the URLs of an account's sessions imply."""

from __future__ import annotations

from typing import cast

from bridge.domain.subscriptions import Subscription, callback_id
from bridge.errors import UsageError
from bridge.store import keys
from bridge.store.client import Client
from bridge.store.subscriptions import SubscriptionStore

MOST_CALLBACK_URLS = 1_000


class CallbackUrls:
    """Subscriptions that exist because sessions name their URL: at most 1,000 an account, removed when unused."""

    def __init__(self, client: Client, subscriptions: SubscriptionStore) -> None:
        self._client = client
        self._subscriptions = subscriptions

    def subscribe(self, account: str, url: str, now_ms: int) -> str:
        """The id of the subscription for ``url``, which exists when this returns and is noted as used now.

        Raises:
            UsageError: the account has 1,000 other URLs.
        """
        name = callback_id(account, url)
        used = keys.callbacks(account)
        # Asked of the store each time: a worker that remembered would go on for one that was removed by hand.
        is_new, count, exists, _ = self._client.commands(
            [
                ["ZADD", used, "NX", now_ms, name],
                ["ZCARD", used],
                ["HEXISTS", keys.SUBSCRIPTIONS, name],
                ["ZADD", used, "XX", "GT", now_ms, name],
            ]
        )
        if is_new and cast("int", count) > MOST_CALLBACK_URLS:
            self._client.commands([["ZREM", used, name]])
            raise UsageError(
                f"callback_url: the account's sessions name {MOST_CALLBACK_URLS:,} URLs already; use one of them, "
                "and tell sessions apart by their metadata"
            )
        if not exists:
            self._subscriptions.put(
                Subscription(id=name, account=account, url=url, created_ms=now_ms, secrets=(), implicit=True)
            )
        return name

    def unused(self, account: str, before_ms: int) -> list[str]:
        """Subscriptions that no session has named since ``before_ms`` (Unix ms)."""
        (reply,) = self._client.commands([["ZRANGEBYSCORE", keys.callbacks(account), "-inf", f"({before_ms}"]])
        return [name.decode() for name in cast("list[bytes]", reply)]

    def forget(self, account: str, name: str) -> None:
        """Remove the subscription from the account's."""
        self._client.commands([["ZREM", keys.callbacks(account), name]])

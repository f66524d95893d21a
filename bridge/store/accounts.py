"""What belongs to an account as a whole: its callback secret, and the subscriptions that its sessions' URLs imply."""

from __future__ import annotations

import secrets
from typing import cast

from bridge.domain.signing import SECRET_BYTES
from bridge.domain.subscriptions import Subscription, callback_id
from bridge.errors import UsageError
from bridge.store import keys
from bridge.store.client import Client
from bridge.store.secrets import SecretBox
from bridge.store.subscriptions import SubscriptionStore

MOST_CALLBACK_URLS = 1_000
_SECRET = "callback_secret"  # noqa: S105 - the name of a field


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


class SigningKeys:
    """The keys that a subscription's callbacks are signed with: its own, or its account's."""

    def __init__(self, client: Client, box: SecretBox) -> None:
        self._client = client
        self._box = box

    def of(self, subscription: Subscription) -> tuple[bytes, ...]:
        """The current key first.

        Raises:
            SecretsUnreadable: none of BRIDGE_SECRET_KEYS opens them.
        """
        if subscription.implicit:
            return (self.of_account(subscription.account),)
        return tuple(self._box.open(sealed, subscription.id) for sealed in subscription.secrets)

    def of_account(self, account: str) -> bytes:
        """The key of callbacks to URLs that sessions name, made when it is first asked for.

        Raises:
            SecretsUnreadable: none of BRIDGE_SECRET_KEYS opens it.
        """
        name, owner = keys.account(account), f"account:{account}"
        (sealed,) = self._client.commands([["HGET", name, _SECRET]])
        if sealed is None:
            fresh = self._box.seal(secrets.token_bytes(SECRET_BYTES), owner)
            _, sealed = self._client.commands([["HSETNX", name, _SECRET, fresh], ["HGET", name, _SECRET]])
        return self._box.open(cast("bytes", sealed), owner)

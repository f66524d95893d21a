"""Subscriptions' secrets as they are stored: each sealed to its owner and its use, so that none opens as another."""

from __future__ import annotations

import secrets
from typing import cast

import msgspec

from bridge.domain.credentials import Credentials, SigningKey
from bridge.domain.signing import SECRET_BYTES
from bridge.domain.subscriptions import Options, PhoneFormat, Subscription
from bridge.store import keys
from bridge.store.client import Client
from bridge.store.secrets import SecretBox

_SECRET = "callback_secret"  # noqa: S105 - the name of a field


def sealed(subscription: Subscription, options: Options, box: SecretBox) -> Subscription:
    """The subscription with what was asked for, its secrets sealed."""
    # Not derived from the signing secret: that one is rotated when it leaks, and this one never can be.
    phone_key = secrets.token_bytes(SECRET_BYTES) if options.phones is PhoneFormat.HASHED else b""
    return msgspec.structs.replace(
        subscription,
        types=options.types,
        statuses=options.statuses,
        phones=options.phones,
        format=options.format,
        phone_key=phone_key and box.seal(phone_key, _phones(subscription.id)),
    )


def _phones(subscription: str) -> str:
    return f"{subscription}:phones"


class SigningKeys:
    """The keys that a subscription's callbacks are signed with: its own, or its account's."""

    def __init__(self, client: Client, box: SecretBox) -> None:
        self._client = client
        self._box = box

    def of(self, subscription: Subscription) -> Credentials:
        """What its callbacks are made with.

        Raises:
            SecretsUnreadable: none of BRIDGE_SECRET_KEYS opens them.
        """
        if subscription.implicit:
            return Credentials(keys=(SigningKey(self.of_account(subscription.account)),))
        keys = [SigningKey(self._box.open(sealed, subscription.id)) for sealed in subscription.secrets]
        phone_key = subscription.phone_key and self._box.open(subscription.phone_key, _phones(subscription.id))
        return Credentials(keys=tuple(keys), phone_key=phone_key)

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

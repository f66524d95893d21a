"""Who wants to hear of a change."""

from __future__ import annotations

import hashlib
from base64 import b32encode
from enum import StrEnum

import msgspec


class SubscriptionState(StrEnum):
    """active → (removed). Nothing else yet can stop a subscription."""

    ACTIVE = "active"


class Subscription(msgspec.Struct, frozen=True, kw_only=True):
    """A callback URL with its secrets. ``created_ms`` is Unix milliseconds; ``secrets`` are sealed, newest first.

    ``implicit``: it exists because sessions name its URL, hears of those alone, and has its account's secret.
    """

    id: str
    account: str
    url: str
    created_ms: int
    secrets: tuple[bytes, ...]
    state: SubscriptionState = SubscriptionState.ACTIVE
    implicit: bool = False


def callback_id(account: str, url: str) -> str:
    """The id of the implicit subscription for a session's ``callback_url``: one a URL and account."""
    digest = hashlib.blake2b(f"{account}\0{url}".encode(), digest_size=10).digest()
    return "url_" + b32encode(digest).decode().lower()

"""Who wants to hear of a change."""

from __future__ import annotations

import hashlib
from base64 import b32encode
from enum import StrEnum

import msgspec


class SubscriptionState(StrEnum):
    """active → paused (by an operator) or disabled (by its receiver) → active, when an operator resumes it."""

    ACTIVE = "active"
    PAUSED = "paused"
    DISABLED = "disabled"


class Deliver(StrEnum):
    """What becomes of the events that waited while a subscription was paused or disabled."""

    ALL = "all"
    LATEST = "latest"
    NONE = "none"


class Subscription(msgspec.Struct, frozen=True, kw_only=True):
    """A callback URL with its secrets. ``created_ms`` is Unix milliseconds; ``secrets`` are sealed, newest first.

    ``implicit``: it exists because sessions name its URL, hears of those alone, and has its account's secret.
    ``reason`` and ``since_ms`` say why and since when it is in its state; ``releasing``, that it is active again but
    not all of its queue yet. ``rate`` (attempts a second), ``concurrency`` and ``retry_ms`` are the bridge's own where
    they are None.
    """

    id: str
    account: str
    url: str
    created_ms: int
    secrets: tuple[bytes, ...]
    state: SubscriptionState = SubscriptionState.ACTIVE
    implicit: bool = False
    reason: str = ""
    since_ms: int = 0
    releasing: bool = False
    rate: float | None = None
    concurrency: int | None = None
    retry_ms: tuple[int, ...] | None = None

    @property
    def is_active(self) -> bool:
        """Whether its events are sent, and not parked."""
        return self.state is SubscriptionState.ACTIVE


def callback_id(account: str, url: str) -> str:
    """The id of the implicit subscription for a session's ``callback_url``: one a URL and account."""
    digest = hashlib.blake2b(f"{account}\0{url}".encode(), digest_size=10).digest()
    return "url_" + b32encode(digest).decode().lower()

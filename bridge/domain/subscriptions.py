"""Who wants to hear of a change."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class SubscriptionState(StrEnum):
    """active → (removed). Nothing else yet can stop a subscription."""

    ACTIVE = "active"


class Subscription(msgspec.Struct, frozen=True, kw_only=True):
    """A callback URL with its secrets. ``created_ms`` is Unix milliseconds; ``secrets`` are sealed, newest first."""

    id: str
    account: str
    url: str
    created_ms: int
    secrets: tuple[bytes, ...]
    state: SubscriptionState = SubscriptionState.ACTIVE

"""An account: one provider credential set, and whose sessions, subscriptions and events go by its name."""

from __future__ import annotations

import msgspec

DEFAULT_ACCOUNT = "default"
"""The account that everything is of where none is named; its credentials come from the environment."""


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """A credential set as it is stored. ``default`` is never among them: it comes from the environment.

    ``private_key`` is sealed. ``provider_url`` "" and ``rate`` (calls a second) None are the bridge's own; of
    ``project_id`` and ``region``, "" is sent to nobody. ``created_ms`` and ``changed_ms`` are Unix milliseconds.
    """

    name: str
    public_key: str
    private_key: bytes
    created_ms: int
    changed_ms: int
    project_id: str = ""
    region: str = ""
    provider_url: str = ""
    rate: float | None = None


def shown_key(public_key: str) -> str:
    """A public key as a list shows it: enough to tell two apart, and not enough to call with."""
    return public_key if len(public_key) <= 8 else f"{public_key[:4]}…{public_key[-4:]}"

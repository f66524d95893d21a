"""What a subscription's callbacks are made with that is nobody else's business: opened, and only in memory."""

from __future__ import annotations

import msgspec

FOREVER_MS = 2**62
"""Later than any clock."""


class SigningKey(msgspec.Struct, frozen=True):
    """A key that signs until ``until_ms`` (Unix milliseconds)."""

    key: bytes
    until_ms: int = FOREVER_MS


class Credentials(msgspec.Struct, frozen=True, kw_only=True):
    """``keys`` sign, the current one first. ``phone_key`` hashes phones. ``headers`` are whole lines to send along."""

    keys: tuple[SigningKey, ...]
    phone_key: bytes = b""
    headers: tuple[str, ...] = ()

"""What a subscription's callbacks are made with that is nobody else's business: opened, and only in memory."""

from __future__ import annotations

import msgspec

FOREVER_MS = 2**62
"""Later than any clock."""


class SigningKey(msgspec.Struct, frozen=True):
    """A key that signs until ``until_ms`` (Unix milliseconds)."""

    key: bytes
    until_ms: int = FOREVER_MS


class Identity(msgspec.Struct, frozen=True):
    """What a connection is made with, in PEM; b"" for what was not given.

    ``certificate`` (with its chain) and ``key`` are shown to the receiver; ``authorities`` are trusted to vouch for
    it, in place of those that are usually.
    """

    certificate: bytes
    key: bytes
    authorities: bytes


class Credentials(msgspec.Struct, frozen=True, kw_only=True):
    """``keys`` sign, the current one first. ``phone_key`` hashes phones. ``headers`` are whole lines to send along."""

    keys: tuple[SigningKey, ...]
    phone_key: bytes = b""
    headers: tuple[bytes, ...] = ()
    identity: Identity | None = None

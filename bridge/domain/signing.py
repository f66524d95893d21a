"""Standard Webhooks 1.0 signatures: ``v1,`` + base64(HMAC-SHA256(secret, ``{id}.{timestamp}.{body}``)).

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

from __future__ import annotations

import binascii
import hmac
from collections.abc import Sequence

PREFIX = "whsec_"
SECRET_BYTES = 32


def encode_secret(key: bytes) -> str:
    """The form a secret is shown in: ``whsec_`` and base64."""
    return PREFIX + binascii.b2a_base64(key, newline=False).decode()


def decode_secret(secret: str) -> bytes:
    """The key within ``whsec_…`` (24 to 64 bytes).

    Raises:
        ValueError: not base64 after the prefix, or a length outside 24 to 64 bytes. The message has no secret in it.
    """
    if not secret.startswith(PREFIX):
        raise ValueError(f"a secret starts with {PREFIX}")
    try:
        key = binascii.a2b_base64(secret.removeprefix(PREFIX), strict_mode=True)
    except (binascii.Error, ValueError):
        raise ValueError(f"a secret is {PREFIX} followed by base64") from None
    if not 24 <= len(key) <= 64:
        raise ValueError(f"a secret has 24 to 64 bytes, not {len(key)}")
    return key


def signature(keys: Sequence[bytes], message_id: str, timestamp_s: int, body: bytes) -> str:
    """The ``webhook-signature`` header: one ``v1,…`` per key, separated by spaces, the current key first."""
    signed = f"{message_id}.{timestamp_s}.".encode() + body
    return " ".join(
        "v1," + binascii.b2a_base64(hmac.digest(key, signed, "sha256"), newline=False).decode() for key in keys
    )

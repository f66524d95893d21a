"""Standard Webhooks 1.0 signatures: ``v1,`` + base64(HMAC-SHA256(secret, ``{id}.{timestamp}.{body}``)).

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

from __future__ import annotations

import binascii
import hashlib
from collections.abc import Sequence

PREFIX = "whsec_"
SECRET_BYTES = 32
_BLOCK_BYTES = 64


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


class Signer:
    """Signs with a subscription's keys. What HMAC makes of a key alone is made once: half the work on 600 bytes."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        self._pads = [(hashlib.sha256(_xored(key, 0x36)), hashlib.sha256(_xored(key, 0x5C))) for key in keys]

    def sign(self, message_id: str, timestamp_s: int, body: bytes) -> str:
        """The ``webhook-signature`` header: one ``v1,…`` per key, separated by spaces, the current key first."""
        signed = f"{message_id}.{timestamp_s}.".encode() + body
        signatures = []
        for inner_pad, outer_pad in self._pads:
            inner, outer = inner_pad.copy(), outer_pad.copy()
            inner.update(signed)
            outer.update(inner.digest())
            signatures.append("v1," + binascii.b2a_base64(outer.digest(), newline=False).decode())
        return " ".join(signatures)


def signature(keys: Sequence[bytes], message_id: str, timestamp_s: int, body: bytes) -> str:
    """The ``webhook-signature`` header, for one message alone."""
    return Signer(keys).sign(message_id, timestamp_s, body)


def _xored(key: bytes, pad: int) -> bytes:
    # RFC 2104: a key longer than a block of the hash is hashed first, a shorter one filled up with zeros.
    if len(key) > _BLOCK_BYTES:
        key = hashlib.sha256(key).digest()
    return bytes(byte ^ pad for byte in key.ljust(_BLOCK_BYTES, b"\0"))

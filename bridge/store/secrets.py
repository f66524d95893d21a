"""Secrets at rest: AES-256-GCM, under keys that the store never holds."""

from __future__ import annotations

import binascii
import os
from collections.abc import Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from bridge.errors import SecretsUnreadable, SettingsError

_KEY_BYTES = 32
_NONCE_BYTES = 12


def parse_keys(text: str) -> tuple[bytes, ...]:
    """The keys in BRIDGE_SECRET_KEYS: base64 of 32 bytes each, separated by commas; the first writes, all read.

    Raises:
        SettingsError: none, not base64, or not 32 bytes.
    """
    found = []
    for number, part in enumerate(filter(None, (part.strip() for part in text.split(","))), start=1):
        try:
            key = binascii.a2b_base64(part, strict_mode=True)
        except (binascii.Error, ValueError):
            raise SettingsError(f"BRIDGE_SECRET_KEYS: key {number} is not base64") from None
        if len(key) != _KEY_BYTES:
            raise SettingsError(f"BRIDGE_SECRET_KEYS: key {number} has {len(key)} bytes, not {_KEY_BYTES}")
        found.append(key)
    if not found:
        raise SettingsError(
            "BRIDGE_SECRET_KEYS: not set; make one with `openssl rand -base64 32` and give it to every process"
        )
    return tuple(found)


class SecretBox:
    """Seals secrets to the object they belong to: a sealed value moved to another one does not open."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        self._ciphers = [AESGCM(key) for key in keys]

    def seal(self, secret: bytes, owner: str) -> bytes:
        """``secret``, readable by ``open`` with the same ``owner`` only."""
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._ciphers[0].encrypt(nonce, secret, owner.encode())

    def rewrap(self, sealed: bytes, owner: str) -> bytes:
        """``sealed`` under the first key: the same bytes where it is already.

        Raises:
            SecretsUnreadable: as of ``open``.
        """
        nonce, data = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
        try:
            self._ciphers[0].decrypt(nonce, data, owner.encode())
        except (InvalidTag, ValueError):
            return self.seal(self.open(sealed, owner), owner)
        return sealed

    def open(self, sealed: bytes, owner: str) -> bytes:
        """What was sealed.

        Raises:
            SecretsUnreadable: none of the keys wrote it, or not for this owner.
        """
        nonce, data = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
        for cipher in self._ciphers:
            try:
                return cipher.decrypt(nonce, data, owner.encode())
            except (InvalidTag, ValueError):  # the latter of damaged bytes, too short to be anything
                continue
        raise SecretsUnreadable(
            f"no key of BRIDGE_SECRET_KEYS opens the secret of {owner}: add the key it was written with"
        )

"""What a connection identifies itself with, and whom it trusts: read once, from the PEM files that are given."""

from __future__ import annotations

from datetime import datetime

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

from bridge.domain.credentials import Identity
from bridge.errors import UsageError

MOST_CERTIFICATES = 20
"""A chain, or the authorities of one receiver: a whole bundle would be stored with each subscription."""
_PEM = serialization.Encoding.PEM


def parse_identity(certificate: bytes, key: bytes, authorities: bytes, now: datetime) -> tuple[Identity, int]:
    """The identity in these PEM texts (b"": not given), and when its certificate expires (Unix ms; 0: it has none).

    Raises:
        UsageError: not readable, expired, or a key that is not the certificate's. No message has any of it.
    """
    if bool(certificate) != bool(key):
        raise UsageError("--client-cert and --client-key: give both, or neither")
    expires_ms = 0
    if certificate:
        chain = _certificates("--client-cert", certificate)
        private = _private_key(key)
        if private.public_key() != chain[0].public_key():
            raise UsageError("--client-key: it is not the key of the first certificate in --client-cert")
        if chain[0].not_valid_after_utc <= now:
            raise UsageError(f"--client-cert: it expired at {chain[0].not_valid_after_utc.isoformat()}; give another")
        expires_ms = round(chain[0].not_valid_after_utc.timestamp() * 1000)
        # Written anew: of a file that holds more than it should, the rest is not stored.
        certificate = b"".join(one.public_bytes(_PEM) for one in chain)
        key = private.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    if authorities:
        authorities = b"".join(one.public_bytes(_PEM) for one in _certificates("--ca-file", authorities))
    return Identity(certificate, key, authorities), expires_ms


def _certificates(option: str, pem: bytes) -> list[x509.Certificate]:
    try:
        found = x509.load_pem_x509_certificates(pem)
        for one in found:
            one.public_key()  # read only when it is asked for
    except (ValueError, UnsupportedAlgorithm):
        raise UsageError(f"{option}: no certificates in PEM (-----BEGIN CERTIFICATE-----)") from None
    if len(found) > MOST_CERTIFICATES:
        raise UsageError(
            f"{option}: {len(found)} certificates; give those of this receiver, {MOST_CERTIFICATES} at most"
        )
    return found


def _private_key(pem: bytes) -> PrivateKeyTypes:
    try:
        return serialization.load_pem_private_key(pem, password=None)
    except TypeError:
        raise UsageError(
            "--client-key: it is locked with a password; give it without one: it is stored encrypted"
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        raise UsageError("--client-key: no private key in PEM (-----BEGIN PRIVATE KEY-----)") from None

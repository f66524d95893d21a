"""The signature as the provider checks it, written from its document and from nothing the bridge's client holds.

Both must come to the same 40 digits by different hands, so that a mistake in one shows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable


def signature_of(parameters: Iterable[tuple[str, str]], private_key: str) -> str:
    """SHA-1, in lower-case hex, of each name and value in the order of the names, and the private key at the end."""
    digest = hashlib.sha1(usedforsecurity=False)
    for name, value in sorted(parameters):
        if name == "Signature":
            continue
        digest.update(name.encode())
        digest.update(value.encode())
    digest.update(private_key.encode())
    return digest.hexdigest()

"""Certificates that a TLS link can show: one that all workers trust, one of another's name, and one that is over."""

from __future__ import annotations

import ssl
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.faults.proxy import WELL_KNOWN
from tests.hostile import Certificate

EXPIRED, ANOTHERS = "expired", "another's"


class Identities:
    """``contexts`` by what is wrong with them. ``authorities`` vouches for all: nothing else is wrong."""

    def __init__(self, directory: Path, names: Sequence[str]) -> None:
        made = {
            WELL_KNOWN: Certificate(directory / "well.pem", *names),
            EXPIRED: Certificate(directory / "expired.pem", *names, expired=True),
            ANOTHERS: Certificate(directory / "anothers.pem", "somebody-else.test"),
        }
        self.contexts: Mapping[str, ssl.SSLContext] = {name: one.context for name, one in made.items()}
        self.authorities = directory / "authorities.pem"
        self.authorities.write_bytes(b"".join(one.pem for one in made.values()))

"""Is this the store that it was? Its random id is kept outside of it too: an emptied store would take it along."""

from __future__ import annotations

import hashlib
import secrets
from pathlib import Path
from typing import cast

from bridge.domain.server_urls import safe_url
from bridge.errors import StoreEmptied
from bridge.store import keys
from bridge.store.client import Client


class Identity:
    """The id of the store behind a client, and the file that remembers it.

    A file of each machine, or of each data directory: whoever has none yet believes what the store says.
    """

    def __init__(self, client: Client, directory: Path, url: str | None) -> None:
        """``url`` is the store's; None is the embedded one of this directory, whose port may change."""
        self._client = client
        name = "embedded" if url is None else hashlib.sha256(safe_url(url).encode()).hexdigest()[:16]
        self.path = directory / "stores" / f"{name}.id"
        self.found = b""
        """The id that the store had when it was last looked at, b"" for none."""
        self.unkept = ""
        """Why the id could not be kept, "" where it could."""

    def check(self) -> None:
        """Compare the store's id with the one kept; keep it where there is none.

        Raises:
            StoreEmptied: it is another one, or gone.
            StoreUnreachable: no answer.
        """
        (value,) = self._client.commands([["HGET", keys.STORE, "id"]])
        found = self.found = cast("bytes | None", value) or b""
        kept = self._kept()
        if not kept:
            self._keep(found)
        elif found != kept:
            raise StoreEmptied(
                "the store was emptied, or is another one than before: subscriptions, secrets and what was tracked are "
                "gone. Restore its append-only file or snapshot from a backup, or add the subscriptions and track the "
                f"sessions again; then, or if it was emptied on purpose, remove {self.path}"
            )

    def _kept(self) -> bytes:
        try:
            return self.path.read_bytes().partition(b" ")[0].strip()
        except FileNotFoundError:
            return b""
        except OSError as error:
            self.unkept = f"{self.path} cannot be read ({error.strerror})"
            return b""

    def _keep(self, found: bytes) -> None:
        if not found or self.unkept:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            # Whole or not at all; of two processes that write it at once, both have the same to write.
            fresh = self.path.with_suffix(f".{secrets.token_hex(4)}")
            fresh.write_bytes(found + b"\n")
            fresh.replace(self.path)
        except OSError as error:
            self.unkept = f"{self.path} cannot be written ({error.strerror})"

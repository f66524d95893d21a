"""A real Valkey and a bridge on it, for tests of any directory: ``with valkey() as url, bridge_on(url) as bridge:``."""

from __future__ import annotations

import base64
import os
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from bridge.settings import Settings
from bridge.store.server import EmbeddedServer
from bridge.wiring import Bridge
from tests.simulator import PRIVATE_KEY, PUBLIC_KEY

SECRET_KEY = base64.b64encode(bytes(range(32))).decode()

NOWHERE = "http://127.0.0.1:9/"
"""Port 9 (discard) is served by nobody: a provider that cannot be reached."""

_SETTINGS = {
    "secret_keys": SECRET_KEY,
    "provider_url": NOWHERE,
    "public_key": PUBLIC_KEY,
    "private_key": PRIVATE_KEY,
    "allow_networks": "127.0.0.0/8",
}


@contextmanager
def valkey(**options: str) -> Iterator[str]:
    """The URL of an empty server that ends with the block; ``options`` are its directives, ``_`` for ``-``."""
    directives = {name.replace("_", "-"): value for name, value in options.items()}
    with (
        tempfile.TemporaryDirectory() as directory,
        EmbeddedServer(Path(directory) / "server", options=directives) as server,
    ):
        yield server.url


@contextmanager
def bridge_on(url: str, **settings: object) -> Iterator[Bridge]:
    """A bridge on the store at ``url``. ``settings`` are fields of ``Settings``; the keys are made up.

    Callbacks may go to 127.0.0.0/8.
    """
    with tempfile.TemporaryDirectory() as directory:
        given = {"redis_url": url, "data_dir": directory, **_SETTINGS, **settings}
        with closing(Bridge(Settings.model_validate(given))) as bridge:
            yield bridge


def environ_for(url: str, **settings: str) -> dict[str, str]:
    """The environment of a process whose bridge is that of ``bridge_on``: nothing else of ours is set in it."""
    foreign = {name: value for name, value in os.environ.items() if not name.startswith("BRIDGE_")}
    given = {"redis_url": url, **_SETTINGS, **settings}
    return foreign | {f"BRIDGE_{name.upper()}": value for name, value in given.items()}

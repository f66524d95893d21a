"""What a benchmark runs against: an embedded server, and the settings that a worker on it needs."""

from __future__ import annotations

import base64
import secrets
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import redis

from bridge.cli.family import Child, Family
from bridge.cli.house import clean_environment
from bridge.settings import load_settings
from bridge.store.server import EmbeddedServer
from bridge.wiring import Bridge
from tests import waiting

ROOT = Path(__file__).parents[2]


class House:
    """A server and the environment of the processes that work on it; all end with ``family``."""

    def __init__(self, family: Family) -> None:
        self._family = family
        self.directory = family.temporary_directory("bench")
        self.server = EmbeddedServer(self.directory / "server", spawn=family.start).start()
        self.environment = clean_environment(
            {
                "BRIDGE_REDIS_URL": self.server.url,
                "BRIDGE_PUBLIC_KEY": "public",
                "BRIDGE_PRIVATE_KEY": "private",
                # Nobody listens there: without a beat nothing is polled.
                "BRIDGE_PROVIDER_URL": "http://127.0.0.1:9/",
                "BRIDGE_SECRET_KEYS": base64.b64encode(secrets.token_bytes(32)).decode(),
                "BRIDGE_DATA_DIR": str(self.directory),
                "BRIDGE_ALLOW_HTTP": "yes",
                "BRIDGE_ALLOW_NETWORKS": "127.0.0.0/8",
                "BRIDGE_CALLBACK_CONCURRENCY": "50",
            }
        )

    def empty(self) -> None:
        """Forget everything, so that each round begins alike."""
        with redis.Redis.from_url(self.server.url, protocol=2) as store:
            store.flushall()
        for kept in (self.directory / "stores").glob("*.id"):
            kept.unlink()  # emptied on purpose: else the bridge waits to see whether it is the store that it was

    def start(self, name: str, *arguments: str, extra: Mapping[str, str] | None = None) -> Child:
        """Start this interpreter with ``arguments`` in the repository."""
        environment = {**self.environment, "PYTHONPATH": str(ROOT), **(extra or {})}
        argv = [sys.executable, "-P", *arguments]
        return self._family.start(name, argv, env=environment, log_file=self.directory / f"{name}.log")


def open_bridge(environment: Mapping[str, str]) -> Bridge:
    """The bridge as a worker opens it."""
    return Bridge(load_settings(environment, env_file=None))


def wait_until(what: str, done: Callable[[], bool], within_s: float = 120.0, every_s: float = 0.02) -> None:
    """As elsewhere in tests, but looking as often as a measurement wants."""
    waiting.wait_until(what, done, within_s, every_s)

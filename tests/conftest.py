"""The stores that tests work on: real servers, one of each kind for a whole run, empty at the start of every test."""

from __future__ import annotations

import gc
import shutil
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from unittest.mock import patch

import pytest

import tests.examples  # noqa: F401 - which loads the profile that HYPOTHESIS_PROFILE names, before any test is read
from bridge.wiring import Bridge
from tests.catalogue import assert_catalogued
from tests.clusters import real_cluster
from tests.parts import Parts
from tests.servers import bridge_on, valkey


def pytest_configure() -> None:
    """Have Ctrl-C end what tests start, though it is ignored here, as in a background job of a shell."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """Keep what was imported out of the garbage collector's rounds.

    They grow with it, and stop every thread of the process: for a second where all cores are busy. Receivers and slices
    of one test share it, and time-outs pass meanwhile.
    """
    gc.collect()
    gc.freeze()


class Servers:
    """One server of each kind, started when a test first asks for it."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._urls: dict[str, str] = {}

    def url(self, kind: str) -> str:
        if kind not in self._urls:
            self._urls[kind] = self._start(kind)
        return self._urls[kind]

    def _start(self, kind: str) -> str:
        if kind == "valkey":
            return self._stack.enter_context(valkey())
        if kind == "cluster":
            return self._stack.enter_context(real_cluster()).url
        found = shutil.which("redis-server")
        if found is None:
            pytest.skip("redis-server is not on the PATH: this runs on Valkey alone")
        with patch("bridge.store.server.find_server_binary", return_value=Path(found)):
            return self._stack.enter_context(valkey())


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    with ExitStack() as stack:
        yield Servers(stack)


@pytest.fixture
def store_url(servers: Servers, request: pytest.FixtureRequest) -> Iterator[str]:
    """An empty store, whose keys must be the catalogue's when the test ends. On Valkey, unless parametrised.

    It knows no scripts either: a test that needs them known would else pass or fail by what ran before it.
    """
    url = servers.url(getattr(request, "param", "valkey"))
    parts = Parts(url)
    parts.empty()
    parts.forget_scripts()
    yield url
    assert_catalogued(parts.redis, parts.client.scan("*"))
    parts.close()


@pytest.fixture
def parts(store_url: str) -> Iterator[Parts]:
    """The store's parts on an empty server."""
    made = Parts(store_url)
    yield made
    made.close()


@pytest.fixture
def bridge(store_url: str) -> Iterator[Bridge]:
    """A bridge on an empty store, to receivers on loopback."""
    with bridge_on(store_url, allow_http=True, allow_networks="127.0.0.0/8") as made:
        yield made


@pytest.fixture
def log(bridge: Bridge, store_url: str) -> Iterator[Parts]:
    """The store's parts, over the bridge's shards."""
    made = Parts(store_url, bridge.settings.shards)
    yield made
    made.close()

"""Fixtures of the commands' tests: a server, a bridge on it, and a terminal whose settings mean that bridge."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from bridge.wiring import Bridge
from tests.commands import Terminal, use_environ
from tests.servers import bridge_on, environ_for, valkey


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with valkey() as url:
        yield url


@pytest.fixture
def bridge(server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Bridge]:
    """A bridge on an empty store, with the settings of every command that the test runs."""
    with redis.Redis.from_url(server) as store:
        store.flushall()
    use_environ(monkeypatch, tmp_path, environ_for(server))
    with bridge_on(server) as opened:
        yield opened


@pytest.fixture
def terminal(capsys: pytest.CaptureFixture[str]) -> Terminal:
    return Terminal(capsys)

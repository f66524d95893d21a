"""What is promised of the store is promised on both kinds of server, and on a cluster. And stores for its models."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conftest import Servers
from tests.parts import Parts
from tests.store.queues_model import LIMITS, SHARDS


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "store_url" in metafunc.fixturenames:
        kinds = getattr(metafunc.module, "KINDS", ("valkey", "redis", "cluster"))
        metafunc.parametrize("store_url", kinds, indirect=True)


@pytest.fixture
def small(store_url: str) -> Iterator[Parts]:
    """A store of the model's size."""
    made = Parts(store_url, SHARDS, LIMITS)
    yield made
    made.close()


@pytest.fixture
def alone(servers: Servers) -> Iterator[Parts]:
    """The same: one kind of server will do for what is wrong on each."""
    made = Parts(servers.url("valkey"), SHARDS, LIMITS)
    yield made
    made.redis.flushall()
    made.close()

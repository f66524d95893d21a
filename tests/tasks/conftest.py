"""What the tests of tasks begin with, on a real store."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bridge.wiring import Bridge
from tests.parts import Parts
from tests.tasks.desks import Desk


@pytest.fixture
def desk(bridge: Bridge) -> Desk:
    return Desk(bridge)


@pytest.fixture
def log(bridge: Bridge, store_url: str) -> Iterator[Parts]:
    made = Parts(store_url, bridge.settings.shards)
    yield made
    made.close()

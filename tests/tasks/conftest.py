"""What the tests of tasks begin with, on a real store."""

from __future__ import annotations

import pytest

from bridge.wiring import Bridge
from tests.tasks.desks import Desk


@pytest.fixture
def desk(bridge: Bridge) -> Desk:
    return Desk(bridge)

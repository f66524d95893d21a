"""What is promised of the store is promised on both kinds of server, and on a cluster."""

from __future__ import annotations

import pytest


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "store_url" in metafunc.fixturenames:
        kinds = getattr(metafunc.module, "KINDS", ("valkey", "redis", "cluster"))
        metafunc.parametrize("store_url", kinds, indirect=True)

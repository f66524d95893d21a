"""The provider's official SDK, for comparison."""

from __future__ import annotations

import logging
from typing import Any, cast


def official_sdk(url: str, public_key: str, private_key: str) -> Any:  # the SDK carries no types
    """A client of its own: it says nothing, and waits 10 s for an answer."""
    from ucloud.services.usms.client import USMSClient  # type: ignore[import-untyped]  # see above

    quiet = logging.getLogger("bench.quiet-sdk")
    quiet.addHandler(logging.NullHandler())
    quiet.propagate = False
    keys = {"public_key": public_key, "private_key": private_key}
    config = {"base_url": url, **keys, "region": "cn-bj2", "timeout": 10}
    return cast("Any", USMSClient(config, logger=quiet))

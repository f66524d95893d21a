"""Waiting for what must come to be so."""

from __future__ import annotations

import time
from collections.abc import Callable


class NotInTime(Exception):
    """What was waited for did not come, though it had very long."""


def wait_until(what: str, condition: Callable[[], object], deadline_s: float = 60.0, every_s: float = 0.05) -> None:
    """Return once it is so. Raises NotInTime."""
    deadline = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() > deadline:
            raise NotInTime(f"not within {deadline_s:.0f} s: {what}")
        time.sleep(every_s)

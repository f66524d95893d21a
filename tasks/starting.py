"""The start of a process that runs for as long as there is work: what it needs may start at the same time."""

from __future__ import annotations

import time
from collections.abc import Callable

from bridge.errors import Unreachable
from bridge.observe.logs import get_logger

_log = get_logger(__name__)
PATIENCE_S = 20.0
"""A machine that starts everything at once, or a failover, takes less; a wrong address is said at once all the same."""
_AGAIN_S = 0.5


def when_reachable(prepare: Callable[[], None], patience_s: float = PATIENCE_S) -> None:
    """Do what needs the store or the broker; where one does not answer, say so and try again for a while.

    Raises:
        Unreachable: it still does not answer.
    """
    deadline = time.monotonic() + patience_s
    is_said = False
    while True:
        try:
            return prepare()
        except Unreachable as error:
            if time.monotonic() >= deadline:
                raise
            if not is_said:
                is_said = True
                _log.warning("waiting before the start", seconds=patience_s, reason=str(error))
            time.sleep(_AGAIN_S)

"""Notices that the store was emptied under a running worker, says so once, and lets the worker go on with it."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

from bridge.errors import StoreEmptied
from bridge.observe.logs import get_logger
from bridge.wiring import Bridge

_log = get_logger(__name__)
_LOOK_AGAIN_S = 5.0
"""An emptied store is for people to see to: no tick need ask for it."""


class StoreWatch:
    """What one process has said of its store."""

    def __init__(self, ticking: Callable[[], float] = monotonic) -> None:
        self._ticking = ticking
        self._looked_s = -_LOOK_AGAIN_S
        self._said = ""

    def is_other(self, bridge: Bridge) -> bool:
        """Whether the store is another one than ``bridge`` opened: what that remembers of it is wrong.

        Opened anew, the store is described again, so that its shards stay guarded; what is tracked from now on is
        polled and recorded as ever. Asked at most each 5 s. Raises StoreUnreachable.
        """
        now_s = self._ticking()
        if now_s - self._looked_s < _LOOK_AGAIN_S:
            return False
        self._looked_s = now_s
        try:
            bridge.identity.check()
        except StoreEmptied as error:
            self._say(str(error))
        else:
            self._say(bridge.identity.unkept)
        return bridge.identity.found != bridge.store_id

    def _say(self, trouble: str) -> None:
        if trouble == self._said:
            return
        self._said = trouble
        if trouble:
            _log.error("store is not the one it was, or cannot be told from another", reason=trouble)
        else:
            _log.info("store is the one remembered again")

"""usms-bridge: UCloud USMS delivery receipts, as signed callbacks.

Importing this package loads nothing else, so that a sending service needs only ``celery[redis]``:
``from bridge import track``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bridge.errors import BrokerUnreachable, InvalidSession
    from bridge.sender import track

__all__ = ["BrokerUnreachable", "InvalidSession", "track"]


def __getattr__(name: str) -> Any:
    if name == "track":
        from bridge.sender import track

        return track
    if name in __all__:
        from bridge import errors

        return getattr(errors, name)
    raise AttributeError(f"module 'bridge' has no attribute {name!r}")

"""Messages as they are on a Redis broker, and what is made of one that cannot be read."""

from __future__ import annotations

import base64
from contextlib import suppress
from typing import Any

from kombu.transport import virtual
from kombu.utils.json import dumps

from bridge.domain.tracking import MAX_MESSAGE_BYTES

MALFORMED = "bridge-malformed"
"""The header that says why a message could not be read, and that its body is what it began with."""

KEPT_BYTES = 4096
"""How much of a message that cannot be read is kept, as of any rejected item."""

MOST_ENVELOPE_BYTES = MAX_MESSAGE_BYTES * 4 // 3 + 64 * 1024
"""The body is base64 inside, and has headers beside it."""


class Message(virtual.Message):
    """A message as it came; what cannot be read becomes one that says so."""

    def __init__(self, payload: Any, channel: Any = None, **options: Any) -> None:
        try:
            super().__init__(payload, channel=channel, **options)
        except Exception as error:  # noqa: BLE001 - a foreign envelope may be wrong in any way
            properties = payload["properties"]
            told = unreadable(
                properties["delivery_tag"], _start_of(payload), f"not a Celery message: {type(error).__name__}"
            )
            super().__init__(told, channel=channel, **options)


def unreadable(tag: str, start: bytes, reason: str) -> dict[str, Any]:
    """A message, as kombu passes them on, that says why the real one with this tag cannot be read."""
    return {
        "body": base64.b64encode(start[:KEPT_BYTES]).decode(),
        "content-type": "application/octet-stream",
        "content-encoding": "binary",
        "headers": {MALFORMED: reason},
        "properties": {
            "delivery_tag": tag,
            "delivery_info": {"exchange": "", "routing_key": ""},
            "body_encoding": "base64",
        },
    }


def _start_of(payload: Any) -> bytes:
    with suppress(Exception):
        return str(dumps(payload)).encode(errors="replace")[:KEPT_BYTES]
    return repr(payload).encode(errors="replace")[:KEPT_BYTES]

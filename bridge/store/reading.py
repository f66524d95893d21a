"""Reading what is stored one by one: what of it cannot be read costs itself, and nothing beside it."""

from __future__ import annotations

import msgspec

from bridge.domain import events
from bridge.domain.breaker import WELL, Health
from bridge.domain.deliveries import DeadLetter

_unpacker = msgspec.msgpack.Decoder(Health)


def letter(shard: int, stream_id: bytes, flat: list[bytes]) -> DeadLetter:
    fields = dict(zip(flat[::2], flat[1::2], strict=True))
    error, attempts = fields[b"e"].decode(errors="replace"), whole(fields[b"a"])
    died_ms = int(stream_id.split(b"-")[0])
    return DeadLetter(fields[b"r"], error, attempts, died_ms, shard, fields[b"p"], stream_id.decode())


def health_of(packed: bytes | None) -> Health:
    """How a receiver has been; of one of which nothing can be read, nothing bad is known."""
    try:
        return _unpacker.decode(packed) if packed else WELL
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return WELL


def whole(value: bytes | None) -> int:
    """A count as it is stored; 0 where there is none, or none that can be read: no other is to be lost with it."""
    try:
        return int(value or 0)
    except ValueError:
        return 0


def is_ours(record: bytes) -> bool:
    """Whether a record is an operators' event; not one that is empty, or cannot be read."""
    event = events.readable(record)
    return event is not None and events.is_ours(event)

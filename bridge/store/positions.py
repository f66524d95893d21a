"""Positions: where an event is in its log, as 12 bytes (milliseconds and sequence, big-endian) that sort as they lie.

As text they would not: "5-9" > "5-10".
"""

from __future__ import annotations

import struct

_FORMAT = struct.Struct(">QI")
SIZE = _FORMAT.size


def from_id(stream_id: bytes) -> bytes:
    """The position of a stream id such as ``b"1795423107029-3"``."""
    millis, _, sequence = stream_id.partition(b"-")
    return _FORMAT.pack(int(millis), int(sequence))


def to_id(position: bytes) -> str:
    """The stream id of a position."""
    millis, sequence = _FORMAT.unpack(position)
    return f"{millis}-{sequence}"


def of(unix_ms: int) -> bytes:
    """The first position of a millisecond."""
    return _FORMAT.pack(unix_ms, 0)


def next_after(position: bytes) -> bytes:
    """The position next to this one."""
    return (int.from_bytes(position) + 1).to_bytes(SIZE)


def id_after(position: bytes) -> str:
    """The lowest stream id behind a position."""
    millis, sequence = _FORMAT.unpack(position)
    return f"{millis}-{sequence + 1}"


def split(lane: bytes) -> tuple[int, list[bytes]]:
    """A lane as it is stored: attempts made for its first event, and the positions waiting, first the first."""
    return lane[0], [lane[i : i + SIZE] for i in range(1, len(lane) - SIZE + 1, SIZE)]

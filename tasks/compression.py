"""Compressed messages, of which no few bytes may become more than a worker has memory for."""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable
from typing import Any

import kombu.compression

from bridge.domain.tracking import MAX_MESSAGE_BYTES

_KINDS: dict[str, Callable[[], Any]] = {
    "application/x-gzip": zlib.decompressobj,
    "application/x-bz2": bz2.BZ2Decompressor,
    "application/x-lzma": lzma.LZMADecompressor,
}


def install() -> None:
    """Have kombu, in this process, decompress no further than a message may be large; and nothing of other kinds."""
    decoders: dict[str, Any] = vars(kombu.compression)["_decoders"]
    for kind in list(decoders):
        make = _KINDS.get(kind)
        decoders[kind] = _refuse if make is None else bounded(make)


def bounded(make: Callable[[], Any]) -> Callable[[bytes], bytes]:
    """A decompressor that raises ValueError where what it makes is too large, or ends early."""

    def decompress(body: bytes) -> bytes:
        decompressor = make()
        made: bytes = decompressor.decompress(body, MAX_MESSAGE_BYTES + 1)
        if len(made) > MAX_MESSAGE_BYTES:
            raise ValueError(f"a compressed body of more than {MAX_MESSAGE_BYTES:,} bytes")
        if not decompressor.eof:
            raise ValueError("a compressed body that ends too early")
        return made

    return decompress


def _refuse(_body: bytes) -> bytes:
    raise ValueError("a compression that is not known: use gzip, bzip2 or lzma")

"""HTTP on a loopback port for as little CPU as Python allows: requests one after another on kept-alive connections."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Protocol

NO_CONTENT = b"HTTP/1.1 204 No Content\r\n\r\n"

Answer = Callable[[bytes, bytes], bytes]
"""From a request's head, in lower case, and its body to the whole answer."""


class _Writer(Protocol):
    def write(self, data: bytes) -> object: ...


class _Connection(asyncio.Protocol):
    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._buffer = b""
        self._transport: _Writer | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport if isinstance(transport, asyncio.WriteTransport) else None

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = self._buffer[:end].lower()
            _, found, rest = head.partition(b"\r\ncontent-length:")
            whole = end + 4 + (int(rest.partition(b"\r\n")[0]) if found else 0)
            if len(self._buffer) < whole:
                return
            body, self._buffer = self._buffer[end + 4 : whole], self._buffer[whole:]
            answer = self._answer(head, body)
            if self._transport is not None:
                self._transport.write(answer)


def whole(body: bytes) -> bytes:
    """A 200 with a body, after which the connection is not used again."""
    return b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)


async def serve(port: int, answer: Answer, *, tls: ssl.SSLContext | None = None) -> None:
    """Listen on a port of the loopback until cancelled."""
    server = await asyncio.get_running_loop().create_server(
        lambda: _Connection(answer), "127.0.0.1", port, backlog=4096, ssl=tls
    )
    await server.serve_forever()

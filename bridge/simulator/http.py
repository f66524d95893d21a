"""The little HTTP that the simulator needs on top of ASGI: a request read whole, and answers in good and bad shapes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import msgspec

MAX_BODY_BYTES = 16_000_000

# ASGI's own shapes (its specification, "Applications"): untyped dicts, so nothing but this module looks inside.
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class Request(msgspec.Struct, frozen=True):
    """A request read to its end. ``content_type`` is lower-case, without parameters."""

    method: str
    path: str
    query: bytes
    content_type: str
    body: bytes


class TooLarge(Exception):
    """The request's body exceeds MAX_BODY_BYTES."""


class ClientGone(Exception):
    """The client closed the connection before its request, or its answer, was complete."""


async def read_request(scope: Message, receive: Receive) -> Request:
    """Raises TooLarge or ClientGone."""
    content_type = next((value for name, value in scope["headers"] if name == b"content-type"), b"")
    chunks, size, more = [], 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        chunk: bytes = message.get("body", b"")
        size += len(chunk)
        if size > MAX_BODY_BYTES:
            raise TooLarge
        chunks.append(chunk)
        more = message.get("more_body", False)
    return Request(
        method=scope["method"],
        path=scope["path"],
        query=scope.get("query_string", b""),
        content_type=content_type.decode("latin-1").split(";")[0].strip().lower(),
        body=b"".join(chunks),
    )


class Conversation:
    """One request's way back: answers, and waits that end when the client leaves or the server stops."""

    def __init__(self, receive: Receive, send: Send, stopping: asyncio.Event) -> None:
        self._receive = receive
        self._send = send
        self._stopping = stopping

    async def answer(self, body: bytes, *, status: int = 200, content_type: str = "application/json") -> None:
        await self._begin(status, content_type, len(body))
        await self._send({"type": "http.response.body", "body": body})

    async def drip(self, body: bytes, pause_s: float) -> bool:
        """Answer byte by byte; whether the client stayed to the end."""
        await self._begin(200, "application/json", len(body))
        for index in range(len(body)):
            if index and not await self.pause(pause_s):
                return False
            more = index + 1 < len(body)
            await self._send({"type": "http.response.body", "body": body[index : index + 1], "more_body": more})
        return True

    async def pause(self, seconds: float) -> bool:
        """Wait; False at once if the client leaves or the server stops meanwhile."""
        events = {asyncio.ensure_future(self._client_left()), asyncio.ensure_future(self._stopping.wait())}
        done, _ = await asyncio.wait(events, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        for event in events - done:
            event.cancel()
        await asyncio.gather(*events, return_exceptions=True)
        return not done

    async def _begin(self, status: int, content_type: str, length: int) -> None:
        headers = [(b"content-type", content_type.encode()), (b"content-length", str(length).encode())]
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def _client_left(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass

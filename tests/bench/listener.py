"""A receiver that checks: it parses each callback, and remembers of each phone what it has heard."""

from __future__ import annotations

import asyncio
import time
from urllib.request import urlopen

import msgspec

EACH = 2  # events of each phone: they must arrive in their order


class Drained(msgspec.Struct, frozen=True, kw_only=True):
    """What the receiver that came back saw. Seconds are of this machine's monotonic clock."""

    requests: int = 0
    phones: int = 0
    out_of_order: int = 0
    repeated: int = 0
    first_s: float = 0.0
    last_s: float = 0.0


class Told(msgspec.Struct, frozen=True):
    """What a receiver tells of itself."""

    drained: Drained
    heard: dict[str, float]

    def phones_done(self, phones: int) -> bool:
        """Whether that many phones have had the last of their events."""
        return self.drained.phones >= phones


class _Data(msgspec.Struct):
    session_no: str
    sequence: int


class _Event(msgspec.Struct):
    data: _Data


class _Seen:
    """What a receiver remembers: of each phone the highest sequence, and when it came."""

    def __init__(self, *, note: bool) -> None:
        self._note = note
        self._decode = msgspec.json.Decoder(_Event).decode
        self._highest: dict[str, int] = {}
        self._heard: dict[str, float] = {}
        self._requests = self._done = self._out_of_order = self._repeated = 0
        self._first_s = self._last_s = 0.0

    def take(self, body: bytes) -> None:
        """Note one callback."""
        self._last_s = time.monotonic()
        self._first_s = self._first_s or self._last_s
        data = self._decode(body).data
        self._requests += 1
        before = self._highest.get(data.session_no, 0)
        if self._note:
            self._heard.setdefault(data.session_no, self._last_s)
        if data.sequence == before + 1:
            self._highest[data.session_no] = data.sequence
            self._done += self._note or data.sequence == EACH
        elif data.sequence <= before:
            self._repeated += 1
        else:
            self._out_of_order += 1

    def tell(self, *, whole: bool) -> bytes:
        """What it saw."""
        drained = Drained(
            requests=self._requests,
            phones=self._done,
            out_of_order=self._out_of_order,
            repeated=self._repeated,
            first_s=self._first_s,
            last_s=self._last_s,
        )
        return msgspec.json.encode(Told(drained, self._heard if whole else {}))


class _Connection(asyncio.Protocol):
    """Requests one after another on one connection."""

    def __init__(self, seen: _Seen) -> None:
        self._seen = seen
        self._buffer = b""
        self._transport: asyncio.WriteTransport | None = None

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
            if self._transport is not None:
                self._transport.write(self._answer(head, body))

    def _answer(self, head: bytes, body: bytes) -> bytes:
        if head.startswith(b"post "):
            self._seen.take(body)
            return b"HTTP/1.1 204 No Content\r\n\r\n"
        told = self._seen.tell(whole=head.startswith(b"get /status "))
        return b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%s" % (len(told), told)


def listens(port: int) -> bool:
    """Whether a receiver is there."""
    try:
        ask(port, "count")
    except OSError:
        return False
    return True


def ask(port: int, what: str = "status") -> Told:
    """What a receiver tells."""
    with urlopen(f"http://127.0.0.1:{port}/{what}", timeout=30) as answer:
        return msgspec.json.decode(answer.read(), type=Told)


async def serve(port: int, *, note: bool) -> None:
    """Listen on a port; ``note`` when each phone was heard, too."""
    seen = _Seen(note=note)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Connection(seen), "127.0.0.1", port, backlog=4096)
    await server.serve_forever()

"""A receiver that checks: it parses each callback, and remembers of each phone what it has heard.

``python -m tests.bench.listener PORT [note]``.
"""

from __future__ import annotations

import asyncio
import sys
import time
from urllib.request import urlopen

import msgspec

from tests.bench.answering import NO_CONTENT, serve, whole

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


async def listen(port: int, *, note: bool) -> None:
    """Listen on a port; ``note`` when each phone was heard, too."""
    seen = _Seen(note=note)

    def answer(head: bytes, body: bytes) -> bytes:
        if head.startswith(b"post "):
            seen.take(body)
            return NO_CONTENT
        return whole(seen.tell(whole=head.startswith(b"get /status ")))

    await serve(port, answer)


if __name__ == "__main__":
    asyncio.run(listen(int(sys.argv[1]), note=sys.argv[2:] == ["note"]))

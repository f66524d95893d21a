"""A TCP proxy that delays, cuts in the middle of a reply, garbles, stalls and refuses, as it is told.

One link stands between the workers and each thing that they talk to. What it lets through is what came, byte for byte.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
import time
import weakref
from collections.abc import Coroutine, Mapping
from typing import Any, TypeVar

from tests.faults.records import TO_RECEIVERS, Harm, Passage

T = TypeVar("T")

WELL_KNOWN = "well known"
"""The name of an identity that clients have no reason to refuse."""
_JUNK = b"\xff\xfe garbled \xff" * 4
"""No UTF-8, no HTTP, no RESP: whoever takes it for an answer is wrong."""


class Link:
    """One proxied port. Set its attributes from any thread; connections heed them as bytes pass.

    ``delay_s`` is waited before each piece of a reply; ``cut_next`` and ``garble_next`` so many replies are cut off in
    the middle, or replaced; while ``stalled`` nothing passes; while ``refusing`` new connections are closed at once.
    One with ``identities`` speaks TLS, and shows new connections the one that is named ``shown``.
    """

    def __init__(self, name: str, target: tuple[str, int], identities: Mapping[str, ssl.SSLContext] | None) -> None:
        self.name = name
        self.target = target
        self.identities = identities
        self.shown = WELL_KNOWN
        self.port = 0
        self.delay_s = 0.0
        self.cut_next = 0
        self.garble_next = 0
        self.stalled = False
        self.refusing = False
        self.open: set[asyncio.WriteTransport] = set()
        self.known: weakref.WeakSet[asyncio.WriteTransport] = weakref.WeakSet()
        self.harms: list[Harm] = []
        self.passages: list[Passage] = []

    def passed(self, onward: asyncio.WriteTransport) -> None:
        """Note that a connection to a receiver was made, or that a piece of a reply of its was passed on."""
        name = onward.get_extra_info("sockname")
        if name is not None and self.name in TO_RECEIVERS:
            self.passages.append(Passage(port=name[1], at_ms=time.time_ns() // 1_000_000))

    def harm(self, onward: asyncio.WriteTransport, how: str) -> None:
        """Note what is done to a connection: whoever is at its other end knows it by the port that it comes from."""
        name = onward.get_extra_info("sockname")
        if name is not None:
            at_ms = time.time_ns() // 1_000_000
            self.harms.append(Harm(link=self.name, port=name[1], at_ms=at_ms, how=how))

    def heal(self) -> None:
        """Let everything through again."""
        self.delay_s = 0.0
        self.cut_next = self.garble_next = 0
        self.stalled = self.refusing = False
        self.shown = WELL_KNOWN

    def tls(self) -> ssl.SSLContext | None:
        """What a listener of this link needs, None without TLS."""
        if self.identities is None:
            return None
        identities = self.identities
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)

        def choose(connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
            connection.context = identities[self.shown]

        context.sni_callback = choose
        return context


class Proxy:
    """Links, in an event loop of their own thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()
        self._servers: list[asyncio.Server] = []
        self.links: dict[str, Link] = {}

    def link(self, name: str, host: str, port: int, identities: Mapping[str, ssl.SSLContext] | None = None) -> Link:
        """Begin to stand before a port; with ``identities`` by TLS."""
        link = self.links[name] = Link(name, (host, port), identities)
        self._do(self._serve(link))
        return link

    def drop(self, link: Link) -> int:
        """Reset all of a link's connections. Returns how many there were."""
        return self._do(self._abort(link))

    def heal(self) -> None:
        for link in self.links.values():
            link.heal()

    def close(self) -> None:
        self._do(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    async def _serve(self, link: Link) -> None:
        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            # Cancelled at the end of all: asyncio would print it for each connection.
            with contextlib.suppress(asyncio.CancelledError):
                await _pass(link, reader, writer)

        server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=link.tls())
        link.port = server.sockets[0].getsockname()[1]
        self._servers.append(server)

    async def _abort(self, link: Link) -> int:
        count = len(link.open)
        for transport in list(link.open):
            link.harm(transport, "reset")
            transport.abort()
        return count

    async def _stop(self) -> None:
        for server in self._servers:
            server.close()
        for link in self.links.values():
            await self._abort(link)
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        # TLS ends by a farewell that is answered: of what was closed a moment ago, nobody may be left to answer.
        for link in self.links.values():
            for transport in list(link.known):
                transport.abort()
        await asyncio.sleep(0.01)


async def _pass(link: Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Serve one connection until either side ends it."""
    if link.refusing:
        writer.transport.abort()
        return
    try:
        upstream, onward = await asyncio.open_connection(*link.target)
    except OSError:
        writer.transport.abort()
        return
    transports = {writer.transport, onward.transport}
    link.open |= transports
    link.known.update(transports)
    link.passed(onward.transport)
    try:
        both = [
            asyncio.ensure_future(_pump(link, reader, onward, onward, replies=False)),
            asyncio.ensure_future(_pump(link, upstream, writer, onward, replies=True)),
        ]
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        for pump in both:
            pump.cancel()
        await asyncio.gather(*both, return_exceptions=True)
    finally:
        link.open -= transports
        for transport in transports:
            transport.close()


async def _pump(
    link: Link,
    source: asyncio.StreamReader,
    sink: asyncio.StreamWriter,
    onward: asyncio.StreamWriter,
    *,
    replies: bool,
) -> None:
    with contextlib.suppress(OSError):
        while data := await source.read(65536):
            if link.stalled:
                link.harm(onward.transport, "stalled")
            while link.stalled:  # noqa: ASYNC110 - set from other threads, which may not touch an asyncio.Event
                await asyncio.sleep(0.01)
            if replies and link.delay_s:
                link.harm(onward.transport, "delayed")
                await asyncio.sleep(link.delay_s)
            if replies and link.cut_next > 0:
                link.cut_next -= 1
                link.harm(onward.transport, "cut")
                sink.write(data[: len(data) // 2])
                with contextlib.suppress(OSError):
                    await sink.drain()
                return
            if replies and link.garble_next > 0:
                link.garble_next -= 1
                link.harm(onward.transport, "garbled")
                sink.write(_JUNK)
                with contextlib.suppress(OSError):
                    await sink.drain()
                return
            sink.write(data)
            await sink.drain()
            if replies:
                link.passed(onward.transport)

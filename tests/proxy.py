"""A TCP proxy on the loopback that is slow, or cuts connections in the middle of a reply."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress


class Proxy:
    """Passes on what it gets. ``delay_s`` is how long each piece of a reply takes; ``cut_after`` ends one early."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._left: int | None = None
        self.delay_s = 0.0
        self.cuts = 0
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        port: int = self._listening.getsockname()[1]
        return port

    def cut_after(self, count: int) -> None:
        """Close the connection that carries the next replies after so many of their bytes."""
        self._left = count

    def close(self) -> None:
        """Stop, and close every connection."""
        _shut(self._listening)  # which wakes its thread
        with self._lock:
            left = list(self._open)
        for one in left:
            _shut(one)
        self._thread.join(10)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
                server = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                return
            with self._lock:
                self._open |= {client, server}
            threading.Thread(target=self._carry, args=(client, server, False), daemon=True).start()
            threading.Thread(target=self._carry, args=(server, client, True), daemon=True).start()

    def _carry(self, source: socket.socket, target: socket.socket, replies: bool) -> None:
        with suppress(OSError):
            while data := source.recv(65_536):
                if replies:
                    time.sleep(self.delay_s)
                    left = self._left
                    if left is not None and len(data) > left:
                        self._left = None
                        self.cuts += 1
                        target.sendall(data[:left])
                        break
                    if left is not None:
                        self._left = left - len(data)
                target.sendall(data)
        for one in (source, target):
            _shut(one)
        with self._lock:
            self._open -= {source, target}


def _shut(one: socket.socket) -> None:
    with suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
    one.close()


@contextmanager
def proxied(port: int) -> Iterator[Proxy]:
    """A proxy to a port of this machine that ends with the block."""
    made = Proxy(port)
    try:
        yield made
    finally:
        made.close()

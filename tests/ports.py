"""Ports of the loopback for servers that are started later, or again."""

from __future__ import annotations

import secrets
import socket

_PORTS = range(11_000, 21_000)
_given: set[int] = set()


def unused_port(*, beside: int = 0) -> int:
    """A port of 127.0.0.1 that nobody has, and another than this process was given before.

    Nor has anybody the one ``beside`` it, as many above (10,000 at most).
    Both are below those that the system gives to connections: between a look at one of those and the server's start, or
    while a server is down that is to come back, some connection may get it. Nor are they what two processes that begin
    with the same seed would choose.
    """
    while True:
        port = secrets.choice(_PORTS)
        if port in _given:
            continue
        try:
            for number in {port, port + beside}:
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", number))
        except OSError:
            continue
        _given.add(port)
        return port

"""The proxy lets through what came, byte for byte, but for what it is told to do."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from tests.faults.proxy import Link, Proxy

QUESTION = b"question " * 1000
ANSWER = bytes(range(256)) * 100


@pytest.fixture
def link() -> Iterator[Link]:
    """A link to a server that reads a question, and answers it."""
    listener = socket.create_server(("127.0.0.1", 0))
    proxy = Proxy()
    threading.Thread(target=_serve, args=(listener,), daemon=True).start()
    yield proxy.link("test", "127.0.0.1", listener.getsockname()[1])
    proxy.close()
    listener.close()


def _serve(listener: socket.socket) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:  # closed
            return
        with connection:
            read = b""
            while len(read) < len(QUESTION) and (data := connection.recv(65536)):
                read += data
            connection.sendall(ANSWER if read == QUESTION else b"another question")


def ask(link: Link) -> bytes:
    """All that is answered before the connection ends."""
    read = b""
    with socket.create_connection(("127.0.0.1", link.port), timeout=30) as connection:
        try:
            connection.sendall(QUESTION)
            while data := connection.recv(65536):
                read += data
        except ConnectionError:
            pass  # cut off
    return read


def test_what_came_passes_unchanged(link: Link) -> None:
    assert ask(link) == ANSWER


def test_a_reply_is_cut_in_the_middle_once(link: Link) -> None:
    link.cut_next = 1
    cut = ask(link)
    assert len(cut) < len(ANSWER)
    assert ANSWER.startswith(cut)
    assert ask(link) == ANSWER


def test_a_reply_is_replaced_by_what_no_protocol_has(link: Link) -> None:
    link.garble_next = 1
    garbled = ask(link)
    assert b"\xff" in garbled
    assert not ANSWER.startswith(garbled)
    assert ask(link) == ANSWER


def test_connections_are_refused_until_it_is_healed(link: Link) -> None:
    link.refusing = True
    assert ask(link) == b""
    link.heal()
    assert ask(link) == ANSWER


def test_nothing_passes_while_it_stalls(link: Link) -> None:
    link.stalled = True
    threading.Timer(0.3, link.heal).start()
    assert ask(link) == ANSWER
    assert not link.stalled

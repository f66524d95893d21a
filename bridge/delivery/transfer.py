"""What one transfer leaves behind while it runs, and the answer that is made of it.

libcurl calls back into ``Notes``: for each socket that it opens, each header line, each piece of a body.
"""

from __future__ import annotations

import logging
import os
import select
import socket
from collections.abc import Sequence

from bridge.delivery.guard import UrlPolicy, address_refusal
from bridge.delivery.libcurl import failure_of, pycurl
from bridge.domain.outcome import READ_BODY, Answer, Failure, Wish

_MANY_HEADERS = 300_000  # bytes; libcurl gives up at 307,200, with the code of a broken connection

# Readable, writable, hung up: each once, when it becomes so. 0 where there is no epoll, and nothing is registered.
EDGES = select.EPOLLIN | select.EPOLLOUT | select.EPOLLET if hasattr(select, "epoll") else 0

logger = logging.getLogger(__name__)


class Notes:
    """What libcurl's callbacks leave behind for one transfer.

    Holds no handle: the handle holds the callbacks, and a way back would be a cycle that keeps both alive.
    """

    __slots__ = (
        "_policy",
        "_resolving",
        "_watch",
        "blocked",
        "body",
        "fault",
        "header_lines",
        "late",
        "opened",
        "size",
    )

    def __init__(self, policy: UrlPolicy, watch: select.epoll | None, resolving: set[Notes]) -> None:
        self._policy = policy
        self._watch = watch
        self._resolving = resolving
        # libcurl appends to it, without a function of ours between: of a 2xx only whether it is whole is looked at. It
        # reads 300 kB of header lines at most.
        self.header_lines: list[bytes] = []
        self.clear()

    def clear(self) -> None:
        self.body = b""
        self.size = 0  # bytes of body seen
        self.blocked = ""  # why an address was refused
        self.opened = False  # whether an address was allowed
        self.fault = ""  # an exception in a callback
        self.late = False  # past its deadline: no connection is to be made for it any more
        self.header_lines.clear()

    def write(self, data: bytes) -> int | None:
        """Keep the head of the body; refuse more once READ_BODY was seen, which ends the transfer."""
        if self.size < READ_BODY:
            self.body += data[: READ_BODY - self.size]
        self.size += len(data)
        return 0 if self.size > READ_BODY else None

    def resolve_started(self) -> int:
        self._resolving.add(self)
        return 0

    def open_socket(self, _purpose: int, address: pycurl.CurlSockAddr) -> int:
        """The check that counts: on the very address about to be connected to, so no name can change in between.

        A kept-alive connection is not asked about again; it passed here when it was opened.
        """
        try:
            self._resolving.discard(self)
            if self.late:
                return pycurl.SOCKET_BAD
            if address.family not in {socket.AF_INET, socket.AF_INET6} or isinstance(address.addr, bytes):
                self.blocked = "unreadable"
                return pycurl.SOCKET_BAD
            refusal = address_refusal(address.addr[0], self._policy)
            if refusal is not None:
                self.blocked = refusal
                return pycurl.SOCKET_BAD
            # A number, not the socket: pycurl would duplicate a socket's descriptor, and the first be closed late.
            descriptor = socket.socket(address.family, address.socktype, address.protocol).detach()
            if self._watch is not None:
                self._watch.register(descriptor, EDGES)
        except Exception as error:
            # libcurl would see a failed connect, and pycurl print to stderr at most.
            self.fault = f"{type(error).__name__} while opening a socket"
            logger.exception("opening a socket for a callback failed")
            return pycurl.SOCKET_BAD
        self.opened = True
        return descriptor


def answer_of(curl: pycurl.Curl, code: int, text: str, notes: Notes, *, elapsed_ms: int, timeout_ms: int) -> Answer:
    """What a transfer that ended with libcurl's ``code`` and ``text`` came to; it took ``elapsed_ms``."""
    status: int = curl.getinfo(pycurl.RESPONSE_CODE)
    if (code == pycurl.E_OK or (code == pycurl.E_WRITE_ERROR and notes.size > READ_BODY)) and status >= 200:
        if not _is_whole(notes.header_lines):
            # libcurl takes a connection that is closed amid the headers for the end of an answer without a body.
            return Answer(status, Failure.RESET, "closed amid the response headers", notes.body, elapsed_ms)
        if status < 300:
            return Answer(status, None, "", notes.body, elapsed_ms)
        wish, retry_after = _asked(notes.header_lines)
        return Answer(status, None, "", notes.body, elapsed_ms, wish, retry_after)
    failure, error = _explain(curl, code, text, notes, timeout_ms)
    return Answer(status, failure, error, notes.body, elapsed_ms)


def _is_whole(header_lines: Sequence[bytes]) -> bool:
    """Whether the final answer's headers came to their end, an empty line; trailers may follow it."""
    for line in reversed(header_lines):
        if not line.rstrip(b"\r\n"):
            return True
        if line.startswith(b"HTTP/"):
            return False
    return False


def _asked(header_lines: Sequence[bytes]) -> tuple[Wish, str]:
    """What the final answer's headers ask for: those of an interim one (1xx) before it do not count."""
    wish, retry_after = Wish.NONE, ""
    for line in reversed(header_lines):
        if line.startswith(b"HTTP/"):
            break
        name, _, value = line.partition(b":")
        name = name.strip().lower()
        if name == b"webhook-delivery":
            wish = _WISHES.get(value.strip().lower(), wish)
        elif name == b"retry-after":
            retry_after = value.strip()[:_LONGEST_DATE].decode("latin-1")
    return wish, retry_after


_WISHES = {b"abort": Wish.ABORT, b"disable": Wish.DISABLE}
_LONGEST_DATE = 64  # characters; an HTTP-date has 29, and up to 33 in its oldest form


def _explain(curl: pycurl.Curl, code: int, text: str, notes: Notes, timeout_ms: int) -> tuple[Failure, str]:
    """The failure and one line on it. Our own words where they can be: libcurl's may quote what the URL holds."""
    failure = failure_of(code)
    if notes.fault:
        failure, error = Failure.INTERNAL, notes.fault
    elif notes.blocked and not notes.opened:
        failure, error = Failure.BLOCKED, f"blocked: {notes.blocked} address"
    elif code == pycurl.E_OK or notes.size > READ_BODY:
        failure, error = Failure.PROTOCOL, "no final status"
    elif failure is Failure.TIMEOUT or (notes.late and code == pycurl.E_COULDNT_CONNECT):
        failure, error = Failure.TIMEOUT, f"timed out after {timeout_ms} ms"
    elif failure is Failure.CONNECT:
        number: int = curl.getinfo(pycurl.OS_ERRNO)
        error = os.strerror(number).lower() if number else "cannot connect"
    elif code == pycurl.E_RECV_ERROR and curl.getinfo(pycurl.HEADER_SIZE) > _MANY_HEADERS:
        failure, error = Failure.OVERSIZED, "too many response headers"
    elif code == pycurl.E_PEER_FAILED_VERIFICATION:
        error = f"certificate: {text}"[:200]
    else:
        error = pycurl.easy_strerror(code).lower()
    return failure, error

"""A requests session whose whole answer, headers included, must arrive before one wall-clock deadline.

``requests`` alone bounds each wait for bytes, not their sum: a server that sends a byte a second, in its headers or
its body, holds a worker for as long as it likes. Here every read of a connection first shortens the socket's
time-out to what is left of the call. The budget is a ``urllib3.Timeout(total=…)``, which already covers connecting
and sending; this carries it on to the last byte. Only looking up the host name is outside it: that is bounded by
the system's resolver.
"""

from __future__ import annotations

import functools
import http.client
import io
import socket
import time
from http.cookiejar import DefaultCookiePolicy
from typing import TYPE_CHECKING

import requests
from requests.adapters import HTTPAdapter
from requests.cookies import RequestsCookieJar
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer
    from urllib3.response import HTTPResponse


def bounded_session(*, connections: int = 16) -> requests.Session:
    """A pooled session for provider calls. ``connections`` are kept open per host, as many as an account's
    calls may be under way; more are made when needed.

    It ignores the environment (``trust_env``): ~/.netrc would add a header that the provider does not expect,
    HTTP_PROXY would send a simulator's calls on the loopback through a proxy, and reading both anew for every call
    costs more than signing it. Where a proxy is needed, give ``UsmsClient`` this session with its ``proxies`` set.

    Make one per process, after forking: sockets must not be shared. Threads may share it.
    """
    session = requests.Session()
    session.trust_env = False
    # The provider needs no cookie, and one account's must not travel with another's call.
    session.cookies = RequestsCookieJar(policy=DefaultCookiePolicy(allowed_domains=()))
    adapter = _BoundedAdapter(pool_maxsize=connections)
    session.mount("https://", adapter)
    session.mount("http://", adapter)
    return session


class _DeadlineReader(io.RawIOBase):
    """A socket's incoming bytes until a deadline (``time.monotonic`` seconds); TimeoutError after it."""

    def __init__(self, sock: socket.socket, deadline: float) -> None:
        self._sock = sock
        # Held open through makefile, so that the socket stays usable when http.client drops its own reference.
        self._bytes = sock.makefile("rb", buffering=0)
        self._deadline = deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int | None:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the answer did not end in time")
        self._sock.settimeout(left)
        return self._bytes.readinto(buffer)

    def close(self) -> None:
        self._bytes.close()
        super().close()


class _BoundedResponse(http.client.HTTPResponse):
    def __init__(self, sock: socket.socket, method: str | None = None, *, deadline: float) -> None:
        super().__init__(sock, method=method)
        self.fp.close()
        self.fp = io.BufferedReader(_DeadlineReader(sock, deadline))


class _BoundedConnection(HTTPConnection):
    def getresponse(self) -> HTTPResponse:  # type: ignore[override]  # urllib3 returns its own kind, and ignores so too
        # urllib3 has just set ``timeout`` to what is left of the call's total.
        deadline = time.monotonic() + (self.timeout or 0.0)
        # http.client only ever calls it, so it need not be a class: one made per answer would be garbage per answer.
        self.response_class = functools.partial(_BoundedResponse, deadline=deadline)  # type: ignore[assignment]  # so
        return super().getresponse()


class _BoundedSecureConnection(_BoundedConnection, HTTPSConnection):
    pass


class _BoundedPool(HTTPConnectionPool):
    ConnectionCls = _BoundedConnection


class _BoundedSecurePool(HTTPSConnectionPool):
    ConnectionCls = _BoundedSecureConnection


class _BoundedAdapter(HTTPAdapter):
    def init_poolmanager(self, connections: int, maxsize: int, block: bool = False, **options: object) -> None:
        super().init_poolmanager(connections, maxsize, block, **options)
        self.poolmanager.pool_classes_by_scheme = {"http": _BoundedPool, "https": _BoundedSecurePool}

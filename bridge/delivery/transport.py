"""POSTs, many at once: one libcurl multi handle, its connections kept alive, every connect guarded.

What a receiver may cost is bounded here: one wall-clock deadline from resolving to the last byte, 4 kB of body, no
redirect, no proxy, no decoding. What a receiver answered, or why it did not, becomes an ``Answer``; nothing raises.
"""

from __future__ import annotations

import math
import select
import time
from collections.abc import Sequence
from functools import lru_cache

import certifi
import msgspec

from bridge.delivery.guard import UrlPolicy, parse_url
from bridge.delivery.handles import new_handle
from bridge.delivery.libcurl import pycurl
from bridge.delivery.transfer import EDGES, Notes, answer_of
from bridge.domain.credentials import Identity
from bridge.domain.outcome import READ_BODY, Answer, Failure
from bridge.errors import InvalidUrl

_LOOK_MS = 50  # the longest wait while anything is in flight, should libcurl ever leave an edge unanswered
_STOOD_STILL_S = 0.06  # without a look for so long, the caller was held up: answers may have come that nobody read
_LOOK_RESOLVING_MS = 5  # libcurl's resolver threads wake nothing that pycurl can wait for: look this often meanwhile
_LARGE_BODY = 16_384  # bytes; above it a body may take several writes, and is not kept by an idle handle
_MOST_IDENTITIES = 256  # whose connections are kept; as many as queues are held at once


class Request(msgspec.Struct, frozen=True):
    """One POST. ``key`` is the caller's own and comes back untouched; ``headers`` are whole lines, ``name: value``.

    ``timeout_ms`` is wall clock for everything from resolving the name to the last byte of the answer; at least 1.
    ``identity`` is what its connection must have been made with: another request's connection serves it only if
    that had the same.
    """

    key: object
    url: str
    headers: Sequence[bytes]
    body: bytes
    timeout_ms: int
    identity: Identity | None = None


class _Slot:
    """A reusable handle, its notes, and the request it carries now."""

    __slots__ = ("curl", "notes", "pool", "request", "started", "timeout_ms", "url")

    def __init__(self, pool: _Pool, curl: pycurl.Curl, notes: Notes) -> None:
        self.pool = pool
        self.curl = curl
        self.notes = notes
        self.request: Request | None = None
        self.started = 0.0
        self.url = ""
        self.timeout_ms = 0

    @property
    def is_sent(self) -> bool:
        """Whether all of its request was written to its connection."""
        return self.request is not None and self.curl.getinfo(pycurl.SIZE_UPLOAD_T) >= len(self.request.body)


class _Pool:
    """The connections, TLS sessions and handles of one identity.

    libcurl tells connections apart by their options too; that a certificate must never be shown on behalf of another
    subscription is not left to how completely its present release does.
    """

    __slots__ = ("active", "identity", "idle", "multi")

    def __init__(self, identity: Identity | None, max_connections: int) -> None:
        self.identity = identity
        self.active = 0
        self.idle: list[_Slot] = []
        self.multi = pycurl.CurlMulti()
        self.multi.setopt(pycurl.M_MAXCONNECTS, max_connections)
        self.multi.setopt(pycurl.M_PIPELINING, pycurl.PIPE_NOTHING)
        # M_MAX_TOTAL_CONNECTIONS and M_MAX_HOST_CONNECTIONS stay unlimited: beyond them libcurl queues transfers on
        # its own, with their clocks running, behind whichever host hangs.

    def close(self) -> None:
        for slot in self.idle:
            slot.curl.close()
        self.idle.clear()
        self.multi.close()


class Transport:
    """Sends POSTs concurrently and hands back their answers. For one thread at a time.

    An answer is what the status line says once the headers were read: a body is read up to 4 kB (one read buffer more
    at most), then the connection is closed and the status stands, so a 2xx with an endless body accepts. A body that
    stalls until the deadline, or breaks off before its announced length, is a failure whatever the status, which the
    answer still gives.

    The caller bounds ``in_flight``, and how much of it one host may take: nothing is queued here, so a host that
    hangs keeps its own sockets and nobody else's turn. ``max_connections`` is how many connections, idle ones
    included, are kept for reuse. ``ca_file`` replaces certifi's bundle.
    """

    def __init__(self, *, policy: UrlPolicy, ca_file: str | None = None, max_connections: int = 512) -> None:
        self._policy = policy
        self._ca_file = ca_file or certifi.where()
        self._max_idle = max_connections
        self._check = lru_cache(maxsize=4096)(lambda url: parse_url(url, policy).url)
        self._active: dict[pycurl.Curl, _Slot] = {}
        self._refused: list[tuple[Request, Answer]] = []
        self._resolving: set[Notes] = set()
        self._uploading: dict[pycurl.Curl, int] = {}  # to the size of a body that may not be sent yet
        self._fresh = False
        self._looked = time.monotonic()
        # libcurl's own wait is select(), which cannot see a descriptor above 1,023: two busy slices would reach it.
        # Edge-triggered: registered once a connection instead of changed twice a request. libcurl reads until a
        # socket is empty, or asks to be called at once; writing is another matter (_rearm).
        self._watch = select.epoll() if hasattr(select, "epoll") else None
        self._plain = _Pool(None, max_connections)
        self._pools: dict[Identity, _Pool] = {}  # of identities, the least recently used first

    @property
    def in_flight(self) -> int:
        """Requests that were started and not handed back yet."""
        return len(self._active) + len(self._refused)

    def start(self, request: Request) -> None:
        """Begin a POST; its answer comes from ``perform``. Never blocks, never raises for what the request holds.

        A URL that the policy refuses now is answered as BLOCKED, a header line with a line break as INTERNAL, both
        without a connection.
        """
        try:
            url = self._check(request.url)
        except InvalidUrl as error:
            self._refused.append((request, Answer(0, Failure.BLOCKED, f"blocked: {error.reason}", b"", 0)))
            return
        pool = self._plain if request.identity is None else self._pool_of(request.identity)
        slot = pool.idle.pop() if pool.idle else self._new_slot(pool)
        curl = slot.curl
        try:
            if slot.url != url:
                curl.setopt(pycurl.URL, url)
                slot.url = url
            if slot.timeout_ms != request.timeout_ms:
                curl.setopt(pycurl.TIMEOUT_MS, max(1, request.timeout_ms))  # 0 would be no limit
                curl.setopt(pycurl.FRESH_CONNECT, 0)
                slot.timeout_ms = request.timeout_ms
            curl.setopt(pycurl.HTTPHEADER, _header_lines(request.headers))
            curl.setopt(pycurl.POSTFIELDS, request.body)  # not copied; pycurl holds the bytes until the next
            slot.notes.clear()
            slot.request = request
            slot.started = time.monotonic()
            pool.multi.add_handle(curl)
        except (pycurl.error, TypeError, ValueError) as error:
            curl.close()
            self._refused.append((request, Answer(0, Failure.INTERNAL, f"not sent: {error}"[:200], b"", 0)))
            return
        self._active[curl] = slot
        pool.active += 1
        if len(request.body) > _LARGE_BODY:
            self._uploading[curl] = len(request.body)
        self._fresh = True

    def perform(self, wait_ms: int) -> list[tuple[Request, Answer]]:
        """Run the transfers and return those that finished.

        Waits at most ``wait_ms`` for activity, and only if nothing had finished before; returns at once, and empty,
        when nothing is in flight. It may return early and empty-handed.
        """
        finished = self._refused
        self._refused = []
        if self._fresh or wait_ms <= 0 or finished:
            self._run(finished)
        if not finished and self._active and wait_ms > 0:
            self._wait(wait_ms)
            self._run(finished)
        return finished

    def abort(self) -> list[Request]:
        """Stop everything and return the requests that were not handed back. Their receivers may have seen them."""
        requests = [request for request, _ in self._refused]
        self._refused = []
        for curl, slot in self._active.items():
            slot.pool.multi.remove_handle(curl)
            slot.pool.active -= 1
            if slot.request is not None:
                requests.append(slot.request)
            curl.close()
        self._active.clear()
        self._resolving.clear()
        self._uploading.clear()
        return requests

    def close(self) -> None:
        """Abort, and let go of every handle and connection. May wait for a name that is still being resolved."""
        self.abort()
        for pool in (self._plain, *self._pools.values()):
            pool.close()
        self._pools.clear()
        if self._watch is not None:
            self._watch.close()

    def _run(self, finished: list[tuple[Request, Answer]]) -> None:
        """Let libcurl do what can be done without waiting, and collect what is done."""
        self._fresh = False
        overdue = self._overdue()
        self._looked = time.monotonic()
        self._collect(self._plain, finished)
        for pool in self._pools.values():
            if pool.active:
                self._collect(pool, finished)
        for slot in overdue:
            if slot.curl in self._active:
                slot.curl.setopt(pycurl.TIMEOUT_MS, slot.timeout_ms)
                slot.curl.setopt(pycurl.FRESH_CONNECT, 0)
                slot.notes.late = False
            else:
                slot.timeout_ms = 0  # to be set for its next request

    def _overdue(self) -> list[_Slot]:
        """After standing still, the transfers past their deadline that may have an answer: they get one more look.

        libcurl would end them before it reads an answer that has come in time, and the receiver hear the event again.
        So would those be whose deadline passes while it reads the others: that takes no longer than all of it took.
        What was not sent by then must not be: its lane may be leased anew, and the receiver have the event and others
        after it.
        """
        now = time.monotonic()
        away = now - self._looked
        if away < _STOOD_STILL_S:
            return []
        late = [slot for slot in self._active.values() if now + away - slot.started >= slot.timeout_ms / 1000]
        overdue = [slot for slot in late if slot.is_sent]
        for slot in overdue:
            slot.curl.setopt(pycurl.TIMEOUT_MS, slot.timeout_ms + math.ceil((now - slot.started) * 1000))
            # Where its connection was closed without an answer libcurl sends again by itself, and now that is too late:
            # by another connection that it has, or one that it would make.
            slot.curl.setopt(pycurl.FRESH_CONNECT, 1)
            slot.notes.late = True
        return overdue

    def _collect(self, pool: _Pool, finished: list[tuple[Request, Answer]]) -> None:
        pool.multi.perform()
        _, succeeded, failed = pool.multi.info_read()
        if not succeeded and not failed:
            return
        now = time.monotonic()
        finished.extend(self._finish(curl, pycurl.E_OK, "", now) for curl in succeeded)
        finished.extend(self._finish(curl, code, text, now) for curl, code, text in failed)

    def _wait(self, wait_ms: int) -> None:
        busy = [pool for pool in self._pools.values() if pool.active]
        for pool in (self._plain, *busy):
            due = pool.multi.timeout()  # when libcurl itself wants to run next, in ms; -1 for never
            if 0 <= due < wait_ms:
                wait_ms = due
        wait_ms = min(wait_ms, _LOOK_RESOLVING_MS if self._resolving else _LOOK_MS)
        if self._watch is None:
            # One multi at a time can be waited for so: look often after those of identities.
            self._plain.multi.select(min(wait_ms, _LOOK_RESOLVING_MS if busy else wait_ms) / 1000)
        elif wait_ms:
            if self._uploading:
                self._rearm(self._watch)
            self._watch.poll(wait_ms / 1000)

    def _rearm(self, watch: select.epoll) -> None:
        """Be told again of sockets that can take more of a large body.

        libcurl writes a piece at a time without filling the socket, and a socket that never was full gives no edge.
        """
        for curl, size in list(self._uploading.items()):
            if curl.getinfo(pycurl.SIZE_UPLOAD_T) >= size:
                del self._uploading[curl]
                continue
            descriptor = curl.getinfo(pycurl.ACTIVESOCKET)
            if descriptor >= 0:
                watch.modify(descriptor, EDGES)

    def _finish(self, curl: pycurl.Curl, code: int, text: str, now: float) -> tuple[Request, Answer]:
        slot = self._active.pop(curl)
        slot.pool.multi.remove_handle(curl)
        slot.pool.active -= 1
        self._uploading.pop(curl, None)
        notes, request = slot.notes, slot.request
        if request is None:
            raise AssertionError("an active slot carries no request")
        elapsed_ms = round((now - slot.started) * 1000)
        answer = answer_of(curl, code, text, notes, elapsed_ms=elapsed_ms, timeout_ms=slot.timeout_ms)
        self._resolving.discard(notes)  # one that failed before it opened a socket
        notes.header_lines.clear()
        slot.request = None
        if len(slot.pool.idle) >= self._max_idle:
            curl.close()
        else:
            if len(request.body) > _LARGE_BODY:
                curl.setopt(pycurl.POSTFIELDS, b"")
            slot.pool.idle.append(slot)
        return request, answer

    def _pool_of(self, identity: Identity) -> _Pool:
        pool = self._pools.pop(identity, None)
        if pool is None:
            pool = _Pool(identity, self._max_idle)
            for old in list(self._pools.values())[: len(self._pools) + 1 - _MOST_IDENTITIES]:
                if not old.active and old.identity is not None:
                    self._pools.pop(old.identity).close()
        self._pools[identity] = pool
        return pool

    def _new_slot(self, pool: _Pool) -> _Slot:
        notes = Notes(self._policy, self._watch, self._resolving)
        curl = new_handle(self._ca_file, pool.identity, allow_http=self._policy.allow_http)
        curl.setopt(pycurl.BUFFERSIZE, READ_BODY)
        curl.setopt(pycurl.WRITEFUNCTION, notes.write)
        curl.setopt(pycurl.HEADERFUNCTION, notes.header_lines.append)
        curl.setopt(pycurl.OPENSOCKETFUNCTION, notes.open_socket)
        curl.setopt(pycurl.RESOLVER_START_FUNCTION, notes.resolve_started)
        return _Slot(pool, curl, notes)


def _header_lines(headers: Sequence[bytes]) -> list[bytes]:
    """The lines to send, and one that keeps libcurl from waiting for 100-continue before a large body."""
    text = b"".join(headers)
    if b"\n" in text or b"\r" in text or b"\0" in text:
        raise ValueError("a header line holds a line break or NUL")
    return [*headers, b"Expect:"]

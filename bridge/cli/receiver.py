"""A receiver of callbacks that verifies each as an application should, with the standard library alone.

``bridge listen`` and the demo use it, and tests do. It shares no code with what signs and sends callbacks, so that a
mistake there cannot hide here.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self, TypeVar

from bridge.errors import BridgeError, UsageError

TOLERANCE_S = 300  # Standard Webhooks: a timestamp further away may be a replay
MAX_BODY = 2_000_000  # a batch is at most 1 MB
IDLE_TIMEOUT_S = 120.0
STOP_WITHIN_S = 5.0
REMEMBERED = 500_000  # ids and phones, oldest forgotten first

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """One POST as it came; ``headers`` by lower-case name."""

    path: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What is answered to a POST."""

    status: int
    body: bytes = b""
    content_type: str = "text/plain; charset=utf-8"


@dataclass(frozen=True, kw_only=True, slots=True)
class Callback:
    """One event of a POST, or the whole POST where it is not verified or holds no event that can be read."""

    at_ms: int
    id: str
    verified: bool
    problem: str
    """Why it is not verified; "" where it is."""
    duplicate: bool
    out_of_order: bool
    event: Mapping[str, object]


@dataclass(frozen=True, kw_only=True, slots=True)
class Counts:
    """``accepted``: distinct verified events. ``out_of_order``: those of them whose phone's sequence went down.

    ``duplicates``: verified events that had come before. ``bad_signatures``: POSTs refused, for whatever is wrong
    with their signature or timestamp. ``unverified``: POSTs that came while no secret was set.
    """

    requests: int = 0
    accepted: int = 0
    duplicates: int = 0
    out_of_order: int = 0
    bad_signatures: int = 0
    unverified: int = 0


class Receiver:
    """An HTTP server on ``host``:``port`` (0: a free one); a context manager, or ``start()`` and ``stop()``.

    ``on_callback`` is called for each event, from the thread of its connection, before it is answered. ``respond``
    answers verified POSTs in place of 204. With ``record`` every POST is kept in ``recorded``: for tests.
    """

    def __init__(
        self,
        secret: str | None = None,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        on_callback: Callable[[Callback], None] | None = None,
        respond: Callable[[Request], Answer] | None = None,
        record: bool = False,
    ) -> None:
        self._key = _key(secret)
        self._address = (host, port)
        self._on_callback = on_callback
        self._respond = respond
        self._recorded: list[Request] | None = [] if record else None
        self._lock = threading.Lock()
        self._counts = Counts()
        self._ids: dict[str, None] = {}
        self._sequences: dict[tuple[object, ...], int] = {}
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    def set_secret(self, secret: str | None) -> None:
        """Verify with ``secret`` (``whsec_…``) from now on; None: accept, and count as unverified."""
        self._key = _key(secret)

    @property
    def port(self) -> int:
        if self._server is None:
            raise BridgeError("the receiver has not been started")
        return self._server.server_address[1]

    @property
    def url(self) -> str:
        return f"http://{self._address[0]}:{self.port}/"

    @property
    def counts(self) -> Counts:
        with self._lock:
            return self._counts

    @property
    def recorded(self) -> list[Request]:
        with self._lock:
            return list(self._recorded or ())

    def start(self) -> Self:
        """Listen; raises UsageError where the port is taken."""
        try:
            self._server = _Server(self._address, self.receive)
        except OSError as error:
            host, port = self._address
            raise UsageError(f"cannot listen on {host}:{port}: {error.strerror}; give another port") from error
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, name="receiver", daemon=True
        )
        self._thread.start()
        return self

    def stop(self) -> None:
        """Answer what is being answered, and close; open connections that wait for more are closed at once."""
        server, self._server = self._server, None
        if server is None or self._thread is None:
            return
        server.shutdown()
        server.server_close()
        server.close_connections()
        self._thread.join(STOP_WITHIN_S)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def receive(self, request: Request) -> Answer:
        """Verify, count and answer one POST."""
        key, now_ms = self._key, time.time_ns() // 1_000_000
        problem = _problem(key, request, now_ms // 1000) if key is not None else "no secret to verify with"
        webhook_id = request.headers.get("webhook-id", "")
        with self._lock:
            if self._recorded is not None:
                self._recorded.append(request)
            counts = self._counts
            self._counts = replace(
                counts,
                requests=counts.requests + 1,
                unverified=counts.unverified + (key is None),
                bad_signatures=counts.bad_signatures + (key is not None and bool(problem)),
            )
        body = _decoded(request.body)
        for event in _events(body):
            self._tell(webhook_id, now_ms, problem, event)
        if key is not None and problem:
            return Answer(status=400, body=problem.encode())
        if self._respond is not None:
            return self._respond(request)
        if "MsgType" in body:  # the provider's own format has the provider's own acknowledgement
            return Answer(status=200, body=b'{"code":0}', content_type="application/json")
        return Answer(status=204)

    def _tell(self, webhook_id: str, now_ms: int, problem: str, event: Mapping[str, object]) -> None:
        own_id = event.get("id")
        callback = Callback(
            at_ms=now_ms,
            id=own_id if isinstance(own_id, str) else webhook_id,
            verified=not problem,
            problem=problem,
            duplicate=False,
            out_of_order=False,
            event=event,
        )
        if not problem:
            with self._lock:
                callback = self._count(callback)
        if self._on_callback is not None:
            self._on_callback(callback)

    def _count(self, callback: Callback) -> Callback:
        if callback.id in self._ids:
            self._counts = replace(self._counts, duplicates=self._counts.duplicates + 1)
            return replace(callback, duplicate=True)
        _remember(self._ids, callback.id, None)
        out_of_order = self._went_down(callback.event)
        self._counts = replace(
            self._counts,
            accepted=self._counts.accepted + 1,
            out_of_order=self._counts.out_of_order + out_of_order,
        )
        return replace(callback, out_of_order=out_of_order)

    def _went_down(self, event: Mapping[str, object]) -> bool:
        data = event.get("data")
        if not isinstance(data, dict) or not isinstance(sequence := data.get("sequence"), int):
            return False
        phone = tuple(str(data.get(name)) for name in ("account", "session_no", "phone", "user_id"))
        highest = self._sequences.get(phone, 0)
        _remember(self._sequences, phone, max(highest, sequence))
        return sequence < highest


class _Server(ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = True

    def __init__(self, address: tuple[str, int], receive: Callable[[Request], Answer]) -> None:
        self.receive = receive
        self.is_stopping = False
        self._connections: set[socket.socket] = set()
        self._all_closed = threading.Condition()
        super().__init__(address, _Handler)

    def process_request(self, request: socket.socket, client_address: object) -> None:  # type: ignore[override]  # TCP
        # Here, before its thread is started: none is missed by the closing.
        with self._all_closed:
            self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: socket.socket) -> None:  # type: ignore[override]  # TCP alone
        super().shutdown_request(request)
        with self._all_closed:
            self._connections.discard(request)
            self._all_closed.notify_all()

    def close_connections(self) -> None:
        self.is_stopping = True
        with self._all_closed:
            for connection in self._connections:
                _shut(connection, socket.SHUT_RD)  # ends the wait for a next request; an answer can still be written
            self._all_closed.wait_for(lambda: not self._connections, STOP_WITHIN_S)
            for connection in self._connections:
                _shut(connection, socket.SHUT_RDWR)

    def handle_error(self, request: object, client_address: object) -> None:
        # A sender that goes away is no error of ours; anything else is shown as usual.
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]  # as it was given


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # keep-alive
    server_version = "bridge-receiver"
    timeout = IDLE_TIMEOUT_S
    disable_nagle_algorithm = True
    server: _Server

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if not length.isdigit():
            self._answer(Answer(status=411, body=b"Content-Length is needed"), close=True)
        elif int(length) > MAX_BODY:
            self._answer(Answer(status=413, body=b"more than 2 MB"), close=True)
        else:
            body = self.rfile.read(int(length))
            if len(body) < int(length):  # the sender went away, or we are being stopped: it was not all received
                self.close_connection = True
                return
            headers = {name.lower(): value for name, value in self.headers.items()}
            self._answer(self.server.receive(Request(path=self.path, headers=headers, body=body)))

    def do_GET(self) -> None:
        self._answer(Answer(status=405, body=b"callbacks are POSTed here"), close=True)

    def log_message(self, *_args: object) -> None:
        """Nothing: who uses the receiver says what is shown."""

    def _answer(self, answer: Answer, *, close: bool = False) -> None:
        self.send_response(answer.status)
        if answer.status != 204:
            self.send_header("Content-Type", answer.content_type)
            self.send_header("Content-Length", str(len(answer.body)))
        if close or self.server.is_stopping:
            self.send_header("Connection", "close")  # sets close_connection too
        self.end_headers()
        if answer.status != 204:
            self.wfile.write(answer.body)


def _key(secret: str | None) -> bytes | None:
    if secret is None:
        return None
    try:
        key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not key:
        raise UsageError("the secret must be whsec_ and base64, as `bridge subscriptions add` showed it")
    return key


def _problem(key: bytes, request: Request, now: int) -> str:
    """Why a POST is not verified, "" if it is: https://www.standardwebhooks.com, "Verifying webhook authenticity"."""
    names = ("webhook-id", "webhook-timestamp", "webhook-signature")
    missing = [name for name in names if not request.headers.get(name)]
    if missing:
        return f"no {missing[0]} header"
    webhook_id, timestamp, signatures = (request.headers[name] for name in names)
    if not (timestamp.isascii() and timestamp.isdigit() and len(timestamp) < 16):
        return "webhook-timestamp is not a number of seconds"
    # http.server reads header bytes as Latin-1, so this gives back the bytes that were sent.
    signed = f"{webhook_id}.{timestamp}.".encode("latin-1") + request.body
    expected = b"v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest())
    if not any(hmac.compare_digest(expected, one.encode("latin-1")) for one in signatures.split(" ")):
        return "no signature matches"
    if abs(now - int(timestamp)) > TOLERANCE_S:
        return f"webhook-timestamp is {abs(now - int(timestamp))} s away from this clock"
    return ""


def _decoded(body: bytes) -> Mapping[str, object]:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _events(body: Mapping[str, object]) -> list[Mapping[str, object]]:
    """The events of a batch, else the body itself: each POST is told of at least once."""
    data = body.get("data")
    if body.get("type") == "bridge.batch" and isinstance(data, list):
        return [event for event in data if isinstance(event, dict)] or [body]
    return [body]


def _remember(known: dict[_Key, _Value], key: _Key, value: _Value) -> None:
    known[key] = value
    if len(known) > REMEMBERED:
        del known[next(iter(known))]


def _shut(connection: socket.socket, how: int) -> None:
    try:
        connection.shutdown(how)
    except OSError:
        return  # it was closed meanwhile

"""Applications that receive callbacks: each verifies every POST itself, with the public Standard Webhooks library, and
writes down what came and what it answered. They hang, drip, reset, refuse, redirect, and lose their own answers.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import random
import socket
import struct
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import msgspec
from standardwebhooks import Webhook, WebhookVerificationError

from tests.faults.records import Post, Secret

WELL: Mapping[str, float] = {"ok": 1.0}
MOODY: Mapping[str, float] = {
    "ok": 0.7,
    "status 500": 0.06,
    "status 429": 0.03,
    "retry after": 0.03,
    "redirect": 0.03,
    "hang": 0.02,
    "drip": 0.02,
    "reset": 0.03,
    "cut": 0.02,
    "endless": 0.02,
    "lost answer": 0.02,
    "interim": 0.02,
    "flood": 0.01,
    "bomb": 0.02,
}
"""What an application does: seldom ten failures in a row, at which it would be left alone for half a minute."""
PUSHED: Mapping[str, float] = {"acknowledge": 0.6, "ok": 0.1, "says no": 0.15, "status 500": 0.05, "lost answer": 0.1}
"""A receiver of the provider's own pushes: under status 200 it says in the body whether it took them."""
HANGING: Mapping[str, float] = {"hang": 1.0}

_Answer = tuple[int, *tuple[tuple[str, str], ...]]
_STATUSES: Mapping[str, _Answer] = {
    "ok": (204,),
    "status 410": (410,),
    "status 429": (429,),
    "status 500": (500,),
    "retry after": (503, ("Retry-After", "1")),
    "abort": (500, ("webhook-delivery", "abort")),
    "redirect": (307,),
}
_BOMB = gzip.compress(bytes(50_000_000))
"""50 MB in 49 kB. The bridge asks for no coding, undoes none, and reads no more of it than of any answer."""
_MORE_THAN_IS_READ: Mapping[str, bytes] = {
    "endless": b"HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n" + b"x" * 8192,
    "bomb": b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(_BOMB) + _BOMB,
}
"""Answers of which the bridge reads 4 kB, and takes the 2xx."""


class Application:
    """One subscriber. ``moods`` say how likely it answers in which way; by ``chance`` alone."""

    def __init__(self, name: str, chance: random.Random, moods: Mapping[str, float] = WELL) -> None:
        self.name = name
        self.moods = moods
        self.url = ""
        self.subscription = ""
        self.redirect_to = ""
        self.timeout_s = 1.0
        self.script: list[str] = []
        """Moods of the next POSTs, before chance has its turn."""
        self.posts: list[Post] = []
        self.healed = threading.Event()
        self._secrets: list[Secret] = []
        self._chance = chance
        self._lock = threading.Lock()

    @property
    def secrets(self) -> tuple[Secret, ...]:
        return tuple(self._secrets)

    def know(self, secret: Secret) -> None:
        """Verify with this secret too, from now on."""
        with self._lock:
            self._secrets.append(secret)

    def shift(self, value: str, *, since_ms: int, given_ms: int, overlap_ms: int) -> None:
        """This secret is the current one; the one before it goes on signing for a while.

        For how long counts from when the change was asked for: where its reply was lost, it was made long before the
        operator, trying again, heard of it.
        """
        with self._lock:
            known = [one for one in self._secrets if one.value != value]
            old = known.pop()
            self._secrets = [
                *known,
                msgspec.structs.replace(old, until_ms=since_ms + overlap_ms),
                Secret(value=value, since_ms=since_ms, given_ms=given_ms),
            ]

    def heal(self) -> None:
        """Be well from now on, and let go of what hangs."""
        self.moods = WELL
        self.script.clear()
        self.healed.set()

    def mood(self) -> str:
        with self._lock:
            if self.script:
                return self.script.pop(0)
            draw = self._chance.random() * sum(self.moods.values())
            for mood, share in self.moods.items():
                draw -= share
                if draw < 0:
                    return mood
            return "ok"

    def verified_by(self, headers: Mapping[str, str], body: bytes) -> tuple[int, ...]:
        found = []
        for place, secret in enumerate(self._secrets):
            # ValueError: the library raises it bare for a signature header that is none.
            with contextlib.suppress(WebhookVerificationError, ValueError):
                Webhook(secret.value).verify(body, dict(headers))
                found.append(place)
        return tuple(found)

    def note(self, post: Post) -> None:
        with self._lock:
            self.posts.append(post)

    def named_posts(self) -> list[Post]:
        """All POSTs, each with the subscription that this is known by at the end."""
        with self._lock:
            return [msgspec.structs.replace(post, subscription=self.subscription) for post in self.posts]

    def accepted(self) -> int:
        """How many POSTs were accepted so far."""
        with self._lock:
            return sum(post.accepted for post in self.posts)


class Receivers:
    """A server on 127.0.0.1 for applications by their path; and one on an address that nobody may call."""

    def __init__(self) -> None:
        self._applications: dict[str, Application] = {}
        self._server = _Server(("127.0.0.1", 0), _handler_of(self._applications))
        self.host = "127.0.0.1"
        """What proxied URLs call it."""
        self.refused: list[str] = []
        self._canaries = [_Canary(family, host, self.refused) for family, host in _CANARIES]
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    @property
    def applications(self) -> list[Application]:
        return list(self._applications.values())

    @property
    def port(self) -> int:
        return self._server.server_port

    @property
    def canary_urls(self) -> list[str]:
        return [canary.url for canary in self._canaries]

    def add(self, application: Application, port: int | None = None, scheme: str = "http") -> str:
        """Serve an application; its URL, at ``port`` where it is reached by a proxy."""
        path = f"/{application.name}"
        self._applications[path] = application
        application.redirect_to = self._canaries[0].url
        application.url = f"{scheme}://{self.host if port else '127.0.0.1'}:{port or self.port}{path}"
        return application.url

    def close(self) -> None:
        for application in self._applications.values():
            application.healed.set()
        self._server.shutdown()
        self._server.server_close()
        for canary in self._canaries:
            canary.close()


_CANARIES = ((socket.AF_INET, "127.0.0.2"), (socket.AF_INET6, "::1"))


class _Canary:
    """Listens where the bridge may not connect to, and tells of whoever does."""

    def __init__(self, family: socket.AddressFamily, host: str, told: list[str]) -> None:
        self._listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            self._listener.bind((host, 0))
        except OSError:
            self._listener.close()
            raise
        self._listener.listen()
        shown = f"[{host}]" if family == socket.AF_INET6 else host
        self.url = f"http://{shown}:{self._listener.getsockname()[1]}/canary"
        self._told = told
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            try:
                connection, peer = self._listener.accept()
            except OSError:  # closed
                return
            self._told.append(f"{self.url} from port {peer[1]}")
            connection.close()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 512

    def handle_error(self, request: object, client_address: object) -> None:
        """Those who are cut off in the middle are no news here: what they asked is written down, or was not read."""


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def _handler_of(applications: Mapping[str, Application]) -> type[BaseHTTPRequestHandler]:
    class Handler(_Handler):
        served = applications

    return Handler


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    served: Mapping[str, Application]

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name in the standard library
        pass

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        at_ms = now_ms()
        application = self.served.get(self.path)
        if application is None:
            self.send_error(404)
            return
        headers = {name.lower(): value for name, value in self.headers.items()}
        mood = application.mood()
        # Decided before it is written: whoever reads the answer acts on it at once, and the record must say so.
        decided_ms = now_ms()
        status, whole = self._answer(application, mood)
        application.note(
            Post(
                subscription=application.subscription,
                at_ms=at_ms,
                decided_ms=decided_ms,
                message_id=headers.get("webhook-id", ""),
                timestamp_s=int(headers.get("webhook-timestamp", "0")),
                body=body,
                verified_by=application.verified_by(headers, body),
                mood=mood,
                status=status,
                accepted=whole and 200 <= status < 300,
                attempt=headers.get("x-attempt", ""),
                port=self.client_address[1],
            )
        )

    def _answer(self, application: Application, mood: str) -> tuple[int, bool]:
        """Answer by a mood. Returns the status, 0 for none, and whether all of the answer was handed over."""
        try:
            return self._play(application, mood)
        except OSError:
            self.close_connection = True
            return 0, False

    def _play(self, application: Application, mood: str) -> tuple[int, bool]:
        if mood in _STATUSES:
            status, *headers = _STATUSES[mood]
            return self._send(status, [*headers, *([("Location", application.redirect_to)] if status == 307 else [])])
        if mood in _MORE_THAN_IS_READ:
            self._write(_MORE_THAN_IS_READ[mood])
            self.close_connection = True
            return 200, True
        match mood:
            case "hang":
                application.healed.wait(3 * application.timeout_s)
            case "reset" | "lost answer":
                # To the bridge they are the same: only this application knows that it took the event.
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            case "cut":
                self._write(b"HTTP/1.1 204 No Con")
            case "drip":
                self._drip(application, b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nslow")
            case "acknowledge":
                return self._send(200, body=b'{"code":0}')
            case "says no":
                self._send(200, body=b'{"code":1,"message":"not now"}')
                return 200, False
            case "flood":
                while not application.healed.is_set():
                    self._write(b"HTTP/1.1 102 Processing\r\n\r\n" * 100)
            case "interim":
                self._write(b"HTTP/1.1 102 Processing\r\n\r\n" * 3)
                return self._send(204)
            case _:
                raise ValueError(f"no mood: {mood}")
        self.close_connection = True
        return 0, False

    def _drip(self, application: Application, answer: bytes) -> None:
        for byte in answer:
            self._write(bytes([byte]))
            if application.healed.wait(0.1):
                return

    def _send(self, status: int, headers: Sequence[tuple[str, str]] = (), body: bytes = b"") -> tuple[int, bool]:
        lines = [f"HTTP/1.1 {status} Simulated"]
        lines += [f"{name}: {value}" for name, value in headers]
        if status != 204:
            lines.append(f"Content-Length: {len(body)}")
        self._write("\r\n".join([*lines, "", ""]).encode() + body)
        return status, True

    def _write(self, data: bytes) -> None:
        self.wfile.write(data)
        self.wfile.flush()


def members_of(post: Post) -> Iterator[Mapping[str, object]]:
    """The events that a POST carries: itself, its batch's, or a push's receipts. Any other body carries none."""
    try:
        event = json.loads(post.body)
    except ValueError:
        return
    if isinstance(event, dict) and event.get("type") == "bridge.batch":
        yield from event["data"]
    elif isinstance(event, dict) and event.get("MsgType") == 2:
        yield from event["Data"]
    elif isinstance(event, dict):
        yield event

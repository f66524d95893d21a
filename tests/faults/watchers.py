"""Who else hears of the bridge: Sentry, and whoever watches Celery's events, as Flower does. Both write down what they
are told: no phone and no secret may be in it.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from celery import Celery
from celery.events import EventReceiver

SENTRY, EVENTS = "sentry", "celery's events"
"""What their records are called."""


class SentrySink:
    """Takes what Sentry would get: the envelopes, unpacked, line by line."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler_of(self.lines))
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True).start()

    @property
    def dsn(self) -> str:
        return f"http://0123456789abcdef0123456789abcdef@127.0.0.1:{self._server.server_port}/1"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def _handler_of(lines: list[str]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name in the standard library
            pass

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            lines.extend(body.decode(errors="replace").splitlines())
            self.send_response(200)
            self.send_header("content-length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

    return Handler


class EventWatch(threading.Thread):
    """Hears Celery's events from the broker, which is all that Flower knows of tasks and workers."""

    def __init__(self, broker_url: str) -> None:
        super().__init__(name="events", daemon=True)
        self.lines: list[str] = []
        self._app = Celery(broker=broker_url, set_as_current=False)
        self._over = threading.Event()
        self._receiver: EventReceiver | None = None

    def run(self) -> None:
        while not self._over.is_set():
            # Any error: the broker is killed, cut and emptied under it, which the library tells in many ways.
            with contextlib.suppress(Exception), self._app.connection() as connection:
                self._receiver = EventReceiver(connection, handlers={"*": self._note}, app=self._app)
                self._receiver.capture(limit=None, timeout=None, wakeup=False)
            self._over.wait(0.2)

    def _note(self, event: dict[str, object]) -> None:
        self.lines.append(json.dumps(event, default=str))

    def close(self) -> None:
        self._over.set()
        if self._receiver is not None:
            self._receiver.should_stop = True
        self.join(5)
        self._app.close()

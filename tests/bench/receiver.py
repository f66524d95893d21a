"""A receiver that answers 204 as cheaply as it can, so that senders are measured and not it.

nginx where it is installed, at 7 to 8 µs of CPU a request; else a Python one, at 9 to 12. Both take less than any
sender here, so neither is the bottleneck on a core of its own.
"""

from __future__ import annotations

import asyncio
import shutil
import socket
import sys
import time
from pathlib import Path
from typing import Protocol
from urllib.request import urlopen

from bridge.cli.family import Family

_CONFIGURATION = """
daemon off;
master_process off;
pid {directory}/nginx.pid;
error_log {directory}/error.log;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  keepalive_requests 1000000000;
  client_body_temp_path {directory}/body;
  proxy_temp_path {directory}/proxy;
  fastcgi_temp_path {directory}/fastcgi;
  uwsgi_temp_path {directory}/uwsgi;
  scgi_temp_path {directory}/scgi;
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location = /status {{ stub_status; }}
    location / {{ return 204; }}
  }}
}}
"""


class Receiver:
    """A running receiver. ``kind`` says which."""

    def __init__(self, family: Family, directory: Path) -> None:
        self.port = free_port()
        nginx = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
        self.kind = "nginx" if nginx else "Python"
        if nginx:
            configuration = directory / "nginx.conf"
            configuration.write_text(_CONFIGURATION.format(directory=directory, port=self.port))
            argv = [nginx, "-e", str(directory / "error.log"), "-c", str(configuration)]
        else:
            argv = [sys.executable, "-m", "tests.bench.receiver", str(self.port)]
        family.start("receiver", argv, log_file=directory / "receiver.log")
        self._looks = 0
        self._await_ready()

    @property
    def url(self) -> str:
        """Where to POST."""
        return f"http://127.0.0.1:{self.port}/callbacks"

    def requests(self) -> int:
        """How many requests it has answered, but for those that ask this."""
        with urlopen(f"http://127.0.0.1:{self.port}/status", timeout=5) as answer:
            self._looks += 1
            # nginx's third line: connections accepted, handled, and requests, this one among them.
            return int(answer.read().split(b"\n")[2].split()[2]) - self._looks

    def wait_for(self, requests: int, timeout_s: float = 120.0) -> None:
        """Wait until that many were answered."""
        deadline = time.monotonic() + timeout_s
        while (answered := self.requests()) < requests:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{answered} of {requests} requests arrived within {timeout_s:.0f} s")
            time.sleep(0.05)

    def _await_ready(self) -> None:
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
            except OSError:
                time.sleep(0.02)
            else:
                return
        raise TimeoutError("the receiver does not listen")


class _Counter:
    requests = 0


class _Writer(Protocol):
    def write(self, data: bytes) -> object: ...


class _Connection(asyncio.Protocol):
    """Requests one after another on one connection: heads are split off, bodies skipped by their length."""

    def __init__(self, counter: _Counter) -> None:
        self._counter = counter
        self._buffer = b""
        self._transport: _Writer | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport if isinstance(transport, asyncio.WriteTransport) else None

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = self._buffer[:end].lower()
            _, found, rest = head.partition(b"\r\ncontent-length:")
            whole = end + 4 + (int(rest.partition(b"\r\n")[0]) if found else 0)
            if len(self._buffer) < whole:
                return
            self._buffer = self._buffer[whole:]
            self._counter.requests += 1
            if self._transport is not None:
                self._transport.write(self._answer(head))

    def _answer(self, head: bytes) -> bytes:
        if not head.startswith(b"get /status"):
            return b"HTTP/1.1 204 No Content\r\n\r\n"
        body = f"\n\n0 0 {self._counter.requests}\n".encode()
        return b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)


async def _serve(port: int) -> None:
    counter = _Counter()
    server = await asyncio.get_running_loop().create_server(
        lambda: _Connection(counter), "127.0.0.1", port, backlog=4096
    )
    await server.serve_forever()


def free_port() -> int:
    """A port of the loopback that nobody has."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1])))

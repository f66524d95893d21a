"""A receiver that answers 204 as cheaply as it can, so that senders are measured and not it.

nginx where it is installed, at 7 to 8 µs of CPU a request; else a Python one, at 9 to 12. Both take less than any
sender here, so neither is the bottleneck on a core of its own.
"""

from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
import sys
from pathlib import Path
from urllib.request import urlopen

from bridge.cli.family import Family
from tests.bench.answering import NO_CONTENT, serve, whole
from tests.bench.house import wait_until
from tests.hostile import Certificate
from tests.ports import unused_port

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
    listen 127.0.0.1:{port} backlog=4096{tls};
    location = /status {{ stub_status; }}
    location / {{ return 204; }}
  }}
}}
"""


class Receiver:
    """A running receiver; with ``tls``, under a certificate of its own in ``ca_file``. ``kind`` says which it is."""

    def __init__(self, family: Family, directory: Path, *, tls: bool = False) -> None:
        self.port = unused_port()
        self.ca_file = Certificate(directory / "receiver.pem", "127.0.0.1").path if tls else None
        nginx = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
        self.kind = "nginx" if nginx else "Python"
        if nginx:
            configuration = directory / "nginx.conf"
            own = ";\n    ".join([" ssl", f"ssl_certificate {self.ca_file}", f"ssl_certificate_key {self.ca_file}"])
            text = _CONFIGURATION.format(directory=directory, port=self.port, tls=own if tls else "")
            configuration.write_text(text)
            argv = [nginx, "-e", str(directory / "error.log"), "-c", str(configuration)]
        else:
            argv = [sys.executable, "-m", "tests.bench.receiver", str(self.port), *([str(self.ca_file)] if tls else [])]
        self._trusting = ssl.create_default_context(cafile=str(self.ca_file)) if tls else None
        self.pid = family.start("receiver", argv, log_file=directory / "receiver.log").pid
        self._looks = 0
        wait_until("the receiver listens", self._listens, 10)

    @property
    def url(self) -> str:
        """Where to POST."""
        return f"{self._origin}/callbacks"

    @property
    def _origin(self) -> str:
        return f"{'https' if self.ca_file else 'http'}://127.0.0.1:{self.port}"

    def requests(self) -> int:
        """How many requests it has answered, but for those that ask this."""
        with urlopen(f"{self._origin}/status", timeout=5, context=self._trusting) as answer:  # noqa: S310 - our own
            self._looks += 1
            # nginx's third line: connections accepted, handled, and requests, this one among them.
            return int(answer.read().split(b"\n")[2].split()[2]) - self._looks

    def wait_for(self, requests: int, timeout_s: float = 120.0) -> None:
        """Wait until that many were answered."""
        wait_until(f"{requests:,} requests arrive", lambda: self.requests() >= requests, timeout_s, 0.05)

    def _listens(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
        except OSError:
            return False
        return True


async def _count(port: int, tls: ssl.SSLContext | None) -> None:
    requests = 0

    def answer(head: bytes, _body: bytes) -> bytes:
        nonlocal requests
        requests += 1
        return whole(f"\n\n0 0 {requests}\n".encode()) if head.startswith(b"get /status") else NO_CONTENT

    await serve(port, answer, tls=tls)


def _context(certificate: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


if __name__ == "__main__":
    asyncio.run(_count(int(sys.argv[1]), _context(sys.argv[2]) if sys.argv[2:] else None))

"""Receivers that misbehave, on loopback: each says what it does once a request, or only a connection, arrived."""

from __future__ import annotations

import contextlib
import datetime
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

NO_CONTENT = b"HTTP/1.1 204 No Content\r\n\r\n"


def ok(body: bytes = b"", *headers: str) -> bytes:
    """A complete 200 answer."""
    lines = ["HTTP/1.1 200 OK", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


class Connection:
    """One accepted connection, as a behaviour sees it."""

    def __init__(self, sock: socket.socket, stopped: threading.Event) -> None:
        self.sock = sock
        self.stopped = stopped
        self._buffer = b""

    def request(self) -> tuple[bytes, bytes] | None:
        """Head and body of the next request, or None once the sender has gone."""
        while b"\r\n\r\n" not in self._buffer:
            if not self._more():
                return None
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        length = 0
        for line in head.split(b"\r\n")[1:]:
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        while len(self._buffer) < length:
            if not self._more():
                return None
        body, self._buffer = self._buffer[:length], self._buffer[length:]
        return head, body

    def _more(self) -> bool:
        data = self.sock.recv(65_536)
        self._buffer += data
        return bool(data)

    def gone(self) -> None:
        """Wait, saying nothing, until the sender hangs up."""
        while self.sock.recv(65_536):
            pass

    def drip(self, byte: bytes, every_s: float = 0.02) -> None:
        """Send a byte now and then until the sender hangs up or the server stops."""
        while not self.stopped.wait(every_s):
            self.sock.sendall(byte)

    def flood(self, data: bytes) -> None:
        """Send the same bytes as fast as they are taken, until the sender hangs up."""
        while not self.stopped.is_set():
            self.sock.sendall(data)


Behaviour = Callable[[Connection], None]


class Server:
    """A listening socket, a thread for each connection. ``requests`` are (head, body) in order of arrival."""

    def __init__(self, behave: Behaviour, *, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> None:
        self._behave = behave
        self._tls = tls
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self.connections = 0
        self.requests: list[tuple[bytes, bytes]] = []
        self.faults: list[BaseException] = []
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, 0), family=family, backlog=1024)
        self.port: int = self._listener.getsockname()[1]
        scheme = "https" if tls else "http"
        self.url = f"{scheme}://{f'[{host}]' if ':' in host else host}:{self.port}/hook"
        self._acceptor = threading.Thread(target=self._accept, daemon=True)
        self._acceptor.start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self.connections += 1
                if self._stopped.is_set():
                    sock.close()
                    return
                self._open.add(sock)
            thread = threading.Thread(target=self._serve, args=(sock,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, sock: socket.socket) -> None:
        stream = sock
        try:
            with contextlib.suppress(OSError):  # the sender hung up, or refused our certificate: what tests want
                if self._tls is not None:
                    stream = self._tls.wrap_socket(sock, server_side=True)
                    with self._lock:
                        self._open.discard(sock)
                        self._open.add(stream)
                self._behave(Recording(stream, self._stopped, self.requests))
        except BaseException as error:  # noqa: BLE001  # close() hands it to the test
            self.faults.append(error)
        finally:
            with self._lock:
                self._open.discard(stream)
            sock.close()
            stream.close()

    def close(self) -> None:
        """Stop, hang up on everybody, wait for the threads, and raise what a behaviour raised."""
        self._stopped.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._acceptor.join(5)
        with self._lock:
            for sock in self._open:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)
        if self.faults:
            raise self.faults[0]


class Recording(Connection):
    """A connection that notes each request it read."""

    def __init__(self, sock: socket.socket, stopped: threading.Event, seen: list[tuple[bytes, bytes]]) -> None:
        super().__init__(sock, stopped)
        self._seen = seen

    def request(self) -> tuple[bytes, bytes] | None:
        request = super().request()
        if request is not None:
            self._seen.append(request)
        return request


@contextlib.contextmanager
def serving(behave: Behaviour, *, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> Iterator[Server]:
    server = Server(behave, tls=tls, host=host)
    try:
        yield server
    finally:
        server.close()


def answering(*answers: bytes) -> Behaviour:
    """Answer each request of a connection with the next of these, the last one for ever."""

    def behave(connection: Connection) -> None:
        number = 0
        while connection.request() is not None:
            connection.sock.sendall(answers[min(number, len(answers) - 1)])
            number += 1

    return behave


def once(answer: bytes) -> Behaviour:
    """Answer one request and hang up."""

    def behave(connection: Connection) -> None:
        connection.request()
        connection.sock.sendall(answer)

    return behave


class Says:
    """Answers each request with the bytes it was last given, and hangs up."""

    def __init__(self) -> None:
        self.answer = b""

    def __call__(self, connection: Connection) -> None:
        connection.request()
        connection.sock.sendall(self.answer)


def silent(connection: Connection) -> None:
    """Take the request and say nothing."""
    connection.request()
    connection.gone()


def dripping(head: bytes) -> Behaviour:
    """Send a head, then a byte now and then for ever."""

    def behave(connection: Connection) -> None:
        connection.request()
        connection.sock.sendall(head)
        connection.drip(b"x")

    return behave


def flooding(head: bytes, data: bytes) -> Behaviour:
    """Send a head, then the same bytes without end."""

    def behave(connection: Connection) -> None:
        connection.request()
        connection.sock.sendall(head)
        connection.flood(data)

    return behave


def resetting(connection: Connection) -> None:
    """Take the request and reset the connection."""
    connection.request()
    # A linger of zero seconds makes close() send RST.
    connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")


class Certificate:
    """A self-signed certificate in ``path`` (PEM, key included) and a server's context with it."""

    def __init__(self, path: Path, *names: str, expired: bool = False) -> None:
        self.path = path
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
        now = datetime.datetime.now(datetime.UTC)
        day = datetime.timedelta(days=1)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - 3 * day)
            .not_valid_after(now - day if expired else now + day)
            .add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(key, hashes.SHA256())
        )
        pem = certificate.public_bytes(serialization.Encoding.PEM)
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        path.write_bytes(private + pem)
        self.pem, self.key = pem, private
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(path)

    def trusting(self, *clients: Certificate) -> ssl.SSLContext:
        """A server's context that lets in nobody but these."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.path)
        context.verify_mode = ssl.CERT_REQUIRED
        for client in clients:
            context.load_verify_locations(cadata=client.pem.decode())
        return context


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)

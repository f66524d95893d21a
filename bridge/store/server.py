"""The embedded server: a Valkey (or Redis) that ``bridge demo``, ``bridge up`` and the tests run for themselves.

It listens on the loopback alone, with a random password. The durable one, of ``up``, lives in the data directory
under a lock that the server process itself holds too: so a server left for a moment by a killed ``up`` can never
share its files with the next one.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import secrets
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self
from urllib.parse import quote, unquote, urlsplit

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from bridge.errors import BridgeError, SecretsUnreadable, StoreUnreachable
from bridge.store.server_program import find_server_binary, server_environment

READY_WITHIN_S = 10.0
LOADING_WITHIN_S = 600.0  # replaying an AOF of BRIDGE_LOG_BYTES takes minutes; the server says LOADING meanwhile
STOP_WITHIN_S = 10.0
HANDOVER_WITHIN_S = 15.0  # how long a killed `up` may need until its server has stopped
POLL_S = 0.02
PORT_ATTEMPTS = 5
_PORTS = range(20_000, 32_768)
"""Below those that Linux and others give to connections: while the server is down, as in an upgrade, none can get its
port, which stands in URLs of users' settings."""
LOG_TAIL_LINES = 8


class ServerProcess(Protocol):
    """What is needed of a started process; ``subprocess.Popen`` has it."""

    @property
    def pid(self) -> int: ...
    def poll(self) -> int | None: ...
    def wait(self, timeout: float | None = None) -> int: ...
    def terminate(self) -> None: ...
    def kill(self) -> None: ...


class Spawn(Protocol):
    """Starts a program; ``Family.start`` is one, so that the server ends with its family."""

    def __call__(
        self, name: str, argv: Sequence[str], *, env: Mapping[str, str], log_file: Path | None, pass_fds: Sequence[int]
    ) -> ServerProcess: ...


class EmbeddedServer:
    """A server on 127.0.0.1; a context manager, or ``start()`` and ``stop()``.

    ``port`` and ``password`` are random unless given; where ``port`` is taken another one is used, and ``notice``
    says so. ``options`` are further directives of its configuration. ``directory`` holds its configuration (0600),
    its log and, where ``durable``, its append-only file, which is synced each second.
    """

    def __init__(
        self,
        directory: Path,
        *,
        durable: bool = False,
        port: int | None = None,
        password: str | None = None,
        options: Mapping[str, str] | None = None,
        spawn: Spawn | None = None,
        pass_fds: Sequence[int] = (),
    ) -> None:
        self._directory = directory.absolute()
        self._durable = durable
        self._wanted_port = port
        self._password = password or secrets.token_urlsafe(24)
        self._options = dict(options or {})
        self._spawn: Spawn = spawn or _spawn_alone
        self._pass_fds = tuple(pass_fds)
        self._port = 0
        self._process: ServerProcess | None = None
        self.notice: str | None = None

    @property
    def url(self) -> str:
        """Such as ``redis://:password@127.0.0.1:6379/0``."""
        return f"redis://:{quote(self._password, safe='')}@127.0.0.1:{self._port}/0"

    @property
    def pid(self) -> int:
        if self._process is None:
            raise BridgeError("the embedded server has not been started")
        return self._process.pid

    @property
    def log_file(self) -> Path:
        return self._directory / "server.log"

    def start(self) -> Self:
        """Return when PING is answered; StoreUnreachable, with the end of its log, if it is not within 10 s."""
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        binary = find_server_binary()
        # A port found free may be taken by another program before the server binds it: then the next one is tried.
        for attempt in range(PORT_ATTEMPTS):
            self._port = self._choose_port(first=attempt == 0)
            log_from = self.log_file.stat().st_size if self.log_file.exists() else 0
            self._process = self._spawn(
                "server",
                [str(binary), str(self._write_configuration())],
                env=server_environment(),
                log_file=self.log_file,
                pass_fds=self._pass_fds,
            )
            try:
                failure = self._await_ready(self._process)
            except BaseException:
                self.stop()
                raise
            if failure is None:
                return self
            self.stop()
            tail = _tail(self.log_file, log_from)
            if "Address already in use" not in tail:
                break
        raise StoreUnreachable(f"the embedded server ({binary}) {failure}; its log ends with:\n{tail}")

    def stop(self) -> None:
        """SIGTERM, at which it syncs its append-only file; SIGKILL after 10 s."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()  # harmless to one that has ended, and tells a family that its end is no failure
        try:
            process.wait(STOP_WITHIN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _choose_port(self, *, first: bool) -> int:
        if self._wanted_port is not None and first:
            if _is_free(self._wanted_port):
                return self._wanted_port
            self.notice = f"port {self._wanted_port} is taken by another program: the embedded server uses another one"
        chosen = (secrets.choice(_PORTS) for _ in range(1_000))
        port = next(filter(_is_free, chosen), None)
        if port is None:
            raise StoreUnreachable(f"of the ports {_PORTS[0]} to {_PORTS[-1]} none is free for the embedded server")
        return port

    def _write_configuration(self) -> Path:
        directives = {
            "bind": "127.0.0.1",
            "port": str(self._port),
            "requirepass": self._password,
            "daemonize": "no",
            "dir": str(self._directory),
            # Empty: to standard output, which is the log file, so that complaints about this file are in it too.
            "logfile": "",
            "loglevel": "notice",
            "save": "",
            "appendonly": "yes" if self._durable else "no",
            "appendfsync": "everysec",
            "maxmemory-policy": "noeviction",
            # Queued deliveries are packed in buckets of up to this size; beyond it a hash costs three times as much.
            "hash-max-listpack-value": "256",
            **self._options,
        }
        path = self._directory / "server.conf"
        # A file, not arguments: `ps` shows those to everybody on the machine, and this holds the password.
        _write_private(path, "".join(f"{name} {_quoted(value)}\n" for name, value in directives.items()))
        return path

    def _await_ready(self, process: ServerProcess) -> str | None:
        """None once it answers, else what went wrong."""
        started = time.monotonic()
        while True:
            answer = _ping(self.url, 1.0)
            if answer == "PONG":
                return None
            if (code := process.poll()) is not None:
                return f"ended with exit code {code}"
            limit = LOADING_WITHIN_S if answer == "LOADING" else READY_WITHIN_S
            if time.monotonic() - started > limit:
                return f"did not answer within {limit:.0f} s"
            time.sleep(POLL_S)


@contextmanager
def locked_data_dir(data_dir: Path) -> Iterator[int]:
    """Hold the data directory for one embedded server; gives the lock's descriptor, for ``start_durable``.

    Waits up to 15 s for the server of a killed ``up`` to end. Raises BridgeError where another ``up`` runs.
    """
    data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(data_dir / "up.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        deadline = time.monotonic() + HANDOVER_WITHIN_S
        while not _try_lock(descriptor):
            owner = _pid_in(descriptor)
            if time.monotonic() > deadline or (owner is not None and _is_alive(owner)):
                raise BridgeError(
                    f"another `bridge up` (process {owner or 'unknown'}) holds {data_dir}: stop that one first, "
                    "or set BRIDGE_DATA_DIR to another directory"
                )
            time.sleep(POLL_S)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield descriptor
    finally:
        os.close(descriptor)


def start_durable(data_dir: Path, lock: int, *, spawn: Spawn | None = None) -> EmbeddedServer:
    """Start the server whose files are in ``data_dir``, on its last port and password, and write ``server.json``.

    ``lock`` is what ``locked_data_dir`` gave. The caller, or the family of ``spawn``, stops it.
    """
    last = _recorded_url(data_dir)
    parts = urlsplit(last) if last else None
    server = EmbeddedServer(
        data_dir / "server",
        durable=True,
        port=parts.port if parts else None,
        password=unquote(parts.password) if parts and parts.password else None,
        spawn=spawn,
        pass_fds=(lock,),
    ).start()
    # Kept when the server stops: its port and password are used again, so that URLs in users' settings stay right.
    _write_private(data_dir / "server.json", json.dumps({"url": server.url, "pid": server.pid}) + "\n")
    return server


def running_server(data_dir: Path) -> str | None:
    """The URL of the embedded server that ``up`` runs on ``data_dir``; None unless it answers PING within 2 s."""
    url = _recorded_url(data_dir)
    return url if url is not None and _ping(url, 2.0) else None


def embedded_secret_keys(data_dir: Path) -> str:
    """BRIDGE_SECRET_KEYS for the embedded server: made at first use and kept in ``secret.keys``, for its owner alone.

    Raises SecretsUnreadable where the file holds anything but base64 of 32 bytes, comma-separated.
    """
    path = data_dir / "secret.keys"
    data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not path.exists():
        key = base64.b64encode(secrets.token_bytes(32)).decode()
        # A link, not a rename: of two processes that make it at once, one wins and both read the winner's.
        _write_private(path, key + "\n", put=_link_if_absent)
    keys = path.read_text(encoding="ascii", errors="replace").strip()
    try:
        whole = all(len(base64.b64decode(key, validate=True)) == 32 for key in keys.split(","))
    except ValueError:  # not base64, or not ASCII
        whole = False
    if not whole:
        raise SecretsUnreadable(f"{path} must hold base64 of 32 bytes: restore it from a backup")
    return keys


def _spawn_alone(
    name: str,  # noqa: ARG001 - part of Spawn; a family names its children, this one needs no name
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    log_file: Path | None,
    pass_fds: Sequence[int],
) -> subprocess.Popen[bytes]:
    with open(log_file or os.devnull, "ab") as log:  # noqa: PTH123 - os.devnull is no Path
        # Its own group: Ctrl-C at a test run must not stop the server before the tests that use it have ended.
        return subprocess.Popen(  # noqa: S603 - the program is the one found above, its argument a file just written
            argv,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            process_group=0,
            pass_fds=tuple(pass_fds),
        )


def _ping(url: str, timeout_s: float) -> str | None:
    """``PONG``, ``LOADING`` (it answers, and is still reading its files) or None."""
    try:
        client = redis.Redis.from_url(
            url, socket_connect_timeout=timeout_s, socket_timeout=timeout_s, protocol=2, retry=Retry(NoBackoff(), 0)
        )
        with client:
            return "PONG" if client.ping() else None
    except redis.BusyLoadingError:
        return "LOADING"
    except (redis.RedisError, OSError, ValueError):  # another program's port, another password, a damaged file
        return None


def _recorded_url(data_dir: Path) -> str | None:
    try:
        record = json.loads((data_dir / "server.json").read_text(encoding="utf-8"))
        url = record["url"]
        return url if isinstance(url, str) and urlsplit(url).port else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # As the server does: connections of its predecessor in TIME_WAIT are no obstacle.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _quoted(value: str) -> str:
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _write_private(path: Path, text: str, *, put: Callable[[Path, Path], None] = os.replace) -> None:
    """Write a file whole or not at all, readable by its owner alone."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        put(Path(name), path)
    finally:
        Path(name).unlink(missing_ok=True)


def _link_if_absent(source: Path, target: Path) -> None:
    with suppress(FileExistsError):
        os.link(source, target)


def _try_lock(descriptor: int) -> bool:
    try:
        # flock, not lockf: it belongs to the open file, so the server that inherits the descriptor holds it too.
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _pid_in(descriptor: int) -> int | None:
    text = os.pread(descriptor, 32, 0).strip()
    return int(text) if text.isdigit() else None


def _is_alive(pid: int) -> bool:
    """Only to choose between waiting and refusing at once: a reused id costs a wrong wait, never a wrong signal."""
    try:
        os.kill(pid, 0)
    except OSError as error:
        return isinstance(error, PermissionError)
    return True


def _tail(path: Path, start: int) -> str:
    try:
        lines = path.read_bytes()[start:].decode(errors="replace").splitlines()
    except OSError:
        return ""
    return "\n".join(lines[-LOG_TAIL_LINES:])

"""The bridge in real processes with proxies between them, all of which end with the family, however that ends."""

from __future__ import annotations

import base64
import json
import os
import resource
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import redis
import requests

from bridge.cli.family import Child, Family
from bridge.cli.house import clean_environment
from bridge.store.server import EmbeddedServer
from tests.faults.gathering import lines_of
from tests.faults.identities import Identities
from tests.faults.names import PROVIDER, RECEIVERS, Names
from tests.faults.proxy import Proxy
from tests.faults.receivers import now_ms
from tests.faults.stores import ClusterStore, SentinelStore
from tests.ports import unused_port
from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]
KEEPS_WHAT_IT_TAKES = (ROOT / "tasks" / "lua" / "take_message.lua").exists()
"""Whether messages are taken off the broker by a script of the bridge's. Kombu's own channel loses what it takes when
it is killed or cut off at that instant, and does not survive what is no message: with it, these cannot hold."""

SHARDS = 4
COMMAND_WITHIN_S = 60.0

SETTINGS: Mapping[str, str] = {
    "BRIDGE_SHARDS": str(SHARDS),
    "BRIDGE_POLL_SCHEDULE": "200ms,500ms,1s,2s,3s,4s,5s",
    "BRIDGE_CALLBACK_RETRY": "100ms,200ms,300ms,500ms" + ",1s" * 60,
    "BRIDGE_CALLBACK_TIMEOUT": "1s",
    "BRIDGE_PROVIDER_TIMEOUT": "2s",
    "BRIDGE_PROVIDER_RATE": "50",
    "BRIDGE_GIVE_UP_AFTER": "10m",
    # Canaries listen on another address of the loopback, and on ::1.
    "BRIDGE_ALLOW_NETWORKS": "127.0.0.1/32",
    "BRIDGE_ALLOW_HTTP": "yes",
    "BRIDGE_LOG_FORMAT": "json",
    "BRIDGE_LISTEN": "127.0.0.1:0",
}
"""An hour in a second, and patience to match: a lost answer is missed after a second, a lost worker after three."""


_LAST = "faults:last"
"""Where a server that is to be killed has when that was."""
_HELD_BACK_MS = 3_000
"""For two seconds, by a clock of whole ones."""


class Server:
    """A store or broker that can die, lose its last second, and come back under the same URL.

    ``rolled_back`` are spans of Unix ms, up to a kill, of whose writes it may have kept none: while it syncs a file it
    holds back what it has answered already, and that goes with it. Whether it did, what was written last shows.
    """

    def __init__(self, family: Family, name: str, *, durable: bool) -> None:
        self._family = family
        self._directory = family.temporary_directory(name)
        self._durable = durable
        self._port, self._password = unused_port(), secrets.token_urlsafe(12)
        self._server = self._made()
        self._sizes: list[tuple[float, str, int]] = []
        self._last_ms = self._killed_ms = 0
        self.kills = 0
        self.rolled_back: list[tuple[int, int]] = []

    def _made(self) -> EmbeddedServer:
        return EmbeddedServer(
            self._directory,
            durable=self._durable,
            port=self._port,
            password=self._password,
            spawn=self._spawn,
        )

    def _spawn(
        self, name: str, argv: Sequence[str], *, env: Mapping[str, str], log_file: Path | None, pass_fds: Sequence[int]
    ) -> Child:
        # A limit on the size of files then fails a write, as a full disk does, in place of killing the server.
        ignoring = ["env", "--ignore-signal=XFSZ", *argv]
        return self._family.start(name, ignoring, env=env, log_file=log_file, pass_fds=pass_fds)

    def start(self) -> None:
        self._server.start()
        if urlsplit(self._server.url).port != self._port:
            raise RuntimeError("another program took the server's port")

    @property
    def url(self) -> str:
        return self.url_at(self._port)

    @property
    def port(self) -> int:
        return self._port

    @property
    def pid(self) -> int:
        return self._server.pid

    def url_at(self, port: int) -> str:
        """The URL by which it is reached at another port."""
        return f"redis://:{self._password}@127.0.0.1:{port}/0"

    @property
    def password(self) -> str:
        return self._password

    def client(self) -> Any:
        """A client of it, not through any proxy. (Any: redis-py types its replies as awaitable or not.)"""
        return redis.Redis.from_url(self.url, socket_timeout=30)

    def note_size(self) -> None:
        """Remember how long the append-only file is now: what a machine would keep that loses its last second."""
        newest = max(self._directory.glob("appendonlydir/*.incr.aof"), default=None, key=lambda path: path.name)
        if newest is not None:
            self._sizes.append((time.monotonic(), newest.name, newest.stat().st_size))
            del self._sizes[:-600]

    @contextmanager
    def full_disk(self) -> Iterator[None]:
        """No file of the server's grows: what it writes to its append-only file fails."""
        newest = max(self._directory.glob("appendonlydir/*.incr.aof"), key=lambda path: path.name)
        before = resource.prlimit(self.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(self.pid, resource.RLIMIT_FSIZE, (newest.stat().st_size, before[1]))
        try:
            yield
        finally:
            resource.prlimit(self.pid, resource.RLIMIT_FSIZE, before)

    def crash(self, *, lose_s: float = 0.0) -> None:
        """``kill -9``; and of the append-only file, what was written in the last ``lose_s`` seconds."""
        self.note_size()
        self._last_ms = now_ms()
        # One that takes no writes is asked for what there is not, and so may have lost all that may be lost.
        with suppress(redis.RedisError), self.client() as client:
            client.set(_LAST, self._last_ms)
        os.kill(self._server.pid, signal.SIGKILL)
        self._killed_ms = now_ms()
        self.kills += 1
        at = time.monotonic()
        self._server.stop()
        kept = [(name, size) for moment, name, size in self._sizes if moment <= at - lose_s]
        if lose_s and kept:
            name, size = kept[-1]
            os.truncate(self._directory / "appendonlydir" / name, size)

    def lose_disk(self) -> None:
        """Forget what a crash has left."""
        shutil.rmtree(self._directory / "appendonlydir")

    def revive(self) -> None:
        """Start again, with what it has kept."""
        self._server = self._made()
        self.start()
        with self.client() as client:
            kept = client.getdel(_LAST) == str(self._last_ms).encode()
        self.rolled_back.append((self._last_ms if kept else self._killed_ms - _HELD_BACK_MS, self._killed_ms))


class World:
    """All processes of one run. ``settings`` are BRIDGE_* beside ``SETTINGS``; ``store`` is "one", which is the broker
    too unless there is an ``own_broker``, or "sentinel" or "cluster", beside which there always is."""

    def __init__(
        self,
        family: Family,
        *,
        scenario: Mapping[str, object],
        settings: Mapping[str, str],
        own_broker: bool = False,
        store: str = "one",
    ) -> None:
        self.family = family
        self.directory = family.temporary_directory("world")
        self.logs = self.directory / "logs"
        self.logs.mkdir()
        self.notes = self.directory / "notes"
        self.names = Names(self.directory)
        self.identities = Identities(self.directory, (PROVIDER, RECEIVERS, "127.0.0.1"))
        self.journal = self.directory / "journal"
        self.journal.mkdir()
        self.proxy = Proxy()
        self._stack = ExitStack()
        self.store: Server | SentinelStore | ClusterStore = Server(family, "store", durable=True)
        if store == "sentinel":
            self.store = SentinelStore(self._stack, family.temporary_directory("group"), family.start)
        elif store == "cluster":
            self.store = ClusterStore(self._stack, family.start, SHARDS)
        one = self.store if isinstance(self.store, Server) and not own_broker else None
        self.broker = one or Server(family, "broker", durable=False)
        self._scenario = self.directory / "scenario.json"
        self._scenario.write_bytes(msgspec.json.encode(scenario))
        self._settings = dict(settings)
        self.keys = (secrets.token_hex(16), secrets.token_hex(16))
        self.secret_key = base64.b64encode(secrets.token_bytes(32)).decode()
        self.provider_url = ""
        self.sentry_dsn = ""
        """Where long-lived processes report to, before the start; not the many commands, which would take longer."""
        self.environment: dict[str, str] = {}
        self.direct: dict[str, str] = {}
        self._count = 0

    @property
    def server(self) -> Server:
        """The store where it is one server. Raises TypeError for another."""
        if not isinstance(self.store, Server):
            raise TypeError("the store is not one server")
        return self.store

    def start(self) -> None:
        """Start the servers, the simulator and the proxies."""
        keys = {"BRIDGE_PUBLIC_KEY": self.keys[0], "BRIDGE_PRIVATE_KEY": self.keys[1]}
        port = unused_port()
        self.provider_url = f"http://127.0.0.1:{port}/"
        argv = ["simulator", "--port", str(port), "--scenario", str(self._scenario)]
        simulator = self._bridge("simulator", argv, clean_environment(keys))
        self.store.start()
        if self.broker is not self.store:
            self.broker.start()
        # One server is reached by a proxy; of several, each tells where the others are.
        store_url = self.store.url
        if isinstance(self.store, Server):
            store_url = self.store.url_at(self.proxy.link("store", "127.0.0.1", self.store.port).port)
        broker = self.proxy.link("broker", "127.0.0.1", self.broker.port)
        provider = self.proxy.link("provider", "127.0.0.1", port, self.identities.contexts)
        self.direct = clean_environment(
            dict(SETTINGS)
            | keys
            | {
                "BRIDGE_REDIS_URL": self.store.url,
                "BRIDGE_BROKER_URL": self.broker.url,
                "BRIDGE_PROVIDER_URL": self.provider_url,
                "BRIDGE_SECRET_KEYS": self.secret_key,
                "BRIDGE_DATA_DIR": str(self.directory),
                "BRIDGE_CALLBACK_CA_FILE": str(self.identities.authorities),
            }
            | self._settings
        )
        self.environment = self.direct | {
            "BRIDGE_REDIS_URL": store_url,
            "BRIDGE_BROKER_URL": self.broker.url_at(broker.port),
            "BRIDGE_PROVIDER_URL": f"https://{self.names.of(PROVIDER)}:{provider.port}/",
            "SENTRY_DSN": self.sentry_dsn,
        }
        wait_until("the simulator answers", lambda: self._provider_answers(simulator))

    def _provider_answers(self, simulator: Child) -> bool:
        if simulator.poll() is not None:
            raise RuntimeError(f"the simulator ended: {simulator.last_lines()}")
        with suppress(requests.ConnectionError):
            return self._http("GET", "health").ok
        return False

    def _http(self, method: str, path: str, body: object = None) -> requests.Response:
        return requests.request(
            method, f"{self.provider_url}_sim/{path}", data=None if body is None else json.dumps(body), timeout=30
        )

    def steer_provider(self, faults: object) -> None:
        """Have the provider make these faults from now on (``/_sim/faults``)."""
        self._http("POST", "faults", faults).raise_for_status()

    def provider_log(self, after: int = 0) -> Any:
        """A page of what the provider answered."""
        answer = self._http("GET", f"log?after={after}")
        answer.raise_for_status()
        return answer.json()

    def start_worker(self, inside: Mapping[str, object] | None = None, *, skew_s: int = 0) -> Child:
        """Start a worker. ``inside`` is what is to happen in it (``inside/sitecustomize.py``); ``skew_s`` sets its
        wall clock off by as much."""
        changes: dict[str, str] = {}
        told = {
            "root": str(ROOT),
            "notes": str(self.notes),
            "journal": str(self.journal),
            "authorities": str(self.identities.authorities),
            "visibility_s": 10,
            "skew_s": skew_s,
        } | dict(inside or {})
        changes["FAULTS_INSIDE"] = json.dumps(told)
        changes["PYTHONPATH"] = str(Path(__file__).with_name("inside"))
        return self._tasks("worker", ["--concurrency", "8"], self.environment | changes)

    def start_beat(self) -> Child:
        return self._tasks("beat", [], self.environment)

    def start_web(self) -> Child:
        return self._bridge("web", ["web"], self.environment)

    def _tasks(self, kind: str, options: Sequence[str], environment: Mapping[str, str]) -> Child:
        return self._start(kind, ["-m", "tasks", kind, *options], environment)

    def _bridge(self, name: str, argv: Sequence[str], environment: Mapping[str, str]) -> Child:
        return self._start(name, ["-m", "bridge.cli.main", *argv], environment)

    def _start(self, name: str, argv: Sequence[str], environment: Mapping[str, str]) -> Child:
        self._count += 1
        log_file = self.logs / f"{self._count:03d}-{name}.log"
        whole = self.names.within([sys.executable, "-P", *argv])
        child = self.family.start(name, whole, env=environment, log_file=log_file)
        child.wanted = False  # the harness looks after it: its end is no reason to end the family
        return child

    def command(self, *argv: str, environment: Mapping[str, str] | None = None) -> str:
        """Run a ``bridge`` command to its end, past the proxies. Returns what it printed; raises CommandFailed."""
        with (self.logs / "commands.log").open("ab") as log:
            done = subprocess.run(
                self.names.within([sys.executable, "-P", "-m", "bridge.cli.main", *argv]),
                env=dict(environment or self.direct),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                timeout=COMMAND_WITHIN_S,
                check=False,
            )
        if done.returncode:
            what = f"bridge {argv[0]} {argv[1] if len(argv) > 1 else ''} ended with {done.returncode}"
            raise CommandFailed(what, done.stdout.decode())
        return done.stdout.decode()

    def read_notes(self) -> list[str]:
        """What workers noted from within (``inside/sitecustomize.py``)."""
        return self.notes.read_text().splitlines() if self.notes.exists() else []

    def read_journal(self) -> list[str]:
        """What workers wrote down of their work (``inside/journal.py``)."""
        return lines_of(self.journal)

    def web_url(self) -> str:
        """Where the last web process is, "" as long as it has not said so."""
        for path in sorted(self.logs.glob("*-web.log"), reverse=True):
            _, found, url = path.read_text(errors="replace").partition("serving on ")
            if found:
                return url.split()[0]
        return ""

    def web_answers(self) -> tuple[str, ...]:
        """What the web process says to whoever asks, of errors too."""
        url = self.web_url()
        return tuple(_lines_of(url)) if url else ()

    def log_lines(self) -> dict[str, tuple[str, ...]]:
        """What every process wrote."""
        return {
            path.name: tuple(path.read_text(errors="replace").splitlines()) for path in sorted(self.logs.glob("*.log"))
        }

    def close(self) -> None:
        self.proxy.close()
        self._stack.close()


def _lines_of(url: str) -> Iterator[str]:
    for path in ("/healthz", "/readyz", "/v1/health", "/metrics", "/nothing/(86)18500000000", "/v1/sessions?limit=x"):
        with suppress(requests.ConnectionError):
            yield from requests.get(url + path, timeout=10).text.splitlines()


class CommandFailed(Exception):
    """A command of the operator's did not do what it was asked; ``said`` is what it printed all the same."""

    def __init__(self, what: str, said: str) -> None:
        super().__init__(what)
        self.said = said

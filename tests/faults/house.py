"""What tests of faults share: workers that end with the test, and a server that dies and comes back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import kombu.transport
import pytest
from celery import Celery

from bridge.store.server import EmbeddedServer
from bridge.wiring import Bridge

DEADLINE_S = 90.0
ROOT = Path(__file__).parents[2]


class Running:
    """A ``bridge`` process, and what it said."""

    def __init__(self, process: subprocess.Popen[bytes], log_file: Path) -> None:
        self.process = process
        self.log_file = log_file

    @property
    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    def check(self) -> None:
        """Fail where it has ended."""
        if self.process.poll() is not None:
            pytest.fail(f"ended with {self.process.returncode}: {self.log[-3000:]}")

    def terminate(self, within_s: float) -> tuple[int, float]:
        """SIGTERM. Returns its exit code, and how many seconds it took."""
        started = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(within_s)
        return code, time.monotonic() - started


@contextmanager
def running(
    directory: Path, environ: Mapping[str, str], *argv: str, module: Sequence[str] = ("tasks",)
) -> Iterator[Running]:
    """``python -m tasks ARGV…``, as ``bridge worker`` and ``bridge beat`` run it; ends with the block."""
    directory.mkdir(parents=True, exist_ok=True)
    log_file = directory / f"{argv[0]}-{time.monotonic_ns()}.log"
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *module, *argv],
            cwd=ROOT,
            env=dict(environ),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            process_group=0,
        )
    try:
        yield Running(process, log_file)
    finally:
        # The group: a prefork worker's pool outlives it otherwise.
        with_group_gone(process)


def with_group_gone(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and all of its group."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


class Mortal:
    """A server that can be killed and started again with its data, under the same URL."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._server = EmbeddedServer(directory, durable=True).start()
        self.url = self._server.url
        self._port, self._password = self._server._port, self._server._password

    def kill(self) -> None:
        os.kill(self._server.pid, signal.SIGKILL)
        self._server.stop()

    def revive(self) -> None:
        self._server = EmbeddedServer(self._directory, durable=True, port=self._port, password=self._password).start()
        assert self._server.url == self.url, "another program took the port"

    def stop(self) -> None:
        self._server.stop()


@contextmanager
def mortal(directory: Path) -> Iterator[Mortal]:
    server = Mortal(directory)
    try:
        yield server
    finally:
        server.stop()


def use_kombus_own_transports() -> None:
    """Whatever tests before it have loaded into this process."""
    own = "kombu.transport.redis:"
    kombu.transport.TRANSPORT_ALIASES.update(
        redis=f"{own}Transport", rediss=f"{own}Transport", sentinel=f"{own}SentinelTransport"
    )
    vars(kombu.transport)["_transport_cache"].clear()


@contextmanager
def foreign_app(broker_url: str) -> Iterator[Celery]:
    """Another team's Celery app, which has nothing of ours."""
    use_kombus_own_transports()
    app = Celery(broker=broker_url, set_as_current=False)
    try:
        yield app
    finally:
        app.close()


def wait_until(what: str, condition: Callable[[], object], *watched: Running, deadline_s: float = DEADLINE_S) -> None:
    """Until it is so; fails with what the watched processes said where one of them ends, or it takes too long."""
    deadline = time.monotonic() + deadline_s
    while not condition():
        for one in watched:
            one.check()
        if time.monotonic() > deadline:
            said = "\n".join(one.log[-3000:] for one in watched)
            pytest.fail(f"not within {deadline_s:.0f} s: {what}\n{said}")
        time.sleep(0.02)


def tracked(bridge: Bridge, names: Sequence[str], account: str = "default") -> set[str]:
    """Which of these sessions are stored."""
    return {name for name, one in bridge.sessions.read(account, list(names)).items() if one.state is not None}

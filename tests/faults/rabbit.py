"""A RabbitMQ of its own, on 127.0.0.1 alone, with its own port mapper and data: killed, started again, ended."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from kombu import Connection

from tests.ports import unused_port

READY_WITHIN_S = 60.0
_SERVERS = ("/usr/lib/rabbitmq/bin/rabbitmq-server", "rabbitmq-server")
"""The first is Debian's own: the one on the PATH becomes another user, who may not write a test's directory."""


class Rabbit:
    """A server whose data is under ``directory``; ``url`` is its broker URL."""

    def __init__(self, directory: Path, server: str, epmd: str) -> None:
        self._directory = directory
        self._server = server
        port, dist_port, epmd_port = unused_port(), unused_port(), unused_port()
        self.url = f"amqp://guest:guest@127.0.0.1:{port}//"
        (directory / "plugins").write_text("[].\n")
        (directory / "rabbit.conf").write_text(f"listeners.tcp.1 = 127.0.0.1:{port}\nloopback_users.guest = true\n")
        self._environ = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("RABBITMQ_", "ERL_"))},
            "HOME": str(directory),
            "RABBITMQ_NODENAME": f"bridge{port}@localhost",
            "RABBITMQ_DIST_PORT": str(dist_port),
            "RABBITMQ_CONFIG_FILE": str(directory / "rabbit.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(directory / "plugins"),
            "RABBITMQ_MNESIA_BASE": str(directory / "data"),
            "RABBITMQ_LOG_BASE": str(directory / "log"),
            "RABBITMQ_PID_FILE": str(directory / "pid"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1} -start_epmd false",
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(epmd_port),
        }
        self._epmd = self._spawn([epmd, "-address", "127.0.0.1", "-port", str(epmd_port)])
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Return when it takes connections."""
        self._process = self._spawn([self._server])
        deadline = time.monotonic() + READY_WITHIN_S
        while True:
            try:
                with Connection(self.url, connect_timeout=1) as connection:
                    connection.connect()
            except OSError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    pytest.fail(f"RabbitMQ does not start: {(self._directory / 'output').read_text()[-2000:]}")
                time.sleep(0.1)
            else:
                return

    def kill(self) -> None:
        """``kill -9``."""
        if self._process is not None:
            _end(self._process)

    def stop(self) -> None:
        self.kill()
        _end(self._epmd)

    def _spawn(self, argv: list[str]) -> subprocess.Popen[bytes]:
        with (self._directory / "output").open("ab") as output:
            return subprocess.Popen(
                argv,
                cwd=self._directory,
                env=self._environ,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                process_group=0,
            )


@contextmanager
def rabbit(directory: Path) -> Iterator[Rabbit]:
    """A running server. Skips the test where none is installed."""
    server = next((found for name in _SERVERS if (found := shutil.which(name))), None)
    epmd = shutil.which("epmd")
    if server is None or epmd is None:
        pytest.skip("rabbitmq-server is not installed: Redis is the only broker that is tested")
    directory.mkdir(parents=True)
    made = Rabbit(directory, server, epmd)
    try:
        made.start()
        yield made
    finally:
        made.stop()


def _end(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()

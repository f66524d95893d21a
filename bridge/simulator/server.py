"""The simulator on a socket: uvicorn with its h11 protocol, which needs no compiled parts."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator

import uvicorn

from bridge.errors import BridgeError, UsageError
from bridge.simulator.app import Simulator

_START_TIMEOUT_S = 10.0
_STOP_TIMEOUT_S = 10.0


class SimulatorServer:
    """One run of a simulator. ``run`` blocks; ``stop`` may be called from any thread, before or during it."""

    def __init__(self, host: str, port: int, app: Simulator, ready: Callable[[int], None]) -> None:
        config = uvicorn.Config(
            app,
            http="h11",
            loop="asyncio",
            ws="none",
            lifespan="off",
            # The log of what was said is at /_sim/log; one line more per call would hide a demo's own.
            access_log=False,
            log_config=None,
            server_header=False,
            timeout_graceful_shutdown=3,
        )
        self._host = host
        self._port = port
        self._server = _Server(config, app, ready)

    def run(self) -> None:
        """Serve until stopped, or until SIGINT or SIGTERM in the main thread.

        Raises UsageError if nothing can listen at host and port (0: a free one).
        """
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        # Named TCP, not left to the default: only then does asyncio turn Nagle's algorithm off for what it accepts,
        # and a small answer would wait 40 ms for the asker's delayed acknowledgement of its headers.
        with socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind((self._host, self._port))
            except OSError as error:
                reason = error.strerror or error
                raise UsageError(f"the simulator cannot listen on {self._host}:{self._port}: {reason}") from error
            self._server.listen_at(listener)

    def stop(self) -> None:
        self._server.should_exit = True


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, app: Simulator, ready: Callable[[int], None]) -> None:
        super().__init__(config)
        self._app = app
        self._ready = ready

    def listen_at(self, listener: socket.socket) -> None:
        self.run(sockets=[listener])

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        self._ready((sockets or [])[0].getsockname()[1])

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._app.stop()
        await super().shutdown(sockets=sockets)


def serve(host: str, port: int, app: Simulator, ready: Callable[[int], None]) -> None:
    """Serve until SIGINT or SIGTERM; ``ready`` is called with the real port once requests are answered.

    Raises UsageError if nothing can listen there.
    """
    SimulatorServer(host, port, app, ready).run()


@contextlib.contextmanager
def running(app: Simulator, *, host: str = "127.0.0.1", port: int = 0) -> Iterator[int]:
    """A simulator on a thread of its own, for the length of a ``with``; gives its port.

    Raises UsageError if nothing can listen there, BridgeError if it neither starts nor stops within 10 s.
    """
    started = threading.Event()
    ports: list[int] = []
    failures: list[BaseException] = []

    def ready(real_port: int) -> None:
        ports.append(real_port)
        started.set()

    server = SimulatorServer(host, port, app, ready)

    def run() -> None:
        try:
            server.run()
        except BaseException as error:  # noqa: BLE001 - handed to the caller, whose thread can say so
            failures.append(error)
        finally:
            started.set()

    thread = threading.Thread(target=run, name="simulator", daemon=True)
    thread.start()
    try:
        started.wait(_START_TIMEOUT_S)
        if failures:
            raise failures[0]
        if not ports:
            raise BridgeError("the simulator did not start within 10 s")
        yield ports[0]
    finally:
        server.stop()
        thread.join(_STOP_TIMEOUT_S)
    if thread.is_alive():
        raise BridgeError("the simulator did not stop within 10 s")

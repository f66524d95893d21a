"""``bridge web``: health checks and the provider's own push, by uvicorn on BRIDGE_LISTEN."""

from __future__ import annotations

import socket

from bridge.errors import UsageError


def web() -> None:
    """Serve health checks, and take the provider's own push, on BRIDGE_LISTEN until Ctrl-C or SIGTERM.

    /healthz answers 200 while the process is up; /readyz 200 while store and broker answer, else 503.
    """
    import uvicorn

    from bridge.settings import load_settings

    with _bound(load_settings().listen_address) as listening:
        # Named, not imported: the command line and the HTTP API are siblings, which know nothing of each other.
        # ws: nothing here speaks WebSocket, and without it its library is not even imported.
        config = uvicorn.Config(
            "bridge.web.asgi:app",
            factory=True,
            log_config=None,
            access_log=False,
            ws="none",
            timeout_graceful_shutdown=10,
        )
        config.load()
        host, port = listening.getsockname()[:2]
        print(f"serving on http://{f'[{host}]' if ':' in host else host}:{port}", flush=True)
        uvicorn.Server(config).run(sockets=[listening])


def _bound(address: tuple[str, int]) -> socket.socket:
    # Here and not by uvicorn: it would end the process with a page of log where one line will do.
    host, port = address
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server(address, family=family, backlog=2048)
    except OSError as error:
        reason = (error.strerror or "").partition(" (")[0]  # create_server repeats the address in brackets
        raise UsageError(f"cannot listen on {host}:{port}: {reason}; set BRIDGE_LISTEN to another") from error

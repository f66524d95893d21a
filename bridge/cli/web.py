"""``bridge web``: the HTTP API, by uvicorn on BRIDGE_LISTEN."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from urllib.parse import urlsplit

from bridge.domain.server_urls import BrokerAddress, broker_address, safe_url
from bridge.errors import BridgeError, BrokerUnreachable, UsageError
from bridge.settings import Settings

CHECK_TIMEOUT_S = 4.0  # below the 5 s that the application gives a check, so that its own message is seen
_AMQP_PORTS = {"amqp": 5672, "pyamqp": 5672, "amqps": 5671, "sentinel": 26379}


def web() -> None:
    """Serve the HTTP API and the health checks on BRIDGE_LISTEN, until Ctrl-C or SIGTERM.

    /healthz answers 200 while the process is up; /readyz 200 while store and broker answer, else 503.
    """
    import uvicorn

    from bridge.settings import load_settings
    from bridge.web.app import create_app

    settings = load_settings()
    app = create_app(readiness_checks(settings))
    with _bound(settings.listen_address) as listening:
        host, port = listening.getsockname()[:2]
        print(f"serving on http://{f'[{host}]' if ':' in host else host}:{port}", flush=True)
        # ws: nothing here speaks WebSocket, and without it its library is not even imported.
        config = uvicorn.Config(app, log_config=None, access_log=False, ws="none", timeout_graceful_shutdown=10)
        uvicorn.Server(config).run(sockets=[listening])


def readiness_checks(settings: Settings) -> Mapping[str, Callable[[], None]]:
    """What ``/readyz`` runs. Raises StoreUnreachable where no store is configured or running."""
    from bridge.wiring import broker_url, store_url

    store, broker = store_url(settings), broker_address(broker_url(settings))
    return {"store": _pings(store), "broker": _reaches(broker)}


def _pings(url: str) -> Callable[[], None]:
    from bridge.store.client import Client

    client = Client(url, timeout_s=CHECK_TIMEOUT_S)

    def check() -> None:
        client.commands([("PING",)])

    return check


def _reaches(broker: BrokerAddress) -> Callable[[], None]:
    """A Redis broker must answer; of another kind one server must take a connection, as Celery itself needs."""
    refusal = f"the broker {safe_url(broker.url)} does not answer: check BRIDGE_BROKER_URL and that it runs"
    if broker.is_redis and not broker.url.startswith("sentinel"):
        ping = _pings(broker.url.replace("redis+socket://", "unix://", 1).replace("virtual_host=", "db=", 1))

        def check_redis() -> None:
            try:
                ping()
            except BridgeError:
                raise BrokerUnreachable(refusal) from None

        return check_redis
    parts = [urlsplit(url.strip()) for url in broker.url.split(";")]
    addresses = [(part.hostname or "localhost", part.port or _AMQP_PORTS.get(part.scheme, 0)) for part in parts]

    def check() -> None:
        for address in addresses:
            try:
                socket.create_connection(address, CHECK_TIMEOUT_S / len(addresses)).close()
            except OSError:
                continue
            return
        raise BrokerUnreachable(refusal)

    return check


def _bound(address: tuple[str, int]) -> socket.socket:
    # Here and not by uvicorn: it would end the process with a page of log where one line will do.
    host, port = address
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server(address, family=family, backlog=2048)
    except OSError as error:
        reason = (error.strerror or "").partition(" (")[0]  # create_server repeats the address in brackets
        raise UsageError(f"cannot listen on {host}:{port}: {reason}; set BRIDGE_LISTEN to another") from error

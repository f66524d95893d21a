"""Whether the store and the broker answer: asked by ``/readyz`` and by ``bridge doctor``."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from urllib.parse import urlsplit

from bridge.domain.server_urls import NO_CLUSTER, BrokerAddress, broker_address, safe_url
from bridge.errors import BridgeError, BrokerUnreachable
from bridge.servers import broker_url, identity_of, store_url
from bridge.settings import Settings
from bridge.store.client import Client

CHECK_TIMEOUT_S = 4.0  # below the 5 s that /readyz gives a check, so that its own message is seen
_PORTS = {"amqp": 5672, "pyamqp": 5672, "amqps": 5671, "sentinel": 26379}


def readiness_checks(settings: Settings) -> Mapping[str, Callable[[], None]]:
    """A check for the store and one for the broker; each raises BridgeError, saying what to do.

    Raises StoreUnreachable where no store is configured and none runs here.
    """
    store, broker = store_url(settings), broker_address(broker_url(settings))
    return {"store": _is_itself(settings, store), "broker": _reaches(broker)}


def _is_itself(settings: Settings, url: str) -> Callable[[], None]:
    """Answers, and is the store that it was: what is asked of an emptied one is not what people meant."""
    client = Client(url, timeout_s=CHECK_TIMEOUT_S)
    return identity_of(settings, client).check


def _pings(url: str) -> Callable[[], None]:
    client = Client(url, timeout_s=CHECK_TIMEOUT_S)

    def check() -> None:
        client.commands([("PING",)])
        if client.is_cluster:
            raise BrokerUnreachable(NO_CLUSTER)

    return check


def _reaches(broker: BrokerAddress) -> Callable[[], None]:
    """A Redis broker must answer; of another kind one server must take a connection, as Celery itself needs."""
    refusal = f"the broker {safe_url(broker.url)} does not answer: check BRIDGE_BROKER_URL and that it runs"
    if broker.is_redis and not broker.url.startswith("sentinel"):
        ping = _pings(broker.url.replace("redis+socket://", "unix://", 1).replace("virtual_host=", "db=", 1))

        def check_redis() -> None:
            try:
                ping()
            except BrokerUnreachable:
                raise
            except BridgeError:
                raise BrokerUnreachable(refusal) from None

        return check_redis
    parts = [urlsplit(url.strip()) for url in broker.url.split(";")]
    addresses = [(part.hostname or "localhost", part.port or _PORTS.get(part.scheme, 0)) for part in parts]

    def check() -> None:
        for address in addresses:
            try:
                socket.create_connection(address, CHECK_TIMEOUT_S / len(addresses)).close()
            except OSError:
                continue
            return
        raise BrokerUnreachable(refusal)

    return check

"""Which servers the settings mean: the store, the broker, and whether the store is the one that it was."""

from __future__ import annotations

from bridge.errors import StoreUnreachable
from bridge.settings import Settings
from bridge.store.client import Client
from bridge.store.identity import Identity
from bridge.store.server import running_server


def store_url(settings: Settings) -> str:
    """The store that these settings mean: the one they name, else the embedded one that runs under BRIDGE_DATA_DIR.

    Raises:
        StoreUnreachable: none is named, and none runs.
    """
    if settings.redis_url is not None:
        return settings.redis_url.get_secret_value()
    url = running_server(settings.data_dir)
    if url is None:
        raise StoreUnreachable(
            f"BRIDGE_REDIS_URL is not set, and no embedded server runs under {settings.data_dir}: "
            "set it, or start `bridge up`"
        )
    return url


def identity_of(settings: Settings, client: Client) -> Identity:
    """What tells whether ``client``'s store is the one it was when this machine last saw it."""
    url = settings.redis_url
    return Identity(client, settings.data_dir, url.get_secret_value() if url is not None else None)


def broker_url(settings: Settings) -> str:
    """The broker that these settings mean: the store, unless they name another."""
    return settings.broker.get_secret_value() if settings.broker is not None else store_url(settings)

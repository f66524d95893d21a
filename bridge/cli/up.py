"""``bridge up``: everything in one terminal, with your settings."""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack

from bridge.cli.family import Family
from bridge.cli.processes import command_of
from bridge.errors import SettingsError

_LOOK_EVERY_S = 0.2


def up() -> None:
    """Run a worker, beat and the web process, and an embedded Valkey where BRIDGE_REDIS_URL is not set.

    The embedded one keeps its data, synced each second, and its secret keys under BRIDGE_DATA_DIR; other commands
    find it there. Ends with all of them on Ctrl-C, SIGTERM, or when one of them fails.

    \b
    BRIDGE_PUBLIC_KEY=… BRIDGE_PRIVATE_KEY=… bridge up
    """
    from bridge.settings import load_settings
    from bridge.store.server import locked_data_dir, start_durable
    from bridge.wiring import Bridge

    settings = load_settings()
    if settings.public_key is None or settings.private_key is None:
        raise SettingsError(
            "BRIDGE_PUBLIC_KEY and BRIDGE_PRIVATE_KEY: not set; take them from the provider's console, "
            "or try `bridge demo`, which needs none"
        )
    with ExitStack() as stack:
        family = stack.enter_context(Family("up"))
        if settings.redis_url is None:
            lock = stack.enter_context(locked_data_dir(settings.data_dir))
            server = start_durable(settings.data_dir, lock, spawn=family.start)
            print(server.notice or f"Valkey keeps its data under {settings.data_dir}", flush=True)
            print(f"senders need BRIDGE_BROKER_URL={server.url}", flush=True)
        # Whatever is wrong with the store or the secret keys is said here, once, not by three processes.
        bridge = Bridge(settings)
        _ = bridge.secret_box
        bridge.close()
        family.start("worker", command_of("worker", "--concurrency", "8"))
        family.start("beat", command_of("beat"))
        family.start("web", [sys.executable, "-P", "-m", "bridge.cli.main", "web"])
        while True:
            family.check()
            time.sleep(_LOOK_EVERY_S)  # between two looks at the processes

"""The whole bridge on this machine, for a while: server, simulator, worker, beat and web, in one family."""

from __future__ import annotations

import base64
import os
import secrets
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec
import requests

from bridge.cli.family import Child, Family
from bridge.domain.durations import format_duration_ms
from bridge.errors import BridgeError
from bridge.settings import Settings, describe, load_settings
from bridge.store.server import EmbeddedServer

_READY_WITHIN_S = 20.0


def clean_environment(settings: Mapping[str, str]) -> dict[str, str]:
    """This process's environment with no setting of the bridge but ``settings``: not even one of a ``.env`` file."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("BRIDGE_", "SENTRY_"))}
    # Set to nothing counts as unset, and hides what a .env file in the working directory says.
    unset = {name: "" for row in describe() for name in (row.name, row.file_name) if name}
    return kept | unset | dict(settings)


def compressed(durations_ms: Sequence[int], factor: float) -> str:
    """A schedule as a setting, each time divided by ``factor``, in whole milliseconds, ascending."""
    shorter: list[int] = []
    for duration_ms in durations_ms:
        shorter.append(max(50, round(duration_ms / factor), shorter[-1] + 1 if shorter else 0))
    return ",".join(format_duration_ms(duration_ms) for duration_ms in shorter)


class House:
    """Everything that a demo needs, in directories and processes that end with ``family``.

    ``scenario`` is the simulator's, as plain values; ``settings`` are BRIDGE_* beside those that make the parts find
    one another.
    """

    def __init__(self, family: Family, *, scenario: Mapping[str, object], settings: Mapping[str, str]) -> None:
        self._family = family
        self._directory = family.temporary_directory("demo")
        (self._directory / "scenario.json").write_bytes(msgspec.json.encode(scenario))
        self.public_key = secrets.token_hex(16)
        self.private_key = secrets.token_hex(16)
        self._given = dict(settings)
        self.environment: dict[str, str] = {}
        self.provider_url = ""

    def start_store_and_provider(self) -> None:
        """Start the server and the simulator, and wait until both answer."""
        keys = {"BRIDGE_PUBLIC_KEY": self.public_key, "BRIDGE_PRIVATE_KEY": self.private_key}
        scenario = str(self._directory / "scenario.json")
        simulator = self._bridge(
            "simulator", "simulator", "--port", "0", "--scenario", scenario, environment=clean_environment(keys)
        )
        server = EmbeddedServer(self._directory / "server", spawn=self._family.start).start()
        self.provider_url = self._wait_for("the simulator", lambda: _announced_url(simulator))
        self.environment = clean_environment(
            keys
            | {
                "BRIDGE_REDIS_URL": server.url,
                "BRIDGE_PROVIDER_URL": self.provider_url,
                "BRIDGE_SECRET_KEYS": base64.b64encode(secrets.token_bytes(32)).decode(),
                "BRIDGE_DATA_DIR": str(self._directory),
                "BRIDGE_LISTEN": "127.0.0.1:0",
                "BRIDGE_ALLOW_HTTP": "yes",
                "BRIDGE_ALLOW_NETWORKS": "127.0.0.0/8",
                "BRIDGE_LOG_FORMAT": "json",
            }
            | self._given
        )

    def start_worker(self) -> Child:
        """Start a worker. More than one may run."""
        return self._bridge("worker", "worker", environment=self.environment)

    def start_beat(self) -> Child:
        """Start the clock."""
        return self._bridge("beat", "beat", environment=self.environment)

    def start_web(self) -> Child:
        """Start the health checks, on a port of their own."""
        return self._bridge("web", "web", environment=self.environment)

    def settings(self) -> Settings:
        """The settings that the parts share."""
        return load_settings(self.environment, env_file=None)

    def told(self) -> list[Mapping[str, object]]:
        """What the simulator has told so far, phone by phone: its own record, for comparison."""
        answer = requests.get(f"{self.provider_url}_sim/log?summary=1", timeout=10)
        phones: list[Mapping[str, object]] = msgspec.json.decode(answer.content)["phones"]
        return phones

    def _bridge(self, name: str, *arguments: str, environment: Mapping[str, str]) -> Child:
        return self._start(name, [sys.executable, "-P", "-m", "bridge.cli.main", *arguments], environment)

    def _start(self, name: str, argv: Sequence[str], environment: Mapping[str, str]) -> Child:
        return self._family.start(name, argv, env=environment, log_file=self._directory / f"{name}.log")

    def _wait_for(self, what: str, look: Callable[[], str | None]) -> str:
        deadline = time.monotonic() + _READY_WITHIN_S
        while time.monotonic() < deadline:
            found = look()
            if found:
                return found
            self._family.check()
            time.sleep(0.02)  # between two looks
        raise BridgeError(f"{what} did not start within {_READY_WITHIN_S:.0f} s")


def _announced_url(child: Child) -> str | None:
    log_file: Path | None = child.log_file
    text = log_file.read_text(errors="replace") if log_file is not None and log_file.exists() else ""
    for line in text.splitlines():
        _, mark, url = line.partition(" on http://")
        if mark:
            return f"http://{url.strip()}"
    return None

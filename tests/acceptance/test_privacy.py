"""Phones that a foreign sender put into its message show neither in Flower nor in Celery's events nor in logs."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests
from celery import Celery

from bridge.cli.family import Family
from bridge.cli.house import House
from bridge.wiring import Bridge
from tests.ports import unused_port

PHONE = "18612345678"
ITEM = {"session_no": "privacy-1", "phones": [f"(86){PHONE}"], "metadata": {"phone": PHONE}}
BAD_ITEM = {"session_no": "has a space", "phones": [f"(86){PHONE}"]}


@pytest.fixture
def house() -> Iterator[tuple[House, Family]]:
    with Family("privacy", handle_signals=False) as family:
        house = House(family, scenario={}, settings={})
        house.start_store_and_provider()
        yield house, family


def flower_tasks(port: int, send: Callable[[], None], deadline_s: float = 40.0) -> str:
    """What Flower's API says of tasks, once it has heard of one: of what was sent before it listened it never will."""
    deadline = time.monotonic() + deadline_s
    while time.monotonic() < deadline:
        send()
        try:
            text = requests.get(f"http://127.0.0.1:{port}/api/tasks", timeout=5).text
        except requests.ConnectionError:
            text = ""
        if '"bridge.track"' in text and "SUCCESS" in text:
            return text
        time.sleep(0.5)
    pytest.fail("Flower never heard of the task")


def test_phones_show_neither_in_flower_nor_in_logs(house: tuple[House, Family], tmp_path: Path) -> None:
    running, family = house
    port = unused_port()
    family.start(
        "flower",
        [sys.executable, "-P", "-m", "bridge.cli.main", "flower", "--port", str(port)],
        # Its API is closed without a login, unless told otherwise.
        env=running.environment | {"FLOWER_UNAUTHENTICATED_API": "true"},
        log_file=tmp_path / "flower.log",
    )
    worker = running.start_worker()
    bridge = Bridge(running.settings())
    foreign = Celery(broker=running.environment["BRIDGE_REDIS_URL"], set_as_current=False)
    shown = repr([[ITEM, BAD_ITEM]])

    def send() -> None:
        foreign.send_task("bridge.track", [[ITEM, BAD_ITEM]], queue="bridge.track", argsrepr=shown, kwargsrepr=shown)
        foreign.send_task("bridge.unheard-of", [ITEM], queue="bridge.track", argsrepr=shown)

    tasks = flower_tasks(port, send)
    foreign.close()
    stored = bridge.sessions.read("default", ["privacy-1"])["privacy-1"].state
    rejected = list(bridge.tracking.rejected("default"))
    bridge.close()

    assert stored is not None
    assert [one.reason for one in rejected if "session_no" in one.reason]
    assert "(hidden)" in tasks
    assert PHONE not in tasks
    assert worker.log_file is not None
    log = worker.log_file.read_text()
    assert "items rejected" in log
    assert PHONE not in log
    assert PHONE not in (tmp_path / "flower.log").read_text()


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "192.0.2.1", "example.com"])  # noqa: S104 - refused
def test_flower_off_loopback_needs_a_login(address: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "FLOWER_BASIC_AUTH"}
    ended = subprocess.run(
        [sys.executable, "-P", "-m", "bridge.cli.main", "flower", "--address", address],
        env=environment,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert ended.returncode == 2
    assert "FLOWER_BASIC_AUTH" in ended.stderr

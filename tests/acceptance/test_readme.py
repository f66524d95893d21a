"""The README's promises that a program can check: its table of settings, its commands, and its two receivers."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests

from bridge.cli.commands import COMMANDS
from bridge.cli.main import run
from bridge.domain.receipts import Status
from bridge.domain.signing import encode_secret, signature
from bridge.settings import settings_table_markdown
from tests.ports import unused_port

README = Path(__file__).parents[2] / "README.md"
TEXT = README.read_text(encoding="utf-8")
BODY = b'{"id":"evt_1","type":"sms.status.changed","data":{"status":"delivered"}}'


def code_block(language: str, containing: str) -> str:
    blocks: list[str] = re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)
    return next(block for block in blocks if containing in block)


def test_the_table_of_settings_is_the_one_that_the_code_has() -> None:
    table = TEXT.partition("<!-- settings -->\n")[2].partition("<!-- /settings -->")[0]
    assert table == settings_table_markdown()


def test_every_command_has_a_line() -> None:
    missing = [name for name in COMMANDS if f"bridge {name}" not in TEXT]
    assert missing == []


def test_every_option_of_a_subscription_has_a_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")  # no option is folded
    assert run(["subscriptions", "add", "--help"]) == 0
    options = set(re.findall(r"^\W*(--[a-z-]+)", capsys.readouterr().out, re.MULTILINE)) - {"--json", "--help"}
    assert len(options) >= 10
    assert [option for option in sorted(options) if f"`{option} " not in TEXT and f" {option} F`" not in TEXT] == []


def test_every_status_has_a_line() -> None:
    missing = [status.text for status in Status if f"`{status.text}`" not in TEXT]
    assert missing == []


@contextmanager
def receiver(argv: list[str], cwd: Path, secret: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """One of the README's receivers, listening."""
    port = unused_port()
    environment = os.environ | {"SECRET": secret, "PORT": str(port)}
    process = subprocess.Popen(
        argv, cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        deadline = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert process.poll() is None, "the receiver ended"
                assert time.monotonic() < deadline, "the receiver never listened"
                time.sleep(0.05)
        yield f"http://127.0.0.1:{port}/sms", process
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def check_receiver(argv: list[str], cwd: Path) -> None:
    key = os.urandom(32)
    with receiver(argv, cwd, encode_secret(key)) as (url, process):
        now = int(time.time())
        headers = {
            "content-type": "application/json",
            "webhook-id": "evt_1",
            "webhook-timestamp": str(now),
            "webhook-signature": signature([key], "evt_1", now, BODY),
        }
        assert requests.post(url, BODY, headers=headers, timeout=10).status_code == 204
        assert process.stdout is not None
        assert process.stdout.readline() == "delivered\n"
        for wrong in (
            {"webhook-signature": signature([os.urandom(32)], "evt_1", now, BODY)},
            {"webhook-signature": "no signature at all"},
            {"webhook-id": "evt_2"},
            {"webhook-timestamp": str(now - 3600)},
        ):
            assert requests.post(url, BODY, headers=headers | wrong, timeout=10).status_code == 400, wrong
        assert requests.post(url, BODY, headers=headers, timeout=10).status_code == 204


def test_the_receiver_in_python_verifies(tmp_path: Path) -> None:
    (tmp_path / "receiver.py").write_text(code_block("python", "standardwebhooks"))
    check_receiver([sys.executable, "receiver.py"], tmp_path)


@pytest.mark.skipif(not (shutil.which("node") and shutil.which("npm")), reason="needs Node.js and npm")
def test_the_receiver_in_javascript_verifies(tmp_path: Path) -> None:
    (tmp_path / "receiver.cjs").write_text(code_block("javascript", "standardwebhooks"))
    subprocess.run(
        ["npm", "install", "--no-audit", "--no-fund", "--silent", "standardwebhooks"],
        cwd=tmp_path,
        check=True,
        timeout=120,
        capture_output=True,
    )
    check_receiver(["node", "receiver.cjs"], tmp_path)

"""``bridge simulator`` as its user runs it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests

from bridge.errors import RequestError
from bridge.simulator.sender import send_usms
from bridge.simulator.signature import signature_of

KEYS = {"BRIDGE_PUBLIC_KEY": "any", "BRIDGE_PRIVATE_KEY": "thing"}


@pytest.fixture
def simulate() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str, **settings: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "bridge.cli.main", "simulator", "--port", "0", *arguments],
            env={**os.environ, **settings},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def _url(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, process.communicate()[1]
    return line.split()[-1]


def test_it_answers_what_is_signed_with_the_keys_of_the_settings(
    simulate: Callable[..., subprocess.Popen[str]],
) -> None:
    url = _url(simulate(**KEYS))

    assert send_usms(url, "any", "thing", ["(86)18500000000"])
    with pytest.raises(RequestError):
        send_usms(url, "any", "another thing", ["(86)18500000000"])


def test_it_sends_by_itself_and_says_what_to_track(
    simulate: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    scenario = tmp_path / "scenario.yaml"
    scenario.write_text("time_scale: 1000000\n")  # delivered by the time that anybody asks
    process = simulate("--send", "2", "--scenario", str(scenario), **KEYS)
    url = _url(process)
    assert process.stdout is not None
    lines = [process.stdout.readline().split() for _ in range(2)]
    assert [line[2] for line in lines] == ["(86)18500000000:", "(86)18500000001:"]

    asked = {"Action": "GetUSMSSendReceipt", "PublicKey": "any", "SessionNoSet.0": lines[1][5]}
    asked["Signature"] = signature_of(asked.items(), "thing")
    (session,) = requests.post(url, data=asked, timeout=10).json()["Data"]
    assert [receipt["Phone"] for receipt in session["ReceiptSet"]] == ["(86)18500000001"]


def test_it_plays_a_scenario(simulate: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    scenario = tmp_path / "scenario.yaml"
    scenario.write_text("seed: 1\ntime_scale: 60\n")

    assert _url(simulate("--scenario", str(scenario), **KEYS)).startswith("http://127.0.0.1:")


@pytest.mark.parametrize(
    ("arguments", "settings", "message"),
    [
        ((), {"BRIDGE_PUBLIC_KEY": "", "BRIDGE_PRIVATE_KEY": ""}, "BRIDGE_PUBLIC_KEY and BRIDGE_PRIVATE_KEY: not set"),
        (("--scenario", "/nonexistent"), KEYS, "/nonexistent: cannot be read"),
    ],
)
def test_what_is_missing_is_said_with_exit_code_2(
    simulate: Callable[..., subprocess.Popen[str]], arguments: tuple[str, ...], settings: dict[str, str], message: str
) -> None:
    process = simulate(*arguments, **settings)
    _out, errors = process.communicate(timeout=60)

    assert process.returncode == 2
    assert errors.startswith(f"error: {message}")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM)])
def test_it_ends_quietly_when_asked_to(
    simulate: Callable[..., subprocess.Popen[str]], number: signal.Signals, code: int
) -> None:
    process = simulate(**KEYS)
    _url(process)
    process.send_signal(number)
    _out, errors = process.communicate(timeout=30)

    assert (process.returncode, errors) == (code, "")

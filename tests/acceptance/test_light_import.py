"""A sending service installs ``celery[redis]`` and this package without its dependencies, and can track."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import redis

from bridge.store.server import EmbeddedServer

ROOT = Path(__file__).parents[2]
INSTALL_WITHIN_S = 170


@pytest.fixture(scope="session")
def sender_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment that holds what a sender has."""
    venv = tmp_path_factory.mktemp("sender")
    python = venv / "bin" / "python"
    source = _copied_source(tmp_path_factory.mktemp("source"))
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True, timeout=INSTALL_WITHIN_S)
    for wanted in (["celery[redis]>=5.7,<5.8"], ["--no-deps", str(source)]):
        subprocess.run(
            [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *wanted],
            check=True,
            timeout=INSTALL_WITHIN_S,
        )
    return python


def _copied_source(target: Path) -> Path:
    # pip builds in the tree that it is given: its build/ directory would be left behind in ours.
    subprocess.run(
        ["cp", "-r", *(str(path) for path in ROOT.iterdir() if path.name[0] != "." and path.name != "build"), target],
        check=True,
    )
    return target


def test_a_service_with_only_celery_can_track(sender_python: Path, tmp_path: Path) -> None:
    script = textwrap.dedent("""
        import importlib.util
        for absent in ("msgspec", "pydantic", "structlog", "requests", "pycurl", "typer"):
            assert importlib.util.find_spec(absent) is None, absent
        from bridge import BrokerUnreachable, InvalidSession, track
        try:
            track(["S 1"])
        except InvalidSession as invalid:
            assert invalid.index == 0
        else:
            raise AssertionError("a wrong SessionNo was taken")
        print(track(["nAQDODtO", {"session_no": "xBBDODtP", "phone_count": 2}]))
    """)
    with EmbeddedServer(tmp_path / "server") as server:
        environ = {"PATH": os.environ["PATH"], "BRIDGE_BROKER_URL": server.url}
        # Away from the repository, whose packages would be found first.
        ran = subprocess.run(
            [str(sender_python), "-W", "error", "-c", script],
            env=environ,
            cwd=tmp_path,
            check=True,
            capture_output=True,
            text=True,
            timeout=60,
        )
        with redis.Redis.from_url(server.url) as store:
            raw = store.lrange("bridge.track", 0, -1)
    assert isinstance(raw, list)
    (message,) = [json.loads(one) for one in raw]
    assert message["headers"]["id"] == ran.stdout.strip()
    assert json.loads(base64.b64decode(message["body"]))[:2] == [
        [["nAQDODtO", {"session_no": "xBBDODtP", "phone_count": 2}]],
        {"account": "default"},
    ]

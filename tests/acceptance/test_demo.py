"""``bridge demo``, as somebody who has just installed it runs it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import standardwebhooks
from openai import OpenAI

from tests.processes import descendants, state
from tests.waiting import wait_until

BRIDGE = [sys.executable, "-P", "-m", "bridge.cli.main"]


def run_demo(*options: str, cwd: Path) -> tuple[int, dict[str, Any]]:
    ended = subprocess.run(
        [*BRIDGE, "demo", "--exit", "--json", *options],
        cwd=cwd,
        stdout=subprocess.PIPE,
        text=True,
        timeout=120,
        check=False,
    )
    return ended.returncode, json.loads(ended.stdout)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], list[dict[str, Any]]]:
    """A demo of 200 sessions: where it ran (its home and temporary files too), its summary, and what it recorded."""
    home, record = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("record") / "posts.jsonl"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(home))
        patch.setenv("HOME", str(home))
        code, summary = run_demo("--sessions", "200", "--record", str(record), cwd=home)
    assert code == 0
    return home, summary, [json.loads(line) for line in record.read_text().splitlines()]


Finished = tuple[Path, dict[str, Any], list[dict[str, Any]]]


def test_two_hundred_sessions_arrive_verified_and_in_order(finished: Finished) -> None:
    _, summary, _ = finished
    assert summary["ok"] is True
    assert summary["sessions"] == 200
    assert summary["phones"] == 399
    assert summary["expected"] == summary["accepted"] >= summary["phones"]
    assert (summary["duplicates"], summary["out_of_order"], summary["bad_signatures"]) == (0, 0, 0)


def test_success_leaves_no_file(finished: Finished) -> None:
    home, _, _ = finished
    assert list(home.iterdir()) == []


def test_every_callback_verifies_with_public_libraries(finished: Finished) -> None:
    _, summary, (first, *posts) = finished
    secret = first["secret"]
    assert len(posts) >= summary["accepted"] > 0

    standard = standardwebhooks.Webhook(secret)
    openai = OpenAI(api_key="not used", webhook_secret=secret)
    for post in posts:
        event = standard.verify(post["body"], post["headers"])
        assert event["id"] == post["headers"]["webhook-id"]
        openai.webhooks.verify_signature(post["body"], post["headers"])

    forged = posts[0]["body"].replace('"final":', '"Final":')
    with pytest.raises(standardwebhooks.WebhookVerificationError):
        standard.verify(forged, posts[0]["headers"])


def test_settings_of_the_user_do_not_reach_the_demo(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("BRIDGE_BROKER_URL=redis://127.0.0.1:1/0\nBRIDGE_SHARDS=nonsense\n")
    (tmp_path / "tasks.py").write_text("raise SystemExit('not ours')\n")
    code, summary = run_demo("--sessions", "2", cwd=tmp_path)
    assert code == 0
    assert summary["ok"] is True


def signal_demo(number: signal.Signals) -> Callable[[int, set[int]], None]:
    return lambda demo, _family: os.kill(demo, number)


def kill_its_worker(_demo: int, family: set[int]) -> None:
    commands = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in family}
    # Celery names its processes itself where setproctitle is installed.
    (worker,) = [pid for pid, command in commands.items() if b"\0tasks\0worker\0" in command or b"[celeryd" in command]
    os.kill(worker, signal.SIGKILL)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("end", "expected"),
    [
        (signal_demo(signal.SIGINT), 130),
        (signal_demo(signal.SIGTERM), 143),
        (signal_demo(signal.SIGKILL), -9),
        (kill_its_worker, 1),
    ],
    ids=["ctrl-c", "terminated", "killed", "failed"],
)
def test_however_the_demo_ends_nothing_remains(
    end: Callable[[int, set[int]], None], expected: int, tmp_path: Path
) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    demo = subprocess.Popen(
        [*BRIDGE, "demo"],
        cwd=tmp_path,
        env=os.environ | {"TMPDIR": str(temporary)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert demo.stdout is not None
        for line in demo.stdout:
            if "verified" in line:
                break
        family = set(descendants(demo.pid))
        assert len(family) >= 5  # the warden, Valkey, the simulator, a worker, beat
        assert list(temporary.iterdir())
        end(demo.pid, family)
        code = demo.wait(30)
        demo.stdout.close()
    finally:
        demo.kill()
        demo.wait()
    assert code == expected
    wait_until("nothing remains", lambda: not any(map(state, family)) and not list(temporary.iterdir()))

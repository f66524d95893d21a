"""However the parent of a family ends, none of its processes and none of its directories remain."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest

from bridge.cli.family import Family
from bridge.errors import BridgeError
from tests.waiting import wait_until

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes in /proc")

# Each child touches its file when it is in the state that the test wants.
PLAIN = "import pathlib, sys, time; pathlib.Path(sys.argv[1]).touch(); time.sleep(600)"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + PLAIN
PARENT_OF_STUBBORN = f"""
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", {STUBBORN!r}, sys.argv[1]])
time.sleep(600)
"""
CHILDREN = {"plain": PLAIN, "stubborn": STUBBORN, "grandparent": PARENT_OF_STUBBORN}

# What ends by itself ends at once; the waits for what does not are the driver's own, so that they are short.
DRIVER = """
import json, os, pathlib, sys, time
from bridge.cli import family as module
from bridge.cli.family import Family

module.EACH_AT_LEAST_S, module.WARDEN_GRACE_S = 0.3, 0.5
ending, children, ready = sys.argv[1], json.loads(sys.argv[2]), pathlib.Path(sys.argv[3])
with Family("test", stop_within_s=0.5) as family:
    directory = family.temporary_directory()
    (directory / "file").write_text("x")
    pids = []
    for name, code in children.items():
        log = directory / (name + ".log")
        pids.append(family.start(name, [sys.executable, "-c", code, str(ready / name)], log_file=log).pid)
    while len(list(ready.iterdir())) < len(children):
        family.check()
        time.sleep(0.01)
    print(json.dumps({"pids": pids, "group": os.getpgid(pids[0]), "directory": str(directory)}), flush=True)
    if ending == "error":
        raise RuntimeError("as asked")
    if ending == "wait":
        time.sleep(600)
print("ended well", flush=True)
"""


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """What the driver printed: its children, their group (the warden's id too) and their directory."""

    pids: list[int]
    group: int
    directory: str

    def remains(self) -> list[str]:
        found = [f"process {pid}" for pid in _running() if pid in {*self.pids, self.group}]
        found += [f"process {pid} of the group" for pid, group in _running().items() if group == self.group]
        # The family's own directory is the one above that which it gave out.
        found += [str(path) for path in (Path(self.directory), Path(self.directory).parent) if path.exists()]
        return found


def _running() -> dict[int, int]:
    """The group of each process that has not ended."""
    groups = {}
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            with suppress(OSError):
                state, _parent, group = (path / "stat").read_text().rpartition(")")[2].split()[:3]
                if state not in {"Z", "X"}:
                    groups[int(path.name)] = int(group)
    return groups


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., tuple[subprocess.Popen[str], Told]]]:
    drivers = []

    def run(ending: str, *kinds: str) -> tuple[subprocess.Popen[str], Told]:
        ready = tmp_path / "ready"
        ready.mkdir()
        children = {kind: CHILDREN[kind] for kind in kinds}
        driver = subprocess.Popen(
            [sys.executable, "-c", DRIVER, ending, json.dumps(children), str(ready)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        drivers.append(driver)
        assert driver.stdout is not None
        line = driver.stdout.readline()
        assert line, driver.communicate()[1]
        return driver, msgspec.json.decode(line, type=Told)

    yield run
    for driver in drivers:
        driver.kill()
        driver.communicate()


EVERY_KIND = ("plain", "stubborn", "grandparent")


@pytest.mark.parametrize(("ending", "code"), [("success", 0), ("error", 1)])
def test_nothing_remains_when_the_parent_ends_by_itself(
    start: Callable[..., tuple[subprocess.Popen[str], Told]], ending: str, code: int
) -> None:
    driver, told = start(ending, *EVERY_KIND)

    _out, errors = driver.communicate(timeout=60)

    assert driver.returncode == code, errors
    assert told.remains() == []


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, -signal.SIGINT), (signal.SIGTERM, 128 + 15), (signal.SIGHUP, 128 + 1)],
)
def test_nothing_remains_when_a_signal_ends_the_parent(
    start: Callable[..., tuple[subprocess.Popen[str], Told]], number: signal.Signals, code: int
) -> None:
    driver, told = start("wait", *EVERY_KIND)

    driver.send_signal(number)
    driver.communicate(timeout=60)

    assert driver.returncode == code
    assert told.remains() == []


@pytest.mark.parametrize("kinds", [("plain",), EVERY_KIND], ids=["willing", "unwilling"])
def test_nothing_remains_when_the_parent_is_killed(
    start: Callable[..., tuple[subprocess.Popen[str], Told]], kinds: tuple[str, ...]
) -> None:
    driver, told = start("wait", *kinds)

    driver.kill()
    driver.wait()

    wait_until("the warden has ended all", lambda: not told.remains(), 30)


def test_a_second_signal_kills_at_once(start: Callable[..., tuple[subprocess.Popen[str], Told]]) -> None:
    driver, told = start("wait", "stubborn")

    # Both as fast as can be: whichever the stopping sees, all must end, and neither leaves something behind.
    driver.send_signal(signal.SIGTERM)
    driver.send_signal(signal.SIGTERM)
    driver.communicate(timeout=60)

    wait_until("all have ended", lambda: not told.remains(), 30)


def test_nothing_remains_when_the_warden_and_then_the_parent_end(
    start: Callable[..., tuple[subprocess.Popen[str], Told]],
) -> None:
    driver, told = start("wait", *EVERY_KIND)

    os.kill(told.group, signal.SIGKILL)
    driver.send_signal(signal.SIGTERM)
    driver.communicate(timeout=60)

    # With its warden gone a family removes its directory itself, and kills its group.
    wait_until("all have ended", lambda: not told.remains(), 30)


def test_check_names_the_child_that_died_and_shows_its_last_lines(tmp_path: Path) -> None:
    with Family("test") as family:
        code = "import sys; print('first'); sys.exit('no such queue')"
        child = family.start("worker", [sys.executable, "-c", code], log_file=tmp_path / "log")
        child.wait(30)
        with pytest.raises(BridgeError, match=r"(?s)worker ended with exit code 1.*first.*no such queue"):
            family.check()


def test_a_child_that_was_asked_to_end_is_no_failure(tmp_path: Path) -> None:
    with Family("test") as family:
        child = family.start("worker", [sys.executable, "-c", PLAIN, str(tmp_path / "x")], log_file=tmp_path / "log")
        child.terminate()
        child.wait(30)
        family.check()


def test_output_without_a_log_file_is_shown_with_the_name_of_the_child(capfd: pytest.CaptureFixture[str]) -> None:
    code = "import sys; print('one'); print('two', file=sys.stderr)"
    with Family("test") as family:
        for name in ("worker", "beat"):
            family.start(name, [sys.executable, "-u", "-c", code]).wait(30)

    lines = capfd.readouterr().out.splitlines()

    assert sorted(lines) == ["beat      | one", "beat      | two", "worker    | one", "worker    | two"]


def test_a_program_that_is_not_there_is_a_clear_error() -> None:
    with Family("test") as family, pytest.raises(BridgeError, match="cannot start worker"):
        family.start("worker", ["/nonexistent/program"])


def test_the_environment_given_is_the_whole_environment(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with Family("test") as family:
        code = "import os; print(os.environ.get('GIVEN'), 'HOME' in os.environ)"
        family.start("child", [sys.executable, "-c", code], env={"GIVEN": "yes"}, log_file=log).wait(30)

    assert log.read_text() == "yes False\n"


def test_directories_are_for_their_owner_alone() -> None:
    with Family("test") as family:
        first, second = family.temporary_directory("a"), family.temporary_directory("b")
        assert first != second
        assert {path.stat().st_mode & 0o777 for path in (first, second, first.parent)} == {0o700}

    assert not first.parent.exists()


def test_the_handlers_of_signals_are_put_back() -> None:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    with Family("test"):
        pass

    assert [signal.getsignal(number) for number in numbers] == before

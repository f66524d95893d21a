"""The whole job, beside the poller that teams write by hand: the same SMS at the same provider, at the same time.

Both follow the same sessions of one simulator, each tells a receiver of its own, and each is measured by its
processes' CPU. Time is compressed for both: the provider's, the minute of the one, the schedule of the other. The
bridge's own tick, one second, is not: its waits are told longer than they are, by up to ``compress`` seconds.
"""

from __future__ import annotations

import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import msgspec
import requests

from bridge.cli.family import Child, Family
from bridge.cli.house import compressed
from bridge.sender import track
from bridge.settings import load_settings
from bridge.simulator.scenario import Cast, Scenario
from bridge.simulator.sender import send_usms
from tests.bench.calls import FATES
from tests.bench.figures import Goal, Measured, by_name, quantiles, ratio
from tests.bench.house import ROOT, House, open_bridge, wait_until
from tests.bench.listener import ask, listens
from tests.bench.machine import cpu_s, server_cpu_s
from tests.ports import unused_port

BY_HAND = "each minute, by hand"
BRIDGE = "bridge"
_SEED = 7
_PIECES = 10  # of each of the bands in which phones become final
_MESSAGE_S = 0.5  # what was sent within it is tracked in one message
_DELIVERED = {"result": "发送成功", "code": "DELIVRD", "description": "成功"}


class Sizes(msgspec.Struct, frozen=True, kw_only=True):
    """Sessions, all sent within ``send_s``; how long all are followed after that, and by how much time is compressed.

    Both are uncompressed seconds.
    """

    sessions: int
    send_s: float
    follow_s: float
    compress: float


class _World:
    """The provider, both pollers and both receivers."""

    def __init__(self, house: House, sizes: Sizes) -> None:
        self.house = house
        self.sizes = sizes
        self.scenario = scenario(sizes.compress)
        self.provider = self._start_provider()
        self.ports = {name: unused_port() for name in (BRIDGE, BY_HAND)}
        for name, port in self.ports.items():
            house.start(f"receiver of {name}", "-m", "tests.bench.listener", str(port), "note")
        for port in self.ports.values():
            wait_until("a receiver listens", partial(listens, port))
        self.ours = self._start_bridge()
        self.theirs = self._start_by_hand()

    def _start_provider(self) -> str:
        path = self.house.directory / "scenario.json"
        path.write_bytes(msgspec.json.encode(self.scenario))
        child = self.house.start(
            "simulator", "-m", "bridge.cli.main", "simulator", "--port", "0", "--scenario", str(path)
        )
        wait_until("the simulator listens", lambda: " on http://" in _log_of(child))
        return "http://" + _log_of(child).partition(" on http://")[2].split()[0]

    def _start_bridge(self) -> dict[str, Child]:
        schedule = load_settings(self.house.environment, env_file=None).poll_schedule_ms
        self.house.environment |= {
            "BRIDGE_PROVIDER_URL": self.provider,
            "BRIDGE_POLL_SCHEDULE": compressed(schedule, self.sizes.compress),
            "BRIDGE_PROVIDER_RATE": f"{5 * self.sizes.compress:g}",  # its default, as compressed as the rest
        }
        bridge = open_bridge(self.house.environment)
        bridge.subscribe(f"http://127.0.0.1:{self.ports[BRIDGE]}/")
        children = {
            "worker": self.house.start("worker", "-m", "tasks", "worker", "--concurrency", "8"),
            "beat": self.house.start("beat", "-m", "tasks", "beat"),
        }
        wait_until("a tick", lambda: bridge.index.last_tick_ms() is not None)
        bridge.close()
        return children

    def _start_by_hand(self) -> subprocess.Popen[str]:
        receiver = f"http://127.0.0.1:{self.ports[BY_HAND]}/"
        every_s = 60 / self.sizes.compress
        command = [
            sys.executable,
            "-m",
            "tests.bench.by_hand",
            self.provider,
            receiver,
            "public",
            "private",
            f"{every_s}",
        ]
        return subprocess.Popen(
            command, cwd=ROOT, env=self.house.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def cpu(self) -> dict[str, dict[str, float]]:
        """Seconds so far, by process."""
        ours = {name: cpu_s(child.pid) for name, child in self.ours.items()}
        return {
            BRIDGE: ours | {"server": server_cpu_s(self.house.server.url)},
            BY_HAND: {"poller": cpu_s(self.theirs.pid)},
        }

    def calls(self) -> int:
        """Calls that the provider has answered, of both."""
        answered: int = requests.get(f"{self.provider}_sim/health", timeout=10).json()["answers"]
        return answered


def scenario(compress: float) -> Scenario:
    """Phones that are final when those of the row ``calls`` are."""
    rules = []
    begin = 0.0
    for share, end_ms in FATES:
        width = (end_ms / 1000 - begin) / _PIECES
        for piece in range(_PIECES):
            step = _DELIVERED | {"delay": begin + (piece + 0.5) * width}
            rules.append({"share": share / _PIECES, "timeline": [step]})
        begin = end_ms / 1000
    return Scenario.from_dict({"seed": _SEED, "time_scale": compress, "default": [], "phones": rules})


def measure(sizes: Sizes) -> Measured:
    """Let both follow what is sent, and compare."""
    with Family("bench") as family:
        house = House(family)
        world = _World(house, sizes)
        try:
            found = _run(world)
        finally:
            world.theirs.terminate()
            rest = world.theirs.communicate(timeout=30)[0]
        calls = int(rest.split()[-1])
        found[BRIDGE]["provider calls"] -= calls
        found[BY_HAND]["provider calls"] = calls
    figures = {name: by_name([one]) for name, one in found.items()}
    ours, theirs = figures[BRIDGE], figures[BY_HAND]
    cpu = "CPU µs/settled session"
    title = "by hand, in real time" if sizes.compress == 1 else "by hand"
    return Measured(
        about={
            "sessions": f"{sizes.sessions:,}, sent within {sizes.send_s:g} s, followed for {sizes.follow_s:g} s more",
            "time": f"÷ {sizes.compress:g}",
        },
        figures=figures,
        references=(BY_HAND,),
        goals=(
            Goal(
                what=f"{title}: CPU of a settled session, of a poll each minute",
                unit="%",
                samples=ratio(ours[cpu], theirs[cpu], 100),
                reference=BY_HAND,
            ),
            *(
                Goal(
                    what=f"{title}: provider's word to callback, {part}, of a poll each minute",
                    unit="%",
                    samples=ratio(ours[f"{part} s"], theirs[f"{part} s"], 100),
                    reference=BY_HAND,
                )
                for part in ("p50", "p99")
            ),
        ),
    )


def _run(world: _World) -> dict[str, dict[str, float]]:
    before, began_s = world.cpu(), time.monotonic()
    said = _send(world)
    time.sleep(world.sizes.follow_s / world.sizes.compress)
    ended_s, after, calls = time.monotonic(), world.cpu(), world.calls()
    found = {}
    for name, port in world.ports.items():
        heard = ask(port).heard
        # Of what the provider said in the last minute, neither may have asked yet.
        due = {no: at for no, at in said.items() if at < ended_s - 60 / world.sizes.compress}
        waits = [world.sizes.compress * (heard[no] - at) for no, at in due.items() if no in heard]
        spent = {what: after[name][what] - before[name][what] for what in after[name]}
        settled = len(heard)
        found[name] = {
            "provider calls": float(calls),
            "settled": float(settled),
            "CPU µs/settled session": sum(spent.values()) / settled * 1e6,
            **{f"CPU µs/settled session, {what}": used / settled * 1e6 for what, used in spent.items()},
            "% of a core": 100 * sum(spent.values()) / (ended_s - began_s),
            **{what.replace(" ms", " s"): wait for what, wait in quantiles(waits).items()},
            "not told yet": float(len(due) - len(waits)),
        }
    return found


def _send(world: _World) -> dict[str, float]:
    """Send all, and let both follow each. Returns when the provider will have a word of it, in monotonic seconds."""
    cast = Cast(world.scenario, _SEED)
    said: dict[str, float] = {}
    batch: list[dict[str, object]] = []
    sizes, began_s = world.sizes, time.monotonic()
    every_s, told_s = sizes.send_s / sizes.compress / sizes.sessions, began_s
    assert world.theirs.stdin is not None
    with requests.Session() as http:
        http.trust_env = False
        for number in range(sizes.sessions):
            time.sleep(max(0.0, began_s + number * every_s - time.monotonic()))
            phone = f"(86)185{number:08d}"
            at = time.monotonic()
            session_no = send_usms(world.provider, "public", "private", [phone], session=http)
            for step in cast.timeline_of(phone):
                said[session_no] = at + step.delay / sizes.compress
            batch.append({"session_no": session_no, "phone_count": 1, "sent_at": time.time()})
            if time.monotonic() >= told_s + _MESSAGE_S or number == sizes.sessions - 1:
                told_s = time.monotonic()
                world.theirs.stdin.write("".join(f"{one['session_no']}\n" for one in batch))
                world.theirs.stdin.flush()
                track(batch, broker_url=world.house.server.url)
                batch = []
    return said


def _log_of(child: Child) -> str:
    path = child.log_file or Path()
    return path.read_text(errors="replace") if path.exists() else ""

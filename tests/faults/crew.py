"""Workers, beats and web while a run lasts: started again when they die, and made to die at named points."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence

from bridge.cli.family import Child
from tests.faults.receivers import now_ms
from tests.faults.records import Fault, Kind
from tests.faults.waiting import NotInTime, wait_until
from tests.faults.world import World

_KILLED_WITHIN_S = 10.0


class Crew:
    """The processes of a world. ``stops`` are points at which one worker each is to die, ``bugs`` mistakes of all."""

    def __init__(self, world: World, chance: random.Random, *, stops: Sequence[str], bugs: Sequence[str]) -> None:
        self._world = world
        self._chance = chance
        self._stops = list(stops)
        self._bugs = list(bugs)
        self._stop_of: dict[int, str] = {}
        self._web: Child | None = None
        self.workers: dict[int, Child] = {}
        self.beats: list[Child] = []
        self.deaths: list[Fault] = []
        self.kills = 0
        """How many of these processes ended by SIGKILL, the harness's or their own at a stop."""

    def start(self, workers: int, *, web: bool) -> None:
        for slot in range(workers):
            self.restart(slot)
        self.beats.append(self._world.start_beat())
        if web:
            self._web = self._world.start_web()

    def restart(self, slot: int, *, skew_s: int = 0) -> None:
        """Start a worker in a slot, whose last one has ended."""
        inside: dict[str, object] = {"bugs": self._bugs, "seed": self._chance.randrange(10**6)}
        taken = {stop for other, stop in self._stop_of.items() if other != slot}
        stop = next((one for one in self._stops if one not in taken), "")
        if stop:
            inside |= {"stop": stop, "nth": self._chance.randrange(1, 4)}
        self._stop_of[slot] = stop
        self.workers[slot] = self._world.start_worker(inside, skew_s=skew_s)

    def kill(self, slot: int, *, restart: bool = True) -> None:
        """``kill -9``."""
        self._kill(self.workers[slot])
        if restart:
            self.restart(slot)

    def kill_beat(self) -> None:
        """``kill -9`` of the first beat; ``look_after`` is not told that it died, whoever kills it starts another."""
        self._kill(self.beats[0])

    def kill_all(self) -> int:
        """``kill -9`` of everything at once. Returns how many processes that were; ``start_all`` starts them again."""
        children = [*self.workers.values(), *self.beats, *([self._web] if self._web else [])]
        for child in children:
            child.kill()
        for child in children:
            child.wait(_KILLED_WITHIN_S)
        self.kills += len(children)
        return len(children)

    def start_all(self) -> None:
        """Start again what ``kill_all`` killed."""
        for slot in sorted(self.workers):
            self.restart(slot)
        self.beats = [self._world.start_beat() for _ in self.beats]
        if self._web is not None:
            self._web = self._world.start_web()

    def _kill(self, child: Child) -> None:
        child.kill()
        child.wait(_KILLED_WITHIN_S)
        self.kills += 1

    def look_after(self) -> None:
        """Start again whatever has died by itself, as whoever runs them would: at a stop, or of what was done to it."""
        for slot, child in list(self.workers.items()):
            if child.poll() is not None:
                self._note_death("worker", child, self._stop_of[slot])
                self.restart(slot)
        for place, child in enumerate(self.beats):
            if child.poll() is not None:
                self._note_death("beat", child, "")
                self.beats[place] = self._world.start_beat()
        if self._web is not None and self._web.poll() is not None:
            self._note_death("web", self._web, "")
            self._web = self._world.start_web()

    def _note_death(self, kind: str, child: Child, stop: str) -> None:
        died_ms = self._died_at(child.pid)
        if stop and died_ms:
            self._stops.remove(stop)
            self.kills += 1
        name = f"died at {stop}" if died_ms else f"a {kind} ended by itself"
        at_ms = died_ms or now_ms()
        detail = "" if died_ms else f"exit code {child.poll()}: {child.last_lines()}"
        self.deaths.append(Fault(name=name, kind=Kind.LOSES_OUTCOMES, at_ms=at_ms, until_ms=at_ms, detail=detail))

    def _died_at(self, pid: int) -> int:
        """When the process noted that it stopped, 0 if it did not."""
        for line in self._world.read_notes():
            at_ms, its_pid, what = line.split(" ", 2)
            if int(its_pid) == pid and what.startswith("stop "):
                return int(at_ms)
        return 0

    def busy_worker(self, chance: random.Random, patience_s: float = 150.0) -> int:
        """A worker that has begun to poll or to deliver: one that still starts has nothing to lose."""
        wait_until("a worker is at work", self._busy, patience_s)
        return chance.choice(self._busy())

    def _busy(self) -> list[int]:
        self.look_after()
        at_work = {int(line.split(" ")[1]) for line in self._world.read_notes() if line.endswith(" at work")}
        return [slot for slot, child in sorted(self.workers.items()) if child.pid in at_work]

    def die_at_each_stop(self, patience_s: float) -> None:
        """Wait until each stop has had its worker. Raises NotInTime."""
        deadline = time.monotonic() + patience_s
        while self._stops:
            self.look_after()
            if time.monotonic() > deadline:
                raise NotInTime(f"no worker came to {self._stops[0]}")
            time.sleep(0.05)

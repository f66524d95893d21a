"""Workers, beats and web while a run lasts: started again when they die, and made to die at named points."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence

from bridge.cli.family import Child
from tests.faults.receivers import now_ms
from tests.faults.records import Ended, Fault, Kind
from tests.faults.world import World
from tests.waiting import NotInTime, wait_until

_KILLED_WITHIN_S = 10.0


class Crew:
    """The processes of a world. ``stops`` are points at which one worker each is to die, ``bugs`` mistakes of all."""

    def __init__(self, world: World, chance: random.Random, *, stops: Sequence[str], bugs: Sequence[str]) -> None:
        self._world = world
        self._chance = chance
        self._stops = list(stops)
        self._bugs = list(bugs)
        self._places = world.directory / "deaths"
        self._places.mkdir()
        self._web: Child | None = None
        self.workers: dict[int, Child] = {}
        self.beats: list[Child] = []
        self.deaths: list[Fault] = []
        self.ended: list[Ended] = []
        self._killed: dict[int, tuple[int, int]] = {}

    def start(self, workers: int, *, web: bool) -> None:
        for slot in range(workers):
            self.restart(slot)
        self.beats.append(self._world.start_beat())
        if web:
            self._web = self._world.start_web()

    def restart(self, slot: int, *, skew_s: int = 0) -> None:
        """Start a worker in a slot, whose last one has ended: as it was told to, where nothing else is known of it."""
        if slot in self.workers:
            self._note_end("worker", self.workers[slot], "stopped")
        inside: dict[str, object] = {"bugs": self._bugs, "seed": self._chance.randrange(10**6)}
        # Whoever comes there first: one worker polls at a time, and chance says which is next. A point that is one
        # worker's own may be passed by all others for a long while.
        inside |= {"stops": {stop: self._chance.randrange(1, 4) for stop in self._stops}, "deaths": str(self._places)}
        self.workers[slot] = self._world.start_worker(inside, skew_s=skew_s)

    def kill(self, slot: int, *, restart: bool = True) -> None:
        """``kill -9``."""
        self._kill("worker", self.workers[slot])
        if restart:
            self.restart(slot)

    def kill_beat(self) -> None:
        """``kill -9`` of the first beat; whoever kills it starts another."""
        self._kill("beat", self.beats[0])

    def kill_all(self) -> int:
        """``kill -9`` of everything at once. Returns how many processes that were; ``start_all`` starts them again."""
        children = [("worker", child) for child in self.workers.values()]
        children += [("beat", child) for child in self.beats]
        children += [("web", self._web)] if self._web is not None else []
        for _, child in children:
            self._send_kill(child)
        for kind, child in children:
            self._note_killed(kind, child)
        return len(children)

    def start_all(self) -> None:
        """Start again what ``kill_all`` killed."""
        for slot in sorted(self.workers):
            self.restart(slot)
        self.beats = [self._world.start_beat() for _ in self.beats]
        if self._web is not None:
            self._web = self._world.start_web()

    def _kill(self, kind: str, child: Child) -> None:
        self._send_kill(child)
        self._note_killed(kind, child)

    def _send_kill(self, child: Child) -> None:
        was_alive, before_ms = child.poll() is None, now_ms()
        child.kill()
        if was_alive:
            # Now, and not when its end is seen: on a busy machine that may be long after it did its last.
            self._killed[child.pid] = before_ms, now_ms()

    def _note_killed(self, kind: str, child: Child) -> None:
        child.wait(_KILLED_WITHIN_S)
        self._note_end(kind, child, "killed")

    def look_after(self) -> None:
        """Start again whatever has died by itself, as whoever runs them would: at a stop, or of what was done to it."""
        for slot, child in list(self.workers.items()):
            if child.poll() is not None:
                self._note_end("worker", child, "by itself")
                self.restart(slot)
        for place, child in enumerate(self.beats):
            if child.poll() is not None:
                self._note_end("beat", child, "by itself")
                self.beats[place] = self._world.start_beat()
        if self._web is not None and self._web.poll() is not None:
            self._note_end("web", self._web, "by itself")
            self._web = self._world.start_web()

    def _note_end(self, kind: str, child: Child, how: str) -> None:
        """Write down a process's end, once; ``how`` as far as is known of who ended it."""
        if any(one.pid == child.pid for one in self.ended):
            return
        died_ms, stop = self._died_at(child.pid)
        if stop:
            # Even where it was killed at the same moment: nobody else dies there any more.
            how = "died"
            self._stops.remove(stop)
        elif how == "killed" and child.pid not in self._killed:
            how = "by itself"
        since_ms, killed_ms = self._killed.get(child.pid, (0, 0)) if how == "killed" else (0, 0)
        at_ms = died_ms or killed_ms or now_ms()
        if how in {"died", "by itself"}:
            name = f"died at {stop}" if stop else f"a {kind} ended by itself"
            self.deaths.append(Fault(name=name, kind=Kind.LOSES_OUTCOMES, at_ms=at_ms, until_ms=at_ms))
        self.ended.append(
            Ended(
                pid=child.pid,
                kind=kind,
                at_ms=at_ms,
                how=how,
                since_ms=since_ms,
                code=child.poll() or 0,
                last_lines=child.last_lines(),
            )
        )

    def _died_at(self, pid: int) -> tuple[int, str]:
        """When and at which point a process killed itself; 0 and "" if it did not."""
        for place in self._places.iterdir():
            its_pid, at_ms = str(place.readlink()).split()
            if int(its_pid) == pid:
                return int(at_ms), place.name
        return 0, ""

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

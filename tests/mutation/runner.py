"""In the copy with the mutants: collects the tests once, and runs those that reach a mutant in a fork of its own."""

from __future__ import annotations

import os
import resource
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from functools import _lru_cache_wrapper
from pathlib import Path
from typing import TextIO

import pytest
from _pytest.runner import runtestprotocol

from tests.mutation.__main__ import KILLED, SURVIVED, TIMED_OUT, UNTESTED

CHOICE = "MUTANT_UNDER_TEST"
"""The variable of mutmut's that says which mutant is called: none, ``stats`` notes what a test reaches, or a name."""

TESTS = [
    *(
        "batches",
        "breaker",
        "deliveries",
        "durations",
        "erasure",
        "events",
        "explanation",
        "formats",
        "headers",
        "notices",
    ),
    *("outcome", "packing", "polls", "rate", "receipts", "schedule", "server_urls", "session_events", "settings"),
    *("signing", "sizing", "status", "status_expectations", "status_properties", "subscriptions", "topology"),
    *("tracking_items", "tracking_words", "event_records"),
]


class Mutants:
    """Runs the collected tests: as they are first, then those that reach a mutant for each."""

    def __init__(self, mutants: Sequence[str], done: TextIO, workers: int) -> None:
        self._mutants = mutants
        self._done = done
        self._workers = workers
        self._reaching: dict[str, list[tuple[float, int]]] = defaultdict(list)

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        if session.testsfailed:
            raise session.Interrupted(f"{session.testsfailed} errors during collection")
        for place, item in enumerate(session.items):
            self._look(place, item)
        running: dict[int, str] = {}
        for mutant in self._mutants:
            if not self._reaching.get(_function_of(mutant)):
                self._note(mutant, UNTESTED)
                continue
            if len(running) == self._workers:
                self._wait(running)
            running[self._start(session, mutant)] = mutant
        while running:
            self._wait(running)
        return True

    def _look(self, place: int, item: pytest.Item) -> None:
        """Run a test on what is not mutated, and note what it reaches."""
        from mutmut.state import state

        os.environ[CHOICE] = "stats"
        state()._stats.clear()
        began_s = time.process_time()
        if _fails(item):
            raise pytest.UsageError(f"{item.nodeid} fails without a mutant")
        took_s = time.process_time() - began_s
        for name in state()._stats:
            self._reaching[name].append((took_s, place))

    def _start(self, session: pytest.Session, mutant: str) -> int:
        reaching = sorted(self._reaching[_function_of(mutant)])
        child = os.fork()
        if child:
            return child
        fails = True  # whatever a mutant raises outside a test, too
        try:
            fails = self._is_found(session, mutant, reaching)
        finally:
            os._exit(int(fails))

    def _is_found(self, session: pytest.Session, mutant: str, reaching: list[tuple[float, int]]) -> bool:
        os.environ[CHOICE] = mutant
        _forget()
        # Of its own processor time: how busy the machine is does not matter.
        most_s = 5 + round(10 * sum(took_s for took_s, _ in reaching))
        resource.setrlimit(resource.RLIMIT_CPU, (most_s, most_s))
        return any(_fails(session.items[place]) for _, place in reaching)

    def _wait(self, running: dict[int, str]) -> None:
        child, status = os.wait()
        fates = {0: SURVIVED, 1: KILLED}
        fate = TIMED_OUT if os.WIFSIGNALED(status) else fates.get(os.waitstatus_to_exitcode(status), KILLED)
        self._note(running.pop(child), fate)

    def _note(self, mutant: str, fate: str) -> None:
        """A line as soon as it is known: a run that is stopped goes on from there."""
        self._done.write(f"{mutant} {fate}\n")
        self._done.flush()


def _forget() -> None:
    """Clear what the rules remember of their first run: an answer from before would hide what a mutant gives."""
    for name, module in list(sys.modules.items()):
        if name.startswith("bridge.domain."):
            for one in vars(module).values():
                if isinstance(one, _lru_cache_wrapper):
                    one.cache_clear()


def _function_of(mutant: str) -> str:
    return mutant.rpartition("__mutmut_")[0]


def _fails(item: pytest.Item) -> bool:
    item._initrequest()  # type: ignore[attr-defined]  # a test is run once, else
    return any(one.failed for one in runtestprotocol(item, log=False, nextitem=None))


def main(todo: str, done: str, workers: str) -> int:
    paths = [path for name in TESTS if (path := Path("tests", "unit", f"test_{name}.py")).exists()]
    # What a failure looks like is for nobody, and takes longer than most tests.
    quick = ["-q", "-n", "0", "--assert", "plain", "--tb", "native", "-W", "ignore"]
    options = [*quick, "-p", "no:randomly", "-p", "no:cacheprovider"]
    with Path(done).open("a") as noted:
        mutants = Mutants(Path(todo).read_text().split(), noted, int(workers))
        return int(pytest.main([*options, *map(str, paths)], plugins=[mutants]))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

"""Faults of what the bridge stands on: disks, names, certificates, the provider's word, and the machine itself.

Functions as those of ``mischief``, which has the catalogue.
"""

from __future__ import annotations

import os
import random
import resource
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from tests.faults import names
from tests.faults.identities import ANOTHERS, EXPIRED
from tests.faults.records import TO_RECEIVERS, Kind
from tests.waiting import wait_until

if TYPE_CHECKING:
    from tests.faults.run import Run

Mischief = Callable[["Run", random.Random], str]

_CUT_SHORT = ("hang", "drip", "truncated", "late", "retcode", "http_status", "throttled")
_LIES = ("omitted", "regressed", "duplicated", "emptied", "stranger", "mistyped", "huge")


def everything_killed(run: Run, chance: random.Random) -> str:
    """``kill -9`` of all that runs, the store too: a machine that stops at once, or again and again as it starts."""
    times = chance.choice([1, 2, 5])
    killed = 0
    run.settle_steering()
    for _ in range(times):
        killed += run.crew.kill_all() + 1
        run.world.server.crash()
        run.world.server.revive()
        run.crew.start_all()
        time.sleep(chance.uniform(0, 2))
    return f"{killed} processes, {times} times"


def full_disk_of_store(run: Run, _chance: random.Random) -> str:
    """The append-only file cannot grow: the server refuses each write, until it can."""
    with run.world.server.client() as server:

        def status() -> str:
            return str(server.info("persistence")["aof_last_write_status"])

        with run.world.server.full_disk():
            wait_until("a write has failed", lambda: status() != "ok")
            time.sleep(2)
        wait_until("writes succeed again", lambda: status() == "ok")
    return ""


def full_disk_of_worker(run: Run, chance: random.Random) -> str:
    """Nothing that a worker writes to a file is kept: its log is one."""
    slot = run.crew.busy_worker(chance)
    with no_room(run.crew.workers[slot].pid):
        time.sleep(2.5)
    return f"worker {slot}"


@contextmanager
def no_room(pid: int) -> Iterator[None]:
    """No file of a process grows: what a full disk is to it."""
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        yield
    finally:
        # It may have ended, of this or of another fault.
        with suppress(ProcessLookupError):
            resource.prlimit(pid, resource.RLIMIT_FSIZE, before)


def names_forgotten(run: Run, chance: random.Random) -> str:
    """Neither the provider's name resolves nor that of receivers, and no connection is left that needs none."""
    silent = os.geteuid() == 0 and chance.random() < 0.5
    with run.world.names.forgotten(silent=silent):
        for link in ("provider", *TO_RECEIVERS):
            run.world.proxy.drop(run.world.proxy.links[link])
        time.sleep(3)
    return "the resolver is silent" if silent else "the resolver refuses"


def keys_refused(run: Run, _chance: random.Random) -> str:
    """For an hour, which is some seconds here, the provider takes every signature for a wrong one."""
    run.world.steer_provider({"rates": [{"fault": "retcode", "ret_code": 171, "rate": 1.0}]})
    time.sleep(5)
    run.world.steer_provider({})
    return ""


def provider_errs(run: Run, chance: random.Random) -> str:
    """Answers that do not come, come too late or not whole, or are none."""
    return _answers(run, chance.sample(_CUT_SHORT, 5))


def provider_lies(run: Run, chance: random.Random) -> str:
    """Whole answers that leave out, take back, repeat, make up or mistype, or are 20 MB."""
    return _answers(run, chance.sample(_LIES, 5))


def _answers(run: Run, chosen: list[str]) -> str:
    run.world.steer_provider({"rates": [_rated(kind) for kind in chosen]})
    time.sleep(3)
    run.world.steer_provider({})
    return ", ".join(chosen)


def _rated(kind: str) -> dict[str, object]:
    seconds = {"hang": 3.0, "drip": 0.01, "late": 1.0}
    given: dict[str, object] = {"fault": kind, "rate": 0.08}
    if kind == "throttled":
        given |= {"fault": "http_status", "status": 429}
    return given | ({"seconds": seconds[kind]} if kind in seconds else {})


def providers_certificate(run: Run, chance: random.Random) -> str:
    return _show(run, "provider", chance)


def receivers_certificate(run: Run, chance: random.Random) -> str:
    return _show(run, "receivers by TLS", chance)


def _show(run: Run, name: str, chance: random.Random) -> str:
    """To whoever connects for a while, show a certificate that it must refuse."""
    link = run.world.proxy.links[name]
    link.shown = chance.choice([EXPIRED, ANOTHERS])
    said = link.shown
    run.world.proxy.drop(link)
    time.sleep(2.5)
    link.heal()
    return said


_H, _L = Kind.HARMLESS, Kind.LOSES_OUTCOMES
FAULTS: Mapping[str, tuple[Mischief, Kind]] = {
    "kill -9 of everything": (everything_killed, _L),
    "store's disk full": (full_disk_of_store, _L),
    "a worker's disk full": (full_disk_of_worker, _H),
    "names do not resolve": (names_forgotten, _L),
    "RetCode 171 for an hour": (keys_refused, _H),
    "provider errs": (provider_errs, _H),
    "provider lies": (provider_lies, _H),
    "provider's certificate wrong": (providers_certificate, _H),
    "receivers' certificate wrong": (receivers_certificate, _L),
}


def impossible() -> Mapping[str, str]:
    """Which of these cannot be made on this machine, and why."""
    reason = names.why_not()
    return {"names do not resolve": reason} if reason else {}

"""The faults, each from outside: signals, the proxy, commands to the server, messages, operators, the provider's own.

Each is a function of a run; it makes its fault, waits until that is over, and says what it did. Whatever it leaves is
healed at the end of the run at the latest.
"""

from __future__ import annotations

import os
import random
import resource
import signal
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import redis

from tests.faults import failovers, outages
from tests.faults.outages import Mischief
from tests.faults.records import Kind

if TYPE_CHECKING:
    from tests.faults.run import Run

_ENDED_WITHIN_S = 60.0
"""A worker has 20 s to end; the machine may be slow, and what is measured is reported."""


def kill_worker(run: Run, chance: random.Random) -> str:
    slot = run.crew.busy_worker(chance)
    run.crew.kill(slot)
    return f"worker {slot}"


def kill_all_workers(run: Run, _chance: random.Random) -> str:
    for slot in sorted(run.crew.workers):
        run.crew.kill(slot)
    return f"{len(run.crew.workers)} workers"


def stop_worker(run: Run, chance: random.Random) -> str:
    """SIGTERM under load."""
    slot = run.crew.busy_worker(chance)
    child = run.crew.workers[slot]
    began = time.monotonic()
    child.terminate()
    code = child.wait(_ENDED_WITHIN_S)
    took = time.monotonic() - began
    run.crew.restart(slot)
    return f"worker {slot} ended with {code} after {took:.1f} s"


def freeze_worker(run: Run, chance: random.Random) -> str:
    """SIGSTOP for longer than it holds its queues: another takes over, and it wakes up with outcomes to tell."""
    slot = run.crew.busy_worker(chance)
    child = run.crew.workers[slot]
    seconds = chance.choice([0.5, 4.5])
    os.kill(child.pid, signal.SIGSTOP)
    try:
        time.sleep(seconds)
    finally:
        with suppress(ProcessLookupError):
            os.kill(child.pid, signal.SIGCONT)
    return f"worker {slot} for {seconds} s"


def skew_worker(run: Run, chance: random.Random) -> str:
    """A worker whose wall clock is an hour off takes another's place."""
    slot = run.crew.busy_worker(chance)
    skew_s = chance.choice([-3600, 3600])
    run.crew.kill(slot, restart=False)
    run.crew.restart(slot, skew_s=skew_s)
    return f"worker {slot} by {skew_s:+d} s"


def starve_of_descriptors(run: Run, chance: random.Random) -> str:
    slot = run.crew.busy_worker(chance)
    pid = run.crew.workers[slot].pid
    limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    used = len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208 - a count of names is all
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (used, limits[1]))
    time.sleep(1.5)
    with suppress(ProcessLookupError):
        resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
    return f"worker {slot} with {used} descriptors"


def kill_beat(run: Run, chance: random.Random) -> str:
    run.crew.kill_beat()
    time.sleep(chance.uniform(0, 3))
    run.crew.beats[0] = run.world.start_beat()
    return ""


def second_beat(run: Run, _chance: random.Random) -> str:
    if len(run.crew.beats) < 2:
        run.crew.beats.append(run.world.start_beat())
    return f"{len(run.crew.beats)} beats"


def slow_store(run: Run, chance: random.Random) -> str:
    link = run.world.proxy.links["store"]
    link.delay_s = chance.choice([0.05, 0.3, 1.0])
    said = f"{link.delay_s} s a reply"
    time.sleep(2)
    link.delay_s = 0
    return said


def cut_store(run: Run, chance: random.Random) -> str:
    """Replies cut in the middle, then all connections reset."""
    link = run.world.proxy.links["store"]
    for _ in range(4):
        link.cut_next = chance.randrange(1, 4)
        time.sleep(0.3)
    return f"{run.world.proxy.drop(link)} connections"


def garble_store(run: Run, chance: random.Random) -> str:
    link = run.world.proxy.links["store"]
    for _ in range(3):
        link.garble_next = chance.randrange(1, 3)
        time.sleep(0.3)
    return ""


def stall_store(run: Run, chance: random.Random) -> str:
    """Nothing passes, for longer than a client waits or not."""
    link = run.world.proxy.links["store"]
    seconds = chance.choice([1.0, 6.5])
    link.stalled = True
    time.sleep(seconds)
    link.stalled = False
    return f"{seconds} s"


def cut_broker(run: Run, _chance: random.Random) -> str:
    link = run.world.proxy.links["broker"]
    link.cut_next = 2
    time.sleep(0.5)
    return f"{run.world.proxy.drop(link)} connections"


def cut_provider(run: Run, chance: random.Random) -> str:
    link = run.world.proxy.links["provider"]
    link.cut_next, link.garble_next = chance.randrange(1, 3), chance.randrange(0, 3)
    time.sleep(1)
    link.refusing = chance.random() < 0.5
    time.sleep(1)
    link.heal()
    return ""


def cut_receivers(run: Run, chance: random.Random) -> str:
    """What was answered does not arrive."""
    link = run.world.proxy.links["receivers"]
    for _ in range(3):
        link.cut_next, link.garble_next = chance.randrange(0, 3), chance.randrange(0, 2)
        time.sleep(0.3)
        run.world.proxy.drop(link)
    link.heal()
    return ""


def slow_receivers(run: Run, chance: random.Random) -> str:
    """Answers that come just in time, or just too late."""
    link = run.world.proxy.links["receivers"]
    link.delay_s = chance.choice([0.2, 1.2])
    said = f"{link.delay_s} s"
    time.sleep(2)
    link.heal()
    return said


def receivers_down(run: Run, _chance: random.Random) -> str:
    link = run.world.proxy.links["receivers"]
    link.refusing = True
    run.world.proxy.drop(link)
    time.sleep(1)
    link.heal()
    return ""


def kill_clients(run: Run, _chance: random.Random) -> str:
    with _store(run) as server:
        return f"{server.client_kill_filter(_type='normal', skipme=True)} connections"


def flush_scripts(run: Run, _chance: random.Random) -> str:
    with _store(run) as server:
        for _ in range(3):
            server.script_flush()
            time.sleep(0.2)
    return ""


def pause_clients(run: Run, chance: random.Random) -> str:
    seconds = chance.choice([0.5, 2.0])
    with _store(run) as server:
        server.client_pause(int(seconds * 1000))
    time.sleep(seconds)
    return f"{seconds} s"


def fill_store(run: Run, _chance: random.Random) -> str:
    """No memory left for what adds: then there is again."""
    with _store(run) as server:
        used = server.info("memory")["used_memory"]
        server.config_set("maxmemory", int(used * 0.9))
        time.sleep(2)
        server.config_set("maxmemory", 0)
    return ""


def restart_store(run: Run, chance: random.Random) -> str:
    run.settle_steering()
    run.world.server.crash()
    time.sleep(chance.uniform(0, 1))
    run.world.server.revive()
    return ""


def roll_store_back(run: Run, _chance: random.Random) -> str:
    """The machine that the store runs on loses power: with it goes the last second."""
    run.settle_steering()
    run.world.server.crash(lose_s=1.0)
    run.world.server.revive()
    return ""


def purge_broker(run: Run, _chance: random.Random) -> str:
    """What is queued is gone; but not trackings, which are data."""
    # None may come between the wait and the purge: nobody knows of it before it was sent.
    with redis.Redis.from_url(run.world.broker.url) as server, run.sender.sending:
        run.wait_for_trackings()
        if run.world.broker is not run.world.store:
            server.flushall()
            return "FLUSHALL"
        return f"{server.delete('bridge.poll', 'bridge.deliver', 'bridge.control')} queues"


def double_messages(run: Run, _chance: random.Random) -> str:
    """Each message a hundred times, and trackings again."""
    for name, args in (("tick", []), ("deliver", []), ("poll", ["default"])):
        queue = "bridge.control" if name == "tick" else f"bridge.{name}"
        for _ in range(100):
            run.sender.message(f"bridge.{name}", args, queue)
    again = [{"session_no": one.session_no} for one in run.sender.tracked[-20:]]
    for _ in range(5):
        run.sender.track(again)
    return "300 messages"


def foreign_messages(run: Run, _chance: random.Random) -> str:
    """Of a task that nobody knows, of other releases, and with arguments that make no sense."""
    run.sender.message("nobody.knows", [1, 2], "bridge.control")
    run.sender.message("bridge.poll", ["no account!"], "bridge.poll")
    run.sender.message("bridge.track", [{"not": "a list"}], "bridge.track")
    run.sender.message("bridge.track", [["\n", {"session_no": 7}, None]], "bridge.track")
    return ""


def malformed_messages(run: Run, _chance: random.Random) -> str:
    """What no Celery ever wrote, and what one wrote and another broke, in every queue."""
    junk = [
        b"",
        b"7",
        b"{}",
        b"not json",
        b"\xff\xfe",
        b'{"body": "!!!", "headers": {}, "properties": {}}',
        b"[" * 9999,
    ]
    with redis.Redis.from_url(run.world.broker.url) as server:
        for queue in ("bridge.track", "bridge.control", "bridge.poll", "bridge.deliver"):
            server.lpush(queue, *junk)
    return f"{len(junk)} in each queue"


def rotate_secret(run: Run, chance: random.Random) -> str:
    application = run.any_application(chance)
    overlap = chance.choice(["1h", "1h", "0s"])
    run.operator.rotate(application, overlap)
    return f"{application.name}, overlap {overlap}"


def edit_subscription(run: Run, chance: random.Random) -> str:
    application = run.any_application(chance)
    options = chance.choice([("--concurrency", "2"), ("--rate", "50"), ("--partitions", "2"), ("--retry", "1s," * 20)])
    run.operator.do("edit", application, options[0], options[1].rstrip(","))
    return f"{application.name}: {options[0]}"


def pause_and_resume(run: Run, chance: random.Random) -> str:
    application = run.any_application(chance)
    run.operator.do("pause", application)
    time.sleep(chance.uniform(0, 1.5))
    deliver = chance.choice(["all", "all", "latest"])
    run.operator.do("resume", application, "--deliver", deliver)
    return f"{application.name}, then {deliver}"


def gone_and_resumed(run: Run, chance: random.Random) -> str:
    """A receiver says 410, and is disabled; then somebody resumes it."""
    application = run.any_application(chance)
    before = len(application.posts)
    application.script.append("status 410")
    deadline = time.monotonic() + 10
    while len(application.posts) == before and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(1)
    run.operator.do("resume", application, "--deliver", "all")
    return application.name


def remove_subscription(run: Run, _chance: random.Random) -> str:
    application = run.removable.pop() if run.removable else None
    if application is None:
        return "none left"
    run.operator.remove(application)
    return application.name


def erase_phone(run: Run, chance: random.Random) -> str:
    recent = run.sender.tracked[-10:]
    if recent:
        run.operator.erase(chance.choice(chance.choice(recent).phones))
    return ""


def _store(run: Run) -> Any:
    """A connection past the proxy. (``Any``: redis-py types its replies as awaitable or not.)"""
    return redis.Redis.from_url(run.world.server.url, socket_timeout=30)


_H, _L, _R = Kind.HARMLESS, Kind.LOSES_OUTCOMES, Kind.ROLLS_BACK
CATALOGUE: Mapping[str, tuple[Mischief, Kind]] = {
    "kill -9 of a worker": (kill_worker, _L),
    "kill -9 of all workers": (kill_all_workers, _L),
    "SIGTERM of a worker": (stop_worker, _H),
    "SIGSTOP of a worker": (freeze_worker, _L),
    "a worker's clock an hour off": (skew_worker, _L),
    "a worker without descriptors": (starve_of_descriptors, _L),
    "kill -9 of beat": (kill_beat, _H),
    "a second beat": (second_beat, _H),
    "store slow": (slow_store, _L),
    "store's replies cut": (cut_store, _L),
    "store's replies garbled": (garble_store, _L),
    "store stalled": (stall_store, _L),
    "broker's replies cut": (cut_broker, _H),
    "provider's replies cut": (cut_provider, _H),
    "receivers' replies cut": (cut_receivers, _L),
    "receivers' replies late": (slow_receivers, _L),
    "receivers down": (receivers_down, _L),
    "CLIENT KILL": (kill_clients, _L),
    "SCRIPT FLUSH": (flush_scripts, _H),
    "CLIENT PAUSE": (pause_clients, _L),
    "maxmemory reached": (fill_store, _L),
    "store restarted": (restart_store, _L),
    "store loses its last second": (roll_store_back, _R),
    "broker purged": (purge_broker, _H),
    "messages doubled": (double_messages, _H),
    "foreign messages": (foreign_messages, _H),
    "malformed messages": (malformed_messages, _H),
    "secret rotated": (rotate_secret, _H),
    "subscription edited": (edit_subscription, _H),
    "paused and resumed": (pause_and_resume, _H),
    "disabled by its receiver": (gone_and_resumed, _H),
    "subscription removed": (remove_subscription, _H),
    "phone erased": (erase_phone, _H),
    **outages.FAULTS,
    **failovers.OF_SENTINEL,
    **failovers.OF_CLUSTER,
}
"""Every fault by its name, with what it may do to what is under way."""

ONE_SERVERS = frozenset(
    {
        *("store slow", "store's replies cut", "store's replies garbled", "store stalled", "store restarted"),
        *("CLIENT KILL", "SCRIPT FLUSH", "CLIENT PAUSE", "maxmemory reached", "store loses its last second"),
        *("store's disk full", "kill -9 of everything"),
    }
)
"""Faults of a store that is one server."""

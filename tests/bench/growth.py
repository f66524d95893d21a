"""What a session costs to track and to poll among 10⁴, 10⁵ and 10⁶ others, and what those take in memory.

The server's share grows with what it holds for whoever asks: caches and address translation reach less of it. So plain
commands on the same keys are measured beside ours.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import cast

import msgspec

from bridge.cli.family import Family
from bridge.domain.accounts import DEFAULT_ACCOUNT
from bridge.domain.commits import ABSENT, Due, Write
from bridge.domain.polls import Outcome, noted
from bridge.domain.status import SessionState
from bridge.domain.tracking import SessionRequest
from bridge.polling.poll import Batch
from bridge.store import keys
from bridge.store.client import Argument
from bridge.wiring import Bridge
from tests.bench.house import House, open_bridge
from tests.bench.machine import apart, describe_machine, median_by

_A_MESSAGE = 100
_AT_ONCE = 1_000
_WARM_UP = 10
_HOUR_MS = 3_600_000
_NEW = b"n" * 40  # about as much as a session that was just tracked


class Sizes(msgspec.Struct, frozen=True, kw_only=True):
    """How many sessions wait, and messages, or calls, of 100 that are measured among them, in each of the rounds."""

    waiting: tuple[int, ...]
    messages: int
    rounds: int


class Growth(msgspec.Struct, frozen=True, kw_only=True):
    """By how many wait: µs of CPU a session, of the process and of the server; bytes a session that waits."""

    about: dict[str, str]
    by_size: dict[int, dict[str, float]]


def measure(sizes: Sizes) -> Growth:
    """Fill a server for each size, and measure in turns on all of them: what else the machine does meets them alike."""
    with Family("bench") as family:
        houses = {size: House(family) for size in sizes.waiting}
        last = houses[sizes.waiting[-1]]
        about = describe_machine(last.server.url)
        about |= {"measured": f"{sizes.messages} × {_A_MESSAGE} sessions", "rounds": str(sizes.rounds)}
        found = {}
        for size, house in houses.items():
            apart(fill, house.environment, 0, size)
            found[size] = {"bytes": apart(held, house.environment) / size}
        rounds: dict[int, list[dict[str, float]]] = {size: [] for size in houses}
        for number in range(sizes.rounds):
            for size, house in houses.items():
                rounds[size].append(apart(costs, house.environment, sizes.messages, size, seed=number))
        for size, measured in rounds.items():
            found[size] |= median_by(measured)
        apart(note_polls, last.environment)
        found[sizes.waiting[-1]] |= {"bytes, 16 polls noted": apart(held, last.environment) / sizes.waiting[-1]}
        return Growth(about=about, by_size=found)


def fill(environment: Mapping[str, str], begin: int, end: int) -> None:
    """Let one-phone sessions wait for the next hours, as tracked and polled a few times."""
    bridge = open_bridge(environment)
    now_ms = bridge.clock.now_ms()
    for at in range(begin, end, _AT_ONCE):
        writes = []
        for number in range(at, min(end, at + _AT_ONCE)):
            sent_ms = now_ms - number * 7 % (6 * _HOUR_MS)
            state = SessionState(sent_ms, sent_ms, now_ms, expected_count=1, notes=_noted(6))
            due_ms, watch_ms = now_ms + _HOUR_MS + number * 13 % (9 * _HOUR_MS), _watched(sent_ms)
            writes.append(Write(_waiting(number), ABSENT, state, due_ms, None, watch_ms=watch_ms))
        bridge.sessions.commit(DEFAULT_ACCOUNT, writes)
    bridge.close()


def _waiting(number: int) -> str:
    return f"w{number:07x}"


def note_polls(environment: Mapping[str, str]) -> None:
    """Note 16 polls with every session: the most that one keeps."""
    bridge = open_bridge(environment)
    names = [name for name, _ in bridge.sessions.scan(DEFAULT_ACCOUNT)]
    for at in range(0, len(names), _AT_ONCE):
        stored = bridge.sessions.read(DEFAULT_ACCOUNT, names[at : at + _AT_ONCE])
        writes = [
            Write(name, one.version, msgspec.structs.replace(one.state, notes=_noted(16)), Due.KEEP, None)
            for name, one in stored.items()
            if one.state is not None
        ]
        bridge.sessions.commit(DEFAULT_ACCOUNT, writes)
    bridge.close()


def _noted(polls: int) -> bytes:
    notes = b""
    for poll in range(polls):
        notes = noted(notes, 0, poll * 1_000_000, Outcome.EMPTY)
    return notes


def _watched(sent_ms: int) -> int:
    """When a session is looked at whether it is overdue: a minute's sessions together."""
    return -(-(sent_ms + 12 * _HOUR_MS) // 60_000) * 60_000


def held(environment: Mapping[str, str]) -> int:
    """Bytes that the server uses for all keys."""
    bridge = open_bridge(environment)
    memory = cast("dict[str, int]", bridge.client.redis.info("memory"))
    bridge.close()
    return int(memory["used_memory_dataset"]) + int(memory["used_memory_overhead"]) - int(memory["used_memory_startup"])


def costs(environment: Mapping[str, str], messages: int, size: int, *, seed: int) -> dict[str, float]:
    """µs of CPU a session among ``size`` that wait.

    To track a new one, to poll those, and to poll ones that wait, by chance from everywhere; and what the server takes
    to read and write the same keys by the plainest commands: ``bare``.
    """
    bridge = open_bridge(environment)
    groups = [[f"m{message:04x}{number:04x}" for number in range(_A_MESSAGE)] for message in range(_WARM_UP + messages)]
    chance = random.Random(seed)
    # Half as many: of the fewest that wait there are to be enough for both.
    picked = [_waiting(number) for number in chance.sample(range(size), min(size, 100 * (_WARM_UP + messages)))]
    waiting = [picked[at : at + _A_MESSAGE] for at in range(0, len(picked), _A_MESSAGE)]
    half = len(waiting) // 2
    found = _by_part("bare, new", bridge, [partial(_bare, bridge, group, chance) for group in groups])
    _forget(bridge, groups)
    found |= _by_part("track", bridge, [partial(_track, bridge, group) for group in groups])
    found |= _by_part("poll", bridge, [partial(_poll, bridge)] * len(groups))
    _forget(bridge, groups)
    found |= _by_part("bare, waiting", bridge, [partial(_bare, bridge, group, chance) for group in waiting[:half]])
    bridge.sessions.poll_now(DEFAULT_ACCOUNT, [name for group in waiting[half:] for name in group])
    found |= _by_part("poll one that waits", bridge, [partial(_poll, bridge)] * len(waiting[half:]))
    bridge.close()
    return {name: micros for name, micros in found.items() if not name.startswith("bare") or name.endswith("server")}


def _by_part(what: str, bridge: Bridge, works: Sequence[Callable[[], object]]) -> dict[str, float]:
    _timed(bridge, works[:_WARM_UP])
    return {f"{what}, {where}": micros for where, micros in _timed(bridge, works[_WARM_UP:]).items()}


def _track(bridge: Bridge, names: Sequence[str]) -> None:
    sent_ms = bridge.clock.now_ms() - _HOUR_MS  # due at once
    requests = [SessionRequest(name, phone_count=1, sent_at_ms=sent_ms) for name in names]
    bridge.tracker.track(DEFAULT_ACCOUNT, requests)


def _bare(bridge: Bridge, names: Sequence[str], chance: random.Random) -> None:
    """Read sessions and write them, with a due time, by a command for each: no script, no fence, no index."""
    places = [(shard, name) for shard, group in bridge.sessions.by_shard(names).items() for name in group]
    session_keys = [keys.session(shard, DEFAULT_ACCOUNT, name) for shard, name in places]
    values = bridge.client.commands([["GET", key] for key in session_keys])
    writes: list[list[Argument]] = []
    for (shard, name), key, value in zip(places, session_keys, values, strict=True):
        due_ms = bridge.clock.now_ms() + _HOUR_MS + chance.randrange(9 * _HOUR_MS)
        writes += [
            ["SET", key, cast("bytes | None", value) or _NEW],
            ["ZADD", keys.due(shard, DEFAULT_ACCOUNT), due_ms, name],
        ]
    bridge.client.commands(writes)


def _timed(bridge: Bridge, works: Sequence[Callable[[], object]]) -> dict[str, float]:
    """µs of CPU a session, of this process and of the server; each of the works is of 100."""
    process_s, server_s = time.process_time(), _server_s(bridge)
    for work in works:
        work()
    sessions = len(works) * _A_MESSAGE
    return {
        "process": (time.process_time() - process_s) / sessions * 1e6,
        "server": (_server_s(bridge) - server_s) / sessions * 1e6,
    }


def _poll(bridge: Bridge) -> None:
    """What a poll does of 100 sessions, but for the call: claim, read, record that there is nothing yet."""
    prepared = bridge.poller.prepare(DEFAULT_ACCOUNT)
    assert isinstance(prepared, Batch)
    bridge.recorder.record(DEFAULT_ACCOUNT, prepared.stored, dict.fromkeys(prepared.stored, ()))
    bridge.client.redis.delete(keys.rate(DEFAULT_ACCOUNT))  # what is measured is not the rate


def _forget(bridge: Bridge, groups: Sequence[Sequence[str]]) -> None:
    """Remove what was measured: it is neither to come due later, nor to count as waiting."""
    pipeline = bridge.client.redis.pipeline(transaction=False)
    for shard, names in bridge.sessions.by_shard([name for group in groups for name in group]).items():
        pipeline.delete(*(keys.session(shard, DEFAULT_ACCOUNT, name) for name in names))
        pipeline.zrem(keys.due(shard, DEFAULT_ACCOUNT), *names)
    pipeline.execute()


def _server_s(bridge: Bridge) -> float:
    """Seconds of CPU of the server's main thread: what is freed aside is not waited for."""
    cpu = cast("dict[str, float]", bridge.client.redis.info("cpu"))
    return cpu["used_cpu_user_main_thread"] + cpu["used_cpu_sys_main_thread"]

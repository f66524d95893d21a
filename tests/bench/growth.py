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
from bridge.domain.commits import ABSENT, Write
from bridge.domain.polls import Outcome, noted
from bridge.domain.status import SessionState
from bridge.domain.tracking import SessionRequest
from bridge.polling.poll import Batch
from bridge.store import keys
from bridge.store.client import Argument
from bridge.wiring import Bridge
from tests.bench.delivery import fill as deliver_to
from tests.bench.figures import Goal, Measured, Samples, by_name, ratio, total
from tests.bench.house import House, open_bridge
from tests.bench.machine import apart
from tests.bench.receiver import Receiver
from tests.bench.senders import bridge_slices

WORKS = ("track", "poll", "poll one that waits", "deliver")
_BARE = {"track": "bare, new", "poll": "bare, new", "poll one that waits": "bare, waiting"}
_A_MESSAGE = 100
_AT_ONCE = 1_000
_WARM_UP = 10
_HOUR_MS = 3_600_000
_NEW = b"n" * 40  # about as much as a session that was just tracked


class Sizes(msgspec.Struct, frozen=True, kw_only=True):
    """How many sessions wait, each on a server of its own; messages, or calls, of 100, and events, that are measured
    among them; how often at each size.
    """

    waiting: tuple[int, ...]
    messages: int
    events: int
    rounds: int


def measure(sizes: Sizes) -> Measured:
    """Fill a server for each size, and measure in turns on all of them: what else the machine does meets them alike."""
    with Family("bench") as family:
        houses = {size: House(family) for size in sizes.waiting}
        receiver = Receiver(family, houses[sizes.waiting[0]].directory)
        held_b: dict[int, float] = {}
        for size, house in houses.items():
            house.empty()
            apart(fill, house.environment, 0, size)
            held_b[size] = apart(held, house.environment) / size
        rounds: dict[int, list[dict[str, float]]] = {size: [] for size in houses}
        for number in range(sizes.rounds):
            for size, house in houses.items():
                found = apart(costs, house.environment, sizes.messages, size, seed=number)
                found |= _delivered(house, receiver, sizes.events, f"d{number}x")
                rounds[size].append(found)
    figures = {size: by_name(found) | {"bytes each": (held_b[size],)} for size, found in rounds.items()}
    return Measured(
        about={"measured": f"{sizes.messages} × {_A_MESSAGE} sessions and {sizes.events:,} events among them"},
        figures={f"{size:,} waiting": found for size, found in figures.items()},
        goals=_goals(figures),
    )


def _goals(figures: Mapping[int, Mapping[str, Samples]]) -> tuple[Goal, ...]:
    sizes = list(figures)
    first, last = figures[sizes[0]], figures[sizes[-1]]
    goals = []
    for what in WORKS:
        process, server = cpu_of(what, "process"), cpu_of(what, "server")
        own = ratio(last[process], first[process])
        both = ratio(total(last[process], last[server]), total(first[process], first[server]))
        for whose, samples in (("the process's", own), ("with the server's", both)):
            goals.append(
                Goal(
                    what=f"growth: CPU to {what}, {whose}, {sizes[-1]:,} waiting",
                    unit="×",
                    samples=samples,
                    wanted=1.2,
                    reference=f"{sizes[0]:,} waiting",
                )
            )
    for what, bare in _BARE.items():
        ours, plain = (ratio(last[cpu_of(one, "server")], first[cpu_of(one, "server")]) for one in (what, bare))
        goals.append(
            Goal(
                what=f"growth: the server's, to {what}, of plain commands'",
                unit="×",
                samples=ratio(ours, plain),
                reference="GET, SET and ZADD of the same keys",
            )
        )
    goals.append(
        Goal(
            what=f"memory: a waiting session with 16 polls noted, of {sizes[-1]:,}",
            unit="B",
            samples=last["bytes each"],
            wanted=300,
        )
    )
    return tuple(goals)


def cpu_of(what: str, whose: str) -> str:
    """The name of a figure."""
    return f"CPU µs to {what}, {whose}"


def _delivered(house: House, receiver: Receiver, count: int, prefix: str) -> dict[str, float]:
    deliver_to(house, receiver.url, count, prefix=prefix)
    found = apart(bridge_slices, house.environment, count)
    return {
        cpu_of("deliver", "process"): found["CPU µs/event"],
        cpu_of("deliver", "server"): found["CPU µs/event, server"],
    }


def fill(environment: Mapping[str, str], begin: int, end: int) -> None:
    """Let one-phone sessions wait for the next hours, as tracked and polled 16 times: more is never noted."""
    bridge = open_bridge(environment)
    now_ms = bridge.clock.now_ms()
    notes = _noted(16)
    for at in range(begin, end, _AT_ONCE):
        writes = []
        for number in range(at, min(end, at + _AT_ONCE)):
            sent_ms = now_ms - number * 7 % (6 * _HOUR_MS)
            state = SessionState(sent_ms, sent_ms, now_ms, expected_count=1, notes=notes)
            due_ms, watch_ms = now_ms + _HOUR_MS + number * 13 % (9 * _HOUR_MS), _watched(sent_ms)
            writes.append(Write(_waiting(number), ABSENT, state, due_ms, None, watch_ms=watch_ms))
        bridge.sessions.commit(DEFAULT_ACCOUNT, writes)
    bridge.close()


def _waiting(number: int) -> str:
    return f"w{number:07x}"


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
    return {name: micros for name, micros in found.items() if "bare" not in name or name.endswith("server")}


def _by_part(what: str, bridge: Bridge, works: Sequence[Callable[[], object]]) -> dict[str, float]:
    _timed(bridge, works[:_WARM_UP])
    return {cpu_of(what, where): micros for where, micros in _timed(bridge, works[_WARM_UP:]).items()}


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

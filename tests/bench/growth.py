"""What a session costs to track and to poll among 10⁴, 10⁵ and 10⁶ others, and what those take in memory."""

from __future__ import annotations

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
from bridge.wiring import Bridge
from tests.bench.delivery import fill as deliver_to
from tests.bench.figures import Goal, Measured, Samples, by_name, ratio, total
from tests.bench.house import House, open_bridge
from tests.bench.machine import apart
from tests.bench.receiver import Receiver
from tests.bench.senders import bridge_slices

WORKS = ("track", "poll", "deliver")
_A_MESSAGE = 100
_AT_ONCE = 1_000
_WARM_UP = 10
_HOUR_MS = 3_600_000


class Sizes(msgspec.Struct, frozen=True, kw_only=True):
    """How many sessions wait, one after the other; messages, or calls, of 100, and events, that are measured among
    them; how often at each size.
    """

    waiting: tuple[int, ...]
    messages: int
    events: int
    rounds: int


def measure(sizes: Sizes) -> Measured:
    """Fill the store ever more, and measure at each size."""
    figures: dict[int, dict[str, Samples]] = {}
    held_b = before = 0
    with Family("bench") as family:
        house = House(family)
        receiver = Receiver(family, house.directory)
        house.empty()
        for size in sizes.waiting:
            empty_b = apart(held, house.environment)
            apart(fill, house.environment, before, size)
            # What is delivered below stays in the log: it is not what those that wait take.
            held_b += apart(held, house.environment) - empty_b
            before = size
            rounds = []
            for number in range(sizes.rounds):
                found = apart(costs, house.environment, sizes.messages, f"{size:x}r{number}")
                found |= _delivered(house, receiver, sizes.events, f"d{size:x}r{number}x")
                rounds.append(found)
            figures[size] = by_name(rounds) | {"bytes each": (held_b / size,)}
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
            writes.append(Write(f"w{number:07x}", ABSENT, state, due_ms, None, watch_ms=watch_ms))
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


def costs(environment: Mapping[str, str], messages: int, prefix: str) -> dict[str, float]:
    """µs of CPU a session to track and to poll, among those that wait."""
    bridge = open_bridge(environment)
    found: dict[str, float] = {}
    sent_ms = bridge.clock.now_ms() - _HOUR_MS  # due at once
    groups = [
        [
            SessionRequest(f"m{prefix}x{message:04x}{number:04x}", phone_count=1, sent_at_ms=sent_ms)
            for number in range(_A_MESSAGE)
        ]
        for message in range(_WARM_UP + messages)
    ]
    for what, works in (
        ("track", [partial(bridge.tracker.track, DEFAULT_ACCOUNT, group) for group in groups]),
        ("poll", [partial(_poll, bridge)] * len(groups)),
    ):
        _timed(bridge, works[:_WARM_UP])
        found |= {cpu_of(what, whose): micros for whose, micros in _timed(bridge, works[_WARM_UP:]).items()}
    _forget(bridge, [one.session_no for group in groups for one in group])
    bridge.close()
    return found


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


def _forget(bridge: Bridge, names: Sequence[str]) -> None:
    """Remove what was measured: it is neither to come due when the next size is, nor to count as waiting."""
    pipeline = bridge.client.redis.pipeline(transaction=False)
    for shard, group in bridge.sessions.by_shard(names).items():
        pipeline.delete(*(keys.session(shard, DEFAULT_ACCOUNT, name) for name in group))
        pipeline.zrem(keys.due(shard, DEFAULT_ACCOUNT), *group)
    pipeline.execute()


def _server_s(bridge: Bridge) -> float:
    """Seconds of CPU of the server's main thread: what is freed aside is not waited for."""
    cpu = cast("dict[str, float]", bridge.client.redis.info("cpu"))
    return cpu["used_cpu_user_main_thread"] + cpu["used_cpu_sys_main_thread"]

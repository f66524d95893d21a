"""What a session costs to track and to poll among 10⁴, 10⁵ and 10⁶ others, and what those take in memory."""

from __future__ import annotations

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
from bridge.wiring import Bridge
from tests.bench.house import House, open_bridge
from tests.bench.machine import apart, describe_machine

_A_MESSAGE = 100
_AT_ONCE = 1_000
_WARM_UP = 10
_HOUR_MS = 3_600_000


class Sizes(msgspec.Struct, frozen=True, kw_only=True):
    """How many sessions wait, one after the other; and messages, or calls, of 100 that are measured among them."""

    waiting: tuple[int, ...]
    messages: int


class Growth(msgspec.Struct, frozen=True, kw_only=True):
    """By how many wait: µs of CPU a session, of the process and of the server; bytes a session that waits."""

    about: dict[str, str]
    by_size: dict[int, dict[str, float]]


def measure(sizes: Sizes) -> Growth:
    """Fill the store ever more, and measure at each size."""
    with Family("bench") as family:
        house = House(family)
        about = describe_machine(house.server.url) | {"measured": f"{sizes.messages} × {_A_MESSAGE} sessions"}
        house.empty()
        found = {}
        before = 0
        for size in sizes.waiting:
            apart(fill, house.environment, before, size)
            before = size
            found[size] = apart(costs, house.environment, sizes.messages, size)
        last = sizes.waiting[-1]
        apart(note_polls, house.environment)
        found[last] |= {"bytes, 16 polls noted": apart(held, house.environment) / last}
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
            writes.append(Write(f"w{number:07x}", ABSENT, state, due_ms, None, watch_ms=watch_ms))
        bridge.sessions.commit(DEFAULT_ACCOUNT, writes)
    bridge.close()


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


def costs(environment: Mapping[str, str], messages: int, size: int) -> dict[str, float]:
    """µs of CPU a session to track and to poll, among ``size`` that wait; and what those take."""
    bridge = open_bridge(environment)
    found: dict[str, float] = {"bytes": held(environment) / size}
    sent_ms = bridge.clock.now_ms() - _HOUR_MS  # due at once
    groups = [
        [
            SessionRequest(f"m{size:x}x{message:04x}{number:04x}", phone_count=1, sent_at_ms=sent_ms)
            for number in range(_A_MESSAGE)
        ]
        for message in range(_WARM_UP + messages)
    ]
    for what, works in (
        ("track", [partial(bridge.tracker.track, DEFAULT_ACCOUNT, group) for group in groups]),
        ("poll", [partial(_poll, bridge)] * len(groups)),
    ):
        _timed(bridge, works[:_WARM_UP])
        found |= {f"{what}, {where}": micros for where, micros in _timed(bridge, works[_WARM_UP:]).items()}
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

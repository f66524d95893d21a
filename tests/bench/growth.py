"""What a session costs to track and to poll among 10⁴, 10⁵ and 10⁶ others, and what those take in memory."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from typing import cast

import msgspec
import redis

from bridge.cli.family import Family
from bridge.domain.commits import Write
from bridge.domain.polls import Outcome, noted
from bridge.domain.receipts import Receipt
from bridge.domain.tracking import SessionRequest
from bridge.wiring import DEFAULT_ACCOUNT, Bridge
from tests.bench.house import House, open_bridge
from tests.bench.machine import apart, describe_machine

_A_MESSAGE = 100
_AT_ONCE = 1_000
_WARM_UP = 10


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
    """Track one-phone sessions, as a worker does."""
    bridge = open_bridge(environment)
    for at in range(begin, end, _AT_ONCE):
        _track(bridge, [f"w{number:07x}" for number in range(at, min(end, at + _AT_ONCE))])
    bridge.close()


def note_polls(environment: Mapping[str, str]) -> None:
    """Note 16 polls with every session, as the schedule makes them: the most that one keeps."""
    bridge = open_bridge(environment)
    names = [name for name, _ in bridge.sessions.scan(DEFAULT_ACCOUNT)]
    for at in range(0, len(names), _AT_ONCE):
        stored = bridge.sessions.read(DEFAULT_ACCOUNT, names[at : at + _AT_ONCE])
        writes = []
        for name, one in stored.items():
            assert one.state is not None
            notes = b""
            for poll in range(16):
                notes = noted(notes, 0, poll * 1_000_000, Outcome.EMPTY)
            state = msgspec.structs.replace(one.state, notes=notes, polled_ms=one.state.sent_ms + 16_000_000)
            writes.append(Write(name, one.version, state, state.sent_ms + 20_000_000, None))
        bridge.sessions.commit(DEFAULT_ACCOUNT, writes)
    bridge.close()


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
    names = [[f"m{size:x}x{m:04x}{number:04x}" for number in range(_A_MESSAGE)] for m in range(messages + _WARM_UP)]
    for group in names[:_WARM_UP]:
        _track(bridge, group)
        _poll(bridge, group)
    found |= _timed("track", bridge, names[_WARM_UP:], _track)
    found |= _timed("poll", bridge, names[_WARM_UP:], _poll)
    for group in names:
        settled = _receipts(group)
        bridge.recorder.record(DEFAULT_ACCOUNT, bridge.sessions.read(DEFAULT_ACCOUNT, group), settled)
    bridge.close()
    return found


def _timed(what: str, bridge: Bridge, groups: Sequence[Sequence[str]], work: object) -> dict[str, float]:
    client: redis.Redis = bridge.client.redis
    sessions = sum(map(len, groups))
    process_s, server_s = _process_s(), _server_s(client)
    for group in groups:
        work(bridge, group)  # type: ignore[operator]  # _track or _poll
    return {
        f"{what}, process": (_process_s() - process_s) / sessions * 1e6,
        f"{what}, server": (_server_s(client) - server_s) / sessions * 1e6,
    }


def _track(bridge: Bridge, names: Sequence[str]) -> None:
    bridge.tracker.track(DEFAULT_ACCOUNT, [SessionRequest(name, phone_count=1) for name in names])


def _poll(bridge: Bridge, names: Sequence[str]) -> None:
    """What a poll does of sessions that are due, but for the call: claim, read, record."""
    bridge.sessions.poll_now(DEFAULT_ACCOUNT, names)
    prepared = bridge.poller.prepare(DEFAULT_ACCOUNT)
    bridge.client.redis.delete("u:rate:default")
    stored = getattr(prepared, "stored", {})
    bridge.recorder.record(DEFAULT_ACCOUNT, stored, dict.fromkeys(stored, ()))


def _receipts(names: Sequence[str]) -> dict[str, list[Receipt]]:
    return {name: [Receipt("18500000001", "", "Success", "DELIVRD", "", 1, 1)] for name in names}


def _process_s() -> float:
    return time.process_time()


def _server_s(client: redis.Redis) -> float:
    """Seconds of CPU of the server's main thread: what expires or is freed aside comes later anyhow."""
    cpu = cast("dict[str, float]", client.info("cpu"))
    main = [cpu.get(f"used_cpu_{kind}_main_thread", cpu[f"used_cpu_{kind}"]) for kind in ("user", "sys")]
    assert os.name == "posix"
    return sum(main)

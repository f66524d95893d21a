"""Each limit on what waits: it holds, it counts, and the log, `subscriptions show` and `doctor` say so."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import pytest
import structlog

from bridge.domain.deliveries import Settlement
from bridge.domain.outcome import Verdict
from bridge.domain.policy import DEFAULT_LIMITS, Limits
from bridge.store.limits import LimitStore
from bridge.store.sessions import SessionStore
from bridge.wiring import Bridge
from tasks.process import Process
from tests.commands import URL, Terminal
from tests.parts import Parts, entry, record

LIMITS = Limits(backlog=16, dead=5, kept=6)
SESSIONS = [f"s{number}" for number in range(12)]
MINE = b"m" * 16


@pytest.fixture
def small(bridge: Bridge) -> Bridge:
    """The bridge under small limits."""
    shards = bridge.settings.shards
    bridge.sessions = SessionStore(bridge.client, shards, LIMITS)
    bridge.limits = LimitStore(bridge.client, shards, bridge.queues, LIMITS)
    return bridge


def write(bridge: Bridge, name: str, *, each: int = 1, limits: Limits = LIMITS) -> None:
    assert bridge.settings.redis_url is not None
    parts = Parts(bridge.settings.redis_url.get_secret_value(), bridge.settings.shards, limits)
    for session_no in SESSIONS:
        parts.write(session_no, *(entry(session_no, to=[name], sequence=number) for number in range(each)))
    parts.close()


def too_many_wait(bridge: Bridge, name: str) -> None:
    """Two may wait in each of eight shards, of which the sessions use some."""
    write(bridge, name, each=3)


def too_many_wait_for_too_long(bridge: Bridge, name: str) -> None:
    write(bridge, name)
    bridge.log.trim("default", [name], bridge.clock.now_ms() + 60_000)


def too_many_are_dead(bridge: Bridge, name: str) -> None:
    write(bridge, name)
    for shard in range(bridge.settings.shards):
        _, (lanes,) = bridge.queues.claim(MINE, [(name, shard, 99)], 30_000)
        (read,) = bridge.queues.peek([(name, shard, lanes or [])])
        dead = [Settlement(lane, Verdict.DEAD, 1, 0, record("s1"), "HTTP 500") for lane in read]
        bridge.queues.settle(MINE, {(name, shard): dead})


CASES: dict[str, tuple[Callable[[Bridge, str], None], str, str]] = {
    "backlog": (too_many_wait, "over_backlog", "events became dead letters"),
    "kept": (too_many_wait_for_too_long, "over_kept", "events became dead letters"),
    "dead": (too_many_are_dead, "dead_dropped", "dead letters were dropped"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_limit_holds_counts_and_says_so(small: Bridge, terminal: Terminal, case: str) -> None:
    go_over, count, says = CASES[case]
    name = small.subscribe(URL)[0].id
    small.tracking.note_account("default")
    go_over(small, name)
    process = Process(lambda _name, _arguments: None)
    process.bridge = small
    with structlog.testing.capture_logs() as lines:
        process.trim()
        process.trim()
    (shown,) = terminal("subscriptions", "show", name, "--json").rows()
    gone = cast("int", shown[count])
    assert gone > 0
    assert cast("int", shown["waiting_events"]) <= LIMITS.backlog
    assert cast("int", shown["dead"]) <= LIMITS.dead
    assert sum(map(len, (small.queues.all_kept(name, shard) for shard in range(8)))) <= LIMITS.kept

    (line,) = [line for line in lines if line["log_level"] == "warning"]
    assert (line["subscription"], line[{"dead_dropped": "dead_letters_dropped"}.get(count, count)]) == (name, gone)
    assert "Too much was waiting" in terminal("subscriptions", "show", name).out
    said = [str(row["detail"]) for row in terminal("doctor", "--json").rows() if row["check"] == "subscriptions"]
    assert any(f"{name}: too much waited" in one and f"{gone} {says}" in one for one in said)


def test_log_bytes_hold_and_are_said(bridge: Bridge, terminal: Terminal) -> None:
    name = bridge.subscribe(URL)[0].id
    bridge.tracking.note_account("default")
    write(bridge, name, each=200, limits=DEFAULT_LIMITS)
    size = bridge.log.size(["default"])
    process = Process(lambda _name, _arguments: None)
    process.bridge = bridge
    bridge.settings = bridge.settings.model_copy(update={"log_bytes": size // 2})
    with structlog.testing.capture_logs() as lines:
        process.trim()
        process.trim()  # a page of slack may be left to the next minute
    warned = [line for line in lines if line["log_level"] == "warning"]
    assert 0 < warned[0]["dropped"] <= 12 * 200
    assert bridge.log.size(["default"]) <= size // 2
    assert bridge.queues.tallies([name])[name].waiting == 12 * 200, "what waits is kept aside"
    (said,) = [row for row in terminal("doctor", "--json").rows() if row["check"] == "log"]
    assert (said["verdict"], "BRIDGE_LOG_BYTES" in str(said["detail"])) == ("ok", True)


def test_doctor_warns_of_a_log_that_is_about_to_lose_its_oldest_events(
    bridge: Bridge, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = bridge.subscribe(URL)[0].id
    bridge.tracking.note_account("default")
    write(bridge, name, each=200, limits=DEFAULT_LIMITS)
    monkeypatch.setenv("BRIDGE_LOG_BYTES", "1MB")
    monkeypatch.setattr("bridge.cli.doctor_checks._FULL_LOG", bridge.log.size(["default"]) / 2e6)
    (said,) = [row for row in terminal("doctor", "--json").rows() if row["check"] == "log"]
    assert said["verdict"] == "warn"
    assert "its oldest events leave it early" in str(said["detail"])

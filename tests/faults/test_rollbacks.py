"""A server that is killed may lose what it had answered: the harness knows whether it did, and what that excuses."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from bridge.cli.family import Family
from tests.faults.altered import replace
from tests.faults.checker import check
from tests.faults.records import Records
from tests.faults.world import Server
from tests.waiting import wait_until


@pytest.fixture
def server() -> Iterator[Server]:
    with Family("faults", handle_signals=False) as family:
        made = Server(family, "store", durable=True)
        made.start()
        yield made


def told(server: Server, name: str) -> bool:
    """Whether the server has it."""
    with server.client() as client:
        return bool(client.exists(name))


def test_a_server_that_kept_all_has_lost_nothing_but_what_came_as_it_was_killed(server: Server) -> None:
    with server.client() as client:
        client.set("x", "1")
        # While the server has its file synced it holds back what it is told, and a kill takes that along.
        client.execute_command("WAITAOF", 1, 0, 0)
        wait_until("it is done with that", lambda: not client.info("persistence")["aof_pending_bio_fsync"])
    began_ms = time.time_ns() // 1_000_000
    server.crash()
    server.revive()
    ((since_ms, until_ms),) = server.rolled_back
    assert began_ms <= since_ms <= until_ms
    assert told(server, "x")
    assert not told(server, "faults:last"), "nothing of the harness's is left in it"


def test_one_that_lost_what_it_was_told_last_may_have_lost_more(server: Server) -> None:
    with server.client() as client:
        client.set("x", "1")
        server.note_size()
        noted = time.monotonic()
        wait_until("a second is over", lambda: time.monotonic() - noted > 1)
        client.set("y", "1")
    server.crash(lose_s=1.0)
    server.revive()
    ((since_ms, until_ms),) = server.rolled_back
    assert until_ms - since_ms == 3_000
    assert (told(server, "x"), told(server, "y")) == (True, False)


def test_what_was_acknowledged_just_before_may_be_gone_and_nothing_else(right: Records) -> None:
    """Fault: a store was killed as it held back what it had answered; sessions of that moment were called lost.

    They are what ``BRIDGE_TRACK_DURABLE`` is for.
    """
    first = right.tracked[0]
    kept = {key: one for key, one in right.store.sessions.items() if key != (first.account, first.session_no)}
    gone = replace(right, store=replace(right.store, sessions=kept))
    just_then = replace(gone, rolled_back=((first.acked_ms - 100, first.acked_ms + 100),))
    assert not any(first.session_no in one.says for one in check(just_then) if one.invariant == "I1")
    before = replace(gone, rolled_back=((first.acked_ms + 1, first.acked_ms + 100),))
    assert any(first.session_no in one.says for one in check(before) if one.invariant == "I1")

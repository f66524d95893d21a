"""``bridge resend``: by id, by time, dead letters alone; what it counts, and what it refuses."""

from __future__ import annotations

import json

import pytest

from bridge.wiring import Bridge
from tests.commands import FOUR, ONE, THREE, TWO, URL, Terminal, deliveries_in_every_state


def _counts(terminal: Terminal, *argv: str) -> dict[str, object]:
    ran = terminal("resend", *argv, "--json")
    assert ran.code == 0, ran.err
    (row,) = ran.rows()
    return {name: value for name, value in row.items() if value}


def _ids(terminal: Terminal) -> dict[str, str]:
    rows = [json.loads(line) for line in terminal("events", "list", "--json").out.splitlines()]
    return {row["data"]["phone"]: row["id"] for row in rows if row["data"]["status"] == "unknown"}


def test_dead_letters_of_a_time_wait_again(bridge: Bridge, terminal: Terminal) -> None:
    """The record that its letter lost is still in the log."""
    name = deliveries_in_every_state(bridge)
    argv = ("--subscription", name, "--since", "1h", "--state", "dead")
    assert _counts(terminal, *argv, "--dry-run") == {"found": 2, "dry_run": True}
    assert len(terminal("deliveries", "list", "--state", "dead", "--json").rows()) == 2
    assert _counts(terminal, "--subscription", name, "--since", "2h", "--until", "1h") == {}
    assert _counts(terminal, *argv, "--rate", "1000") == {"found": 2, "queued": 2}
    rows = terminal("deliveries", "list", "--json").rows()
    assert sorted((str(row["state"]), str(row["phone"])) for row in rows) == [
        ("pending", ONE),
        ("pending", THREE),
        ("pending", FOUR),
        ("retrying", TWO),
    ]


def test_a_letter_whose_event_is_nowhere_any_more_is_counted_as_lost(bridge: Bridge, terminal: Terminal) -> None:
    name = deliveries_in_every_state(bridge)
    bridge.log.trim("default", [name], bridge.clock.now_ms() + 60_000)
    argv = ("--subscription", name, "--since", "1h", "--state", "dead")
    assert _counts(terminal, *argv) == {"found": 2, "queued": 1, "lost": 1}


def test_all_of_a_time_is_what_does_not_wait_already(bridge: Bridge, terminal: Terminal) -> None:
    name = deliveries_in_every_state(bridge)
    assert _counts(terminal, "--subscription", name, "--since", "1h") == {"found": 5, "queued": 2, "waiting": 3}


def test_an_id_goes_to_every_subscription_or_to_one(bridge: Bridge, terminal: Terminal) -> None:
    name = deliveries_in_every_state(bridge)
    other = bridge.subscribe(URL)[0].id
    ids = _ids(terminal)
    assert _counts(terminal, ids[THREE]) == {"found": 2, "queued": 2}
    assert _counts(terminal, ids[FOUR], "--subscription", other) == {"found": 1, "queued": 1}
    rows = terminal("deliveries", "list", "--subscription", other, "--json").rows()
    assert {row["event"] for row in rows} == {ids[THREE], ids[FOUR]}
    assert len(terminal("deliveries", "list", "--subscription", name, "--state", "dead", "--json").rows()) == 1


@pytest.mark.usefixtures("bridge")
@pytest.mark.parametrize(
    ("argv", "code", "says"),
    [
        ((), 2, "--subscription with --since"),
        (("--subscription", "sub_a"), 2, "--since"),
        (("evt_short",), 2, "no event's id"),
        (("evt_" + "a" * 26, "--since", "1h"), 2, "not both"),
        (("evt_" + "a" * 26,), 1, "no such event"),
        (("--subscription", "sub_nothere", "--since", "1h"), 1, "no subscription"),
    ],
)
def test_what_cannot_be_sent_again_is_said(terminal: Terminal, argv: tuple[str, ...], code: int, says: str) -> None:
    ran = terminal("resend", *argv)
    assert (ran.code, ran.out) == (code, "")
    assert says in ran.err

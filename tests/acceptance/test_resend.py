"""``bridge resend``: by id, by time, dead letters alone; what it counts, and what it refuses."""

from __future__ import annotations

import json
from typing import cast

import pytest

from bridge.domain.events import resend_lane
from bridge.domain.outcome import Verdict
from bridge.domain.subscriptions import Options
from bridge.lifecycle import to_be_filled
from bridge.store import keys, positions
from bridge.wiring import Bridge
from tests.commands import FOUR, ONE, THREE, TWO, URL, Terminal, deliveries_in_every_state, settle


def _counts(terminal: Terminal, *argv: str) -> dict[str, object]:
    ran = terminal("resend", *argv, "--json")
    assert ran.code == 0, ran.err
    (row,) = ran.rows()
    return {name: value for name, value in row.items() if value}


def _ids(terminal: Terminal) -> dict[str, str]:
    rows = [json.loads(line) for line in terminal("events", "list", "--json").out.splitlines()]
    return {row["data"]["phone"]: row["id"] for row in rows if row["data"].get("status") == "unknown"}


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


def _accept_all(bridge: Bridge, name: str) -> None:
    settle(bridge, bridge.subscriptions.get(name), dict.fromkeys((ONE, TWO, THREE, FOUR), (Verdict.ACCEPTED, True)))


def test_what_was_accepted_is_sent_again_and_nothing_else(bridge: Bridge, terminal: Terminal) -> None:
    """Its receiver lost what it had taken: a restored backup, say."""
    name = deliveries_in_every_state(bridge)
    argv = ("--subscription", name, "--since", "1h", "--state", "accepted")
    assert _counts(terminal, *argv) == {}
    _accept_all(bridge, name)  # what is due: the first of ONE, then the second; TWO is due later
    assert _counts(terminal, *argv, "--dry-run") == {"found": 1, "dry_run": True}
    _accept_all(bridge, name)
    assert _counts(terminal, *argv) == {"found": 2, "queued": 2}
    assert _counts(terminal, *argv) == {"found": 2, "waiting": 2}
    assert len(terminal("deliveries", "list", "--state", "dead", "--json").rows()) == 2


def test_what_was_accepted_keeps_its_id_and_bytes(bridge: Bridge, terminal: Terminal) -> None:
    name = deliveries_in_every_state(bridge)
    ids = _ids(terminal)
    _accept_all(bridge, name)
    assert terminal("resend", ids[TWO], "--state", "accepted").code == 1
    assert _counts(terminal, ids[ONE], "--state", "accepted") == {"found": 1, "queued": 1}
    rows = terminal("deliveries", "list", "--state", "pending", "--json").rows()
    assert ids[ONE] in {row["event"] for row in rows}
    (again,) = (one for one in bridge.queues.waiting(name, 9) if one.lane == resend_lane(one.positions[0]))
    kept = bridge.queues.kept(name, {again.shard: again.positions})
    logged = bridge.log.fetch("default", {again.shard: again.positions})
    assert kept == logged


@pytest.mark.parametrize(
    ("options", "count"),
    [
        (("--phone", "0086 185 0000 0001"), 2),
        (("--phone", FOUR), 1),  # its letter lost the record, and the log has it
        (("--statuses", "delivered"), 1),
        (("--statuses", "unknown", "--state", "dead"), 2),
        (("--statuses", "unknown", "--state", "accepted"), 1),
        (("--session", "nAQDODtO"), 5),
        (("--session", "another"), 0),
        (("--types", "sms.*"), 5),
        (("--types", "bridge.*"), 0),
    ],
)
def test_filters_choose_among_dead_and_accepted(
    bridge: Bridge, terminal: Terminal, options: tuple[str, ...], count: int
) -> None:
    name = deliveries_in_every_state(bridge)
    _accept_all(bridge, name)
    found = _counts(terminal, "--subscription", name, "--since", "1h", "--dry-run", *options)
    assert found == {"dry_run": True} | ({"found": count} if count else {})


def test_of_a_letter_that_is_lost_nobody_knows_whose_it_was(bridge: Bridge, terminal: Terminal) -> None:
    name = deliveries_in_every_state(bridge)
    bridge.log.trim("default", [name], bridge.clock.now_ms() + 60_000)
    argv = ("--subscription", name, "--since", "1h", "--state", "dead", "--phone", THREE)
    assert _counts(terminal, *argv) == {"found": 2, "queued": 1, "lost": 1}


def test_nobody_is_sent_what_it_did_not_ask_for_or_another_s_test(bridge: Bridge, terminal: Terminal) -> None:
    name = deliveries_in_every_state(bridge)
    failures = bridge.subscribe(URL, options=Options(statuses=("failed",)))[0].id
    test = bridge.test(name)
    assert _counts(terminal, "--subscription", failures, "--since", "1h") == {}
    assert terminal("resend", test, "--subscription", failures).code == 1
    assert _counts(terminal, _ids(terminal)[THREE]) == {"found": 1, "queued": 1}
    assert _counts(terminal, _ids(terminal)[THREE], "--subscription", failures) == {"found": 1, "queued": 1}
    assert _counts(terminal, test, "--subscription", name) == {"found": 1, "waiting": 1}


def test_an_event_that_cannot_be_read_is_lost_and_stops_no_other(bridge: Bridge, terminal: Terminal) -> None:
    name = deliveries_in_every_state(bridge)
    place = positions.of(bridge.clock.now_ms() - 1_000)
    bridge.client.redis.xadd(keys.dead(0, name), {"r": b"\xc1", "e": "HTTP 500", "a": 1, "p": place})
    argv = ("--subscription", name, "--since", "1h", "--state", "dead")
    assert _counts(terminal, *argv) == {"found": 3, "queued": 2, "lost": 1}


def test_what_is_being_filled_is_sent_nothing_again(bridge: Bridge, terminal: Terminal) -> None:
    deliveries_in_every_state(bridge)
    filling = bridge.subscribe(URL, limited=to_be_filled(bridge, "default", 0))[0].id
    assert "is being filled" in terminal("resend", "--subscription", filling, "--since", "1h").err
    assert _counts(terminal, _ids(terminal)[THREE]) == {"found": 1, "queued": 1}


def test_it_is_noted_with_its_counts_and_without_the_phone(bridge: Bridge, terminal: Terminal) -> None:
    name = deliveries_in_every_state(bridge)
    _counts(terminal, "--subscription", name, "--since", "1h", "--state", "dead", "--phone", THREE)
    (row,) = terminal("audit", "--json").rows()
    details = cast("dict[str, object]", row["details"])
    assert (row["action"], row["target"], row["outcome"]) == ("resend", name, "done")
    assert (details["state"], details["by_phone"], details["queued"]) == ("dead", True, 1)
    assert "1850000" not in repr(bridge.client.redis.xrange(keys.AUDIT))


def test_one_that_sessions_named_is_sent_what_it_accepted(bridge: Bridge, terminal: Terminal) -> None:
    name = bridge.callback_for("default", URL)
    argv = ("--subscription", name, "--since", "1h")
    assert terminal("resend", *argv).code == 2
    for state in ("accepted", "dead"):
        assert _counts(terminal, *argv, "--state", state) == {}


@pytest.mark.usefixtures("bridge")
@pytest.mark.parametrize(
    ("argv", "code", "says"),
    [
        ((), 2, "--subscription with --since"),
        (("--subscription", "sub_a"), 2, "--since"),
        (("evt_short",), 2, "no event's id"),
        (("--subscription", "sub_a", "--since", "1h", "--phone", "nobody"), 2, "--phone"),
        (("--subscription", "sub_a", "--since", "1h", "--statuses", "deliverd"), 2, "did you mean delivered?"),
        (("evt_" + "a" * 26, "--since", "1h"), 2, "not both"),
        (("evt_" + "a" * 26,), 1, "no such event"),
        (("--subscription", "sub_nothere", "--since", "1h"), 1, "no subscription"),
    ],
)
def test_what_cannot_be_sent_again_is_said(terminal: Terminal, argv: tuple[str, ...], code: int, says: str) -> None:
    ran = terminal("resend", *argv)
    assert (ran.code, ran.out) == (code, "")
    assert says in ran.err

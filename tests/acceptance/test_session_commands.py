"""``bridge sessions``: those that are due or overdue, and those that an operator forgets."""

from __future__ import annotations

import msgspec

from bridge.domain.commits import Due, Write
from bridge.store import keys
from bridge.wiring import Bridge
from tests.commands import ONE, TWO, URL, Terminal, answer, heard, track


def three_sessions(bridge: Bridge) -> None:
    """One not polled yet, one heard of in part, and of another account one that is settled."""
    track(bridge, "open1", {"session_no": "part2", "phones": [ONE, TWO]})
    answer(bridge, "part2", heard(ONE, "Success"))
    track(bridge, {"session_no": "done3", "phone_count": 1}, account="shop")
    answer(bridge, "done3", heard(ONE, "Success"), account="shop")


def test_sessions_list_shows_what_is_due_the_longest_first(bridge: Bridge, terminal: Terminal) -> None:
    three_sessions(bridge)
    assert terminal("sessions", "list", "--state", "due").out == "no sessions\n"
    bridge.sessions.poll_now("default", ["open1"])
    bridge.sessions.poll_now("shop", ["done3"])
    name = keys.due(keys.shard_of("part2", bridge.settings.shards), "default")
    bridge.client.redis.zadd(name, {"part2": 1})
    rows = terminal("sessions", "list", "--state", "due", "--json").rows()
    assert rows[0]["session_no"] == "part2"
    assert {row["session_no"] for row in rows} == {"part2", "open1", "done3"}
    (first,) = terminal("sessions", "list", "--state", "due", "--limit", "1", "--json").rows()
    assert first["session_no"] == "part2"
    (shops,) = terminal("sessions", "list", "--state", "due", "--account", "shop", "--json").rows()
    assert (shops["session_no"], shops["state"]) == ("done3", "settled")


def test_sessions_list_shows_what_is_overdue(bridge: Bridge, terminal: Terminal) -> None:
    three_sessions(bridge)
    stored = bridge.sessions.read("default", ["part2"])["part2"]
    assert stored.state is not None
    late = msgspec.structs.replace(stored.state, overdue=True)
    bridge.sessions.commit("default", [Write("part2", stored.version, late, Due.KEEP, None)])
    (row,) = terminal("sessions", "list", "--state", "overdue", "--json").rows()
    assert (row["session_no"], row["state"]) == ("part2", "overdue")
    # It is open too.
    assert len(terminal("sessions", "list", "--state", "open", "--json").rows()) == 2


def test_sessions_are_forgotten_and_their_events_stay(bridge: Bridge, terminal: Terminal) -> None:
    subscription, _, _ = bridge.subscribe(URL)
    track(bridge, {"session_no": "nAQDODtO", "phone_count": 1})
    answer(bridge, "nAQDODtO", heard(ONE, "Success"))
    before = [row["id"] for row in terminal("events", "list", "--json").rows()]
    ran = terminal("sessions", "forget", "nAQDODtO", "nobody", "--json")
    assert ran.rows() == [{"forgotten": ["nAQDODtO"], "missing": ["nobody"]}]
    assert (ran.code, "no session nobody" in ran.err) == (1, True)
    assert terminal("sessions", "show", "nAQDODtO").code == 1
    # What waits is delivered, and what is observed again has the same id.
    assert bridge.queues.lengths([subscription.id]) == {subscription.id: 1}
    track(bridge, {"session_no": "nAQDODtO", "phone_count": 1})
    answer(bridge, "nAQDODtO", heard(ONE, "Success"))
    again = [row["id"] for row in terminal("events", "list", "--json").rows()]
    assert [again.count(one) for one in before] == [2] * len(before)


def test_a_session_is_forgotten_of_one_account_alone(bridge: Bridge, terminal: Terminal) -> None:
    track(bridge, "s1")
    track(bridge, "s1", account="shop")
    assert terminal("sessions", "forget", "s1", "--account", "shop").out == "1 session forgotten; their events stay\n"
    assert bridge.sessions.unsettled("default") == 1
    assert terminal("sessions", "forget", "s1", "--account", "shop").code == 1

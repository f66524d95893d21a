"""``bridge events``, ``deliveries`` and ``rejected``: what happened, what is on its way, what could not be."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import pytest

from bridge.domain.deliveries import FailedAttempt
from bridge.domain.events import render, unpack
from bridge.domain.outcome import Verdict
from bridge.domain.subscriptions import Options
from bridge.wiring import Bridge
from tests.commands import (
    ONE,
    RECEIPT_S,
    THREE,
    TWO,
    URL,
    Terminal,
    answer,
    cells,
    deliveries_in_every_state,
    heard,
    settle,
    track,
)
from tests.servers import environ_for

# bridge events


def _events(bridge: Bridge) -> list[str]:
    """Four events of two accounts; their JSON, the newest first."""
    track(bridge, "nAQDODtO", "xBBDODtP")
    track(bridge, "shop1", account="shop")
    answer(bridge, "nAQDODtO", heard(ONE, "状态未知"))
    answer(bridge, "xBBDODtP", heard(TWO, "发送成功"))
    answer(bridge, "nAQDODtO", heard(ONE, "发送成功"))
    answer(bridge, "shop1", heard(THREE, "发送失败"), account="shop")
    logged = [(name, one) for name in ("default", "shop") for one in bridge.log.read(name)]
    logged.sort(key=lambda pair: pair[1].position, reverse=True)
    return [render(name, unpack(one.record))[1].decode() for name, one in logged]


def test_events_list_is_what_subscribers_get_the_newest_first(bridge: Bridge, terminal: Terminal) -> None:
    expected = _events(bridge)
    assert sorted(terminal("events", "list", "--json").out.splitlines()) == sorted(expected)
    assert terminal("events", "list", "--json", "--account", "default").out.splitlines() == [
        line for line in expected if '"account":"default"' in line
    ]
    heading, *rows = cells(terminal("events", "list", "--session", "nAQDODtO"))
    assert heading == ["observed", "session", "phone", "change", "sequence", "id"]
    assert [row[3] for row in rows] == ["unknown → delivered", "tracked → unknown"]
    assert len(terminal("events", "list", "--json", "--limit", "1").rows()) == 1


def test_events_list_since_takes_a_duration_or_a_time(bridge: Bridge, terminal: Terminal) -> None:
    count = len(_events(bridge))
    for since, expected in (("1h", count), ("2020-01-01T00:00:00Z", count), ("2020-01-01", count), ("2099-01-01", 0)):
        assert len(terminal("events", "list", "--json", "--since", since).rows()) == expected
    for wrong in ("yesterday", "1", "-1h"):
        ran = terminal("events", "list", "--since", wrong)
        assert (ran.code, ran.out) == (2, "")
        assert "1h" in ran.err


def test_events_show_finds_an_event_by_its_id(bridge: Bridge, terminal: Terminal) -> None:
    for line in _events(bridge):
        name = json.loads(line)["id"]
        assert terminal("events", "show", name, "--json").out == line + "\n"
        assert name in terminal("events", "show", name).out
    ran = terminal("events", "show", "evt_" + "a" * 26)
    assert (ran.code, ran.out) == (1, "")
    assert "no event" in ran.err
    assert terminal("events", "show", "sub_x").code == 2


def test_events_show_says_who_was_told(bridge: Bridge, terminal: Terminal) -> None:
    name = deliveries_in_every_state(bridge)
    settle(bridge, bridge.subscriptions.get(name), {ONE: (Verdict.ACCEPTED, True)})
    late = bridge.subscribe(URL)[0].id
    rows = [json.loads(line) for line in terminal("events", "list", "--json").out.splitlines()]
    ids = {(row["data"]["phone"], row["data"]["status"]): row["id"] for row in rows}

    def told(phone: str, status: str = "unknown") -> dict[str, object]:
        here, there = terminal("events", "show", ids[phone, status], "--deliveries", "--json").rows()
        assert (here["subscription"], there["subscription"], there["state"]) == (name, late, "subscribed later")
        return here

    accepted = told(ONE)
    assert (accepted["state"], accepted["attempts"], accepted["http"]) == ("accepted", 1, 200)
    assert str(accepted["at"])[:4] == time.strftime("%Y", time.gmtime())
    assert (told(ONE, "delivered")["state"], told(ONE, "delivered")["behind"]) == ("pending", 0)
    assert (told(TWO)["state"], told(TWO)["attempts"]) == ("retrying", 3)
    assert (told(THREE)["state"], told(THREE)["error"]) == ("dead", "HTTP 500")
    shown = terminal("events", "show", ids[ONE, "unknown"]).out
    assert "phone" in shown
    assert f"{name}  accepted" in shown


def test_events_tail_follows_until_ctrl_c(bridge: Bridge, server: str) -> None:
    # Python leaves SIGINT alone where it is ignored at the start, as it is for what a shell runs in its background.
    program = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler);"
        "from bridge.cli.main import run; sys.exit(run(['events', 'tail', '--json']))"
    )
    track(bridge, "nAQDODtO")
    answer(bridge, "nAQDODtO", heard(ONE, "状态未知"))
    with subprocess.Popen(
        [sys.executable, "-c", program],
        env=environ_for(server),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as tail:
        assert tail.stdout is not None
        assert tail.stderr is not None
        assert "following" in tail.stderr.readline()
        answer(bridge, "nAQDODtO", heard(ONE, "发送成功"))
        assert json.loads(tail.stdout.readline())["data"]["status"] == "delivered"
        track(bridge, "shop1", account="shop")
        answer(bridge, "shop1", heard(TWO, "发送失败"), account="shop")
        assert json.loads(tail.stdout.readline())["data"]["account"] == "shop"
        tail.send_signal(signal.SIGINT)
        assert tail.wait(30) == 0
        assert tail.stdout.read() == tail.stderr.read() == ""


# bridge deliveries


def test_deliveries_list_shows_every_state(bridge: Bridge, terminal: Terminal) -> None:
    deliveries_in_every_state(bridge)
    rows = terminal("deliveries", "list", "--json").rows()
    assert [
        (row["state"], row["phone"], row["status"], row["attempts"], row["behind"], row["error"]) for row in rows[:2]
    ] == [
        ("pending", ONE, "unknown", 0, 1, None),
        ("retrying", TWO, "unknown", 3, 0, None),
    ]
    assert {(row["state"], row["phone"], row["attempts"], row["error"]) for row in rows[2:]} == {
        ("dead", THREE, 12, "HTTP 500"),
        ("dead", None, 12, "HTTP 500"),
    }
    events = {json.loads(line)["id"] for line in terminal("events", "list", "--json").out.splitlines()}
    assert {row["event"] for row in rows} <= events | {None}
    heading, *lines = cells(terminal("deliveries", "list"))
    assert heading[0] == "state"
    assert [line[0] for line in lines] == ["pending", "retrying", "dead", "dead"]


def test_deliveries_list_and_events_show_say_why_the_last_attempt_failed(bridge: Bridge, terminal: Terminal) -> None:
    name = deliveries_in_every_state(bridge)
    (row,) = terminal("deliveries", "list", "--state", "retrying", "--json").rows()
    event = str(row["event"])
    failed = [FailedAttempt(RECEIPT_S * 1000, event, n, 0, 12, error, b"", bytes(8)) for n, error in enumerate("ab")]
    bridge.attempts.add([(name, one) for one in failed])

    assert terminal("deliveries", "list", "--state", "retrying", "--json").rows() == [row | {"error": "b"}]
    (fate,) = terminal("events", "show", event, "--deliveries", "--json").rows()
    assert (fate["state"], fate["error"]) == ("retrying", "b")


def test_an_event_of_a_session_is_shown_as_it_is_told(bridge: Bridge, terminal: Terminal) -> None:
    bridge.subscribe(URL, options=Options(types=("sms.session.completed",)))
    track(bridge, {"session_no": "nAQDODtO", "phone_count": 1, "metadata": {"order": 7}})
    answer(bridge, "nAQDODtO", heard(ONE, "发送成功"))
    (event,) = (
        row["id"]
        for row in map(json.loads, terminal("events", "list", "--json").out.splitlines())
        if row["type"] == "sms.session.completed"
    )
    shown = {line[0]: line[1] for line in cells(terminal("events", "show", event)) if len(line) == 2}
    assert (shown["statuses"], shown["metadata"]) == ('{"delivered":1}', '{"order":7}')


@pytest.mark.parametrize(("state", "count"), [("pending", 1), ("retrying", 1), ("dead", 2)])
def test_deliveries_list_filters_by_state_and_subscription(
    bridge: Bridge, terminal: Terminal, state: str, count: int
) -> None:
    name = deliveries_in_every_state(bridge)
    other = bridge.subscribe(URL)[0].id
    rows = terminal("deliveries", "list", "--state", state, "--subscription", name, "--json").rows()
    assert [row["state"] for row in rows] == [state] * count
    assert terminal("deliveries", "list", "--state", state, "--subscription", other, "--json").rows() == []
    assert len(terminal("deliveries", "list", "--state", state, "--limit", "1", "--json").rows()) == 1


def test_deliveries_list_knows_events_that_the_log_has_dropped(bridge: Bridge, terminal: Terminal) -> None:
    name = deliveries_in_every_state(bridge)
    dropped, kept = bridge.log.trim("default", [name], bridge.clock.now_ms() + 60_000)
    assert dropped > kept > 0
    rows = terminal("deliveries", "list", "--state", "retrying", "--json").rows()
    assert [row["phone"] for row in rows] == [TWO]


@pytest.mark.usefixtures("bridge")
def test_deliveries_of_an_unknown_subscription_are_exit_1(terminal: Terminal) -> None:
    assert terminal("deliveries", "list", "--subscription", "sub_nothere").code == 1
    assert terminal("deliveries", "list", "--state", "lost").code == 2


def test_deliveries_attempts_shows_answers_that_cannot_steer_a_terminal(bridge: Bridge, terminal: Terminal) -> None:
    name = bridge.subscribe(URL)[0].id
    answers = ("evt_a", b"no\x1b[2J\xff"), ("evt_b", b""), ("evt_b", "\u202e\x9b1m".encode())
    failed = [FailedAttempt(RECEIPT_S * 1000, event, 1, 500, 12, "HTTP 500", body, bytes(8)) for event, body in answers]
    bridge.attempts.add([(name, one) for one in failed])

    rows = terminal("deliveries", "attempts", "--subscription", name, "--json").rows()
    assert [(row["event"], row["answer"]) for row in rows] == [
        ("evt_b", "\\u202e\\x9b1m"),
        ("evt_b", None),
        ("evt_a", "no\\x1b[2J\\xff"),
    ]
    assert (rows[0]["http"], rows[0]["attempt"], rows[0]["ms"], rows[0]["error"]) == (500, 1, 12, "HTTP 500")
    (only,) = terminal("deliveries", "attempts", "--subscription", name, "--event", "evt_a", "--json").rows()
    assert only["event"] == "evt_a"
    heading, *lines = cells(terminal("deliveries", "attempts", "--subscription", name, "--limit", "2"))
    assert heading == ["at", "event", "attempt", "HTTP", "ms", "error", "answer"]
    assert len(lines) == 2
    assert terminal("deliveries", "attempts", "--subscription", "sub_nothere").code == 1
    assert terminal("deliveries", "attempts").code == 2


# bridge rejected


def test_rejected_list_shows_items_with_reasons_the_newest_first(bridge: Bridge, terminal: Terminal) -> None:
    long = json.dumps({"session_no": "x" * 200})
    bridge.tracking.note_account("shop")
    bridge.tracking.reject("default", [('{"session_no": "a b"}', "item 0: session_no: 'a b'")])
    bridge.tracking.reject("shop", [(long, "item 4: session_no: 200 characters")])
    rows = terminal("rejected", "list", "--json").rows()
    assert {(row["account"], row["item"], row["reason"]) for row in rows} == {
        ("default", '{"session_no": "a b"}', "item 0: session_no: 'a b'"),
        ("shop", long, "item 4: session_no: 200 characters"),
    }
    heading, row = cells(terminal("rejected", "list", "--account", "shop"))
    assert heading == ["id", "arrived", "account", "reason", "item"]
    assert row[0].startswith("shop:")
    assert row[4].endswith("…")
    assert len(row[4]) == 60

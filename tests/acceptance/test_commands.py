"""The commands that look into the store: what they print for people, for programs, and when something is wrong."""

from __future__ import annotations

import base64
import io
import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import cast

import pytest
import redis

from bridge.domain.policy import Limits
from bridge.domain.signing import decode_secret
from bridge.store import keys
from bridge.store.sessions import SessionStore
from bridge.wiring import Bridge
from tests.commands import (
    ONE,
    THREE,
    TWO,
    URL,
    Ran,
    Terminal,
    answer,
    cells,
    deliveries_in_every_state,
    heard,
    track,
    use_environ,
)
from tests.servers import environ_for

UNREACHABLE = "redis://127.0.0.1:1/0"

READING = (
    "sessions list",
    "sessions show nAQDODtO",
    "sessions forget nAQDODtO",
    "sessions poll-now nAQDODtO",
    f"subscriptions add {URL}",
    "subscriptions list",
    "subscriptions show sub_a",
    "subscriptions remove sub_a",
    "subscriptions rotate sub_a",
    "subscriptions test sub_a",
    "rewrap",
    "subscriptions pause sub_a",
    "subscriptions resume sub_a",
    "subscriptions edit sub_a --rate 5",
    "events list",
    "events show evt_aaaaaaaaaaaaaaaaaaaaaaaaaa",
    "events tail",
    "deliveries list",
    "rejected list",
    "rejected drop --all",
    "explain nAQDODtO",
    "accounts list",
    "accounts check",
    "accounts secret",
    "accounts edit shop --rate 5",
    "accounts remove shop",
)
COMMANDS = (*(" ".join(one.split()[:2]) for one in READING), "track", "doctor")


# what all have in common


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(terminal: Terminal, command: str) -> None:
    ran = terminal(*command.split(), "--help")
    assert ran.code == 0
    assert "--json" in ran.out
    _, _, body = ran.out.partition("\n")
    assert f"bridge {command}" in body


@pytest.mark.parametrize("command", [*READING, "track nAQDODtO"])
def test_a_server_that_does_not_answer_is_one_line_and_exit_3(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: str
) -> None:
    use_environ(monkeypatch, tmp_path, environ_for(UNREACHABLE))
    ran = terminal(*command.split())
    assert (ran.code, ran.out) == (3, "")
    assert len(ran.err.splitlines()) == 1
    assert "BRIDGE_REDIS_URL" in ran.err or "BRIDGE_BROKER_URL" in ran.err


@pytest.mark.parametrize("command", [*READING, "track nAQDODtO"])
def test_wrong_settings_are_a_line_each_and_exit_2(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: str
) -> None:
    use_environ(monkeypatch, tmp_path, environ_for(UNREACHABLE, shards="0", listen="nowhere"))
    ran = terminal(*command.split())
    assert (ran.code, ran.out) == (2, "")
    assert [line.removeprefix("error: ").split(":")[0] for line in ran.err.splitlines()] == [
        "BRIDGE_SHARDS",
        "BRIDGE_LISTEN",
    ]


@pytest.mark.usefixtures("bridge")
@pytest.mark.parametrize("command", ["sessions list", "events list", "deliveries list", "rejected list"])
def test_nothing_to_list_is_said_to_people_and_nothing_in_json(terminal: Terminal, command: str) -> None:
    assert terminal(*command.split()).out.startswith(("no ", "nothing "))
    assert terminal(*command.split(), "--json") == Ran(0, "", "")


# bridge track


def _messages(server: str) -> list[tuple[str, list[object], dict[str, object]]]:
    """What is on the broker, the oldest first: id, items, keyword arguments."""
    with redis.Redis.from_url(server) as store:
        raw = cast("list[bytes]", store.lrange("bridge.track", 0, -1))
    found = []
    for message in (json.loads(one) for one in reversed(raw)):
        (items,), keywords, _ = json.loads(base64.b64decode(message["body"]))
        found.append((message["headers"]["id"], items, keywords))
    return found


@pytest.mark.usefixtures("bridge")
def test_track_puts_sessions_with_their_options_on_the_broker(terminal: Terminal, server: str) -> None:
    options = ("--phone-count", "2", "--metadata", '{"order": 7}', "--account", "shop", "--json")
    (row,) = terminal("track", "nAQDODtO", "xBBDODtP", *options).rows()
    ((message, items, keywords),) = _messages(server)
    assert row == {"enqueued": 2, "messages": [message]}
    assert items == [
        {"session_no": "nAQDODtO", "phone_count": 2, "metadata": {"order": 7}},
        {"session_no": "xBBDODtP", "phone_count": 2, "metadata": {"order": 7}},
    ]
    assert keywords == {"account": "shop"}
    assert terminal("track", "nAQDODtO").out == "1 session enqueued\n"


@pytest.mark.usefixtures("bridge")
def test_track_reads_session_nos_and_items_from_a_file(terminal: Terminal, server: str, tmp_path: Path) -> None:
    path = tmp_path / "sessions.jsonl"
    path.write_text('\ufeffnAQDODtO\r\n\n{"session_no": "xBBDODtP", "phones": ["(86)18500000000"]}\n"third"\n')
    assert terminal("track", "--file", str(path), "--phone-count", "3").out == "3 sessions enqueued\n"
    ((_, items, _),) = _messages(server)
    assert items == [
        {"session_no": "nAQDODtO", "phone_count": 3},
        {"session_no": "xBBDODtP", "phones": ["(86)18500000000"]},
        {"session_no": "third", "phone_count": 3},
    ]


@pytest.mark.usefixtures("bridge")
def test_track_sends_a_long_standard_input_in_chunks(
    terminal: Terminal, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = "".join(f"S{number}\n" for number in range(10_001)).encode()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(given)))
    assert terminal("track", "--file", "-").out == "10,001 sessions enqueued in 2 messages\n"
    assert [len(items) for _, items, _ in _messages(server)] == [10_000, 1]


@pytest.mark.usefixtures("bridge")
@pytest.mark.parametrize(
    ("lines", "complaint"),
    [
        ("good\nnot good\n", "line 2: session_no: 'not good'"),
        ('good\n\n{"session_no": "x", "phone_count": 0}\n', "line 3: phone_count: 0"),
        ('{"session_no": "x", "phone_cuont": 1}', "line 1: 'phone_cuont' is no field; did you mean phone_count?"),
        ('{"session_no"\n', "line 1: is neither a SessionNo nor JSON"),
        ("[1]\n", "line 1: a session must be a SessionNo or an object"),
        ("good\n\xff\n", "line 2: is not UTF-8"),
    ],
)
def test_track_names_the_bad_line_and_sends_nothing(
    terminal: Terminal, server: str, tmp_path: Path, lines: str, complaint: str
) -> None:
    path = tmp_path / "sessions.jsonl"
    path.write_bytes(lines.encode("latin-1"))
    ran = terminal("track", "--file", str(path))
    assert (ran.code, ran.out) == (2, "")
    assert f"{path}, {complaint}" in ran.err
    assert _messages(server) == []


@pytest.mark.usefixtures("bridge")
@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["good", "not good"], "session 2: session_no: 'not good'"),
        (["good", "--phone-count", "0"], "--phone-count: 0"),
        (["good", "--metadata", "[]"], "--metadata: must be a JSON object"),
        (["good", "--metadata", "{"], "--metadata is not JSON"),
        (["good", "--account", "A B"], "--account"),
        (["--file", "/nowhere/at/all"], "cannot be read"),
        ([], "no sessions"),
    ],
)
def test_track_refuses_bad_arguments(terminal: Terminal, arguments: list[str], complaint: str) -> None:
    ran = terminal("track", *arguments)
    assert (ran.code, ran.out) == (2, "")
    assert complaint in ran.err


# bridge sessions


def _three_sessions(bridge: Bridge) -> None:
    track(
        bridge, "open1", {"session_no": "part2", "phones": [ONE, {"phone": TWO, "user_id": "u7"}], "metadata": {"n": 1}}
    )
    track(bridge, {"session_no": "done3", "phone_count": 1}, account="shop")
    answer(bridge, "part2", heard(ONE, "发送成功", "DELIVRD"))
    answer(bridge, "done3", heard(THREE, "发送失败"), account="shop")


def test_sessions_list_counts_phones_and_tells_when_each_is_polled(bridge: Bridge, terminal: Terminal) -> None:
    _three_sessions(bridge)
    heading, *rows = cells(terminal("sessions", "list"))
    assert heading == ["session", "account", "state", "phones", "sent", "last poll", "next poll", "settled"]
    assert {row[0]: row[1:4] for row in rows} == {
        "open1": ["default", "open", "0 / 0 / ?"],
        "part2": ["default", "open", "1 / 1 / 2"],
        "done3": ["shop", "settled", "1 / 1 / 1"],
    }
    found = {row["session_no"]: row for row in terminal("sessions", "list", "--json").rows()}
    assert found["part2"]["phones"] == {"final": 1, "seen": 1, "expected": 2}
    assert found["open1"]["polled_at"] is None
    assert str(found["open1"]["next_poll_at"]).endswith("Z")
    assert found["done3"]["next_poll_at"] is None
    assert found["done3"]["settled_at"] is not None


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--state", "open"], {"open1", "part2"}),
        (["--state", "settled"], {"done3"}),
        (["--account", "shop"], {"done3"}),
        (["--limit", "1", "--account", "shop"], {"done3"}),
        (["--account", "nobody"], set()),
    ],
)
def test_sessions_list_filters(bridge: Bridge, terminal: Terminal, options: list[str], expected: set[str]) -> None:
    _three_sessions(bridge)
    assert {row["session_no"] for row in terminal("sessions", "list", "--json", *options).rows()} == expected


def test_sessions_show_tells_of_each_phone_and_of_those_awaited(bridge: Bridge, terminal: Terminal) -> None:
    _three_sessions(bridge)
    (row,) = terminal("sessions", "show", "part2", "--json").rows()
    assert row["awaiting"] == [{"phone": TWO, "user_id": "u7"}]
    assert row["metadata"] == {"n": 1}
    (phone,) = cast("list[dict[str, object]]", row["phones"])
    assert phone["phone"] == ONE
    assert (phone["status"], phone["sequence"], phone["receipt_at"]) == ("delivered", 1, "2026-11-23T06:31:02.000Z")
    ran = terminal("sessions", "show", "part2")
    assert f"awaiting        {TWO} (user id u7)" in ran.out.splitlines()
    assert cells(ran)[-1][:4] == [ONE, "-", "delivered", "1"]


def test_a_session_that_is_not_tracked_is_exit_1(bridge: Bridge, terminal: Terminal) -> None:
    _three_sessions(bridge)
    for arguments in (["nobody"], ["part2", "--account", "shop"]):
        ran = terminal("sessions", "show", *arguments, "--json")
        assert (ran.code, ran.out) == (1, "")
        assert f"no session {arguments[0]}" in ran.err


def test_sessions_show_tells_of_the_last_polls(bridge: Bridge, terminal: Terminal) -> None:
    _three_sessions(bridge)
    answer(bridge, "part2", heard(ONE, "发送成功", "DELIVRD"))
    (row,) = terminal("sessions", "show", "part2", "--json").rows()
    polls = cast("list[dict[str, str]]", row["polls"])
    assert [one["outcome"] for one in polls] == ["changed", "nothing new"]
    assert all(one["at"].endswith("Z") for one in polls)
    shown = terminal("sessions", "show", "part2").out
    assert "nothing new" in shown


def test_what_the_provider_refuses_and_what_cannot_be_read_are_seen(bridge: Bridge, terminal: Terminal) -> None:
    track(bridge, "fine", "bad", "broken")
    stored = bridge.sessions.read("default", ["bad"])
    bridge.recorder.refuse("default", stored, "RetCode 18001: a parameter is missing")
    broken = keys.session(keys.shard_of("broken", bridge.settings.shards), "default", "broken")
    bridge.client.redis.set(broken, b"vers\xff")
    bridge.sessions.set_aside("default", ["broken"])

    (row,) = terminal("sessions", "list", "--state", "quarantined", "--json").rows()
    assert (row["session_no"], row["state"]) == ("bad", "quarantined")
    assert {one["session_no"] for one in terminal("sessions", "list", "--state", "open", "--json").rows()} == {
        "fine",
        "bad",
    }
    (row,) = terminal("sessions", "show", "bad", "--json").rows()
    assert row["refused"] == "RetCode 18001: a parameter is missing"
    assert [one["outcome"] for one in cast("list[dict[str, str]]", row["polls"])] == ["refused"]
    (row,) = terminal("sessions", "list", "--state", "damaged", "--json").rows()
    assert row == {"session_no": "broken", "account": "default", "state": "damaged"}
    assert "broken" in terminal("sessions", "list", "--state", "damaged").out
    ran = terminal("sessions", "show", "broken")
    assert (ran.code, ran.out) == (1, "")
    assert "cannot be read" in ran.err

    track(bridge, "broken")
    assert terminal("sessions", "list", "--state", "damaged").out == "no sessions\n"


def test_poll_now_makes_sessions_due_settled_ones_too(bridge: Bridge, terminal: Terminal) -> None:
    _three_sessions(bridge)
    now_ms = bridge.clock.now_ms()
    assert terminal("sessions", "poll-now", "part2", "done3").out == "2 sessions due now\n"
    for account, name in (("default", "part2"), ("shop", "done3")):
        assert now_ms <= (bridge.sessions.due_ms(account, name) or 0) <= bridge.clock.now_ms() + 50
    ran = terminal("sessions", "poll-now", "part2", "nobody", "--account", "default", "--json")
    assert (ran.code, ran.rows()) == (1, [{"due": ["part2"], "missing": ["nobody"]}])
    assert "no session nobody" in ran.err


# bridge subscriptions


def test_subscriptions_add_shows_the_secret_once(bridge: Bridge, terminal: Terminal) -> None:
    (row,) = terminal("subscriptions", "add", URL, "--json").rows()
    assert set(row) == {"id", "url", "secret"}
    kept = bridge.subscriptions.get(str(row["id"]))
    assert kept.url == row["url"] == URL
    assert bridge.secret_box.open(kept.secrets[0], kept.id) == decode_secret(str(row["secret"]))
    for command in ("list", f"show {kept.id}"):
        ran = terminal("subscriptions", *command.split(), "--json")
        assert kept.id in ran.out
        assert "secret" not in ran.out
    people = terminal("subscriptions", "add", URL).out
    assert "whsec_" in people
    assert "not shown again" in people


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://127.0.0.1/sms", "https"),
        ("https://[::1]/sms", "loopback"),
        ("https://10.1.2.3/sms", "private"),
        ("https://user@127.0.0.1/", "user"),
        ("not-a-url", "URL"),
    ],
)
def test_subscriptions_add_refuses_a_url_and_says_why(
    bridge: Bridge, terminal: Terminal, url: str, reason: str
) -> None:
    ran = terminal("subscriptions", "add", url)
    assert (ran.code, ran.out) == (2, "")
    assert reason in ran.err
    assert bridge.subscriptions.load().by_id() == {}


def test_subscriptions_add_needs_keys_for_secrets(
    bridge: Bridge, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BRIDGE_SECRET_KEYS")
    ran = terminal("subscriptions", "add", URL)
    assert ran.code == 2
    assert "openssl rand" in ran.err
    assert bridge.subscriptions.load().by_id() == {}


def test_subscriptions_show_what_waits_and_what_was_given_up(bridge: Bridge, terminal: Terminal) -> None:
    name = deliveries_in_every_state(bridge)
    heading, row = cells(terminal("subscriptions", "list"))
    assert heading == ["id", "account", "url", "state", "created", "waiting", "parked"]
    assert row[:4] == [name, "default", URL, "active"]
    assert row[-2:] == ["2", "0"]
    assert terminal("subscriptions", "list", "--account", "shop", "--json").rows() == []
    (shown,) = terminal("subscriptions", "show", name, "--json").rows()
    assert (shown["waiting"], shown["waiting_events"], shown["dead"]) == (2, 3, 2)
    assert (shown["over_backlog"], shown["over_kept"], shown["dead_dropped"]) == (0, 0, 0)


def test_subscriptions_show_and_doctor_say_what_limits_did(
    bridge: Bridge, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = bridge.subscribe(URL)[0].id
    small = SessionStore(bridge.client, bridge.settings.shards, Limits(backlog=1))
    monkeypatch.setattr(bridge, "sessions", small)
    track(bridge, "nAQDODtO")
    answer(bridge, "nAQDODtO", *(heard(phone, "发送成功") for phone in (ONE, TWO, THREE)))
    (shown,) = terminal("subscriptions", "show", name, "--json").rows()
    assert (shown["waiting_events"], shown["dead"], shown["over_backlog"]) == (1, 2, 2)
    assert "BRIDGE_MAX_BACKLOG" in terminal("subscriptions", "show", name).out
    said = [row["detail"] for row in terminal("doctor", "--json").rows() if row["verdict"] == "warn"]
    assert any(f"{name}: too much waited: 2 events became dead letters" in str(detail) for detail in said)


@pytest.mark.usefixtures("bridge")
@pytest.mark.parametrize("command", ["show", "remove", "pause", "resume", "edit --rate 1"])
def test_a_subscription_that_is_not_there_is_exit_1(terminal: Terminal, command: str) -> None:
    ran = terminal("subscriptions", *command.split(), "sub_nothere")
    assert (ran.code, ran.out) == (1, "")
    assert "no subscription sub_nothere" in ran.err


def test_a_paused_subscription_shows_its_parked_events_until_it_is_resumed(bridge: Bridge, terminal: Terminal) -> None:
    name = deliveries_in_every_state(bridge)
    assert terminal("subscriptions", "pause", name).out == f"paused {name}\n"
    assert terminal("subscriptions", "pause", name).code == 2
    (listed,) = terminal("subscriptions", "list", "--json").rows()
    assert (listed["state"], listed["waiting"], listed["parked"]) == ("paused", 0, 2)
    assert len(terminal("deliveries", "list", "--state", "parked", "--json").rows()) == 2
    assert terminal("deliveries", "list", "--state", "pending", "--json").rows() == []

    assert terminal("subscriptions", "resume", name, "--deliver", "latest").out == f"resumed {name}; 1 events dropped\n"
    assert terminal("subscriptions", "resume", name).code == 2
    (shown,) = terminal("subscriptions", "show", name, "--json").rows()
    assert (shown["state"], shown["waiting"], shown["parked"], shown["dropped"]) == ("active", 2, 0, 1)
    rows = terminal("deliveries", "list", "--state", "pending", "--json").rows()
    assert [row["attempts"] for row in rows] == [0, 0], "the retries start anew"


def test_subscriptions_have_limits_of_their_own(bridge: Bridge, terminal: Terminal) -> None:
    (added,) = terminal("subscriptions", "add", URL, "--rate", "2.5", "--retry", "5s,1m", "--json").rows()
    name = str(added["id"])
    (shown,) = terminal("subscriptions", "show", name, "--json").rows()
    assert (shown["rate"], shown["concurrency"], shown["retry"]) == (2.5, None, "5s,1m")
    edited = terminal("subscriptions", "edit", name, "--rate", "default", "--concurrency", "3", "--url", f"{URL}2")
    assert edited.out == f"edited {name}\n"
    found = bridge.subscriptions.get(name)
    assert (found.url, found.rate, found.concurrency, found.retry_ms) == (f"{URL}2", None, 3, (5_000, 60_000))
    terminal("subscriptions", "edit", name, "--max-batch", "100", "--partitions", "4")
    (shown,) = terminal("subscriptions", "show", name, "--json").rows()
    assert (shown["max_batch"], shown["partitions"], shown["concurrency"]) == (100, 4, 3)


@pytest.mark.usefixtures("bridge")
@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--rate", "0"], "--rate: 0 is outside"),
        (["--rate", "many"], "--rate: "),
        (["--max-batch", "1001"], "--max-batch: 1001 is too large"),
        (["--partitions", "0"], "--partitions: 0 is too small"),
        (["--concurrency", "0"], "--concurrency: 0 is"),
        (["--retry", "5"], "--retry: '5' is not a duration"),
        (["--url", "ftp://x"], "must use https"),
        ([], "nothing to change"),
    ],
)
def test_wrong_limits_are_refused_by_name(
    bridge: Bridge, terminal: Terminal, options: list[str], complaint: str
) -> None:
    name = bridge.subscribe(URL)[0].id
    ran = terminal("subscriptions", "edit", name, *options)
    assert (ran.code, ran.out) == (2, "")
    assert complaint in ran.err


def test_subscriptions_remove_loses_nothing_unasked(
    bridge: Bridge, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO())
    idle = bridge.subscribe(URL)[0].id
    assert terminal("subscriptions", "remove", idle).out == f"removed {idle}\n"
    busy = deliveries_in_every_state(bridge)
    ran = terminal("subscriptions", "remove", busy)
    assert (ran.code, ran.out) == (2, "")
    assert "2 phones" in ran.err
    assert "--yes" in ran.err
    assert terminal("subscriptions", "remove", busy, "--yes", "--json").rows() == [
        {"removed": busy, "waiting": 2, "dead": 2}
    ]
    assert bridge.subscriptions.load().by_id() == {}


@pytest.mark.parametrize(("said", "code"), [(b"n\n", 1), (b"y\n", 0)])
def test_subscriptions_remove_asks_at_a_terminal(bridge: Bridge, server: str, said: bytes, code: int) -> None:
    name = deliveries_in_every_state(bridge)
    keyboard, stdin = pty.openpty()
    try:
        os.write(keyboard, said)
        ran = subprocess.run(
            [sys.executable, "-m", "bridge.cli.main", "subscriptions", "remove", name],
            env=environ_for(server),
            stdin=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    finally:
        os.close(keyboard)
        os.close(stdin)
    assert "Remove it?" in ran.stderr
    assert ran.returncode == code
    assert (name in bridge.subscriptions.load().by_id()) == bool(code)

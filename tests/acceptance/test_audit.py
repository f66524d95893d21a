"""``bridge audit``: every command that changes something leaves a line, and none leaves a secret or a phone."""

from __future__ import annotations

import getpass
import socket
from pathlib import Path
from typing import cast

import pytest
import redis

from bridge.domain.signing import encode_secret
from bridge.store import keys
from bridge.wiring import Bridge
from tests.commands import ONE, URL, Terminal, cells, deliveries_in_every_state


def _noted(terminal: Terminal) -> list[tuple[object, object, object, object]]:
    rows = terminal("audit", "--json").rows()
    assert {row["who"] for row in rows} <= {f"{getpass.getuser()}@{socket.gethostname()}"}
    return [(row["action"], row["target"], row["outcome"], row["details"]) for row in reversed(rows)]


def test_what_is_done_with_a_subscription_is_noted(bridge: Bridge, terminal: Terminal, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(encode_secret(b"s" * 32))
    added = terminal("subscriptions", "add", f"{URL}?token=hidden", "--secret-file", str(tmp_path / "secret"), "--json")
    name = str(added.rows()[0]["id"])
    (event,) = terminal("subscriptions", "test", name, "--json").rows()
    terminal("subscriptions", "edit", name, "--rate", "5", "--url", f"{URL}?token=other")
    terminal("subscriptions", "rotate", name, "--overlap", "1h")
    terminal("subscriptions", "pause", name)
    terminal("subscriptions", "resume", name, "--deliver", "none")
    assert terminal("subscriptions", "resume", name).code == 2
    terminal("subscriptions", "test", name)
    terminal("subscriptions", "remove", name, "--yes")
    terminal("accounts", "secret")
    terminal("rewrap")

    noted = _noted(terminal)
    assert noted.pop(7)[0] == "subscriptions test"
    assert noted == [
        ("subscriptions add", name, "done", {"account": "default"}),
        ("subscriptions test", name, "done", {"event": event["event"]}),
        ("subscriptions edit", name, "done", {"changed": ["url", "rate"]}),
        ("subscriptions rotate", name, "done", {"overlap": "1h"}),
        ("subscriptions pause", name, "done", {}),
        ("subscriptions resume", name, "done", {"deliver": "none", "dropped": 1}),
        ("subscriptions resume", name, "failed", {"deliver": "all", "error": "UsageError"}),
        ("subscriptions remove", name, "done", {"dropped": 1, "dead_letters_dropped": 0}),
        ("accounts secret", "default", "done", {}),
        ("rewrap", None, "done", {"rewrapped": 0, "unreadable": 0}),
    ]
    with redis.Redis.from_url(str(bridge.settings.redis_url and bridge.settings.redis_url.get_secret_value())) as store:
        kept = repr(store.xrange(keys.AUDIT))
    assert "whsec" not in kept
    assert "token" not in kept


def test_what_only_looks_is_not_noted(bridge: Bridge, terminal: Terminal) -> None:
    name = deliveries_in_every_state(bridge)
    for argv in (
        ("subscriptions", "list"),
        ("subscriptions", "show", name),
        ("resend", "--subscription", name, "--since", "1h", "--dry-run"),
        ("erase", "--phone", ONE, "--dry-run"),
        ("subscriptions", "rotate", "sub_nothere"),
    ):
        terminal(*argv)
    assert _noted(terminal) == []
    assert "nothing was done" in terminal("audit").out


def test_details_are_told_in_words(bridge: Bridge, terminal: Terminal) -> None:
    name = bridge.subscribe(URL)[0].id
    terminal("subscriptions", "edit", name, "--rate", "5", "--max-batch", "10")
    terminal("accounts", "secret", "--push")
    told = terminal("audit").out
    assert "changed rate, max_batch" in told
    assert "push yes  rotate no" in told


def test_an_erasure_is_noted_without_the_phone(bridge: Bridge, terminal: Terminal) -> None:
    deliveries_in_every_state(bridge)
    terminal("erase", "--phone", ONE)
    ((action, target, outcome, details),) = _noted(terminal)
    assert (action, target, outcome) == ("erase", None, "done")
    assert cast("dict[str, object]", details)["sessions"] == 1
    kept = repr(bridge.client.redis.xrange(keys.AUDIT))
    assert "18500000001" not in kept


@pytest.mark.usefixtures("bridge")
def test_people_see_a_table(terminal: Terminal) -> None:
    terminal("accounts", "secret")
    header, row = cells(terminal("audit", "--since", "1h"))
    assert header[1:] == ["who", "action", "of", "outcome", "details"]
    assert row[2:5] == ["accounts secret", "default", "done"]
    assert terminal("audit", "--since", "1700000000", "--json").rows()
    assert terminal("audit", "--since", "17000000000000").code == 2


def test_what_is_done_with_accounts_and_sessions_is_noted(bridge: Bridge, terminal: Terminal, tmp_path: Path) -> None:
    key = tmp_path / "shop.key"
    key.write_text("the-private-key")
    terminal("accounts", "add", "shop", "--public-key", "the-public-key", "--private-key-file", str(key))
    terminal("accounts", "edit", "shop", "--rate", "2")
    terminal("sessions", "forget", "nobody")
    terminal("rejected", "drop", "--all")
    terminal("accounts", "remove", "shop")
    ran = terminal("audit", "--json")
    actions = [str(row["action"]) for row in ran.rows()]
    assert set(actions) >= {"accounts add", "accounts edit", "accounts remove", "sessions forget", "rejected drop"}
    assert "the-private-key" not in ran.out
    assert "the-public-key" not in ran.out
    assert bridge.accounts.all() == []

"""``bridge accounts``: what it stores, checks, shows and takes away, and what it never shows."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import cast

import msgspec
import pytest
import redis

from bridge.accounts import belongings
from bridge.domain.accounts import Account
from bridge.simulator.sender import send_usms
from bridge.store import keys
from bridge.wiring import Bridge
from tests.commands import ONE, URL, Terminal, answer, heard, track
from tests.parts import until
from tests.running import process
from tests.servers import environ_for
from tests.simulator import running_simulator

KEYS = ("shop-public-key-1234", "shop-private-key")


@pytest.fixture
def key_file(tmp_path: Path) -> str:
    path = tmp_path / "shop.key"
    path.write_text(KEYS[1] + "\n")
    return str(path)


def add(terminal: Terminal, key_file: str, *options: str, name: str = "shop") -> None:
    ran = terminal("accounts", "add", name, "--public-key", KEYS[0], "--private-key-file", key_file, *options)
    assert ran.code == 0, ran.err


def test_an_account_is_added_with_all_that_was_given(bridge: Bridge, terminal: Terminal, key_file: str) -> None:
    options = ("--project-id", "org-x", "--region", "cn-bj2", "--provider-url", "http://127.0.0.1:9/", "--rate", "2.5")
    add(terminal, key_file, *options)
    kept = bridge.accounts.get("shop")
    assert (kept.public_key, kept.project_id, kept.region) == (KEYS[0], "org-x", "cn-bj2")
    assert (kept.provider_url, kept.rate) == ("http://127.0.0.1:9/", 2.5)
    assert bridge.providers.keys.private_key(kept) == KEYS[1]


def test_a_private_key_is_read_from_standard_input(
    bridge: Bridge, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(KEYS[1].encode())))
    add(terminal, "-")
    assert bridge.providers.keys.private_key(bridge.accounts.get("shop")) == KEYS[1]


def test_a_private_key_is_asked_for_on_a_terminal_and_not_echoed(bridge: Bridge, server: str) -> None:
    leader, follower = pty.openpty()
    command = [sys.executable, "-m", "bridge.cli.main", "accounts", "add", "shop", "--public-key", KEYS[0]]
    process = subprocess.Popen(command, stdin=follower, stdout=follower, stderr=follower, env=environ_for(server))
    os.close(follower)
    try:
        shown = b""
        while b"Private key of shop: " not in shown:  # with the space: what is typed before is thrown away
            shown += os.read(leader, 1024)
        os.write(leader, f"{KEYS[1]}\n".encode())
        while True:
            try:
                more = os.read(leader, 1024)
            except OSError:  # Linux says so where the other end is closed
                break
            if not more:
                break
            shown += more
        assert process.wait(30) == 0, shown
    finally:
        process.kill()
        process.wait()
        os.close(leader)
    assert KEYS[1].encode() not in shown
    assert bridge.providers.keys.private_key(bridge.accounts.get("shop")) == KEYS[1]


def test_a_private_key_is_no_option(terminal: Terminal) -> None:
    """What `ps` shows, everybody on the machine knows."""
    ran = terminal("accounts", "add", "shop", "--public-key", KEYS[0], "--private-key", KEYS[1])
    assert ran.code == 2
    assert "No such option" in ran.err


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["default"], "BRIDGE_PUBLIC_KEY"),
        (["Shop"], "give 1 to 32"),
        (["shop"], "--public-key"),
        (["shop", "--public-key", "two words"], "--public-key"),
        (["shop", "--public-key", "k"], "--private-key-file"),
        (["shop", "--public-key", "k", "--private-key-file", "/nowhere"], "--private-key-file"),
        (["shop", "--public-key", "k", "--private-key-file", "FILE", "--rate", "0"], "--rate"),
        (["shop", "--public-key", "k", "--private-key-file", "FILE", "--provider-url", "ftp://x/"], "--provider-url"),
        (["shop", "--public-key", "k", "--private-key-file", "EMPTY"], "empty"),
    ],
)
def test_what_is_wrong_is_said_by_its_option_and_nothing_stored(
    bridge: Bridge, terminal: Terminal, key_file: str, options: list[str], says: str
) -> None:
    given = [{"FILE": key_file, "EMPTY": os.devnull}.get(one, one) for one in options]
    ran = terminal("accounts", "add", *given)
    assert (ran.code, ran.out) == (2, "")
    assert says in ran.err
    assert bridge.accounts.all() == []


def test_a_name_is_given_once(terminal: Terminal, bridge: Bridge, key_file: str) -> None:
    add(terminal, key_file)
    before = bridge.accounts.get("shop")
    ran = terminal("accounts", "add", "shop", "--public-key", "another", "--private-key-file", key_file)
    assert ran.code == 2
    assert "bridge accounts edit shop" in ran.err
    assert bridge.accounts.get("shop") == before


def test_only_what_is_given_is_changed(bridge: Bridge, terminal: Terminal, key_file: str, tmp_path: Path) -> None:
    add(terminal, key_file, "--rate", "2", "--project-id", "org-x", "--region", "cn-bj2")
    bridge.rate.pause("shop", "RetCode 171", 60_000)
    bridge.wakes.keep("poll:shop", 60_000)
    new = tmp_path / "new.key"
    new.write_text("new-private-key")
    assert terminal("accounts", "edit", "shop", "--private-key-file", str(new), "--rate", "default").code == 0
    kept = bridge.accounts.get("shop")
    assert bridge.providers.keys.private_key(kept) == "new-private-key"
    assert (kept.rate, kept.project_id, kept.public_key) == (None, "org-x", KEYS[0])
    # It is polled at once with them.
    assert bridge.rate.paused("shop") == (0, 0, "")
    assert bridge.wakes.take("poll:shop", 1)
    assert terminal("accounts", "edit", "shop", "--project-id", "default", "--region", "").code == 0
    assert (bridge.accounts.get("shop").project_id, bridge.accounts.get("shop").region) == ("", "")
    assert terminal("accounts", "edit", "shop").code == 2
    assert terminal("accounts", "edit", "bank", "--rate", "2").code == 1
    assert terminal("accounts", "edit", "default", "--rate", "2").code == 2


def test_a_list_tells_accounts_apart_and_shows_no_key(bridge: Bridge, terminal: Terminal, key_file: str) -> None:
    add(terminal, key_file, "--rate", "2")
    track(bridge, "s1", account="typo")
    bridge.subscribe(URL, "shop")
    rows = {str(row["account"]): row for row in terminal("accounts", "list", "--json").rows()}
    assert list(rows) == ["default", "shop", "typo"]
    assert rows["shop"]["public_key"] == "shop…1234"
    assert (rows["shop"]["rate"], rows["shop"]["subscriptions"]) == (2.0, 1)
    assert (rows["typo"]["state"], rows["typo"]["sessions"]) == ("no credentials", 1)
    assert rows["default"]["state"] == "ok"
    assert rows["shop"]["pushes"] == {"pushes": 0, "hinted": 0, "unknown": 0, "last_push_at": None}
    bridge.rate.pause("shop", "RetCode 171: the Signature is wrong", 60_000)
    ran = terminal("accounts", "list")
    assert "paused: RetCode 171" in ran.out
    for secret in (*KEYS, bridge.settings.public_key.get_secret_value() if bridge.settings.public_key else ""):
        assert secret not in ran.out


def test_a_check_calls_with_each_accounts_keys(
    bridge: Bridge, terminal: Terminal, key_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running_simulator(other_accounts=dict([KEYS])) as simulator:
        monkeypatch.setenv("BRIDGE_PROVIDER_URL", simulator.url)
        add(terminal, key_file)
        ran = terminal("accounts", "check", "--json")
        assert (ran.code, [row["result"] for row in ran.rows()]) == (0, ["ok", "ok"])
        assert "result" in terminal("accounts", "check", "shop").out
        bridge.accounts.update("shop", lambda one: _with_key(bridge, one, "wrong"))
        ran = terminal("accounts", "check", "shop", "--json")
        (row,) = ran.rows()
        assert (ran.code, row["result"]) == (1, "refused")
        assert "171" in str(row["detail"])
    ran = terminal("accounts", "check", "--json")
    assert (ran.code, {row["result"] for row in ran.rows()}) == (3, {"unreachable"})
    assert all("reaches it" in str(row["action"]) for row in ran.rows())


def _with_key(bridge: Bridge, account: Account, key: str) -> Account:
    return msgspec.structs.replace(account, private_key=bridge.providers.keys.seal("shop", key))


def test_doctor_looks_at_every_account(
    bridge: Bridge, terminal: Terminal, key_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running_simulator(other_accounts=dict([KEYS])) as simulator:
        monkeypatch.setenv("BRIDGE_PROVIDER_URL", simulator.url)
        add(terminal, key_file)
        add(terminal, key_file, name="bank")
        bridge.accounts.update("bank", lambda one: msgspec.structs.replace(one, public_key="nobody"))
        found = [row for row in terminal("doctor", "--json").rows() if row["check"] == "provider"]
        assert [row["verdict"] for row in found] == ["fail", "ok", "ok"]
        assert "172" in str(found[0]["detail"]) or "171" in str(found[0]["detail"])
        for row, name in zip(found[1:], ("default", "shop"), strict=True):
            assert name in str(row["detail"])
        # Of one that is not used no keys are asked for, where there are others.
        for name in ("PUBLIC_KEY", "PRIVATE_KEY"):
            monkeypatch.delenv(f"BRIDGE_{name}")
        found = [row for row in terminal("doctor", "--json").rows() if row["check"] == "provider"]
        assert [row["verdict"] for row in found] == ["fail", "ok"]


def test_the_push_url_is_shown_again_and_rotated(bridge: Bridge, terminal: Terminal, key_file: str) -> None:
    add(terminal, key_file)
    (row,) = terminal("accounts", "secret", "--push", "--json").rows()
    url = str(row["push_url"])
    base, _, token = url.rpartition("/")
    assert base == "http://127.0.0.1:8080/v1/provider/usms/default"
    assert bridge.push_tokens.admits("default", token)
    assert terminal("accounts", "secret", "--push", "--json").rows() == [row]
    outside = ("--base-url", "https://bridge.example.com/")
    (elsewhere,) = terminal("accounts", "secret", "shop", "--push", *outside, "--json").rows()
    assert str(elsewhere["push_url"]).startswith("https://bridge.example.com/v1/provider/usms/shop/")
    (rotated,) = terminal("accounts", "secret", "--push", "--rotate", "--json").rows()
    assert rotated["push_url"] != url
    assert not bridge.push_tokens.admits("default", token)
    assert "--base-url" in terminal("accounts", "secret", "--push").out
    assert terminal("accounts", "secret", "--rotate").code == 2
    assert terminal("accounts", "secret", "--push", "--base-url", "example.com").code == 2


def test_no_secret_is_made_for_a_misspelt_name(terminal: Terminal, server: str, bridge: Bridge) -> None:
    for options in ([], ["--push"]):
        ran = terminal("accounts", "secret", "shpo", *options)
        assert (ran.code, "no account shpo" in ran.err) == (1, True)
    with redis.Redis.from_url(server) as store:
        assert store.exists(keys.account("shpo")) == 0
    assert bridge.accounts.all() == []


def test_a_key_is_rotated_while_the_processes_run(
    bridge: Bridge, terminal: Terminal, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The account stands still under the old key, and goes on under the new one, without a restart."""
    old, new = tmp_path / "old.key", tmp_path / "new.key"
    old.write_text("an-old-key")
    new.write_text(KEYS[1])
    with running_simulator(other_accounts=dict([KEYS])) as simulator:
        monkeypatch.setenv("BRIDGE_PROVIDER_URL", simulator.url)
        session = send_usms(simulator.url, *KEYS, [ONE])
        add(terminal, str(old))
        environ = environ_for(server, provider_url=simulator.url, poll_schedule="50ms,1s")
        with process("worker", environ, tmp_path), process("beat", environ, tmp_path):
            track(bridge, {"session_no": session, "phone_count": 1}, account="shop")
            until(lambda: bridge.rate.standing("shop").refused, 60)
            assert bridge.sessions.unsettled("shop") == 1
            assert terminal("accounts", "edit", "shop", "--private-key-file", str(new)).code == 0
            until(lambda: bridge.sessions.unsettled("shop") == 0, 60)
            assert bridge.log.length("shop") >= 1
        said = (tmp_path / "worker.log").read_text()
    assert KEYS[1] not in said
    assert "an-old-key" not in said


def test_an_account_in_use_is_not_removed(bridge: Bridge, terminal: Terminal, key_file: str, server: str) -> None:
    add(terminal, key_file)
    bridge.subscribe(URL, "shop")
    track(bridge, {"session_no": "s1", "phone_count": 1}, "s2", account="shop")
    answer(bridge, "s1", heard(ONE, "Success"), account="shop")
    ran = terminal("accounts", "remove", "shop")
    assert (ran.code, ran.out) == (1, "")
    assert "1 sessions that are not settled and 1 events" in ran.err
    assert bridge.accounts.get("shop").name == "shop"
    assert bridge.sessions.unsettled("shop") == 1

    ran = terminal("accounts", "remove", "shop", "--force", "--json")
    assert ran.rows() == [
        {"removed": "shop", "unsettled": 1, "settled": 1, "subscriptions": 1, "waiting": 1, "dead": 0, "events": 1}
    ]
    with redis.Redis.from_url(server) as store:
        assert [key for key in cast("list[bytes]", store.keys("*")) if b"shop" in key or b"sub_" in key] == []
        assert store.zcard(keys.index(0)) == 0
    assert terminal("accounts", "remove", "shop").code == 1


def test_one_with_nothing_open_is_removed_without_force(bridge: Bridge, terminal: Terminal, key_file: str) -> None:
    add(terminal, key_file)
    bridge.subscribe(URL, "shop")
    bridge.subscribe(URL)
    track(bridge, "s1")
    ran = terminal("accounts", "remove", "shop")
    assert ran.code == 0
    assert ran.out.startswith("removed shop, and with it 0 sessions")
    assert [one.account for one in bridge.subscriptions.load().by_id().values()] == ["default"]
    assert belongings(bridge, "default").unsettled == 1
    assert terminal("accounts", "remove", "default", "--force").code == 2


def test_one_that_only_tracked_can_be_removed(bridge: Bridge, terminal: Terminal) -> None:
    """A sender's misspelling: its sessions wait for credentials that nobody will give."""
    track(bridge, "s1", account="shpo")
    assert terminal("accounts", "remove", "shpo").code == 1
    assert terminal("accounts", "remove", "shpo", "--force").code == 0
    assert bridge.tracking.accounts() == []

"""``bridge subscriptions add`` with its options: what it stores, shows once, and refuses."""

from __future__ import annotations

import base64
import io
import os
from datetime import datetime
from pathlib import Path
from typing import cast

import pytest

from bridge.domain.credentials import Identity
from bridge.domain.events import iso_millis
from bridge.domain.signing import encode_secret
from bridge.domain.subscriptions import BodyFormat, Options, PhoneFormat
from bridge.wiring import Bridge
from tests.commands import URL, Terminal, deliveries_in_every_state
from tests.hostile import Certificate


def test_filters_and_formats_are_stored_and_shown(bridge: Bridge, terminal: Terminal) -> None:
    filters = ("--types", "sms.status.changed", "--statuses", "failed,undelivered")
    formats = ("--phone-format", "masked", "--format", "usms")
    (row,) = terminal("subscriptions", "add", URL, *filters, *formats, "--json").rows()
    assert set(row) == {"id", "url", "secret"}
    kept = bridge.subscriptions.get(str(row["id"]))
    assert kept.statuses == ("undelivered", "failed")
    assert (kept.phones, kept.format) == (PhoneFormat.MASKED, BodyFormat.USMS)
    (shown,) = terminal("subscriptions", "show", kept.id, "--json").rows()
    assert shown["types"] == ["sms.status.changed"]
    assert shown["statuses"] == ["undelivered", "failed"]
    assert (shown["phone_format"], shown["format"]) == ("masked", "usms")


def test_the_phone_key_is_shown_once(bridge: Bridge, terminal: Terminal) -> None:
    (row,) = terminal("subscriptions", "add", URL, "--phone-format", "hashed", "--json").rows()
    key = str(row["phone_key"])
    kept = bridge.subscriptions.get(str(row["id"]))
    assert bridge.signing_keys.of(kept).phone_key == bytes.fromhex(key)
    for command in ("list", f"show {kept.id}"):
        assert key not in terminal("subscriptions", *command.split(), "--json").out
    assert "phone key" in terminal("subscriptions", "add", URL, "--phone-format", "hashed").out


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--statuses", "deliverd"], "did you mean delivered?"),
        (["--types", "sms.status"], "did you mean sms.status.changed?"),
        (["--types", "*"], "give some of sms.status.changed, "),
        (["--types", "sms.*,bridge.*", "--format", "usms"], "no words for operators' events"),
        (["--phone-format", "hidden"], "hidden"),
        (["--format", "xml"], "xml"),
    ],
)
def test_what_is_no_name_is_refused_and_nothing_stored(
    bridge: Bridge, terminal: Terminal, options: list[str], says: str
) -> None:
    ran = terminal("subscriptions", "add", URL, *options)
    assert (ran.code, ran.out) == (2, "")
    assert says in ran.err
    assert bridge.subscriptions.load().by_id() == {}


def test_headers_are_sealed_and_shown_by_name_alone(bridge: Bridge, terminal: Terminal) -> None:
    given = ("--header", "Authorization=Bearer s3cret", "--header", "X-Tenant=7")
    (row,) = terminal("subscriptions", "add", URL, *given, "--json").rows()
    kept = bridge.subscriptions.get(str(row["id"]))
    assert bridge.signing_keys.of(kept).headers == (b"Authorization: Bearer s3cret", b"X-Tenant: 7")
    for command in ("list", f"show {kept.id}"):
        ran = terminal("subscriptions", *command.split(), "--json")
        assert '"headers":["Authorization","X-Tenant"]' in ran.out
        assert "s3cret" not in ran.out
        assert "s3cret" not in terminal("subscriptions", *command.split()).out
    ran = terminal("subscriptions", "add", URL, "--header", "host=s3cret")
    assert ran.code == 2
    assert "s3cret" not in ran.err


OWN = encode_secret(b"o" * 24)


def test_a_secret_of_ones_own_is_taken_from_a_file_or_standard_input(
    bridge: Bridge, terminal: Terminal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "secret"
    path.write_text(f"{OWN}\n")
    (row,) = terminal("subscriptions", "add", URL, "--secret-file", str(path), "--json").rows()
    assert row["secret"] == OWN
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(encode_secret(b"p" * 64).encode())))
    (rotated,) = terminal("subscriptions", "rotate", str(row["id"]), "--secret-file", "-", "--json").rows()
    kept = bridge.subscriptions.get(str(row["id"]))
    assert [one.key for one in bridge.signing_keys.of(kept).keys] == [b"p" * 64, b"o" * 24]
    assert rotated["secret"] == encode_secret(b"p" * 64)


@pytest.mark.parametrize(
    "content",
    [encode_secret(b"o" * 23), encode_secret(b"o" * 65), "o" * 32, "whsec_???", "", "\udcff", "x" * 70_000],
)
@pytest.mark.parametrize("command", ["add", "rotate"])
def test_a_wrong_secret_is_refused_and_not_shown(
    bridge: Bridge, terminal: Terminal, tmp_path: Path, content: str, command: str
) -> None:
    path = tmp_path / "secret"
    path.write_bytes(content.encode(errors="surrogateescape"))
    known = bridge.subscribe(URL)[0]
    what = URL if command == "add" else known.id
    ran = terminal("subscriptions", command, what, "--secret-file", str(path))
    assert (ran.code, ran.out) == (2, "")
    assert "--secret-file" in ran.err
    assert not content or content not in ran.err
    assert bridge.subscriptions.load().by_id() == {known.id: known}


def test_rotate_shows_the_new_secret_and_how_long_the_old_one_signs(bridge: Bridge, terminal: Terminal) -> None:
    name = bridge.subscribe(URL)[0].id
    (row,) = terminal("subscriptions", "rotate", name, "--json").rows()
    (until,) = cast("list[str]", row["old_secrets_sign_until"])
    ends = datetime.fromisoformat(until).timestamp() - bridge.clock.now_ms() / 1000
    assert ends == pytest.approx(24 * 3600, abs=120)
    (row,) = terminal("subscriptions", "rotate", name, "--overlap", "0", "--json").rows()
    assert len(cast("list[str]", row["old_secrets_sign_until"])) == 1, "the one before that leaked goes on"
    people = terminal("subscriptions", "rotate", name, "--overlap", "7d")
    assert "whsec_" in people.out


@pytest.mark.parametrize("overlap", ["8d", "soon", "-1h"])
def test_an_overlap_is_at_most_seven_days(bridge: Bridge, terminal: Terminal, overlap: str) -> None:
    known = bridge.subscribe(URL)[0]
    ran = terminal("subscriptions", "rotate", known.id, f"--overlap={overlap}")
    assert (ran.code, ran.out) == (2, "")
    assert "--overlap" in ran.err
    assert bridge.subscriptions.get(known.id) == known


def test_a_url_that_a_session_named_has_no_secret_to_rotate(bridge: Bridge, terminal: Terminal) -> None:
    name = bridge.callback_for("default", URL)
    ran = terminal("subscriptions", "rotate", name)
    assert ran.code == 2
    assert "account" in ran.err


def test_rewrap_moves_everything_to_the_first_key(
    bridge: Bridge, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = bridge.subscribe(URL)[0].id
    bridge.signing_keys.of_account("default")
    old = os.environ["BRIDGE_SECRET_KEYS"]
    new = base64.b64encode(b"n" * 32).decode()
    monkeypatch.setenv("BRIDGE_SECRET_KEYS", f"{new},{old}")
    assert terminal("rewrap", "--json").rows() == [{"rewrapped": 2, "already_current": 0, "unreadable": []}]
    assert terminal("rewrap").out.split() == ["rewrapped", "0", "already", "current", "2", "unreadable", "-"]
    monkeypatch.setenv("BRIDGE_SECRET_KEYS", old)
    ran = terminal("rewrap", "--json")
    assert ran.code == 2
    assert sorted(cast("list[str]", ran.rows()[0]["unreadable"])) == ["default", name]
    assert "BRIDGE_SECRET_KEYS" in ran.err


def test_a_test_event_is_queued_and_shown_as_what_it_is(bridge: Bridge, terminal: Terminal) -> None:
    name = bridge.subscribe(URL)[0].id
    other = bridge.subscribe(URL)[0].id
    (row,) = terminal("subscriptions", "test", name, "--json").rows()
    assert bridge.queues.lengths([name, other]) == {name: 1, other: 0}
    (event,) = terminal("events", "list", "--json").rows()
    assert (event["id"], event["type"]) == (row["event"], "bridge.test")
    assert "bridge.test" in terminal("events", "list").out
    assert "bridge.test" in terminal("events", "show", str(row["event"])).out
    (waiting,) = terminal("deliveries", "list", "--json").rows()
    assert (waiting["event"], waiting["status"]) == (row["event"], "bridge.test")
    assert "queued evt_" in terminal("subscriptions", "test", name).out


@pytest.mark.usefixtures("bridge")
@pytest.mark.parametrize("command", ["test", "rotate"])
def test_what_is_not_there_cannot_be_asked_for_anything(terminal: Terminal, command: str) -> None:
    ran = terminal("subscriptions", command, "sub_nothere")
    assert (ran.code, ran.out) == (1, "")
    assert "no subscription sub_nothere" in ran.err


def test_a_client_certificate_is_taken_from_files_and_never_shown(
    bridge: Bridge, terminal: Terminal, tmp_path: Path
) -> None:
    client = Certificate(tmp_path / "client.pem", "one.example")
    files = ("--client-cert", str(client.path), "--client-key", str(client.path), "--ca-file", str(client.path))
    (row,) = terminal("subscriptions", "add", URL, *files, "--json").rows()
    kept = bridge.subscriptions.get(str(row["id"]))
    held = bridge.signing_keys.of(kept).identity
    assert held is not None
    assert held.certificate == held.authorities == client.pem
    ran = terminal("subscriptions", "show", kept.id, "--json")
    assert (ran.rows()[0]["own_authorities"], ran.rows()[0]["client_certificate_until"] is None) == (True, False)
    assert "BEGIN" not in ran.out
    for wrong in (files[:2], files[2:4], ("--ca-file", "/nowhere"), ("--ca-file", "/dev/null")):
        refused = terminal("subscriptions", "add", URL, *wrong)
        assert (refused.code, refused.out) == (2, "")


def test_what_a_subscription_was_told_is_edited(bridge: Bridge, terminal: Terminal, tmp_path: Path) -> None:
    """A token that leaked, a certificate that ends, a filter that was too narrow: none is worth what waits."""
    add = ("subscriptions", "add", URL, "--header", "Authorization=Bearer old", "--header", "X-Tenant=7", "--json")
    (row,) = terminal(*add).rows()
    name = str(row["id"])
    client = Certificate(tmp_path / "client.pem", "one.example")
    files = ("--client-cert", str(client.path), "--client-key", str(client.path), "--ca-file", str(client.path))
    filters = ("--types", "sms.*", "--statuses", "failed,expired")
    headers = ("--header", "authorization=Bearer new", "--drop-header", "X-Tenant")
    assert terminal("subscriptions", "edit", name, *filters, *headers, *files).out == f"edited {name}\n"
    found = bridge.subscriptions.get(name)
    assert (found.types, set(found.statuses)) == (("sms.*",), {"failed", "expired"})
    kept = bridge.signing_keys.of(found)
    assert kept.headers == (b"authorization: Bearer new",)
    assert kept.identity is not None
    assert kept.identity.certificate == kept.identity.authorities == client.pem
    assert terminal("subscriptions", "edit", name, "--statuses", "default", "--drop-identity").code == 0
    found = bridge.subscriptions.get(name)
    assert (found.statuses, found.identity, found.types) == ((), None, ("sms.*",))
    assert bridge.signing_keys.of(found).headers == kept.headers
    (noted,) = terminal("audit", "--limit", "1", "--json").rows()
    assert noted["details"] == {"changed": ["statuses", "identity"]}


def test_a_certificate_is_renewed_without_its_authorities(bridge: Bridge, terminal: Terminal, tmp_path: Path) -> None:
    old, new, other = (Certificate(tmp_path / f"{name}.pem", "one.example") for name in ("old", "new", "other"))

    def shown(one: Certificate) -> tuple[str, ...]:
        return ("--client-cert", str(one.path), "--client-key", str(one.path))

    def held(*options: str) -> tuple[Identity, int]:
        assert terminal("subscriptions", "edit", name, *options).code == 0
        found = bridge.subscriptions.get(name)
        identity = bridge.signing_keys.of(found).identity
        assert found.identity is not None
        assert identity is not None
        return identity, found.identity.expires_ms

    (row,) = terminal("subscriptions", "add", URL, *shown(old), "--ca-file", str(other.path), "--json").rows()
    name = str(row["id"])
    renewed, until_ms = held(*shown(new))
    assert (renewed.certificate, renewed.authorities) == (new.pem, other.pem)
    trusting, kept_ms = held("--ca-file", str(old.path))
    assert (trusting.certificate, trusting.key, trusting.authorities) == (new.pem, renewed.key, old.pem)
    assert until_ms == kept_ms > 0
    alone, _ = held("--drop-identity", *shown(old))
    assert (alone.certificate, alone.authorities) == (old.pem, b"")


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--types", "sms.status"], "--types: there is no 'sms.status'"),
        (["--types", "bridge.*"], "--format usms: the provider's format has no words"),
        (["--statuses", "fail"], "--statuses: there is no 'fail'"),
        (["--header", "Host=x"], "--header Host: callbacks have a host of their own"),
        (["--drop-header", "X-Tenant"], "--drop-header: there is no 'X-Tenant'"),
        (["--client-cert", "/nowhere"], "--client-cert"),
    ],
)
def test_a_wrong_edit_is_refused_by_name_and_changes_nothing(
    bridge: Bridge, terminal: Terminal, options: list[str], complaint: str
) -> None:
    before = bridge.subscribe(URL, options=Options(format=BodyFormat.USMS))[0]
    ran = terminal("subscriptions", "edit", before.id, *options, "--rate", "7")
    assert (ran.code, ran.out) == (2, "")
    assert complaint in ran.err
    assert bridge.subscriptions.get(before.id) == before


def test_what_stands_for_a_url_has_limits_only(bridge: Bridge, terminal: Terminal) -> None:
    name = bridge.callback_urls.subscribe("default", "https://example.com/one", 1)
    for options in (("--types", "sms.*"), ("--header", "X-Tenant=7"), ("--url", "https://example.com/two")):
        ran = terminal("subscriptions", "edit", name, *options)
        assert (ran.code, "hears of those alone: it has limits only" in ran.err) == (2, True)
    assert terminal("subscriptions", "edit", name, "--rate", "5").code == 0


def test_a_subscription_with_a_time_hears_of_what_was_recorded_since(bridge: Bridge, terminal: Terminal) -> None:
    deliveries_in_every_state(bridge)
    ran = terminal("subscriptions", "add", URL, "--since", "2h", "--json")
    (row,) = ran.rows()
    assert ran.code == 0
    assert set(row) == {"id", "url", "secret"}
    name = str(row["id"])
    (shown,) = terminal("subscriptions", "show", name, "--json").rows()
    assert (shown["state"], shown["waiting"], shown["waiting_events"]) == ("active", 4, 5)
    at_s = bridge.clock.now_ms() // 1000 - 7200
    assert terminal("subscriptions", "add", URL, "--since", str(at_s)).code == 0
    (noted,) = terminal("audit", "--limit", "1", "--json").rows()
    details = cast("dict[str, object]", noted["details"])
    assert details == {"account": "default", "since": iso_millis(at_s * 1000)}


def test_a_time_that_the_log_cannot_tell_of_is_refused(bridge: Bridge, terminal: Terminal) -> None:
    name = deliveries_in_every_state(bridge)
    bridge.log.trim("default", [name], bridge.clock.now_ms() + 60_000)
    ran = terminal("subscriptions", "add", URL, "--since", "2h")
    assert (ran.code, ran.out) == (2, "")
    assert f"from {iso_millis(bridge.filling.begins_ms('default'))} on" in ran.err
    assert "still to come" in terminal("subscriptions", "add", URL, "--since", "2099-01-01T00:00:00Z").err
    assert "no time" in terminal("subscriptions", "add", URL, "--since", "yesterday").err
    assert set(bridge.subscriptions.load().by_id()) == {name}


def test_a_filling_that_was_cut_short_is_shown_and_goes_on(
    bridge: Bridge, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    deliveries_in_every_state(bridge)

    def killed(*_args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("bridge.lifecycle.fill", killed)
        ran = terminal("subscriptions", "add", URL, "--since", "2h", "--json")
    assert ran.code == 130
    name = str(ran.rows()[0]["id"])
    assert "filling" in terminal("subscriptions", "list").out
    assert f"resume {name}" in terminal("subscriptions", "show", name).out
    assert f"resume {name}" in terminal("doctor").out
    (failed,) = terminal("audit", "--limit", "1", "--json").rows()
    assert (failed["target"], failed["outcome"]) == (name, "failed")
    assert terminal("subscriptions", "resume", name).code == 0
    (shown,) = terminal("subscriptions", "show", name, "--json").rows()
    assert (shown["state"], shown["waiting_events"]) == ("active", 5)


def test_one_more_than_an_account_may_have_is_refused(
    bridge: Bridge, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BRIDGE_MAX_SUBSCRIPTIONS", "2")
    first, second = (terminal("subscriptions", "add", URL, "--json").rows()[0]["id"] for _ in range(2))
    refused = terminal("subscriptions", "add", URL, "--json")
    assert (refused.code, refused.out) == (2, "")
    assert refused.err.startswith("error: the account default has 2 subscriptions, as many as BRIDGE_MAX_SUBSCRIPTIONS")
    assert terminal("subscriptions", "add", URL, "--account", "shop", "--json").code == 0
    # The URLs of sessions have a limit of their own.
    bridge.callback_for("default", URL)
    assert terminal("subscriptions", "remove", str(first)).code == 0
    assert terminal("subscriptions", "add", URL, "--json").code == 0
    assert second in bridge.subscriptions.load().by_id()

"""``bridge subscriptions add`` with its options: what it stores, shows once, and refuses."""

from __future__ import annotations

import pytest

from bridge.domain.subscriptions import BodyFormat, PhoneFormat
from bridge.wiring import Bridge
from tests.commands import URL, Terminal


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

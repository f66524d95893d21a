"""What a sender is told of a wrong item, to the letter; and what goes over the wire of a right one."""

from __future__ import annotations

from datetime import UTC, datetime, tzinfo
from typing import Any

import pytest

from bridge.domain.tracking import (
    MAX_ITEMS,
    MAX_PHONES,
    MAX_USER_ID_CHARS,
    SessionRequest,
    machine_of,
    mask,
    parse_item,
    parse_items,
    sort_items,
    to_wire,
)
from bridge.errors import InvalidSession

TIME = "give Unix seconds, or ISO 8601 with an offset such as 2026-11-23T06:31:08Z"
WHOLE = {
    "session_no": "S1",
    "phones": ["(86)18500000000", {"phone": "1", "user_id": "u"}],
    "metadata": {"order": 7, "é": [None, True]},
    "callback_url": "https://example.com/sms",
    "sent_at": 1_795_423_107,
}


def _nested(levels: int) -> object:
    made: object = 1
    for _ in range(levels):
        made = [made]
    return made


class Foreign:
    """No type of JSON's."""


class Nowhere(tzinfo):
    """A zone that does not say how far it is from UTC."""

    def utcoffset(self, _when: datetime | None) -> None:
        return None

    def dst(self, _when: datetime | None) -> None:
        return None

    def tzname(self, _when: datetime | None) -> None:
        return None


@pytest.mark.parametrize(
    "item",
    [
        "S1",
        WHOLE,
        {"session_no": "S1", "phone_count": 3},
        {"session_no": "S1", "sent_at": 1_795_423_107.25},
        {"session_no": "S1", "metadata": {}},
        {"session_no": "S1", "phones": ["1"]},
    ],
)
def test_what_goes_over_the_wire_is_the_item_as_it_was_given(item: object) -> None:
    """An older or newer release reads it: the names are promised."""
    wire = to_wire(parse_item(item, 0))
    assert wire == item
    assert parse_item(wire, 0) == parse_item(item, 0)


def test_a_time_is_whole_seconds_where_it_can_be() -> None:
    assert type(to_wire(SessionRequest("S1", sent_at_ms=1_795_423_107_000))["sent_at"]) is int  # type: ignore[index]


@pytest.mark.parametrize(
    ("origin", "machine"),
    [
        ("gen4711@host-1", "host-1"),
        ("a@b@host", "host"),
        ("host", "host"),
        ("", ""),
        (None, ""),
        (7, ""),
        ("gen@" + "x" * 64, "x" * 64),
        ("gen@" + "x" * 65, ""),
        ("gen@hôte", ""),
        ("gen@a\nb", ""),
    ],
)
def test_a_machine_is_named_by_a_short_plain_name_or_not_at_all(origin: object, machine: str) -> None:
    assert machine_of(origin) == machine


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("x" * 64, "x" * 64),
        ("x" * 65, "x" * 63 + "…"),
        ("1" * 64, "*" * 60 + "1111"),
        ("1" * 300, "*" * 63 + "…"),
    ],
)
def test_what_is_shown_is_short(text: str, masked: str) -> None:
    assert mask(text) == masked


def test_what_a_newer_release_says_beside_is_left_out_of_messages_alone() -> None:
    newer = {"session_no": "S1", "urgency": 1, "phones": [{"phone": "1", "carrier": "x"}], "colour": 2}
    good, bad = sort_items([newer])
    assert (good, bad) == ([SessionRequest("S1", (("1", None),), 1)], [])
    for item in (newer, {"session_no": "S1", "phones": [{"phone": "1", "carrier": "x"}]}):
        with pytest.raises(InvalidSession):
            parse_item(item, 0)
    _, ((_, _, reason),) = sort_items([{"urgency": 1, "phone_cout": 2, "session_no": "S1"}])
    assert reason == "item 0: 'phone_cout' is no field; did you mean phone_count?"


@pytest.mark.parametrize(
    "change",
    [
        {"phone_count": 1},
        {"phone_count": MAX_PHONES},
        {"phones": ["1"] * MAX_PHONES},
        {"phones": [{"phone": "1", "user_id": "u" * MAX_USER_ID_CHARS}]},
        {"callback_url": "https://example.com/" + "x" * (2_048 - 20)},
        {"callback_url": "https://example.com:1/"},
        {"sent_at": 946_684_800},
        {"sent_at": 4_102_444_800},
        {"sent_at": datetime(2026, 1, 1, tzinfo=UTC)},
        {"metadata": {"a": _nested(30)}},  # 32 levels, and the value
    ],
)
def test_limits_themselves_are_within_them(change: dict[str, object]) -> None:
    assert parse_item({"session_no": "S1", **change}, 0).session_no == "S1"


@pytest.mark.parametrize(
    ("item", "says"),
    [
        (7, "a session must be a SessionNo or an object with session_no, not a value of type int"),
        (None, "a session must be a SessionNo or an object with session_no, not null"),
        ({}, "session_no is missing; give the SessionNo that the provider returned"),
        ({"session_no": "a b"}, "session_no: 'a b'; give 1 to 64 printable ASCII characters without spaces"),
        ("é" * 64, f"session_no: '{'é' * 64}'; give 1 to 64 printable ASCII characters without spaces"),
        ({"session_no": {}}, "session_no: must be a string, not an object; give 1 to 64 printable ASCII characters "),
        ({"session_no": 10**30}, "session_no: must be a string, not a huge number; give 1 to 64 "),
        ({"session_no": 10**30 - 1}, f"session_no: must be a string, not {'*' * 26}9999; give 1 to 64 "),
        ({"session_no": -(10**31)}, "session_no: must be a string, not a huge number; give 1 to 64 "),
        ({"session_no": True}, "session_no: must be a string, not true or false; give 1 to 64 "),
        ({7: 1}, "7 is no field; the fields are session_no, phones, phone_count, metadata, callback_url, sent_at"),
        (
            {"phones": [""]},
            "phones[0]: ''; give a string of 1 to 32 printable ASCII characters, a country code in brackets first",
        ),
        (
            {"phones": [{"phone": "1", "user_id": "a\n"}]},
            r"phones[0].user_id: 'a\n'; give a string of 1 to 64 printable ",
        ),
        (
            {"phones": [{"phone": "1", "user_id": "u" * 65}]},
            f"phones[0].user_id: '{'u' * 63}…'; give a string of 1 to ",
        ),
        (
            {"metadata": {"a": Foreign()}},
            "metadata: not JSON; use strings, finite numbers, true, false, null, lists, objects",
        ),
        ({"metadata": {"a": _nested(31)}}, "metadata: nested deeper than 32 levels; make it flatter"),
        ({"metadata": {1: 1}}, "metadata: a key that is no string; JSON objects have only string keys"),
        ({"callback_url": {}}, "callback_url: must be a string, not an object"),
        ({"callback_url": Foreign()}, "callback_url: must be a string, not a value of type Foreign"),
        ({"callback_url": "x"}, "callback_url: must be https:// (or http://) and printable ASCII without spaces"),
        (
            {"callback_url": "https://example.com:0/"},
            "callback_url: has no valid host and port; give one such as https://example.com/sms",
        ),
        (
            {"callback_url": "https://[x/"},
            "callback_url: has no valid host and port; give one such as https://example.com/sms",
        ),
        (
            {"callback_url": "https://a@example.com/"},
            "callback_url: must have no user name, password or fragment; leave them out",
        ),
        ({"sent_at": 1}, "sent_at: 1 is outside the years 2000 to 2099; give Unix seconds, or ISO 8601"),
        (
            {"sent_at": 1_795_423_107_000},
            "sent_at: *********7000 is outside the years 2000 to 2099; give Unix seconds, not milliseconds, ",
        ),
        ({"sent_at": []}, f"sent_at: a list is no time; {TIME}"),
        ({"sent_at": float("nan")}, f"sent_at: nan is no time; {TIME}"),
        ({"sent_at": "2026-11-23T06:31:08"}, f"sent_at: '****-**-**T**:31:08' has no offset from UTC; {TIME}"),
        ({"sent_at": datetime(2026, 1, 1)}, f"sent_at: a time without an offset has no offset from UTC; {TIME}"),  # noqa: DTZ001 - what is refused
        (
            {"sent_at": datetime(2026, 1, 1, tzinfo=Nowhere())},
            f"sent_at: a time without an offset has no offset from UTC; {TIME}",
        ),
    ],
)
def test_a_wrong_item_is_told_in_these_words(item: Any, says: str) -> None:
    given = {"session_no": "S1", **item} if isinstance(item, dict) and item else item
    with pytest.raises(InvalidSession) as caught:
        parse_item(given, 3)
    assert str(caught.value).startswith(f"item 3: {says}")
    assert says.endswith(" ") or str(caught.value) == f"item 3: {says}"


def test_a_wrong_list_is_told_too() -> None:
    with pytest.raises(InvalidSession) as none:
        parse_items([])
    assert str(none.value) == "the list of sessions is empty; give at least one SessionNo"
    with pytest.raises(InvalidSession) as text:
        parse_items("S1")
    assert str(text.value) == "sessions must be a list, not a string; give a list such as ['nAQDODtO']"
    with pytest.raises(InvalidSession) as many:
        parse_items(["S1"] * (MAX_ITEMS + 1))
    assert many.value.index == MAX_ITEMS

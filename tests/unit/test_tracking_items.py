from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.domain.tracking import (
    MAX_ITEMS,
    SessionRequest,
    mask,
    parse_item,
    parse_items,
    sort_items,
    to_wire,
)
from bridge.errors import InvalidSession

PHONE = "(86)18500000000"
FULL = {
    "session_no": "nAQDODtO",
    "phones": [PHONE, {"phone": "18511111111", "user_id": "1213"}],
    "phone_count": 2,
    "metadata": {"order": 7, "name": "张"},
    "callback_url": "https://example.com/sms",
    "sent_at": 1795423107,
}

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
fields = st.sampled_from(["session_no", "phones", "phone_count", "metadata", "callback_url", "sent_at"])
likely_items = st.fixed_dictionaries(
    {"session_no": st.text(st.characters(codec="ascii"), min_size=1, max_size=8) | json_values},
    optional={
        "phones": st.lists(st.sampled_from([PHONE, {"phone": PHONE, "user_id": "7"}]) | json_values, max_size=3),
        "phone_count": st.integers(-1, 1002) | json_values,
        "metadata": st.dictionaries(st.text(), json_values, max_size=3),
        "callback_url": st.sampled_from(["https://example.com/", "http://[::1]:80/", "http://[", "https://a:b/"]),
        "sent_at": st.integers(0, 2**33) | st.floats() | st.datetimes().map(str) | json_values,
    },
)


def test_a_plain_session_no_is_a_request() -> None:
    request = parse_item("nAQDODtO", 0)
    assert request == SessionRequest("nAQDODtO")
    assert repr(request) == repr(SessionRequest("nAQDODtO"))
    assert hash(request) == hash(SessionRequest("nAQDODtO"))


def test_every_field_is_read() -> None:
    assert parse_item(FULL, 0) == SessionRequest(
        session_no="nAQDODtO",
        phones=((PHONE, None), ("18511111111", "1213")),
        phone_count=2,
        metadata_json='{"order":7,"name":"张"}',
        callback_url="https://example.com/sms",
        sent_at_ms=1795423107000,
    )


def test_null_fields_count_as_absent() -> None:
    empty = dict.fromkeys(["phones", "phone_count", "metadata", "callback_url", "sent_at"])
    assert parse_item({"session_no": "S1", **empty}, 0) == SessionRequest("S1")


def test_a_phone_with_an_empty_user_id_has_none() -> None:
    assert parse_item({"session_no": "S1", "phones": [{"phone": PHONE, "user_id": ""}]}, 0).phones == ((PHONE, None),)


def test_phones_are_a_multiset_and_tell_their_count() -> None:
    request = parse_item({"session_no": "S1", "phones": [PHONE, PHONE]}, 0)
    assert request.phones == ((PHONE, None), (PHONE, None))
    assert request.phone_count == 2


@pytest.mark.parametrize(
    ("sent_at", "sent_at_ms"),
    [
        (1795423107, 1795423107000),
        (1795423107.25, 1795423107250),
        ("2026-11-23T06:31:08Z", 1795415468000),
        ("2026-11-23T14:31:08.5+08:00", 1795415468500),
        (datetime(2026, 11, 23, 6, 31, 8, tzinfo=UTC), 1795415468000),
    ],
)
def test_sent_at_is_unix_seconds_or_iso_8601(sent_at: object, sent_at_ms: int) -> None:
    assert parse_item({"session_no": "S1", "sent_at": sent_at}, 0).sent_at_ms == sent_at_ms


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"session_no": None}, "session_no is missing"),
        ({"session_no": ""}, "1 to 64 printable ASCII characters without spaces"),
        ({"session_no": "S 1"}, "without spaces"),
        ({"session_no": "S1\n"}, "without spaces"),
        ({"session_no": "会话"}, "printable ASCII"),
        ({"session_no": "S" * 65}, "65 characters; give 1 to 64"),
        ({"session_no": 7}, "must be a string, not 7"),
        ({"phones": []}, "0 of them; give 1 to 1,000"),
        ({"phones": ["1"] * 1001}, "1,001 of them"),
        ({"phones": PHONE}, "phones: must be a list, not a string"),
        ({"phones": [PHONE, ""]}, r"phones\[1\]: ''; give a string"),
        ({"phones": [18500000000]}, r"phones\[0\]: \*{7}0000; give a string"),
        ({"phones": [{"user_id": "7"}]}, r"phones\[0\]\.phone: null"),
        ({"phones": [{"phone": PHONE, "user_id": 7}]}, r"phones\[0\]\.user_id: 7"),
        ({"phones": [{"phone": PHONE, "userid": "7"}]}, r"phones\[0\]: 'userid' is no field; did you mean user_id"),
        ({"phone_count": 0}, "whole number from 1 to 1,000"),
        ({"phone_count": 1001}, "whole number from 1 to 1,000"),
        ({"phone_count": True}, "not|true or false"),
        ({"phone_count": 3}, "3, but phones has 2"),
        ({"metadata": []}, "metadata: must be a JSON object, not a list"),
        ({"metadata": {"a": float("nan")}}, "metadata: not JSON"),
        ({"metadata": {"a": {1}}}, "metadata: not JSON"),
        ({"metadata": {"a": "\ud800"}}, "metadata: not JSON"),
        ({"metadata": {1: 2}}, "a key that is no string"),
        ({"metadata": {"a": "x" * 1993}}, "2,001 bytes of JSON; give at most 2,000"),
        ({"callback_url": "ftp://example.com"}, "must be https://"),
        ({"callback_url": "https://exämple.com"}, "printable ASCII"),
        ({"callback_url": "https:///path"}, "no valid host"),
        ({"callback_url": "https://example.com:99999/"}, "no valid host and port"),
        ({"callback_url": "https://user:secret@example.com/"}, "no user name"),
        ({"callback_url": "https://example.com/#part"}, "fragment"),
        ({"callback_url": "https://example.com/" + "x" * 2048}, "at most 2,048"),
        ({"sent_at": 1795423107000}, "give Unix seconds, not milliseconds"),
        ({"sent_at": "2026-11-23T06:31:08"}, "has no offset from UTC"),
        ({"sent_at": datetime(2026, 11, 23)}, "has no offset"),  # noqa: DTZ001 - the naive time is what is refused
        ({"sent_at": "yesterday"}, "is no time"),
        ({"sent_at": True}, "is no time"),
        ({"sent_at": float("inf")}, "is no time"),
        ({"phonecount": 2}, "'phonecount' is no field; did you mean phone_count"),
        ({"colour": 2}, "the fields are session_no, phones"),
    ],
)
def test_a_wrong_field_is_named_with_what_is_right(change: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidSession, match=message) as caught:
        parse_item({**FULL, **change}, 4)
    assert caught.value.index == 4
    assert str(caught.value).startswith("item 4: ")


def test_deep_metadata_is_refused() -> None:
    deep: object = 1
    for _ in range(5_000):
        deep = [deep]
    with pytest.raises(InvalidSession, match="deeper than 32"):
        parse_item({"session_no": "S1", "metadata": {"a": deep}}, 0)


def test_metadata_of_exactly_the_limit_is_taken() -> None:
    assert len(parse_item({"session_no": "S1", "metadata": {"a": "x" * 1992}}, 0).metadata_json) == 2_000


@pytest.mark.parametrize("items", ["S1", {"session_no": "S1"}, None, 7, {"S1"}])
def test_items_that_are_no_list_are_refused(items: object) -> None:
    for parse in (parse_items, sort_items):
        with pytest.raises(InvalidSession, match="sessions must be a list"):
            parse(items)


def test_a_call_takes_ten_thousand_items_and_not_one_more() -> None:
    assert len(parse_items(["S1"] * MAX_ITEMS)) == MAX_ITEMS
    for parse in (parse_items, sort_items):
        with pytest.raises(InvalidSession, match="10,001 sessions in one call"):
            parse(["S1"] * (MAX_ITEMS + 1))


def test_an_empty_call_is_a_mistake_of_the_sender_but_not_of_a_message() -> None:
    with pytest.raises(InvalidSession, match="empty"):
        parse_items([])
    assert sort_items([]) == ([], [])


def test_the_first_wrong_item_is_told_by_its_index() -> None:
    with pytest.raises(InvalidSession) as caught:
        parse_items(["S1", "S 2", "S 3"])
    assert caught.value.index == 1


def test_bad_items_are_sorted_from_good_ones() -> None:
    good, bad = sort_items(["S1", {"session": "S2"}, ["S3"], "S4"])
    assert [request.session_no for request in good] == ["S1", "S4"]
    assert [(index, item) for index, item, _ in bad] == [(1, {"session": "S2"}), (2, ["S3"])]
    assert bad[0][2] == "item 1: 'session' is no field; did you mean session_no?"


@given(st.sampled_from(["{}", "(86){}", "0086{}", "{} ", "x{}y"]), st.from_regex(r"1[3-9][0-9]{9}", fullmatch=True))
def test_no_message_shows_more_of_a_phone_than_four_digits(form: str, phone: str) -> None:
    text = form.format(phone)
    for item in (
        {"session_no": "S1", "phones": [[text]]},
        {"session_no": "S1", "phones": [int(phone)]},
        {"session_no": f" {text}"},
        {"session_no": int(phone)},
        {"session_no": "S1", text: 1},
        {"session_no": "S1", "sent_at": text},
        {"session_no": "S1", "metadata": {"a": {text}}},
    ):
        with pytest.raises(InvalidSession) as caught:
            parse_item(item, 0)
        assert phone[4:] not in str(caught.value)


def test_masking_keeps_the_last_four_digits() -> None:
    assert mask("(86)18500001234") == "(**)*******1234"
    assert mask("S1") == "S1"


@given(json_values | likely_items | st.dictionaries(fields | st.text(), json_values, max_size=6))
def test_any_json_value_is_a_request_or_an_invalid_session(value: object) -> None:
    try:
        request = parse_item(value, 0)
    except InvalidSession:
        return
    again = parse_item(json.loads(json.dumps(to_wire(request))), 0)
    assert again == request


@given(st.datetimes(timezones=st.timezones()))
def test_any_aware_time_is_a_request_or_an_invalid_session(when: datetime) -> None:
    try:
        request = parse_item({"session_no": "S1", "sent_at": when.isoformat()}, 0)
    except InvalidSession:
        return
    assert request.sent_at_ms is not None
    assert abs(datetime.fromtimestamp(request.sent_at_ms / 1_000, UTC) - when) <= timedelta(milliseconds=1)

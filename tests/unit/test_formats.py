"""How callbacks are written for each subscription: phones, bodies, and what acknowledges them."""

from __future__ import annotations

import hashlib
import hmac
import json
from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.domain.events import Record, event_id, pack, record_of_test, render, unpack
from bridge.domain.formats import hashed, masked, renderer, understood
from bridge.domain.outcome import READ_BODY, Answer, Failure
from bridge.domain.receipts import normalise_phone
from bridge.domain.subscriptions import (
    BodyFormat,
    Options,
    PhoneFormat,
    Subscription,
    parse_statuses,
    parse_types,
)
from bridge.errors import UsageError
from tests.examples import examples
from tests.unit.test_events import RECORD, changed, records

KEY = b"k" * 32
EVERY = list(product(BodyFormat, PhoneFormat))


def subscribed(body: BodyFormat = BodyFormat.STANDARD, phones: PhoneFormat = PhoneFormat.FULL) -> Subscription:
    return Subscription(id="sub_a", account="acc", url="", created_ms=0, secrets=(), format=body, phones=phones)


def body_of(event: Record, body: BodyFormat, phones: PhoneFormat) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(renderer(subscribed(body, phones), KEY)(event)[1])
    return told


def phone_in(told: dict[str, Any]) -> object:
    return told["Data"][0]["Phone"] if "Data" in told else told["data"]["phone"]


# --- phones


@pytest.mark.parametrize(
    ("phone", "shown"),
    [
        ("(86)18500000000", "(86)*******0000"),
        ("(0086)18500001234", "(0086)*******1234"),
        ("(1)4155550100", "(1)******0100"),
        ("18500000000", "*******0000"),
        ("+86 185 0000 1234", "*************1234"),
        ("(18500000000)", "*********000)"),
        ("(86)1234567", "(86)****567"),
        ("(86)12", "(86)*2"),
        ("(86)", "(86)"),
        ("7", "*"),
        ("", ""),
        ("QbPtKJPa", "****KJPa"),
    ],
)
def test_a_masked_phone_shows_its_country_and_its_end(phone: str, shown: str) -> None:
    assert masked(phone) == shown


@given(st.text(max_size=30))
def test_a_mask_hides_at_least_half_of_the_number(phone: str) -> None:
    shown = masked(phone)
    assert len(shown) == len(phone)
    hidden = sum(one != other for one, other in zip(shown, phone, strict=True)) + phone.count("*")
    number = phone.partition(")")[2] if phone.startswith("(") and shown.startswith(phone.partition(")")[0]) else phone
    assert hidden >= len(number) // 2


def test_a_hash_is_one_that_anybody_with_the_key_computes() -> None:
    expected = hmac.new(KEY, b"8618500000000", hashlib.sha256).hexdigest()
    assert {hashed(one, KEY) for one in ("(86)18500000000", "18500000000", "+86 185 0000 0000")} == {expected}
    assert hashed("(86)18500000000", b"another key") != expected


# --- bodies


@examples(150)
@given(records, st.sampled_from(EVERY))
def test_every_format_is_a_function_of_the_record_with_the_ids_of_the_standard_one(
    event: Record, chosen: tuple[BodyFormat, PhoneFormat]
) -> None:
    write = renderer(subscribed(*chosen), KEY)
    first = write(event)
    assert write(unpack(pack(event))) == first
    assert first[0] == event_id("acc", event)
    json.loads(first[1])


@given(records)
def test_full_phones_in_the_standard_format_are_what_every_other_reader_of_the_log_sees(event: Record) -> None:
    assert renderer(subscribed(), b"")(event) == render("acc", event)


@examples(150)
@given(
    st.from_regex(r"(\((86|1|0086)\))?1[3-9][0-9]{9}", fullmatch=True),
    st.sampled_from(list(BodyFormat)),
    st.sampled_from([PhoneFormat.MASKED, PhoneFormat.HASHED]),
    st.integers(0, 6),
)
def test_no_field_that_the_bridge_makes_holds_a_phone_that_is_masked_or_hashed(
    phone: str, body: BodyFormat, phones: PhoneFormat, status: int
) -> None:
    event = changed(phone=phone, status=status, result=None if status == 6 else "Success", user_id="", metadata="")
    message_id, told = renderer(subscribed(body, phones), KEY)(event)
    digits = normalise_phone(phone)
    assert phone.encode() not in told
    assert digits[-11:].encode() not in told
    assert digits[-11:] not in message_id
    shown = phone_in(json.loads(told))
    assert shown == (masked(phone) if phones is PhoneFormat.MASKED else hashed(phone, KEY))


@pytest.mark.parametrize("phones", PhoneFormat)
def test_what_the_sender_gave_comes_back_as_given_in_every_phone_format(phones: PhoneFormat) -> None:
    """A sender that puts the phone into the user id or the metadata has it told: they are its own."""
    told = body_of(changed(user_id="18500000000", metadata='{"p":"18500000000"}'), BodyFormat.STANDARD, phones)
    assert (told["data"]["user_id"], told["data"]["metadata"]) == ("18500000000", {"p": "18500000000"})


def test_the_providers_push_is_written_field_for_field() -> None:
    _, body = renderer(subscribed(BodyFormat.USMS), b"")(RECORD)
    assert body.decode() == (
        '{"MsgType":2,"Data":[{"SessionNo":"nAQDODtO","Phone":"(86)18500000000","CostCount":1,'
        '"ReceiptTime":1795415462,"ReceiptResult":"发送成功","ReceiptCode":"DELIVRD","ReceiptDesc":"成功",'
        '"UserId":"1213"}]}'
    )


def test_our_own_deadline_is_an_unknown_status_in_the_providers_words() -> None:
    event = changed(status=6, result=None, code="", description="", receipt_time=0, segments=0)
    (receipt,) = body_of(event, BodyFormat.USMS, PhoneFormat.FULL)["Data"]
    assert (receipt["ReceiptResult"], receipt["ReceiptCode"]) == ("状态未知", "NO_RECEIPT")
    assert receipt["ReceiptTime"] == event.observed_ms // 1000
    assert receipt["ReceiptDesc"] == "no receipt within the time that was waited for it"


# --- tests of a subscription


@pytest.mark.parametrize(("body", "phones"), EVERY)
def test_a_test_is_told_in_every_format(body: BodyFormat, phones: PhoneFormat) -> None:
    event = unpack(pack(record_of_test("acc", "sub_a", "n1", 1_795_415_468_123)))
    told = body_of(event, body, phones)
    if body is BodyFormat.USMS:
        assert told == {"MsgType": 2, "Data": []}
    else:
        assert told == {
            "id": event_id("acc", event),
            "type": "bridge.test",
            "timestamp": "2026-11-23T06:31:08.123Z",
            "data": {"account": "acc", "subscription": "sub_a"},
        }


def test_two_tests_have_two_ids() -> None:
    assert len({event_id("acc", record_of_test("acc", "sub_a", nonce, 1)) for nonce in ("1", "2")}) == 2


# --- what acknowledges


def answered(status: int, body: bytes = b"", failure: Failure | None = None) -> Answer:
    return Answer(status, failure, "", body, 1)


@pytest.mark.parametrize(
    "body", [b"", b'{"code":0}', b'{"code":"0"}', b"{}", b"OK", b"[1]", b'{"code":0,"msg":"\xe5', b"\xff", b"0"]
)
def test_a_push_is_acknowledged_by_code_0_or_by_any_2xx_that_has_no_other_code(body: bytes) -> None:
    assert understood(BodyFormat.USMS, answered(200, body)) == answered(200, body)


LONG = b"x" * 5_000


@pytest.mark.parametrize(
    "body", [b'{"code":0,"msg":"' + LONG, b'{ "a" : [{}] ,\n"code" : "0" , "b":"' + LONG, LONG, b"[" * 5_000]
)
def test_of_a_long_answer_what_was_read_counts(body: bytes) -> None:
    read = answered(200, body[:READ_BODY])
    assert understood(BodyFormat.USMS, read) == read


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b'{"code":500,"message":"' + LONG, "answered with code 500 instead of 0"),
        (b'{"data":{"code":0},"code":7,"message":"' + LONG, "answered with code 7 instead of 0"),
        (b'{"message":"' + LONG + b'","code":500}', "answered with more than 4096 bytes, and no code in them"),
        (b'{"a":' * 2_000, "answered with more than 4096 bytes, and no code in them"),
    ],
)
def test_a_refusal_is_one_however_long_it_is(body: bytes, says: str) -> None:
    """Fault: with a stack trace in it, it was cut off after a kilobyte, was no JSON then, and counted as accepted."""
    heard = understood(BodyFormat.USMS, answered(200, body[:READ_BODY]))
    assert (heard.failure, heard.error) == (Failure.REFUSED, says)


@pytest.mark.parametrize("body", [b'{"code":1}', b'{"code":"E7"}', b'{"code":null}', b'{"code":-1}', b'{"code":[]}'])
def test_another_code_is_a_failure_in_the_providers_format_alone(body: bytes) -> None:
    heard = understood(BodyFormat.USMS, answered(200, body))
    assert (heard.status, heard.failure) == (200, Failure.REFUSED)
    assert "instead of 0" in heard.error
    assert understood(BodyFormat.STANDARD, answered(200, body)) == answered(200, body)


def test_what_failed_anyway_is_left_as_it_is() -> None:
    broken = answered(0, b'{"code":1}', Failure.RESET)
    assert understood(BodyFormat.USMS, broken) == broken


@given(st.binary(max_size=200))
def test_no_answer_is_too_odd(body: bytes) -> None:
    assert understood(BodyFormat.USMS, answered(200, body)).failure in {None, Failure.REFUSED}


# --- filters


def test_names_are_read_in_any_order_and_kept_in_ours() -> None:
    assert parse_statuses(" failed ,delivered,failed") == ("delivered", "failed")
    assert parse_types("bridge.test,sms.status.changed") == ("sms.status.changed", "bridge.test")
    assert parse_types("bridge.*, bridge.subscription.disabled") == ("bridge.subscription.disabled", "bridge.*")
    assert parse_types("sms.*") == ("sms.*",)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("deliverd", "--statuses: there is no 'deliverd'; did you mean delivered?"),
        ("delivered,", "--statuses: there is no ''; give some of unknown, delivered"),
        ("tracked", "--statuses: there is no 'tracked'"),
        ("DELIVERED", "there is no 'DELIVERED'"),
    ],
)
def test_an_unknown_status_is_refused_with_the_nearest(text: str, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_statuses(text)
    assert says in str(caught.value)


def test_an_unknown_type_is_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"did you mean sms\.status\.changed\?"):
        parse_types("sms.status.change")


def test_the_default_is_every_status_of_the_main_event() -> None:
    assert Options().types == ("sms.status.changed",)
    assert Options().statuses == ()

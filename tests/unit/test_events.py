from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.domain import events
from bridge.domain.events import Record, event_id, iso_millis, iso_seconds, lane_id, pack, record, render, unpack
from bridge.domain.receipts import Receipt, Status
from bridge.domain.status import track, transition
from bridge.domain.tracking import SessionRequest, parse_item
from bridge.provider.wire import parse_answer
from tests.examples import examples

NOW = 1_795_415_468_123
RECORD = Record(
    schema=events.SCHEMA,
    session_no="nAQDODtO",
    phone="(86)18500000000",
    user_id="1213",
    status=int(Status.DELIVERED),
    previous=int(Status.UNKNOWN),
    sequence=2,
    corrected=False,
    late=False,
    result="发送成功",
    code="DELIVRD",
    description="成功",
    receipt_time=1_795_415_462,
    segments=1,
    observed_ms=NOW,
    previous_poll_ms=NOW - 30_000,
    metadata='{"order":7,"name":"张"}',
)
BODY = (
    '{"id":"ID","type":"sms.status.changed","timestamp":"2026-11-23T06:31:08.123Z","data":{'
    '"account":"default","session_no":"nAQDODtO","phone":"(86)18500000000","user_id":"1213",'
    '"status":"delivered","previous_status":"unknown","final":true,"sequence":2,'
    '"receipt":{"result":"发送成功","code":"DELIVRD","description":"成功","time":"2026-11-23T06:31:02Z"},'
    '"segments":1,"previous_poll_at":"2026-11-23T06:30:38.123Z","corrected":false,"late":false,'
    '"metadata":{"order":7,"name":"张"}}}'
)


def changed(**fields: object) -> Record:
    return msgspec.structs.replace(RECORD, **fields)


def data_of(event: Record) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(render("default", event)[1])
    data: dict[str, Any] = body["data"]
    return data


def test_whatever_a_sender_or_the_provider_says_is_no_line_of_its_own() -> None:
    """CR, LF and NUL in metadata, or in a word of the provider's, are escaped: a body has no byte that ends a line."""
    smuggled = "a\r\n\r\nPOST / HTTP/1.1\r\nHost: b\r\n\0"
    item = parse_item({"session_no": "s1", "metadata": {smuggled: smuggled}}, 0)
    event = changed(metadata=item.metadata_json, user_id=smuggled, description=smuggled, code=smuggled)
    assert not set(render("default", event)[1]) & set(b"\r\n\0")
    data = data_of(event)
    assert (data["metadata"], data["user_id"]) == ({smuggled: smuggled}, smuggled)


# --- the id


def test_an_id_is_short_plain_and_never_changes() -> None:
    assert event_id("default", RECORD) == "evt_vybvubqnj2d7ztshe3cyvgs4ye"


@pytest.mark.parametrize(
    "fields",
    [
        {"sequence": 9},
        {"observed_ms": NOW + 1},
        {"previous_poll_ms": 0},
        {"previous": int(Status.TRACKED)},
        {"metadata": ""},
        {"code": "0", "description": "", "result": "Success", "segments": 3},
        {"corrected": True},
        {"late": True},
        {"phone": "18500000000"},
        {"phone": "(0086)18500000000"},
        {"phone": "+86 185 0000 0000"},
    ],
)
def test_the_same_change_seen_again_has_the_same_id(fields: dict[str, object]) -> None:
    assert event_id("default", changed(**fields)) == event_id("default", RECORD)


OTHERS: list[tuple[str, Record]] = [
    ("default", RECORD),
    ("other", RECORD),
    ("default", changed(session_no="xBBDODtP")),
    ("default", changed(phone="(86)18500000001")),
    ("default", changed(user_id="1214")),
    ("default", changed(user_id="")),
    ("default", changed(receipt_time=RECORD.receipt_time + 1)),
    ("default", changed(receipt_time=0)),
    *[("default", changed(status=int(status))) for status in Status if status is not Status.DELIVERED],
]


def test_two_changes_never_share_an_id() -> None:
    assert len({event_id(account, event) for account, event in OTHERS}) == len(OTHERS)


def test_neighbouring_fields_do_not_run_together() -> None:
    assert event_id("a", changed(session_no="1:bc")) != event_id("a1:b", changed(session_no="c"))
    assert event_id("d", changed(phone="x", user_id="yz")) != event_id("d", changed(phone="xy", user_id="z"))


@pytest.mark.parametrize("fields", [{"status": 1}, {"status": 6, "result": None}])
def test_the_receipt_time_of_what_is_no_final_word_of_the_provider_is_not_in_the_id(fields: dict[str, object]) -> None:
    event = changed(**fields)
    assert event_id("default", event) == event_id("default", msgspec.structs.replace(event, receipt_time=1))


def test_a_lane_is_one_phone_of_one_session_in_any_spelling() -> None:
    lane = lane_id("s", "18500000000")
    assert len(lane) == 8
    assert lane_id("s", "(86)18500000000") == lane
    assert len({lane, lane_id("t", "18500000000"), lane_id("s", "18500000001")}) == 3


# --- the body


def test_a_body_is_the_contract_key_for_key_in_its_order() -> None:
    message_id, body = render("default", RECORD)
    assert message_id == event_id("default", RECORD)
    assert body.decode() == BODY.replace("ID", message_id)


def test_a_deadline_of_ours_has_no_receipt() -> None:
    data = data_of(changed(status=6, result=None, code="", description="", receipt_time=0, segments=0))
    assert (data["status"], data["final"], data["receipt"], data["segments"]) == ("no_receipt", True, None, None)


def test_a_session_polled_for_the_first_time_has_no_previous_poll() -> None:
    assert data_of(changed(previous_poll_ms=0))["previous_poll_at"] is None


@pytest.mark.parametrize("time", [0, -1, 253_402_300_800, 2**62])
def test_a_receipt_time_that_is_no_date_is_null(time: int) -> None:
    assert data_of(changed(receipt_time=time))["receipt"]["time"] is None


@pytest.mark.parametrize(("time", "told"), [(1, "1970-01-01T00:00:01Z"), (253_402_300_799, "9999-12-31T23:59:59Z")])
def test_the_first_and_the_last_second_that_can_be_a_date_are_one(time: int, told: str) -> None:
    assert data_of(changed(receipt_time=time))["receipt"]["time"] == told


@pytest.mark.parametrize(("corrected", "late"), [(True, False), (False, True)])
def test_a_correction_and_a_late_receipt_are_said(corrected: bool, late: bool) -> None:
    data = data_of(changed(corrected=corrected, late=late))
    assert (data["corrected"], data["late"]) == (corrected, late)


def test_no_metadata_is_an_empty_object() -> None:
    assert data_of(changed(metadata=""))["metadata"] == {}


def test_each_status_is_named_and_final_as_the_contract_says() -> None:
    named = {(data := data_of(changed(status=int(status))))["status"]: data["final"] for status in Status}
    assert named == {
        "tracked": False,
        "unknown": False,
        "delivered": True,
        "undelivered": True,
        "expired": True,
        "failed": True,
        "no_receipt": True,
    }
    assert tuple(named) == events.STATUSES


@given(st.dictionaries(st.text(), st.none() | st.floats(allow_nan=False, allow_infinity=False) | st.text(), max_size=4))
def test_metadata_comes_back_as_given(metadata: dict[str, object]) -> None:
    text = '{"b":1,"a":1.10,"n":1e2,"z":"\\u00e9","b":2}'
    assert f'"metadata":{text}}}}}'.encode() in render("default", changed(metadata=text))[1]
    try:
        request = parse_item({"session_no": "s", "metadata": metadata}, 0)
    except ValueError:
        return  # a lone surrogate, or too long: refused at the door
    assert data_of(changed(metadata=request.metadata_json))["metadata"] == metadata


# --- for any record


wire_text = st.text(st.characters(), max_size=20)
wire_times = st.integers(-(2**70), 2**70) | st.integers(0, 253_402_300_799) | st.text(max_size=3) | st.none()
wire_receipts = st.fixed_dictionaries(
    {"Phone": wire_text, "ReceiptResult": wire_text | st.sampled_from(["Success", "Fail", "Unknow"])},
    optional={
        "ReceiptCode": wire_text,
        "ReceiptDesc": wire_text | st.text(min_size=1001, max_size=1010),
        "ReceiptTime": wire_times,
        "CostCount": wire_times,
        "UserId": wire_text | st.integers(),
    },
)


@examples(200)
@given(st.lists(wire_receipts, max_size=4), st.sampled_from(["", '{"a":"\\ud83d\\ude00"}']))
def test_whatever_the_wire_lets_through_is_recorded_and_rendered(
    given_receipts: list[dict[str, object]], metadata: str
) -> None:
    # json.dumps escapes lone surrogates, as a provider may that cut a text in half.
    answer = {"RetCode": 0, "Data": [{"SessionNo": "s", "ReceiptSet": given_receipts}]}
    heard = parse_answer(json.dumps(answer).encode(), ["s"]).receipts.by_session["s"]
    state = track(None, SessionRequest("s", metadata_json=metadata), NOW)
    done = transition(state, heard, NOW + 10_000, 3 * 86_400_000)
    for change in done.changes:
        event = record("s", state, change, NOW + 10_000)
        kept = unpack(pack(event))
        assert kept == event
        message_id, body = render("default", kept)
        assert json.loads(body)["id"] == message_id
        assert lane_id("s", change.phone)
    assert msgspec.msgpack.encode(done.state)


records = st.builds(
    Record,
    schema=st.integers(1, events.SCHEMA),
    session_no=st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=64),
    phone=st.text(min_size=1, max_size=64),
    user_id=st.text(max_size=64),
    status=st.integers(1, 6),
    previous=st.integers(0, 6),
    sequence=st.integers(1, 2**32),
    corrected=st.booleans(),
    late=st.booleans(),
    result=st.none() | st.text(max_size=64),
    code=st.text(max_size=32),
    description=st.text(max_size=100),
    receipt_time=st.integers(-(2**63), 2**63 - 1) | st.integers(0, 2**33),
    segments=st.integers(0, 1_000_000),
    observed_ms=st.integers(0, 4_102_444_800_000),
    previous_poll_ms=st.integers(0, 4_102_444_800_000),
    metadata=st.sampled_from(["", "{}", '{"a":[1,{"b":null}]}']),
)


@examples(200)
@given(records)
def test_a_body_is_a_function_of_the_record_and_tells_all_of_it(event: Record) -> None:
    message_id, body = render("acc", event)
    assert render("acc", unpack(pack(event))) == (message_id, body)
    told = json.loads(body)
    data = told["data"]
    assert list(told) == ["id", "type", "timestamp", "data"]
    assert list(data) == list(json.loads(BODY)["data"])
    assert (data["account"], data["session_no"], data["phone"], data["user_id"], data["sequence"]) == (
        "acc",
        event.session_no,
        event.phone,
        event.user_id,
        event.sequence,
    )
    if event.result is not None:
        assert {key: data["receipt"][key] for key in ("result", "code", "description")} == {
            "result": event.result,
            "code": event.code,
            "description": event.description,
        }


def test_a_record_starts_with_its_schema_and_keeps_all_fields() -> None:
    packed = pack(RECORD)
    assert msgspec.msgpack.decode(packed)[0] == events.SCHEMA
    assert unpack(packed) == RECORD
    assert len(pack(changed(metadata="", description=""))) <= 120


def test_a_record_of_the_first_schema_is_read_as_the_change_that_it_is() -> None:
    """It ends with the metadata: a log that an earlier release wrote goes on being delivered, under the same ids."""
    _, *fields = msgspec.structs.astuple(RECORD)[:17]
    old = unpack(msgspec.msgpack.encode([1, *fields]))
    assert old == changed(schema=1, type=0)
    assert render("default", old) == render("default", RECORD)


def test_a_record_of_a_newer_release_is_not_guessed_at() -> None:
    with pytest.raises(msgspec.ValidationError, match="schema"):
        unpack(pack(changed(schema=events.SCHEMA + 1)))


@pytest.mark.parametrize("status", ["Success", "Unknow"])
def test_a_record_is_made_of_the_change_and_the_session_before_it(status: str) -> None:
    state = transition(track(None, SessionRequest("s", metadata_json='{"a":1}'), NOW), [], NOW + 5, 10**9).state
    given_receipt = Receipt("18500000000", "u", status, "C", "D", 77, 2)
    (change,) = transition(state, [given_receipt], NOW + 10, 10**9).changes
    event = record("s", state, change, NOW + 10)
    assert (event.previous_poll_ms, event.observed_ms, event.metadata) == (NOW + 5, NOW + 10, '{"a":1}')
    assert (event.result, event.code, event.description, event.receipt_time, event.segments) == (
        status,
        "C",
        "D",
        77,
        2,
    )
    assert (event.phone, event.user_id, event.sequence, event.previous) == ("18500000000", "u", 1, 0)


# --- times


@pytest.mark.parametrize("form", [iso_seconds, lambda seconds: iso_millis(seconds * 1000 + 7)])
@given(seconds=st.integers(0, 253_402_300_799))
def test_times_are_iso_8601_in_utc(form: Callable[[int], str], seconds: int) -> None:
    text = form(seconds)
    assert text.endswith("Z")
    read = datetime.fromisoformat(text)
    assert read.utcoffset() == UTC.utcoffset(None)
    assert int(read.replace(microsecond=0).timestamp()) == seconds
    assert read.microsecond == (7000 if "." in text else 0)

"""The provider's answers, documented and not: what is a receipt, what is skipped, and that nothing else is lost."""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Mapping

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bridge.domain.receipts import Receipt
from bridge.errors import TransientProviderError
from bridge.provider.wire import Answer, parse_answer

_Phone = Mapping[str, object]

GOOD: _Phone = {
    "CostCount": 6,
    "Phone": "QbPtKJPa",
    "ReceiptCode": "0",
    "ReceiptDesc": "DxMRsuET",
    "ReceiptResult": "发送成功",
    "ReceiptTime": 6,
    "UserId": "1213",
}
AS_RECEIPT = Receipt(
    phone="QbPtKJPa", user_id="1213", result="发送成功", code="0", description="DxMRsuET", time=6, segments=6
)


def _body(data: object, **top: object) -> bytes:
    return json.dumps({"RetCode": 0, "Action": "GetUSMSSendReceiptResponse", "Data": data, **top}).encode()


def _session(*phones: object, session_no: object = "s1") -> dict[str, object]:
    return {"SessionNo": session_no, "ReceiptSet": list(phones)}


def _parse(data: object, *asked: str) -> Answer:
    return parse_answer(_body(data), asked or ("s1",))


def test_the_documents_example_is_read_as_it_stands() -> None:
    body = json.dumps(
        {
            "Action": "GetUSMSSendReceiptResponse",
            "Data": [{"ReceiptSet": [GOOD], "SessionNo": "BmThtoRB"}],
            "Message": "OnVhSPcD",
            "RetCode": 0,
        }
    )
    answer = parse_answer(body.encode(), ["BmThtoRB"])
    assert answer.ret_code == 0
    assert answer.message == "OnVhSPcD"
    assert answer.receipts.by_session == {"BmThtoRB": [AS_RECEIPT]}
    assert (answer.receipts.skipped, answer.receipts.strangers) == (0, 0)
    assert answer.receipts.unseen_results == frozenset()


@pytest.mark.parametrize(
    "data",
    [None, [], {}, [_session()], [{"SessionNo": "s1", "ReceiptSet": None}], [{"SessionNo": "s1"}]],
    ids=repr,
)
def test_every_way_to_say_no_receipts(data: object) -> None:
    receipts = _parse(data).receipts
    assert receipts.by_session == {"s1": []}
    assert (receipts.skipped, receipts.strangers) == (0, 0)


def test_data_may_be_missing_altogether() -> None:
    assert parse_answer(b'{"RetCode":0}', ["s1"]).receipts.by_session == {"s1": []}


def test_sessions_are_all_there_in_the_order_asked_whatever_the_answer_holds() -> None:
    receipts = _parse([_session(GOOD, session_no="s3")], "s2", "s3", "s1").receipts
    assert list(receipts.by_session) == ["s2", "s3", "s1"]
    assert receipts.by_session == {"s1": [], "s2": [], "s3": [AS_RECEIPT]}


@pytest.mark.parametrize("broken", [False, True], ids=["typed", "tolerant"])
def test_a_repeated_session_is_merged_and_a_strangers_is_dropped_and_counted(broken: bool) -> None:
    other = dict(GOOD, Phone="(60)1")
    data = [_session(GOOD), _session(GOOD, session_no="someone's"), _session(other)]
    if broken:
        data.append(_session({"Phone": None}))
    receipts = _parse(data).receipts
    assert [receipt.phone for receipt in receipts.by_session["s1"]] == ["QbPtKJPa", "(60)1"]
    assert receipts.strangers == 1
    assert receipts.skipped == (1 if broken else 0)


def _without(name: str) -> _Phone:
    return {key: value for key, value in GOOD.items() if key != name}


@pytest.mark.parametrize(
    "phone",
    [
        _without("Phone"),
        dict(GOOD, Phone=None),
        dict(GOOD, Phone=""),
        dict(GOOD, Phone=["1"]),
        dict(GOOD, Phone=True),
        dict(GOOD, Phone=1.5),
        dict(GOOD, Phone="1" * 65),
        _without("ReceiptResult"),
        dict(GOOD, ReceiptResult=None),
        dict(GOOD, ReceiptResult=7),
        dict(GOOD, ReceiptResult="x" * 65),
        dict(GOOD, ReceiptCode={}),
        dict(GOOD, ReceiptCode="x" * 129),
        dict(GOOD, ReceiptTime="soon"),
        dict(GOOD, ReceiptTime=[6]),
        dict(GOOD, ReceiptTime=6.5),
        dict(GOOD, ReceiptTime=True),
        dict(GOOD, ReceiptTime=float("nan")),
        dict(GOOD, ReceiptTime=float("inf")),
        dict(GOOD, UserId={}),
        dict(GOOD, UserId="x" * 257),
        None,
        "a string",
        [GOOD],
    ],
    ids=repr,
)
def test_a_malformed_receipt_costs_itself_and_no_other(phone: object) -> None:
    receipts = _parse([_session(GOOD, phone, GOOD), _session(GOOD, session_no="s2")], "s1", "s2").receipts
    assert receipts.by_session == {"s1": [AS_RECEIPT, AS_RECEIPT], "s2": [AS_RECEIPT]}
    assert receipts.skipped == 1


@pytest.mark.parametrize(
    ("phone", "field", "value"),
    [
        (_without("CostCount"), "segments", 0),
        (dict(GOOD, CostCount=None), "segments", 0),
        (dict(GOOD, CostCount="n/a"), "segments", 0),
        (dict(GOOD, CostCount=[]), "segments", 0),
        (dict(GOOD, CostCount=-1), "segments", 0),
        (dict(GOOD, CostCount=10**30), "segments", 0),
        (dict(GOOD, CostCount="2"), "segments", 2),
        (dict(GOOD, CostCount=2.0), "segments", 2),
        (_without("UserId"), "user_id", ""),
        (dict(GOOD, UserId=None), "user_id", ""),
        (dict(GOOD, UserId=1213), "user_id", "1213"),
        (_without("ReceiptCode"), "code", ""),
        (dict(GOOD, ReceiptCode=None), "code", ""),
        (dict(GOOD, ReceiptCode=0), "code", "0"),
        (_without("ReceiptDesc"), "description", ""),
        (dict(GOOD, ReceiptDesc=None), "description", ""),
        (dict(GOOD, ReceiptDesc="x" * 1001), "description", "x" * 1000),
        (dict(GOOD, ReceiptDesc="\ud83d half"), "description", "? half"),
        (_without("ReceiptTime"), "time", 0),
        (dict(GOOD, ReceiptTime=None), "time", 0),
        (dict(GOOD, ReceiptTime=""), "time", 0),
        (dict(GOOD, ReceiptTime="1795423107"), "time", 1795423107),
        (dict(GOOD, ReceiptTime=1795423107.0), "time", 1795423107),
        (dict(GOOD, ReceiptTime=-1), "time", 0),
        # Milliseconds: a date in the year 58,000 helps nobody, the status does.
        (dict(GOOD, ReceiptTime=1795423107000), "time", 0),
        (dict(GOOD, Phone=18500000000), "phone", "18500000000"),
        (dict(GOOD, ReceiptResult="已撤回"), "result", "已撤回"),
    ],
    ids=repr,
)
def test_a_status_is_not_lost_for_what_merely_adorns_it(phone: _Phone, field: str, value: object) -> None:
    receipts = _parse([_session(phone)]).receipts
    assert receipts.skipped == 0
    (receipt,) = receipts.by_session["s1"]
    expected = {name: getattr(AS_RECEIPT, name) for name in AS_RECEIPT.__struct_fields__} | {field: value}
    assert receipt == Receipt(**expected)


@pytest.mark.parametrize("broken", [False, True], ids=["typed", "tolerant"])
def test_results_that_no_document_names_are_reported_once(broken: bool) -> None:
    new = dict(GOOD, ReceiptResult="Recalled")
    known = dict(GOOD, ReceiptResult=" SUCCESS ")
    data = [_session(new, new, known, *([None] if broken else []))]
    assert _parse(data).receipts.unseen_results == frozenset({"Recalled"})


def test_a_result_in_a_strangers_session_is_not_reported() -> None:
    data = [_session(dict(GOOD, ReceiptResult="Recalled"), session_no="someone's")]
    assert _parse(data).receipts.unseen_results == frozenset()


def test_text_that_a_carrier_cut_in_mid_character_costs_that_character() -> None:
    body = _body([_session(GOOD)]).replace(b"DxMRsuET", "成功".encode()[:-1])
    (receipt,) = parse_answer(body, ["s1"]).receipts.by_session["s1"]
    assert receipt.description == "成\N{REPLACEMENT CHARACTER}"


def test_a_byte_order_mark_is_no_obstacle() -> None:
    assert parse_answer(b"\xef\xbb\xbf" + _body([_session(GOOD)]), ["s1"]).receipts.by_session == {"s1": [AS_RECEIPT]}


def test_a_session_entry_that_is_none_costs_itself() -> None:
    data = [None, 7, _session(GOOD, session_no={}), {"SessionNo": "s1", "ReceiptSet": "?"}, _session(GOOD)]
    receipts = _parse(data).receipts
    assert receipts.by_session == {"s1": [AS_RECEIPT]}
    assert receipts.skipped == 4


def test_a_session_number_may_be_a_number() -> None:
    assert _parse([_session(GOOD, session_no=12345678)], "12345678").receipts.by_session == {"12345678": [AS_RECEIPT]}


@pytest.mark.parametrize("code", [171, "171", 171.0], ids=repr)
def test_a_refusal_needs_no_data(code: object) -> None:
    answer = parse_answer(json.dumps({"RetCode": code, "Message": "Signature VerifyAC Error"}).encode(), ["s1"])
    assert (answer.ret_code, answer.message) == (171, "Signature VerifyAC Error")


@pytest.mark.parametrize("message", [None, 7, {}], ids=repr)
def test_a_message_that_is_no_text_is_none(message: object) -> None:
    assert parse_answer(_body(None, Message=message), ["s1"]).message == ""


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>502</html>",
        b"null",
        b"[]",
        b'"text"',
        b"0",
        b"{}",
        b'{"RetCode":null}',
        b'{"RetCode":true}',
        b'{"RetCode":"none"}',
        b'{"RetCode":1.5}',
        b'{"RetCode":NaN}',
        b"[" * 100_000,
        b'{"RetCode":0,"Data":' + b"[" * 100_000,
        b'{"RetCode":' + b"9" * 5000 + b"}",
        b"\x00\xff",
    ],
    ids=lambda body: repr(body[:20]),
)
def test_what_is_no_answer_of_the_providers_is_transient(body: bytes) -> None:
    with pytest.raises(TransientProviderError) as caught:
        parse_answer(body, ["s1"])
    assert caught.value.ret_code is None
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None, "the parser's error holds the whole answer"


@given(st.integers(min_value=0, max_value=400))
def test_an_answer_cut_short_is_transient_wherever_it_was_cut(cut: int) -> None:
    body = _body([_session(GOOD)])
    assert len(body) > 200
    if cut < len(body):
        with pytest.raises(TransientProviderError):
            parse_answer(body[:cut], ["s1"])


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
_text = st.text(st.characters(codec="utf-8"), max_size=20)
_well_formed = st.fixed_dictionaries(
    {
        "Phone": _text.filter(bool),
        "ReceiptResult": _text,
        "ReceiptCode": _text,
        "ReceiptDesc": _text,
        "ReceiptTime": st.integers(0, 2**33),
        "CostCount": st.integers(0, 20),
        "UserId": _text,
    }
)


@given(st.lists(_well_formed, max_size=5), st.lists(_json, min_size=1, max_size=3))
def test_junk_among_receipts_takes_none_of_them_along(phones: list[_Phone], junk: list[object]) -> None:
    clean = _parse([_session(*phones)]).receipts
    dirty = _parse([_session(*phones, *junk), {"SessionNo": "s1", "ReceiptSet": junk}]).receipts
    # Junk is a receipt only if it is an object with both fields that make one, which five letters cannot spell.
    assert dirty.by_session == clean.by_session
    assert dirty.skipped == 2 * len(junk)


@given(st.sampled_from(sorted(GOOD)), _json)
@example("Phone", "\ud800")
def test_any_value_in_any_field_costs_at_most_that_receipt(field: str, value: object) -> None:
    receipts = _parse([_session(GOOD, dict(GOOD, **{field: value}), GOOD)]).receipts
    found = receipts.by_session["s1"]
    assert found[0] == found[-1] == AS_RECEIPT
    assert len(found) == 3 - receipts.skipped
    for receipt in found:
        for name in ("phone", "user_id", "result", "code", "description"):
            getattr(receipt, name).encode()


@given(st.binary(max_size=200) | _json.map(lambda value: json.dumps(value).encode()))
def test_no_bytes_raise_anything_but_a_provider_error(body: bytes) -> None:
    with contextlib.suppress(TransientProviderError):
        parse_answer(body, ["s1"])


@given(_json, _json, _json)
def test_no_json_in_any_place_raises(data: object, session_no: object, receipt_set: object) -> None:
    _parse(data)
    _parse([{"SessionNo": session_no, "ReceiptSet": receipt_set}])


def test_both_ways_read_the_same() -> None:
    sound = [_session(GOOD, dict(GOOD, Phone="2")), _session(session_no="s2")]
    odd = copy.deepcopy(sound)
    # A numeric string makes the typed decoder give up.
    odd[0]["ReceiptSet"] = [dict(GOOD, ReceiptTime="6"), dict(GOOD, Phone="2")]
    assert _parse(sound, "s1", "s2") == _parse(odd, "s1", "s2")

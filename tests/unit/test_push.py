"""What the provider pushes: read from any bytes, believed in nothing but which sessions it names."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bridge.provider.push import Push, parse_push

RECEIPT = {"SessionNo": "s1", "Phone": "18500000001", "ReceiptResult": "Success", "ReceiptTime": 7}


def pushed(**fields: object) -> bytes:
    return json.dumps({"MsgType": 2, "Data": [], **fields}).encode()


def test_it_names_each_session_once_in_order() -> None:
    body = pushed(Data=[RECEIPT, {"SessionNo": "s2"}, RECEIPT | {"Phone": "18500000002"}])
    assert parse_push(body) == Push(("s1", "s2"))


@pytest.mark.parametrize("data", [[], None])
def test_a_push_of_nothing_is_as_it_should_be(data: object) -> None:
    assert parse_push(pushed(Data=data)) == Push()


@pytest.mark.parametrize("kind", [0, 1, 3, -1, 10**30])
def test_a_push_of_another_kind_names_nothing(kind: int) -> None:
    assert parse_push(json.dumps({"MsgType": kind, "Data": [{"SessionNo": "s1"}]}).encode()) == Push()


@pytest.mark.parametrize(
    ("body", "field", "wrong"),
    [
        (b"", "body", "is not JSON"),
        (b"\xff\xfe", "body", "is not JSON"),
        (b"MsgType=2", "body", "is not JSON"),
        (b"[" * 100_000, "body", "is not JSON"),
        (b"[]", "body", "must be an object, not a list"),
        (b"7", "body", "must be an object, not a number"),
        (b"{}", "MsgType", "must be a whole number, and is missing or null"),
        (pushed(MsgType="2"), "MsgType", "must be a whole number, and is a string"),
        (pushed(MsgType=True), "MsgType", "must be a whole number, and is true or false"),
        (b'{"MsgType":2}', "Data", "must be a list, and is missing or null"),
        (pushed(Data={"SessionNo": "s1"}), "Data", "must be a list, and is an object"),
        (pushed(Data=["18500000001"]), "Data[0]", "is a string"),
        (pushed(Data=[{}]), "Data[0].SessionNo", "is missing or null"),
        (pushed(Data=[{"SessionNo": 7}]), "Data[0].SessionNo", "is a number"),
        (pushed(Data=[{"SessionNo": "a b"}]), "Data[0].SessionNo", "must be 1 to 64 printable ASCII characters"),
        (pushed(Data=[{"SessionNo": "x" * 65}]), "Data[0].SessionNo", "must be 1 to 64 printable ASCII characters"),
    ],
)
def test_what_is_wrong_is_named_and_never_repeated(body: bytes, field: str, wrong: str) -> None:
    assert parse_push(body) == Push((), field, wrong)


def test_a_wrong_entry_takes_no_good_one_with_it() -> None:
    body = pushed(Data=[{"SessionNo": "s1"}, {"sessionNo": "s2"}, None, {"SessionNo": "s3"}])
    assert parse_push(body) == Push(("s1", "s3"), "Data[1].SessionNo", "is missing or null")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)
entries = st.one_of(json_values, st.fixed_dictionaries({"SessionNo": st.one_of(json_values, st.text(max_size=70))}))
like_pushes = st.fixed_dictionaries(
    {}, optional={"MsgType": st.one_of(st.just(2), json_values), "Data": st.one_of(st.lists(entries), json_values)}
)


@given(
    st.one_of(
        st.binary(),
        json_values.map(lambda value: json.dumps(value).encode()),
        like_pushes.map(lambda value: json.dumps(value).encode()),
    )
)
@example(b'{"MsgType":2,"Data":[{"SessionNo":"\\ud800"}]}')
def test_any_bytes_are_read(body: bytes) -> None:
    push = parse_push(body)
    assert bool(push.field) == bool(push.wrong)
    for name in push.session_nos:
        assert 1 <= len(name) <= 64
        assert name.isascii()
        assert name.isprintable()
    msgspec.json.encode(push)

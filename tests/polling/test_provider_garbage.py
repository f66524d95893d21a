"""Whatever a provider answers, over a real socket: receipts, or a ProviderError that says so and tells no secret."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.domain.receipts import Receipt
from bridge.errors import ProviderError, TransientProviderError
from bridge.provider.client import UsmsClient
from bridge.provider.wire import Receipts, parse_answer
from tests.examples import examples
from tests.hostile import Says, Server, serving
from tests.simulator import PRIVATE_KEY, PUBLIC_KEY

PHONE = "18512345678"
GOOD = {"Phone": "1", "ReceiptResult": "Success", "ReceiptTime": 7, "CostCount": 1}
AS_RECEIPT = Receipt("1", "", "Success", "", "", 7, 1)


@pytest.fixture(scope="module")
def says() -> Iterator[tuple[Says, Server]]:
    said = Says()
    with serving(said) as server:
        yield said, server


def asked(server: Server) -> Receipts | ProviderError:
    client = UsmsClient(url=server.url, public_key=PUBLIC_KEY, private_key=PRIVATE_KEY, timeout_ms=20_000)
    try:
        return client.fetch_receipts(["s1", "s2"])
    except ProviderError as error:
        return error
    finally:
        client.close()


def test_a_chunk_of_less_than_nothing_breaks_an_answer_off(says: tuple[Says, Server]) -> None:
    """Fault: it raised ValueError, which is no error of the provider's: the task failed, and no account paused."""
    said, server = says
    said.answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-2\r\nab\r\n0\r\n\r\n"
    found = asked(server)
    assert isinstance(found, TransientProviderError)
    assert str(found).startswith("the provider's answer broke off")


heads = st.sampled_from(
    [
        *(
            b"HTTP/1.1 200 OK",
            b"HTTP/1.1 404 x",
            b"HTTP/1.1 429 x",
            b"HTTP/1.1 500 x",
            b"HTTP/1.1 204 x",
            b"HTTP/1.0 200",
        ),
        *(b"HTTP/0.9 200 OK", b"HTTP/1.1 99 x", b"HTTP/1.1 9999 x", b"ICY 200 OK", b"HTTP/1.1 302 x", b"\xff\xfe", b""),
    ]
)
headers = st.lists(
    st.sampled_from(
        [
            *(b"Content-Type: application/json; charset=\xff", b"Content-Encoding: gzip", b"Content-Encoding: br, x"),
            *(
                b"Content-Length: -1",
                b"Content-Length: 3",
                b"Content-Length: 9999999999999999999",
                b"Content-Length: x",
            ),
            *(b"Transfer-Encoding: chunked", b"Location: http://127.0.0.1:1/", b"no colon", b": no name", b" folded"),
            *(b"X: " + b"x" * 70_000, b"Set-Cookie: a=\xff", b"Connection: upgrade"),
        ]
    ),
    max_size=3,
)
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["s1", "Success", "\ud800", PHONE, PRIVATE_KEY, "\x1b[31m", "x" * 2_000])
)
json_values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
answers = st.fixed_dictionaries(
    {},
    optional={
        "RetCode": st.sampled_from([0, 171, 153, 130, "0", 10**30, -1]) | json_values,
        "Message": st.sampled_from([f"no {PRIVATE_KEY} of {PUBLIC_KEY}", f"send to {PHONE} failed"]) | json_values,
        "Data": json_values
        | st.lists(
            st.fixed_dictionaries(
                {"SessionNo": st.just("s1") | json_values, "ReceiptSet": json_values | st.just([GOOD])}
            ),
            max_size=3,
        ),
    },
)
bodies = st.binary(max_size=200) | (answers | json_values).map(lambda value: json.dumps(value).encode())


@examples(120, shared=True)
@given(head=heads, lines=headers, body=bodies, cut=st.none() | st.integers(0, 100))
def test_any_answer_is_receipts_or_a_provider_error(
    says: tuple[Says, Server], head: bytes, lines: list[bytes], body: bytes, cut: int | None
) -> None:
    said, server = says
    said.answer = (b"\r\n".join([head, *lines]) + b"\r\n\r\n" + body)[:cut]
    found = asked(server)
    if isinstance(found, Receipts):
        assert list(found.by_session) == ["s1", "s2"]
        return
    text = str(found)
    text.encode()
    assert text.isprintable()
    assert len(text) < 600
    for secret in (PRIVATE_KEY, PUBLIC_KEY, PHONE):
        assert secret not in text
    assert found.__context__ is None, "what requests raised holds the signed form"


def _with(field: str, value: str) -> bytes:
    odd = json.dumps({"RetCode": 0, "Data": [{"SessionNo": "s1", "ReceiptSet": [GOOD, {**GOOD, field: "@"}, GOOD]}]})
    return odd.replace('"@"', value).encode()


@pytest.mark.parametrize(
    "field", ["Phone", "ReceiptResult", "ReceiptTime", "CostCount", "UserId", "ReceiptDesc", "New"]
)
@pytest.mark.parametrize("value", ["9" * 5_000, "-" + "9" * 5_000, "1e400", "NaN", "[" * 500 + "]" * 500])
def test_a_number_of_thousands_of_digits_costs_its_receipt_alone(field: str, value: str) -> None:
    """Fault: Python refuses to read such a number, and with it the whole answer was taken for one that was cut short:
    its hundred sessions were asked for again, with pauses, for as long as the provider said so."""
    found = parse_answer(_with(field, value), ["s1"]).receipts
    receipts = found.by_session["s1"]
    assert receipts[0] == receipts[-1] == AS_RECEIPT
    assert len(receipts) == 3 - found.skipped
    for one in receipts:
        assert 0 <= one.time < 2**40
        assert 0 <= one.segments <= 1_000_000


def test_brackets_without_end_are_no_answer() -> None:
    """They cost the whole answer, which is asked for again: nothing that is nested so deep is read in parts."""
    for deep in ("[" * 100_000, "[" * 5_000 + "]" * 5_000):
        with pytest.raises(TransientProviderError, match="no JSON object"):
            parse_answer(_with("ReceiptDesc", deep), ["s1"])

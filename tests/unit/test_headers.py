"""Which headers a subscriber may ask for: none that is ours, the connection's, or more than one header."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.domain.headers import MOST_BYTES, MOST_HEADERS, changed_headers, check_headers, parse_headers
from bridge.errors import UsageError

LETTERS = "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
FORBIDDEN = {
    "host",
    "connection",
    "keep-alive",
    "transfer-encoding",
    "te",
    "trailer",
    "upgrade",
    "user-agent",
    "expect",
    "accept-encoding",
}


@pytest.mark.parametrize(
    "given_headers",
    [
        [],
        ["Authorization=Bearer abc=="],
        ["X-Tenant=7", "cookie=a=b; c=d", "Accept=*/*"],
        ["x=" + "v" * 4_000],
        ["x='quotes' \"and\" spaces"],
    ],
)
def test_what_gateways_ask_for_is_taken(given_headers: list[str]) -> None:
    expected = tuple(tuple(one.split("=", 1)) for one in given_headers)
    assert parse_headers(given_headers) == expected


@pytest.mark.parametrize(
    "header",
    [
        "Host=evil",
        "HOST=evil",
        "Content-Type=text/plain",
        "content-length=0",
        "Content_Length=0",
        "content-anything=1",
        "Transfer-Encoding=chunked",
        "transfer_encoding=chunked",
        "Connection=close",
        "webhook-id=evt_1",
        "Webhook-Signature=v1,x",
        "webhook_signature=v1,x",
        "webhook-=1",
        "svix-signature=v1,x",
        "User-Agent=curl",
        "user_agent=curl",
        "Proxy-Authorization=x",
        "Expect=100-continue",
        "Accept-Encoding=gzip",
        "Upgrade=h2c",
        "X Y=1",
        "X:Y=1",
        "X\r\nHost=1",
        "X\x00=1",
        "é=1",
        "=1",
        "X=",
        "X= 1",
        "X=1 ",
        "X=a\r\nHost: evil",
        "X=a\nb",
        "X=a\x00b",
        "X=a\tb",
        "X=a\x7fb",
        "X=é",
        "X=\u2028",
        "no separator",
    ],
)
def test_what_would_be_another_header_or_another_request_is_refused(header: str) -> None:
    with pytest.raises(UsageError, match="--header"):
        parse_headers([header])


def test_a_refusal_never_quotes_a_value() -> None:
    for wrong in ("host=s3cret", "X=s3cret\r\n", "s3cret", "X Y=s3cret"):
        with pytest.raises(UsageError) as caught:
            parse_headers([wrong])
        assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    "headers",
    [
        ["X=1", "x=2"],
        ["X-Y=1", "x_y=2"],
        [f"x{number}=1" for number in range(MOST_HEADERS + 1)],
        ["a=" + "v" * (MOST_BYTES // 2), "b=" + "v" * (MOST_BYTES // 2)],
    ],
    ids=["twice", "twice for WSGI", "too many", "too long"],
)
def test_headers_are_refused_together(headers: list[str]) -> None:
    with pytest.raises(UsageError, match="--header"):
        parse_headers(headers)


@given(st.text(max_size=20), st.text(max_size=40))
def test_whatever_is_taken_is_one_line_of_printable_ascii_with_a_name_of_its_own(name: str, value: str) -> None:
    try:
        ((taken_name, taken_value),) = check_headers([(name, value)])
    except UsageError:
        return
    line = f"{taken_name}: {taken_value}"
    assert line.isascii()
    assert line.isprintable()
    plain = taken_name.lower().replace("_", "-")
    assert plain not in FORBIDDEN
    assert not plain.startswith(("content-", "webhook-"))
    assert line.partition(": ")[::2] == (name, value)


@given(st.text(LETTERS, min_size=1, max_size=40), st.from_regex(r"[!-~]([ -~]{0,40}[!-~])?", fullmatch=True))
def test_nothing_is_refused_but_what_is_named(name: str, value: str) -> None:
    plain = name.lower().replace("_", "-")
    try:
        assert check_headers([(name, value)]) == ((name, value),)
    except UsageError:
        assert plain in FORBIDDEN | {"proxy-connection", "http2-settings", "range"} or plain.startswith(
            ("content-", "webhook-", "proxy-", "svix-")
        )


def test_as_many_headers_and_bytes_as_are_said_are_taken() -> None:
    assert len(parse_headers([f"x{number}=1" for number in range(MOST_HEADERS)])) == MOST_HEADERS
    most = MOST_BYTES - len("a: \r\n")
    assert parse_headers(["a=" + "v" * most])
    with pytest.raises(UsageError, match=f"more than {MOST_BYTES:,} bytes in all"):
        parse_headers(["a=" + "v" * (most + 1)])


@pytest.mark.parametrize(
    ("header", "says"),
    [
        ("no-equals-sign", "--header: give NAME=VALUE, such as --header X-Tenant=7"),
        ("é" * 50 + "=1", f"--header: '{chr(92) + 'xe9'}"),
        (" " * 60 + "=1", f"--header: '{' ' * 40}' is no name of a header: letters, digits and hyphens, 128 at most"),
        (
            "a= b",
            "--header a: a value is printable ASCII without a space at either end, and not empty; ",
        ),
        (
            "a=",
            "--header a: a value is printable ASCII without a space at either end, and not empty; ",
        ),
        ("Host=x", "--header Host: callbacks have a host of their own, or none; choose another name"),
    ],
)
def test_a_refusal_says_what_to_give(header: str, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_headers([header])
    assert str(caught.value).startswith(says)


HAD = (("Authorization", "Bearer old"), ("X-Tenant", "7"))


@pytest.mark.parametrize(
    ("given_headers", "dropped", "left"),
    [
        ([], [], HAD),
        ([("authorization", "Bearer new")], [], (("X-Tenant", "7"), ("authorization", "Bearer new"))),
        ([("Authorization_", "1")], ["x_tenant"], (("Authorization", "Bearer old"), ("Authorization_", "1"))),
        ([("X-Tenant", "8")], ["X-Tenant"], (("Authorization", "Bearer old"), ("X-Tenant", "8"))),
        ([], ["authorization", "X-Tenant"], ()),
    ],
)
def test_a_header_takes_the_place_of_one_of_its_name(
    given_headers: list[tuple[str, str]], dropped: list[str], left: tuple[tuple[str, str], ...]
) -> None:
    assert changed_headers(HAD, given_headers, dropped) == left


def test_what_comes_of_a_change_is_checked_whole() -> None:
    with pytest.raises(UsageError) as caught:
        changed_headers(HAD, [], ["X-" + 50 * "o"])
    assert str(caught.value) == f"--drop-header: there is no 'X-{38 * 'o'}'"
    with pytest.raises(UsageError, match="more than 8,192 bytes in all"):
        changed_headers((("a", "v" * 8_000),), [("b", "v" * 200)], [])

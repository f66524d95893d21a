"""What a receiver does, and what the transport makes of it. Real sockets, all on loopback."""

from __future__ import annotations

import gzip
from collections.abc import Iterator

import pytest

from bridge.delivery import libcurl, transfer
from bridge.delivery import transport as transport_module
from bridge.delivery.guard import Target, UrlPolicy, address_refusal
from bridge.delivery.libcurl import failure_of, pycurl
from bridge.delivery.transport import Request, Transport
from bridge.domain.outcome import READ_BODY, Failure, Wish
from tests.delivery.posting import LOOPBACK, PATIENT_MS, post, request, run
from tests.hostile import (
    NO_CONTENT,
    Behaviour,
    Connection,
    answering,
    dripping,
    flooding,
    ok,
    once,
    resetting,
    serving,
    silent,
)
from tests.ports import unused_port
from tests.unit.test_guard import ALL_REFUSED


@pytest.fixture
def transport() -> Iterator[Transport]:
    made = Transport(policy=LOOPBACK)
    yield made
    made.close()


def test_a_204_is_an_answer_and_the_request_arrives_as_given(transport: Transport) -> None:
    with serving(answering(NO_CONTENT)) as server:
        answer = post(transport, server.url, body=b"\x00\xff body")
    assert (answer.status, answer.failure, answer.error, answer.body) == (204, None, "", b"")
    assert 0 <= answer.elapsed_ms < PATIENT_MS
    ((head, body),) = server.requests
    assert body == b"\x00\xff body"
    first, *lines = head.decode().split("\r\n")
    assert first == "POST /hook HTTP/1.1"
    names = [line.partition(":")[0].lower() for line in lines]
    assert sorted(names) == ["accept", "content-length", "content-type", "host", "webhook-id"]


def test_a_body_is_handed_on_as_far_as_it_is_read(transport: Transport) -> None:
    with serving(answering(ok(b'{"code":0}'), ok(b"x" * 2_000), ok(b"y" * READ_BODY), ok())) as server:
        bodies = [post(transport, server.url).body for _ in range(4)]
    assert bodies == [b'{"code":0}', b"x" * 2_000, b"y" * READ_BODY, b""]
    assert server.connections == 1


@pytest.mark.parametrize("status", [200, 302, 400, 410, 429, 500, 503])
def test_every_final_status_is_an_answer(transport: Transport, status: int) -> None:
    with serving(once(b"HTTP/1.1 %d x\r\nContent-Length: 2\r\n\r\nno" % status)) as server:
        assert post(transport, server.url).status == status


@pytest.mark.parametrize("status", [200, 500])
def test_an_endless_body_is_cut_and_its_status_stands(transport: Transport, status: int) -> None:
    with serving(flooding(b"HTTP/1.1 %d x\r\n\r\n" % status, b"z" * 10_000)) as server:
        answer = post(transport, server.url)
    assert (answer.status, answer.failure, answer.error) == (status, None, "")
    assert answer.body == b"z" * READ_BODY


def test_a_long_body_with_its_length_announced_is_cut_too(transport: Transport) -> None:
    with serving(answering(ok(b"z" * 5_000_000))) as server:
        answer = post(transport, server.url)
    assert (answer.status, answer.failure, len(answer.body)) == (200, None, READ_BODY)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_no_redirect_is_followed(transport: Transport, status: int) -> None:
    with serving(answering(NO_CONTENT)) as target:
        for location in (target.url, "file:///etc/passwd", "//127.0.0.1/"):
            head = f"HTTP/1.1 {status} x\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n"
            with serving(once(head.encode())) as server:
                assert post(transport, server.url).status == status
    assert target.connections == 0


LOCATIONS = [
    location
    for location in ("", "/hook", "http://127.0.0.1:1/", "HTTP:127.0.0.1", "?a", *ALL_REFUSED)
    if location.isprintable() and len(location) < 10_000  # others are no header line
]


@pytest.mark.parametrize("status", [300, 301, 302, 303, 304, 305, 306, 307, 308])
def test_no_redirect_of_any_code_to_any_abuse_is_followed(
    transport: Transport, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(transfer, "address_refusal", lambda address, _policy: asked.append(address))
    heads = [f"HTTP/1.1 {status} x\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n" for location in LOCATIONS]
    with serving(answering(*(head.encode() for head in heads))) as server:
        answers = [post(transport, server.url) for _ in LOCATIONS]
    assert {(one.status, one.failure) for one in answers} == {(status, None)}
    assert len(server.requests) == len(LOCATIONS)
    assert set(asked) == {"127.0.0.1"}


ASKING: dict[str, tuple[bytes, Wish, str]] = {
    "nothing": (b"HTTP/1.1 500 x\r\nContent-Length: 0\r\n\r\n", Wish.NONE, ""),
    "to wait": (b"HTTP/1.1 429 x\r\nRETRY-AFTER:  120 \r\nContent-Length: 0\r\n\r\n", Wish.NONE, "120"),
    "to abort": (b"HTTP/1.1 400 x\r\nWebhook-Delivery: Abort\r\nContent-Length: 0\r\n\r\n", Wish.ABORT, ""),
    "to be left alone": (b"HTTP/1.1 400 x\r\nwebhook-delivery:disable\r\nContent-Length: 0\r\n\r\n", Wish.DISABLE, ""),
    "what has no meaning": (b"HTTP/1.1 400 x\r\nwebhook-delivery: \xff\r\nContent-Length: 0\r\n\r\n", Wish.NONE, ""),
    "a long time": (
        b"HTTP/1.1 503 x\r\nretry-after: %s\r\nContent-Length: 0\r\n\r\n" % (b"9" * 5000),
        Wish.NONE,
        "9" * 64,
    ),
    "only in passing": (
        b"HTTP/1.1 103 x\r\nwebhook-delivery: disable\r\n\r\nHTTP/1.1 500 x\r\nContent-Length: 0\r\n\r\n",
        Wish.NONE,
        "",
    ),
}


@pytest.mark.parametrize(("head", "wish", "retry_after"), ASKING.values(), ids=ASKING.keys())
def test_what_a_refusal_asks_for_is_read(transport: Transport, head: bytes, wish: Wish, retry_after: str) -> None:
    plain = b"HTTP/1.1 500 x\r\nContent-Length: 0\r\n\r\n"
    with serving(answering(head, plain)) as server:
        asked, next_one = post(transport, server.url), post(transport, server.url)
    assert (asked.wish, asked.retry_after) == (wish, retry_after)
    assert (next_one.wish, next_one.retry_after) == (Wish.NONE, ""), "and not of the answer after it"


def promising(connection: Connection) -> None:
    connection.request()
    connection.sock.sendall(ok(b"xx")[:-1])
    connection.gone()


HANGS: dict[str, Behaviour] = {
    "says nothing": silent,
    "a header a byte at a time": dripping(b"HTTP/1.1 200 OK\r\nX-Header: "),
    "a body a byte at a time": dripping(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"),
    "a promise of more": promising,
}


@pytest.mark.parametrize("behave", HANGS.values(), ids=HANGS.keys())
def test_one_deadline_covers_the_whole_answer(transport: Transport, behave: Behaviour) -> None:
    with serving(behave) as server:
        answer = post(transport, server.url, timeout_ms=300)
    assert (answer.failure, answer.error) == (Failure.TIMEOUT, "timed out after 300 ms")
    assert 290 <= answer.elapsed_ms < PATIENT_MS


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Checked: yes\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\nok",
        b"HTTP/1.1 200 OK\n\nok",
    ],
    ids=["with a trailer", "after an interim one", "with bare line feeds"],
)
def test_an_answer_is_whole_however_it_ends(transport: Transport, answer: bytes) -> None:
    with serving(once(answer)) as server:
        found = post(transport, server.url)
    assert (found.status, found.failure, found.body) == (200, None, b"ok")


FAILURES: dict[str, tuple[Behaviour, Failure, int]] = {
    "reset": (resetting, Failure.RESET, 0),
    "hangs up without a word": (once(b""), Failure.RESET, 0),
    "hangs up within the status line": (once(b"HTTP/1.1 200 OK"), Failure.RESET, 0),
    # Taken for whole, a receiver of the provider's pushes that was saying no in a body had accepted.
    "hangs up after the status line": (once(b"HTTP/1.1 200 OK\r\n"), Failure.RESET, 200),
    "hangs up within a header": (once(b"HTTP/1.1 204 No Content\r\nServer: x\r\nConten"), Failure.RESET, 204),
    "hangs up after a header": (once(b"HTTP/1.1 503 Busy\r\nRetry-After: 9\r\n"), Failure.RESET, 503),
    "hangs up within the headers after an interim answer": (
        once(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nServer: x\r\n"),
        Failure.RESET,
        200,
    ),
    "a body shorter than announced": (once(ok(b"x" * 20)[:-5]), Failure.RESET, 200),
    "HTTP/0.9": (once(b"<html>hello</html>\r\n" * 5), Failure.PROTOCOL, 0),
    "another protocol": (once(b"SSH-2.0-OpenSSH_9.6\r\n"), Failure.PROTOCOL, 0),
    "an upgrade nobody asked for": (
        once(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"),
        Failure.RESET,
        101,
    ),
    "a body after an upgrade nobody asked for": (
        once(b"HTTP/1.1 101 Switching Protocols\r\n\r\n" + b"z" * 10_000),
        Failure.PROTOCOL,
        101,
    ),
    "HTTP/2 without being asked": (
        once(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\x04\0\0\0\0\0"),
        Failure.PROTOCOL,
        0,
    ),
    "an upgrade to HTTP/2 nobody asked for": (
        once(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n\0\0\0\x04\0\0\0\0\0"),
        Failure.PROTOCOL,
        101,
    ),
    "a status of no meaning": (once(b"HTTP/1.1 abc OK\r\n\r\n"), Failure.PROTOCOL, 0),
    "two lengths": (
        once(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx"),
        Failure.PROTOCOL,
        200,
    ),
    "a transfer coding nobody asked for": (
        once(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n" + gzip.compress(b"x")),
        Failure.PROTOCOL,
        200,
    ),
    "a chunk size of no meaning": (
        once(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"),
        Failure.RESET,
        200,
    ),
    "a megabyte of headers": (
        once(b"HTTP/1.1 200 OK\r\n" + b"X-A: " + b"a" * 1000 + (b"\r\nX-A: " + b"a" * 1000) * 1000 + b"\r\n\r\n"),
        Failure.OVERSIZED,
        200,
    ),
    "headers without end": (flooding(b"HTTP/1.1 200 OK\r\n", b"X-A: b\r\n"), Failure.OVERSIZED, 200),
    "one header without end": (flooding(b"HTTP/1.1 200 OK\r\nX-A: ", b"b" * 1000), Failure.OVERSIZED, 200),
    "interim answers without end": (flooding(b"", b"HTTP/1.1 100 Continue\r\n\r\n"), Failure.OVERSIZED, 100),
}


@pytest.mark.parametrize(("behave", "failure", "status"), FAILURES.values(), ids=FAILURES.keys())
def test_a_broken_answer_is_a_failure(transport: Transport, behave: Behaviour, failure: Failure, status: int) -> None:
    with serving(behave) as server:
        answer = post(transport, server.url + "?token=secret")
    assert (answer.failure, answer.status) == (failure, status), answer.error
    assert answer.error
    assert "secret" not in answer.error
    assert "\n" not in answer.error


def test_nobody_listening_is_a_failed_connect(transport: Transport) -> None:
    answer = post(transport, f"http://127.0.0.1:{unused_port()}/?secret")
    assert (answer.status, answer.failure, answer.error) == (0, Failure.CONNECT, "connection refused")


def test_a_name_that_does_not_exist_is_a_dns_failure(transport: Transport) -> None:
    answer = post(transport, "http://nobody.invalid/?secret")  # RFC 6761: never resolves
    assert (answer.status, answer.failure) == (0, Failure.DNS)
    assert "secret" not in answer.error


def test_a_gzip_bomb_stays_packed(transport: Transport) -> None:
    bomb = gzip.compress(b"\0" * 1_000_000)
    with serving(answering(ok(bomb, "Content-Encoding: gzip"))) as server:
        answer = post(transport, server.url)
    assert (answer.status, answer.body) == (200, bomb[:READ_BODY])
    assert b"accept-encoding" not in server.requests[0][0].lower()


def test_bytes_beyond_the_announced_length_are_not_the_next_answer(transport: Transport) -> None:
    with serving(answering(ok(b"ab") + b"HTTP/1.1 500 smuggled\r\n\r\n")) as server:
        answers = [post(transport, server.url) for _ in range(3)]
    assert [(answer.status, answer.body) for answer in answers] == [(200, b"ab")] * 3
    assert server.connections == 3


def test_a_cookie_does_not_come_back(transport: Transport) -> None:
    with serving(answering(ok(b"", "Set-Cookie: a=b; Path=/"))) as server:
        run(transport, *(request(server.url, key) for key in range(2)))
        run(transport, *(request(server.url, key) for key in range(2)))
    assert len(server.requests) == 4
    assert not any(b"cookie" in head.lower() for head, _ in server.requests)


@pytest.mark.parametrize("line", [b"X-A: b\r\nX-B: c", b"X-A: b\nX-B: c", b"X-A: b\0", b"X-A: b\r"])
def test_a_line_break_in_a_header_is_never_sent(transport: Transport, line: bytes) -> None:
    with serving(answering(NO_CONTENT)) as server:
        answer = run(transport, Request(1, server.url, [line], b"", PATIENT_MS))[1]
        assert post(transport, server.url).status == 204
    assert (answer.status, answer.failure) == (0, Failure.INTERNAL)
    assert len(server.requests) == 1


@pytest.mark.parametrize("reason", ["loopback address", "userinfo", "port", "scheme"])
def test_a_refused_url_is_blocked_without_a_connection(reason: str) -> None:
    strict = Transport(policy=UrlPolicy(allow_http=reason != "scheme"))
    with serving(answering(NO_CONTENT)) as server:
        url = {
            "loopback address": server.url,
            "userinfo": server.url.replace("http://", "http://user@"),
            "port": "http://example.com:22/",
            "scheme": server.url,
        }[reason]
        answer = post(strict, url)
        strict.close()
    assert (answer.status, answer.failure, answer.error) == (0, Failure.BLOCKED, f"blocked: {reason}")
    assert server.connections == 0


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]"])
def test_a_refused_address_is_blocked_at_the_socket(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    """The name passed, as one that changes its answer would; the address decides."""
    monkeypatch.setattr(transport_module, "parse_url", lambda url, _policy: Target(url, "http", host, 80))
    strict = Transport(policy=UrlPolicy(allow_http=True))
    listen_on = "::1" if ":" in host else "127.0.0.1"
    with serving(answering(NO_CONTENT), host=listen_on) as server:
        answer = post(strict, f"http://{host}:{server.port}/hook?secret")
        strict.close()
    assert (answer.status, answer.failure, answer.error) == (0, Failure.BLOCKED, "blocked: loopback address")
    assert server.connections == 0


def test_ipv6_and_names_work_where_they_are_listed(transport: Transport) -> None:
    with serving(answering(NO_CONTENT), host="::1") as server:
        assert post(transport, server.url).status == 204
    with serving(answering(NO_CONTENT)) as server:
        assert post(transport, f"http://localhost:{server.port}/").status == 204


def test_an_exception_in_a_callback_is_an_answer_and_a_log_line(
    transport: Transport, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_: object) -> str | None:
        raise LookupError("a fault of ours")

    with serving(answering(NO_CONTENT)) as server:
        with monkeypatch.context() as patched:
            patched.setattr(transfer, "address_refusal", fails)
            answer = post(transport, server.url)
        assert post(transport, server.url).status == 204
    assert (answer.failure, answer.error) == (Failure.INTERNAL, "LookupError while opening a socket")
    assert "a fault of ours" in caplog.text


def test_every_libcurl_code_was_thought_of() -> None:
    codes = {name: getattr(pycurl, name) for name in dir(pycurl) if name.startswith("E_")}
    codes = {name: code for name, code in codes.items() if not name.startswith("E_MULTI_") and name != "E_OK"}
    assert len(codes) > 90
    assert [name for name, code in codes.items() if code not in libcurl._FAILURES] == []
    assert failure_of(pycurl.E_OPERATION_TIMEDOUT) is Failure.TIMEOUT
    assert failure_of(123_456) is Failure.INTERNAL
    assert Failure.BLOCKED not in {failure_of(code) for code in codes.values()}, "known by our own record only"


def test_the_address_check_is_cached() -> None:
    hits = address_refusal.cache_info().hits
    assert address_refusal("127.0.0.1", LOOPBACK) is None
    assert address_refusal("127.0.0.1", LOOPBACK) is None
    assert address_refusal.cache_info().hits > hits

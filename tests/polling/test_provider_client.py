"""The provider client over real sockets: what it sends, and that every way to get no receipts has its error."""

from __future__ import annotations

import gzip
import inspect
import itertools
import logging
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import parse_qsl

import pytest
import requests
import urllib3.exceptions

from bridge.errors import AccountError, ProviderError, RequestError, SettingsError, TransientProviderError
from bridge.provider import client as client_module
from bridge.provider.client import UsmsClient, explain_failure
from bridge.provider.signature import sign
from bridge.provider.transport import bounded_session
from tests.hostile import (
    Behaviour,
    Certificate,
    Connection,
    Server,
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
from tests.simulator import PRIVATE_KEY, PUBLIC_KEY, RunningSimulator, running_simulator

EMPTY = b'{"RetCode":0,"Action":"GetUSMSSendReceiptResponse","Message":"","Data":[]}'
PHONE = "(86)18512345678"

MakeClient = Callable[..., UsmsClient]


@pytest.fixture(name="make_client")
def _make_client() -> Iterator[MakeClient]:
    made: list[UsmsClient] = []

    def make(
        url: str, *, timeout_ms: int = 10_000, private_key: str = PRIVATE_KEY, project_id: str = "", region: str = ""
    ) -> UsmsClient:
        client = UsmsClient(
            url=url,
            public_key=PUBLIC_KEY,
            private_key=private_key,
            project_id=project_id,
            region=region,
            timeout_ms=timeout_ms,
        )
        made.append(client)
        return client

    yield make
    for client in made:
        client.close()


@pytest.fixture(name="simulator", scope="module")
def _simulator() -> Iterator[RunningSimulator]:
    with running_simulator() as simulator:
        yield simulator


def _fails(client: UsmsClient) -> TransientProviderError:
    with pytest.raises(TransientProviderError) as caught:
        client.fetch_receipts(["s1"])
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None, "what requests raised holds the request, and with it the public key"
    return caught.value


# What it sends and understands


def test_receipts_come_back_by_session(simulator: RunningSimulator, make_client: MakeClient) -> None:
    first, second = simulator.send(PHONE, "(60)123456789"), simulator.send(PHONE, user_id="order-7")
    receipts = make_client(simulator.url).fetch_receipts([second, "never-sent", first])
    assert list(receipts.by_session) == [second, "never-sent", first]
    assert [receipt.user_id for receipt in receipts.by_session[second]] == ["order-7"]
    assert [receipt.phone for receipt in receipts.by_session[first]] == [PHONE, "(60)123456789"]
    assert receipts.by_session["never-sent"] == []


def test_a_hundred_sessions_go_in_one_call(simulator: RunningSimulator, make_client: MakeClient) -> None:
    session_nos = [simulator.send(f"(86)1850000{index:04d}") for index in range(100)]
    receipts = make_client(simulator.url).fetch_receipts(session_nos)
    assert [len(found) for found in receipts.by_session.values()] == [1] * 100


def test_the_request_is_a_signed_form(make_client: MakeClient) -> None:
    with serving(answering(ok(EMPTY))) as server:
        make_client(server.url, project_id="org-x", region="cn-bj2").fetch_receipts(["s1", "s&2"])
    ((head, body),) = server.requests
    sent = dict(parse_qsl(body.decode(), strict_parsing=True))
    signature = sent.pop("Signature")
    assert sent == {
        "Action": "GetUSMSSendReceipt",
        "PublicKey": PUBLIC_KEY,
        "ProjectId": "org-x",
        "Region": "cn-bj2",
        "SessionNoSet.0": "s1",
        "SessionNoSet.1": "s&2",
    }
    assert signature == sign(sent, PRIVATE_KEY)
    assert head.startswith(b"POST /hook HTTP/1.1\r\n")
    assert b"\r\nContent-Type: application/x-www-form-urlencoded\r\n" in head


def test_project_and_region_are_left_out_where_not_given(make_client: MakeClient) -> None:
    with serving(answering(ok(EMPTY))) as server:
        make_client(server.url).fetch_receipts(["s1"])
    sent = dict(parse_qsl(server.requests[0][1].decode()))
    assert sent.keys() == {"Action", "PublicKey", "SessionNoSet.0", "Signature"}


def test_calls_share_a_connection_even_after_a_refusal(make_client: MakeClient) -> None:
    with serving(answering(ok(EMPTY), ok(b'{"RetCode":150}'), ok(EMPTY))) as server:
        client = make_client(server.url)
        client.fetch_receipts(["s1"])
        with pytest.raises(TransientProviderError):
            client.fetch_receipts(["s1"])
        client.fetch_receipts(["s1"])
        assert server.connections == 1


def test_accounts_can_share_a_session_without_sharing_cookies() -> None:
    with serving(answering(ok(EMPTY, "Set-Cookie: account=first; Path=/"))) as server, bounded_session() as session:
        for _ in range(2):
            client = UsmsClient(url=server.url, public_key="p", private_key="k", timeout_ms=5000, session=session)
            client.fetch_receipts(["s1"])
            client.close()  # does not close a session that was given
    assert server.connections == 1
    assert not any(b"ookie" in head for head, _ in server.requests)


def test_the_environment_changes_nothing(
    make_client: MakeClient, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login somebody password something\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{unused_port()}")
    with serving(answering(ok(EMPTY))) as server:
        make_client(server.url).fetch_receipts(["s1"])
    assert b"uthorization" not in server.requests[0][0]


def test_a_compressed_answer_is_read(make_client: MakeClient) -> None:
    with serving(answering(ok(gzip.compress(EMPTY), "Content-Encoding: gzip"))) as server:
        assert make_client(server.url).fetch_receipts(["s1"]).by_session == {"s1": []}


def test_a_chunked_answer_is_read(make_client: MakeClient) -> None:
    body = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (EMPTY[:20], EMPTY[20:])) + b"0\r\n\r\n"
    with serving(answering(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body)) as server:
        assert make_client(server.url).fetch_receipts(["s1"]).by_session == {"s1": []}


def test_an_answer_without_a_length_ends_with_its_connection(make_client: MakeClient) -> None:
    with serving(once(b"HTTP/1.1 200 OK\r\n\r\n" + EMPTY)) as server:
        assert make_client(server.url).fetch_receipts(["s1"]).by_session == {"s1": []}


def test_threads_can_share_a_client(simulator: RunningSimulator, make_client: MakeClient) -> None:
    client = make_client(simulator.url)
    session_nos = [simulator.send(f"(86)1850000{index:04d}") for index in range(8)]
    found: dict[str, int] = {}

    def fetch(session_no: str) -> None:
        for _ in range(10):
            found[session_no] = len(client.fetch_receipts([session_no]).by_session[session_no])

    threads = [threading.Thread(target=fetch, args=(session_no,)) for session_no in session_nos]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert found == dict.fromkeys(session_nos, 1)


# What callers must not ask


@pytest.mark.parametrize("count", [0, 101])
def test_a_call_takes_1_to_100_sessions(count: int, make_client: MakeClient) -> None:
    with pytest.raises(ValueError, match=f"{count} sessions"):
        make_client("http://127.0.0.1:1/").fetch_receipts([f"s{index}" for index in range(count)])


def test_a_call_takes_each_session_once(make_client: MakeClient) -> None:
    with pytest.raises(ValueError, match="twice"):
        make_client("http://127.0.0.1:1/").fetch_receipts(["s1", "s2", "s1"])


@pytest.mark.parametrize(
    "url",
    ["", "api.ucloud.cn", "ftp://api.ucloud.cn/", "https://", "http://[::1", "http://host:port/", "http://a:0/",
     "http://*.invalid/", "http://user:secret-word@127.0.0.1/"],
)  # fmt: skip
def test_a_url_that_cannot_be_called_is_refused_at_once(url: str, make_client: MakeClient) -> None:
    with pytest.raises(SettingsError, match="BRIDGE_PROVIDER_URL") as caught:
        make_client(url)
    assert "secret-word" not in str(caught.value)


@pytest.mark.parametrize("timeout_ms", [0, -1])
def test_a_time_out_is_positive(timeout_ms: int, make_client: MakeClient) -> None:
    with pytest.raises(ValueError, match="timeout_ms"):
        make_client("http://127.0.0.1/", timeout_ms=timeout_ms)


# What the provider may refuse


def test_a_wrong_key_is_the_accounts_fault(simulator: RunningSimulator, make_client: MakeClient) -> None:
    with pytest.raises(AccountError, match="BRIDGE_PRIVATE_KEY") as caught:
        make_client(simulator.url, private_key="wrong").fetch_receipts(["s1"])
    assert caught.value.ret_code == 171


@pytest.mark.parametrize(
    ("ret_code", "kind", "throttled"),
    [
        (110, TransientProviderError, False),
        (153, TransientProviderError, True),
        (294, AccountError, False),
        (18003, RequestError, False),
        (424242, RequestError, False),
    ],
)
def test_a_ret_code_becomes_its_error(
    ret_code: int, kind: type[ProviderError], throttled: bool, simulator: RunningSimulator, make_client: MakeClient
) -> None:
    simulator.steer("faults", {"script": [{"fault": "retcode", "ret_code": ret_code}]})
    with pytest.raises(kind) as caught:
        make_client(simulator.url).fetch_receipts(["s1"])
    assert caught.value.ret_code == ret_code
    assert getattr(caught.value, "throttled", False) is throttled


@pytest.mark.parametrize(("status", "throttled"), [(429, True), (500, False), (502, False), (503, False), (504, False)])
def test_an_http_error_is_transient(
    status: int, throttled: bool, simulator: RunningSimulator, make_client: MakeClient
) -> None:
    simulator.steer("faults", {"script": [{"fault": "http_status", "status": status}]})
    error = _fails(make_client(simulator.url))
    assert str(status) in str(error)
    assert error.throttled is throttled


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "307 Temporary Redirect", "404 Not Found", "403 No"])
def test_another_status_without_a_ret_code_is_transient_and_not_followed(status: str, make_client: MakeClient) -> None:
    head = f"HTTP/1.1 {status}\r\nLocation: /elsewhere\r\nContent-Length: 6\r\n\r\n<html>".encode()
    with serving(answering(head)) as server:
        assert f"HTTP {status[:3]}" in str(_fails(make_client(server.url)))
        assert len(server.requests) == 1


def test_a_ret_code_counts_whatever_the_status(make_client: MakeClient) -> None:
    with (
        serving(answering(b'HTTP/1.1 403 No\r\nContent-Length: 15\r\n\r\n{"RetCode":294}')) as server,
        pytest.raises(AccountError, match="allow-list"),
    ):
        make_client(server.url).fetch_receipts(["s1"])


def test_a_success_in_a_failure_is_none(make_client: MakeClient) -> None:
    with serving(answering(b'HTTP/1.1 404 No\r\nContent-Length: 13\r\n\r\n{"RetCode":0}')) as server:
        assert "HTTP 404" in str(_fails(make_client(server.url)))


@pytest.mark.parametrize("body", [b"", b"<html>", EMPTY[:-1], b"[]", b"null", b'{"ok":true}'])
def test_what_is_no_answer_of_the_providers_is_transient(body: bytes, make_client: MakeClient) -> None:
    with serving(answering(ok(body))) as server:
        _fails(make_client(server.url))


# What the network may do


def test_nobody_listens(make_client: MakeClient) -> None:
    error = _fails(make_client(f"http://127.0.0.1:{unused_port()}/"))
    assert "Connection refused" in str(error)


def test_no_such_host(make_client: MakeClient) -> None:
    assert "no connection" in str(_fails(make_client("http://bridge-test.invalid/")))


def _hangs_in_the_head(connection: Connection) -> None:
    connection.request()
    connection.sock.sendall(b"HTTP/1.1 200 OK\r\nContent-")
    connection.gone()


def _continues_for_ever(connection: Connection) -> None:
    connection.request()
    connection.flood(b"HTTP/1.1 100 Continue\r\n\r\n")


def _hangs_after_half(connection: Connection) -> None:
    connection.request()
    connection.sock.sendall(ok(EMPTY)[:-10])
    connection.gone()


@pytest.mark.parametrize(
    "behave",
    [
        silent,
        _hangs_in_the_head,
        dripping(b"HTTP/1.1 200 OK\r\nX-Slow: "),
        dripping(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n"),
        dripping(b"HTTP/1.1 200 OK\r\n\r\n"),
        dripping(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;"),
        _continues_for_ever,
        _hangs_after_half,
    ],
    ids=["silent", "half head", "dripping head", "dripping body", "dripping without length", "dripping chunk",
         "continues", "half body"],
)  # fmt: skip
def test_no_server_holds_a_call_beyond_its_time_out(behave: Behaviour, make_client: MakeClient) -> None:
    with serving(behave) as server:
        client = make_client(server.url, timeout_ms=400)
        started = time.monotonic()
        error = _fails(client)
        elapsed = time.monotonic() - started
    assert "did not end within 0.4 s" in str(error)
    assert 0.35 < elapsed < 20, "the margin above is the machine's, not the client's"


def _hangs_late(connection: Connection) -> None:
    connection.request()
    connection.stopped.wait(3.6)
    connection.sock.sendall(b"HTTP/1.1 ")
    connection.gone()


def test_a_wait_for_bytes_is_no_longer_than_what_is_left_of_the_call(make_client: MakeClient) -> None:
    with serving(_hangs_late) as server:
        client = make_client(server.url, timeout_ms=4000)
        started = time.monotonic()
        _fails(client)
        assert time.monotonic() - started < 7.5, "a wait of 4 s began 3.6 s after the call did"


def test_a_slow_answer_within_the_time_out_is_read(simulator: RunningSimulator, make_client: MakeClient) -> None:
    simulator.steer("faults", {"script": [{"fault": "drip", "seconds": 0.002}]})
    assert make_client(simulator.url).fetch_receipts(["s1"]).by_session == {"s1": []}


def test_a_time_out_bounds_each_call_of_a_kept_connection_anew(make_client: MakeClient) -> None:
    with serving(answering(ok(EMPTY))) as server:
        client = make_client(server.url, timeout_ms=500)
        until = time.monotonic() + 1.0
        calls = 0
        while time.monotonic() < until:
            client.fetch_receipts(["s1"])
            calls += 1
        assert server.connections == 1
    assert calls > 10


@pytest.mark.parametrize(
    "behave",
    [
        lambda _: None,
        resetting,
        once(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n" + EMPTY),
        once(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\n" + EMPTY),
        once(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n" + EMPTY),
        once(b"SSH-2.0-OpenSSH_9.9\r\n"),
        once(ok(b"no gzip at all", "Content-Encoding: gzip")),
        once(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 1000 + b"\r\n"),
        once(b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000 + b"\r\n\r\n"),
    ],
    ids=["hung up", "reset", "cut by length", "cut in a chunk", "no chunk", "not HTTP", "not gzip", "many headers",
         "long header"],
)  # fmt: skip
def test_a_broken_answer_is_transient(behave: Behaviour, make_client: MakeClient) -> None:
    with serving(behave) as server:
        _fails(make_client(server.url))


def test_an_endless_answer_is_cut_off(make_client: MakeClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "MAX_ANSWER_BYTES", 1_000_000)
    with (
        serving(flooding(b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 65_536)) as server,
        pytest.raises(TransientProviderError, match="larger than 1000000 bytes"),
    ):
        make_client(server.url).fetch_receipts(["s1"])


def test_a_bomb_is_cut_off_too(make_client: MakeClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "MAX_ANSWER_BYTES", 1_000_000)
    deflater = zlib.compressobj(wbits=31)
    bomb = deflater.compress(bytes(20_000_000)) + deflater.flush()
    with (
        serving(once(ok(bomb, "Content-Encoding: gzip"))) as server,
        pytest.raises(TransientProviderError, match="larger than 1000000 bytes"),
    ):
        make_client(server.url).fetch_receipts(["s1"])


def test_a_certificate_nobody_vouches_for(make_client: MakeClient, tmp_path: Path) -> None:
    certificate = Certificate(tmp_path / "cert.pem", "127.0.0.1")
    with serving(answering(ok(EMPTY)), tls=certificate.context) as server:
        error = _fails(make_client(server.url))
    assert "no secure connection" in str(error)
    assert "self-signed certificate" in str(error)
    assert not server.requests


@pytest.fixture(name="trusting")
def _trusting() -> Iterator[requests.Session]:
    with bounded_session() as session:
        yield session


def _call_over_tls(server: Server, session: requests.Session, *, timeout_ms: int = 5000) -> None:
    client = UsmsClient(url=server.url, public_key="p", private_key="k", timeout_ms=timeout_ms, session=session)
    client.fetch_receipts(["s1"])


@pytest.mark.parametrize(
    ("name", "expired", "reason"),
    [("127.0.0.1", True, "certificate has expired"), ("elsewhere.example", False, "IP address mismatch")],
)
def test_a_certificate_that_does_not_fit_says_so(
    name: str, expired: bool, reason: str, trusting: requests.Session, tmp_path: Path
) -> None:
    certificate = Certificate(tmp_path / "cert.pem", name, expired=expired)
    trusting.verify = str(certificate.path)
    with (
        serving(answering(ok(EMPTY)), tls=certificate.context) as server,
        pytest.raises(TransientProviderError, match=reason),
    ):
        _call_over_tls(server, trusting)


def test_the_deadline_holds_over_tls(trusting: requests.Session, tmp_path: Path) -> None:
    certificate = Certificate(tmp_path / "cert.pem", "127.0.0.1")
    trusting.verify = str(certificate.path)
    with serving(answering(ok(EMPTY)), tls=certificate.context) as server:
        _call_over_tls(server, trusting)
        _call_over_tls(server, trusting)
        assert server.connections == 1
    with (
        serving(dripping(b"HTTP/1.1 200 OK\r\nX: "), tls=certificate.context) as server,
        pytest.raises(TransientProviderError, match=r"did not end within 0\.4 s"),
    ):
        _call_over_tls(server, trusting, timeout_ms=400)


# What may not leak, and what may not escape


def test_neither_keys_nor_phones_are_said_or_logged(make_client: MakeClient, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    said = f"user {PUBLIC_KEY} with {PRIVATE_KEY} sent to {PHONE}"
    body = f'{{"RetCode":171,"Message":"{said}"}}'.encode()
    with serving(answering(ok(body))) as server, pytest.raises(AccountError) as caught:
        make_client(server.url).fetch_receipts(["s1"])
    text = f"{caught.value!r} {caplog.text}"
    assert "user … with … sent to" in str(caught.value)
    for secret in (PUBLIC_KEY, PRIVATE_KEY, "18512345678"):
        assert secret not in text


def _everything_requests_raises() -> list[type[Exception]]:
    found = [
        kind
        for _, kind in inspect.getmembers(requests.exceptions, inspect.isclass)
        if issubclass(kind, Exception) and not issubclass(kind, Warning) and kind.__module__ == "requests.exceptions"
    ]
    assert len(found) > 20
    return found


class _Raising(requests.Session):
    """A session whose calls end in an exception."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self._error = error

    def send(self, *_: object, **__: object) -> requests.Response:
        raise self._error


def _made(kind: type[Exception]) -> Exception:
    if issubclass(kind, requests.exceptions.JSONDecodeError):
        return kind(f"about {PUBLIC_KEY}", "doc", 0)
    return kind(f"about {PUBLIC_KEY} and {PHONE}")


@pytest.mark.parametrize(
    "error",
    [
        *map(_made, _everything_requests_raises()),
        urllib3.exceptions.ProtocolError("broke", ConnectionResetError(104, "Connection reset by peer")),
        urllib3.exceptions.LocationParseError(PHONE),
        OSError(24, "Too many open files"),
        TimeoutError("slow"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_every_exception_of_a_call_becomes_a_transient_error(error: Exception) -> None:
    with _Raising(error) as session:
        client = UsmsClient(url="http://127.0.0.1/", public_key="p", private_key="k", timeout_ms=1000, session=session)
        failure = _fails(client)
    assert type(error).__name__ in str(failure)
    assert PUBLIC_KEY not in str(failure)
    assert "18512345678" not in str(failure)
    assert not failure.throttled
    assert failure.ret_code is None


def test_an_explanation_ends_even_for_exceptions_in_a_ring() -> None:
    one, other = OSError(1, "first"), OSError(2, "second")
    for left, right in itertools.permutations((one, other)):
        left.__context__ = right
    assert "first" in str(explain_failure(one, 1.0))

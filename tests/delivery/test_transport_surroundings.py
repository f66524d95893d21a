"""What must not change a callback: the environment, the home directory, another's certificate."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bridge.delivery.transport import Transport
from bridge.domain.outcome import Failure
from tests.delivery.posting import LOOPBACK, post
from tests.hostile import NO_CONTENT, Certificate, Connection, answering, ok, serving, silent


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return Certificate(tmp_path_factory.mktemp("tls") / "server.pem", "127.0.0.1", "localhost")


@pytest.fixture
def trusting(certificate: Certificate) -> Iterator[Transport]:
    made = Transport(policy=LOOPBACK, ca_file=str(certificate.path))
    yield made
    made.close()


def test_tls_works_and_keeps_its_connection(trusting: Transport, certificate: Certificate) -> None:
    with serving(answering(NO_CONTENT, ok(b"x" * 5000)), tls=certificate.context) as server:
        assert post(trusting, server.url).status == 204
        assert server.connections == 1
        assert post(trusting, server.url, body=b"x" * 1_000_000).status == 200
        assert len(server.requests[1][1]) == 1_000_000
        assert server.connections == 1


def test_a_certificate_that_nobody_vouches_for_is_refused(certificate: Certificate) -> None:
    """certifi's bundle, not the one of the machine nor a directory that libcurl was built with."""
    transport = Transport(policy=LOOPBACK)
    with serving(answering(NO_CONTENT), tls=certificate.context) as server:
        answer = post(transport, server.url + "?secret")
        transport.close()
    assert (answer.status, answer.failure) == (0, Failure.TLS)
    assert answer.error.startswith("certificate: ")
    assert "secret" not in answer.error
    assert server.requests == []


@pytest.mark.parametrize("fault", ["another name", "expired"])
def test_a_trusted_certificate_that_does_not_fit_is_refused(tmp_path: Path, fault: str) -> None:
    name = "example.com" if fault == "another name" else "127.0.0.1"
    wrong = Certificate(tmp_path / "wrong.pem", name, expired=fault == "expired")
    transport = Transport(policy=LOOPBACK, ca_file=str(wrong.path))
    with serving(answering(NO_CONTENT), tls=wrong.context) as server:
        answer = post(transport, server.url)
        transport.close()
    assert (answer.status, answer.failure) == (0, Failure.TLS)
    assert answer.error.startswith("certificate: ")
    assert server.requests == []


def test_no_tls_at_all_is_a_tls_failure(trusting: Transport) -> None:
    def behave(connection: Connection) -> None:
        connection.sock.recv(1)
        connection.sock.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        connection.gone()

    with serving(behave) as server:
        answer = post(trusting, server.url.replace("http://", "https://"))
    assert (answer.status, answer.failure) == (0, Failure.TLS)


def test_a_handshake_that_hangs_meets_the_deadline(trusting: Transport) -> None:
    with serving(silent) as server:
        answer = post(trusting, server.url.replace("http://", "https://"), timeout_ms=300)
    assert (answer.failure, answer.error) == (Failure.TIMEOUT, "timed out after 300 ms")


def test_a_missing_bundle_is_our_own_fault(tmp_path: Path, certificate: Certificate) -> None:
    transport = Transport(policy=LOOPBACK, ca_file=str(tmp_path / "none.pem"))
    with serving(answering(NO_CONTENT), tls=certificate.context) as server:
        assert post(transport, server.url).failure is Failure.INTERNAL
        transport.close()


def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(answering(NO_CONTENT)) as proxy, serving(answering(NO_CONTENT)) as server:
        address = proxy.url.removesuffix("/hook")
        for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, address)
        monkeypatch.setenv("no_proxy", "")
        monkeypatch.setenv("NO_PROXY", "")
        transport = Transport(policy=LOOPBACK)
        assert post(transport, server.url).status == 204
        transport.close()
    assert (proxy.connections, server.connections) == (0, 1)


def test_files_of_the_home_directory_are_not_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login a password b\ndefault login a password b\n")
    (tmp_path / ".curlrc").write_text('user = "a:b"\nheader = "X-From: curlrc"\n')
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    monkeypatch.setenv("CURL_HOME", str(tmp_path))
    transport = Transport(policy=LOOPBACK)
    with serving(answering(NO_CONTENT)) as server:
        assert post(transport, server.url).status == 204
        transport.close()
    head = server.requests[0][0].lower()
    assert b"authorization" not in head
    assert b"curlrc" not in head


SEND_ONE = """
import os, sys
url, bundle, key_log, before, after = sys.argv[1:]
if before == "used":
    import pycurl
    pycurl.Curl().close()
from ipaddress import ip_network
from bridge.delivery.guard import UrlPolicy
from bridge.delivery.transport import Request, Transport
if after == "set again":
    os.environ["SSLKEYLOGFILE"] = key_log
transport = Transport(policy=UrlPolicy(allow_networks=(ip_network("127.0.0.0/8"),)), ca_file=bundle)
transport.start(Request(None, url, [], b"{}", 20_000))
answers = []
while not answers:
    answers = transport.perform(1_000)
transport.close()
print(answers[0][1].status, flush=True)
"""


@pytest.mark.parametrize("before", ["not imported", "used"])
@pytest.mark.parametrize("after", ["gone", "set again"])
def test_no_key_log_is_written(tmp_path: Path, certificate: Certificate, before: str, after: str) -> None:
    """In a process of its own: libcurl looks at SSLKEYLOGFILE once, when it is initialised."""
    key_log = tmp_path / "keys"
    with serving(answering(NO_CONTENT), tls=certificate.context) as server:
        done = subprocess.run(
            [sys.executable, "-c", SEND_ONE, server.url, str(certificate.path), str(key_log), before, after],
            env=os.environ | {"SSLKEYLOGFILE": str(key_log)},
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert (done.stdout, done.stderr) == ("204\n", "")
    assert not key_log.exists() or key_log.read_bytes() == b""

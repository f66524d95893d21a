"""Client certificates and a receiver's own authorities: shown to whom they are for, and to nobody else."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from bridge.delivery import transport as transport_module
from bridge.delivery.identity import MOST_CERTIFICATES, parse_identity
from bridge.delivery.transport import Transport
from bridge.domain.credentials import Identity
from bridge.domain.outcome import Failure
from bridge.domain.subscriptions import Options
from bridge.errors import UsageError
from bridge.wiring import Bridge
from tests.delivery.posting import LOOPBACK, request, run
from tests.delivery.slices import run as deliver
from tests.hostile import NO_CONTENT, Certificate, Connection, serving
from tests.parts import Parts, entry

NOW = datetime.now(UTC)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Certificate]:
    directory = tmp_path_factory.mktemp("identities")
    names = {"server": "127.0.0.1", "one": "one.example", "two": "two.example"}
    return {name: Certificate(directory / f"{name}.pem", cn) for name, cn in names.items()}


@pytest.fixture
def transport() -> Iterator[Transport]:
    it = Transport(policy=LOOPBACK)
    yield it
    it.close()


class Witness:
    """Notes whose certificate each request came with, and on which connection; "" without one."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, int]] = []
        self._numbers = itertools.count()
        self._lock = threading.Lock()

    def __call__(self, connection: Connection) -> None:
        number = next(self._numbers)
        der = connection.sock.getpeercert(binary_form=True)  # type: ignore[attr-defined]  # of an SSLSocket
        name = ""
        if der:
            (attribute,) = x509.load_der_x509_certificate(der).subject
            name = str(attribute.value)
        while connection.request() is not None:
            with self._lock:
                self.seen.append((name, number))
            connection.sock.sendall(NO_CONTENT)


def identity(client: Certificate | None, authority: Certificate | None) -> Identity:
    certificate, key = (client.pem, client.key) if client else (b"", b"")
    return parse_identity(certificate, key, authority.pem if authority else b"", NOW)[0]


def test_a_certificate_is_shown_and_its_connection_kept(transport: Transport, made: dict[str, Certificate]) -> None:
    witness = Witness()
    one = identity(made["one"], made["server"])
    with serving(witness, tls=made["server"].trusting(made["one"])) as server:
        for _ in range(3):
            (answer,) = run(transport, _as(server.url, one)).values()
            assert (answer.status, answer.error) == (204, "")
    assert witness.seen == [("one.example", 0)] * 3


def test_no_connection_ever_serves_another_identity(transport: Transport, made: dict[str, Certificate]) -> None:
    """One receiver, two subscriptions with certificates and one without: at once, and again on kept connections."""
    witness = Witness()
    context = made["server"].trusting(made["one"], made["two"])
    identities = [identity(made["one"], made["server"]), identity(made["two"], made["server"])]
    with serving(witness, tls=context) as server:
        for round_ in range(3):
            sent = [_as(server.url, one, key=(round_, n, i)) for n in range(4) for i, one in enumerate(identities)]
            answers = run(transport, *sent, request(server.url, "stranger"))
            stranger = answers.pop("stranger")
            assert {one.status for one in answers.values()} == {204}
            assert stranger.status == 0
    assert len(witness.seen) == 24
    owners: dict[int, set[str]] = {}
    for name, number in witness.seen:
        owners.setdefault(number, set()).add(name)
    assert all(len(names) == 1 for names in owners.values())
    assert sorted(name for name, _ in witness.seen) == ["one.example"] * 12 + ["two.example"] * 12
    assert len(owners) <= 8


def test_ones_own_authorities_are_trusted_for_oneself_alone(transport: Transport, made: dict[str, Certificate]) -> None:
    with serving(Witness(), tls=made["server"].context) as server:
        sent = [
            _as(server.url, identity(None, made["server"]), "own"),
            _as(server.url, identity(None, made["two"]), "wrong"),
            request(server.url, "public"),
        ]
        answers = run(transport, *sent)
    assert answers["own"].status == 204
    assert [answers[key].failure for key in ("wrong", "public")] == [Failure.TLS, Failure.TLS]


def test_a_receiver_that_wants_another_certificate_is_a_failure(
    transport: Transport, made: dict[str, Certificate]
) -> None:
    with serving(Witness(), tls=made["server"].trusting(made["two"])) as server:
        (answer,) = run(transport, _as(server.url, identity(made["one"], made["server"]))).values()
    assert answer.status == 0
    assert answer.failure in {Failure.TLS, Failure.RESET}


def test_connections_of_identities_that_are_no_longer_used_are_closed(
    transport: Transport, made: dict[str, Certificate], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport_module, "_MOST_IDENTITIES", 2)
    several = [
        identity(made["one"], made["server"]),
        identity(made["two"], made["server"]),
        identity(None, made["server"]),
    ]
    witness = Witness()
    context = made["server"].trusting(made["one"], made["two"])
    with serving(witness, tls=context) as server:
        for one in [*several, several[0]]:
            run(transport, _as(server.url, one))
    assert [name for name, _ in witness.seen] == ["one.example", "two.example", "one.example"]
    assert len({number for _, number in witness.seen}) == 3, "the first one's connection had to go"
    assert len(transport._pools) == 2


def test_a_subscription_delivers_with_its_certificate(
    bridge: Bridge, store_url: str, made: dict[str, Certificate]
) -> None:
    parts = Parts(store_url, bridge.settings.shards)
    witness = Witness()
    with serving(witness, tls=made["server"].trusting(made["one"])) as server:
        given = parse_identity(made["one"].pem, made["one"].key, made["server"].pem, NOW)
        subscription, _, _ = bridge.subscribe(server.url, options=Options(identity=given))
        parts.write("s1", entry("s1", to=[subscription.id]))
        report = deliver(bridge)
    parts.close()
    assert report.accepted == 1
    assert witness.seen == [("one.example", 0)]
    kept = bridge.subscriptions.get(subscription.id)
    assert kept.identity is not None
    assert kept.identity.own_authorities
    expires = x509.load_pem_x509_certificate(made["one"].pem).not_valid_after_utc
    assert kept.identity.expires_ms == expires.timestamp() * 1000
    assert b"CERTIFICATE" not in msgspec.msgpack.encode(kept)
    assert b"PRIVATE" not in msgspec.msgpack.encode(kept)


def test_a_certificate_for_plain_http_is_refused(bridge: Bridge, made: dict[str, Certificate]) -> None:
    given = parse_identity(made["one"].pem, made["one"].key, b"", NOW)
    with pytest.raises(UsageError, match="https"):
        bridge.subscribe("http://127.0.0.1:9000/", options=Options(identity=given))


# --- reading it


def test_of_a_file_that_holds_more_only_what_is_asked_for_is_kept(made: dict[str, Certificate]) -> None:
    one = made["one"]
    both = b"a comment\n" + one.key + one.pem
    found, _ = parse_identity(both, both, both, NOW)
    assert b"PRIVATE" not in found.certificate + found.authorities
    assert b"CERTIFICATE" not in found.key
    assert b"comment" not in found.certificate + found.key


def test_what_does_not_fit_is_refused(made: dict[str, Certificate], tmp_path: Path) -> None:
    one, two = made["one"], made["two"]
    private = serialization.load_pem_private_key(one.key, None)
    locked = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"pw")
    )
    expired = Certificate(tmp_path / "expired.pem", "old.example", expired=True)
    wrong: list[tuple[bytes, bytes, bytes, str]] = [
        (one.pem, b"", b"", "give both"),
        (b"", one.key, b"", "give both"),
        (one.pem, two.key, b"", "not the key"),
        (one.pem, locked, b"", "password"),
        (one.pem, b"nonsense", b"", "--client-key: no private key"),
        (one.key, one.key, b"", "--client-cert: no certificates"),
        (expired.pem, expired.key, b"", "expired at"),
        (b"", b"", b"nonsense", "--ca-file: no certificates"),
        (b"", b"", one.pem * (MOST_CERTIFICATES + 1), "21 certificates"),
    ]
    for certificate, key, authorities, says in wrong:
        with pytest.raises(UsageError, match=says):
            parse_identity(certificate, key, authorities, NOW)


def _as(url: str, one: Identity, key: object = None) -> transport_module.Request:
    return msgspec.structs.replace(request(url, key), identity=one)

"""What a subscription was added with, as it arrives: formats, and what is taken for an acknowledgement."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from standardwebhooks import Webhook

from bridge.domain.formats import hashed
from bridge.domain.subscriptions import BodyFormat, Options, PhoneFormat
from bridge.wiring import Bridge
from tests.delivery.slices import drain, run
from tests.hostile import Server, answering, ok, serving
from tests.parts import PHONE, Parts, entry


@pytest.fixture
def log(bridge: Bridge, store_url: str) -> Iterator[Parts]:
    """The store's parts, over the bridge's shards."""
    made = Parts(store_url, bridge.settings.shards)
    yield made
    made.close()


def arrived(server: Server) -> list[tuple[dict[str, str], str]]:
    """The headers (by lower-case name) and the body of each POST."""
    found = []
    for head, body in server.requests:
        lines = [line.decode().partition(": ") for line in head.split(b"\r\n")[1:]]
        found.append(({name.lower(): value for name, _, value in lines}, body.decode()))
    return found


@pytest.mark.parametrize("body_format", BodyFormat)
@pytest.mark.parametrize("phones", PhoneFormat)
def test_each_format_arrives_signed_and_alike_on_every_attempt(
    bridge: Bridge, log: Parts, body_format: BodyFormat, phones: PhoneFormat
) -> None:
    refused = b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n"
    with serving(answering(refused, ok(b'{"code":0}'))) as server:
        options = Options(phones=phones, format=body_format)
        subscription, secret, _ = bridge.subscribe(server.url, options=options)
        log.write("s1", entry("s1", to=[subscription.id]))
        report = drain(bridge)
    assert (report.accepted, report.retrying) == (1, 1)
    (first, body), (second, again) = arrived(server)
    assert (body, first["webhook-id"]) == (again, second["webhook-id"])
    told = Webhook(secret).verify(body, first)
    phone = told["Data"][0]["Phone"] if body_format is BodyFormat.USMS else told["data"]["phone"]
    key = bridge.signing_keys.of(subscription).phone_key
    assert bool(key) == (phones is PhoneFormat.HASHED)
    assert (
        phone
        == {
            PhoneFormat.FULL: PHONE,
            PhoneFormat.MASKED: "*******0001",
            PhoneFormat.HASHED: hashed(PHONE, key),
        }[phones]
    )


def test_a_push_that_is_answered_with_another_code_is_tried_again(bridge: Bridge, log: Parts) -> None:
    with serving(answering(ok(b'{"code":7}'), ok(b'{"code":0}'))) as server:
        subscription, _, _ = bridge.subscribe(server.url, options=Options(format=BodyFormat.USMS))
        log.write("s1", entry("s1", to=[subscription.id]))
        report = drain(bridge)
    assert (report.retrying, report.accepted) == (1, 1)


def test_in_the_standard_format_any_2xx_accepts(bridge: Bridge, log: Parts) -> None:
    with serving(answering(ok(b'{"code":7}'))) as server:
        log.write("s1", entry("s1", to=[bridge.subscribe(server.url)[0].id]))
        assert run(bridge).accepted == 1


def test_two_subscriptions_never_share_a_phone_key(bridge: Bridge) -> None:
    options = Options(phones=PhoneFormat.HASHED)
    made = [bridge.subscribe("http://127.0.0.1:9000/", options=options)[0] for _ in range(2)]
    first, second = (bridge.signing_keys.of(one).phone_key for one in made)
    assert len(first) == len(second) == 32
    assert first != second
    assert json.dumps(first.hex()) not in str(made)

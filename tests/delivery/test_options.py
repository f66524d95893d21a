"""What a subscription was added with, as it arrives: formats, and what is taken for an acknowledgement."""

from __future__ import annotations

import itertools
import json
from typing import cast

import msgspec
import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from bridge.delivery.queue import HeldQueue, Host
from bridge.domain.credentials import Credentials
from bridge.domain.deliveries import Lane, Part, Ready
from bridge.domain.events import event_id, record_of_test, unpack
from bridge.domain.formats import hashed
from bridge.domain.policy import DeliveryPolicy
from bridge.domain.signing import decode_secret, signature
from bridge.domain.subscriptions import BodyFormat, Changes, Options, PhoneFormat
from bridge.domain.tracking import parse_item
from bridge.errors import InvalidSession, UsageError
from bridge.lifecycle import edit
from bridge.wiring import Bridge
from tests.delivery.slices import QUICK, Running, drain, publish, run
from tests.hostile import Connection, Server, answering, ok, serving
from tests.parts import PHONE, Parts, entry, until
from tests.parts import subscription as stored

USUAL = DeliveryPolicy(retry_ms=(1_000,), timeout_ms=15_000, concurrency=8)

REFUSED = b"HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n"


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


# --- headers


def test_headers_arrive_as_given_beside_ours(bridge: Bridge, log: Parts) -> None:
    headers = (("Authorization", "Bearer abc=="), ("X-Tenant", "7"))
    with serving(answering(ok())) as server:
        subscription, secret, _ = bridge.subscribe(server.url, options=Options(headers=headers))
        log.write("s1", entry("s1", to=[subscription.id]))
        assert run(bridge).accepted == 1
    ((found, body),) = arrived(server)
    assert (found["authorization"], found["x-tenant"]) == ("Bearer abc==", "7")
    assert found["user-agent"] == "usms-bridge/test"
    Webhook(secret).verify(body, found)


def test_an_edited_header_goes_with_what_waits(bridge: Bridge, log: Parts) -> None:
    """Within the slice that has it: a gateway refuses the old token, and the same event comes with the new one."""
    tokens: list[bytes] = []

    def behave(connection: Connection) -> None:
        while (came := connection.request()) is not None:
            tokens.append(next(line for line in came[0].split(b"\r\n") if line.startswith(b"X-Token")))
            if len(tokens) == 1:
                edit(bridge, subscription.id, changes=Changes(headers=(("X-Token", "new"),)))
            connection.sock.sendall(ok() if tokens[-1].endswith(b"new") else REFUSED)

    with serving(behave) as server:
        subscription, _, _ = bridge.subscribe(server.url, options=Options(headers=(("X-Token", "old"),)))
        log.write("s1", entry("s1", to=[subscription.id]))
        report = run(bridge, msgspec.structs.replace(QUICK, retry_ms=(20,) * 100))
    assert report.accepted == 1
    assert (tokens[0], tokens[-1]) == (b"X-Token: old", b"X-Token: new")


def test_a_headers_value_is_nowhere_in_the_store(bridge: Bridge, log: Parts) -> None:
    bridge.subscribe("http://127.0.0.1:9000/", options=Options(headers=(("X-Token", "s3cret-token"),)))
    (stored,) = cast("dict[bytes, bytes]", log.redis.hgetall("u:subscriptions")).values()
    assert b"X-Token" in stored
    assert b"s3cret" not in stored


# --- rotation


def verified_by(secret: str, headers: dict[str, str], body: str) -> bool:
    try:
        Webhook(secret).verify(body, headers)
    except (WebhookVerificationError, ValueError):
        return False
    return True


def test_the_current_key_signs_first_and_old_ones_until_their_time(bridge: Bridge) -> None:
    subscription, _, _ = bridge.subscribe("http://127.0.0.1:9000/")
    made = [bridge.signing_keys.of(subscription).keys[0].key]
    for _ in range(3):
        subscription, secret = bridge.rotate(subscription.id, 60_000)
        made.append(decode_secret(secret))
    credentials = bridge.signing_keys.of(subscription)
    assert [one.key for one in credentials.keys] == made[:0:-1], "the current one and two old ones"
    queue = HeldQueue(Part(subscription.id), subscription, credentials, QUICK, Host())
    now_ms = bridge.clock.now_ms()
    assert queue.sign("evt_1", now_ms, b"x") == signature(made[:0:-1], "evt_1", now_ms // 1000, b"x")
    first_end, second_end = sorted(one.until_ms for one in credentials.keys[1:])
    assert queue.sign("evt_1", first_end - 1, b"x").count("v1,") == 3
    if first_end < second_end:
        assert queue.sign("evt_1", first_end, b"x").count("v1,") == 2
    assert queue.sign("evt_1", second_end, b"x") == signature(made[3:], "evt_1", second_end // 1000, b"x")


@pytest.mark.parametrize(
    ("rate", "ahead"),
    [
        (1, 10),  # as many as a lease lasts for
        (100, 64),
        (5_000, 250),  # 50 ms of it
        (100_000, 1_024),
        (None, 1_024),
    ],
)
def test_what_is_sent_at_a_rate_is_claimed_a_little_ahead(rate: float | None, ahead: int) -> None:
    """Fault: beside a backlog that was drained at 5,000 a second all others waited for claims of a thousand lanes."""
    subscription = msgspec.structs.replace(stored("sub_a"), rate=rate)
    queue = HeldQueue(Part("sub_a"), subscription, Credentials(keys=()), USUAL, Host())
    now_ms, places = 0, itertools.count()
    for _ in range(10):  # claims that follow one another at once, each as large as there is room for
        taken = queue.room
        positions = [next(places).to_bytes(12) for _ in range(taken)]
        queue.take([Ready(Lane(0, b"l" * 8, "bucket", one, 0), b"", 60_000) for one in positions], now_ms)
        queue.ready.clear()
    assert taken == ahead


def test_a_secret_that_leaked_signs_nothing_more(bridge: Bridge) -> None:
    subscription, old, _ = bridge.subscribe("http://127.0.0.1:9000/")
    subscription, new = bridge.rotate(subscription.id, 0)
    (only,) = bridge.signing_keys.of(subscription).keys
    assert only.key == decode_secret(new) != decode_secret(old)
    with pytest.raises(UsageError, match="already"):
        bridge.rotate(subscription.id, 0, only.key)


def test_every_callback_verifies_while_the_secret_is_rotated(bridge: Bridge, log: Parts) -> None:
    """In mid-traffic: the operator rotates, the receiver takes the new secret later, within the overlap."""
    with serving(answering(*[ok()] * 5_000)) as server:
        subscription, old, _ = bridge.subscribe(server.url)
        with Running(bridge):
            publish(log, subscription.id, sessions=20, phones=5)
            until(lambda: len(server.requests) >= 50)
            _, new = bridge.rotate(subscription.id, 60_000)
            # The slice takes the new key up by itself, while it goes on: until then the old one alone signs.
            until(lambda: publish(log, subscription.id, sessions=1) != [] and both(arrived(server)[-1][0]))
            switched = len(server.requests) + QUICK.concurrency  # what was under way before may yet arrive
            publish(log, subscription.id, sessions=20, phones=5, each=2)
        drain(bridge)
    told = arrived(server)
    assert len(told) > switched + 100
    assert all(verified_by(old, headers, body) for headers, body in told)
    assert all(verified_by(new, headers, body) for headers, body in told[switched:])
    assert not verified_by(new, *told[0])


def test_a_key_that_leaked_stops_signing_while_a_slice_goes_on(bridge: Bridge, log: Parts) -> None:
    with serving(answering(*[ok()] * 5_000)) as server:
        subscription, old, _ = bridge.subscribe(server.url)
        with Running(bridge):
            publish(log, subscription.id, sessions=5)
            until(lambda: len(server.requests) >= 5)
            _, new = bridge.rotate(subscription.id, 0)
            until(lambda: publish(log, subscription.id, sessions=1) != [] and verified_by(new, *arrived(server)[-1]))
        drain(bridge)
    assert not verified_by(old, *arrived(server)[-1])


def both(headers: dict[str, str]) -> bool:
    return headers["webhook-signature"].count("v1,") == 2


# --- bridge.test


def test_a_test_reaches_the_one_subscription_that_it_is_for(bridge: Bridge, log: Parts) -> None:
    with serving(answering(ok(), ok())) as server, serving(answering(ok())) as other:
        narrow = Options(statuses=("failed",), headers=(("X-Tenant", "7"),))
        subscription, secret, _ = bridge.subscribe(server.url, options=narrow)
        bridge.subscribe(other.url)
        sent = {bridge.test(subscription.id), bridge.test(subscription.id)}
        log.assert_index_is_right()
        assert drain(bridge).accepted == 2
    told = [Webhook(secret).verify(body, headers) for headers, body in arrived(server)]
    assert {one["id"] for one in told} == sent
    assert {one["type"] for one in told} == {"bridge.test"}
    assert [one["data"] for one in told] == [{"account": "default", "subscription": subscription.id}] * 2
    assert other.requests == []
    log.assert_index_is_right()


def test_a_test_is_retried_and_given_up_as_any_event(bridge: Bridge) -> None:
    refused = b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n"
    with serving(answering(*[refused] * 3)) as server:
        subscription, _, _ = bridge.subscribe(server.url)
        event = bridge.test(subscription.id)
        policy = msgspec.structs.replace(QUICK, retry_ms=(1, 1))
        assert drain(bridge, policy).dead == 1
    (letter,) = bridge.queues.dead_letters(subscription.id)
    assert event_id("default", unpack(letter.record)) == event
    assert (letter.attempts, letter.error) == (3, "HTTP 500")


def test_a_test_that_waits_longer_than_the_log_keeps_it_is_kept_aside(bridge: Bridge) -> None:
    with serving(answering(ok())) as server:
        subscription, _, _ = bridge.subscribe(server.url)
        bridge.test(subscription.id)
        assert bridge.log.trim("default", [subscription.id], bridge.clock.now_ms() + 1_000) == (1, 1)
        assert drain(bridge).accepted == 1


def test_a_session_cannot_share_a_tests_lane() -> None:
    event = record_of_test("default", "sub_a", "1", 1)
    with pytest.raises(InvalidSession):
        parse_item(event.session_no, 0)

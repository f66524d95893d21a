"""The verifying receiver: what it accepts, refuses and counts, over real connections."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime

import pytest
from standardwebhooks.webhooks import Webhook

from bridge.cli.receiver import Answer, Callback, Counts, Receiver, Request
from bridge.errors import UsageError

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"  # noqa: S105 - of the public test vectors
OTHER = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"


def event(
    event_id: str, *, sequence: int = 1, phone: str = "(86)18500000000", session: str = "s1"
) -> dict[str, object]:
    return {
        "id": event_id,
        "type": "sms.status.changed",
        "data": {"account": "default", "session_no": session, "phone": phone, "user_id": "", "sequence": sequence},
    }


class Sender:
    """Signs with the public library and posts on one connection that is kept alive."""

    def __init__(self, receiver: Receiver) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", receiver.port, timeout=10)

    def send(self, body: object, *, webhook_id: str = "evt_1", secret: str = SECRET, age_s: float = 0) -> int:
        text = body if isinstance(body, str) else json.dumps(body)
        at = datetime.fromtimestamp(time.time() - age_s, UTC)
        headers = {
            "webhook-id": webhook_id,
            "webhook-timestamp": str(int(at.timestamp())),
            "webhook-signature": Webhook(secret).sign(webhook_id, at, text),
        }
        return self.post(text.encode(), headers)

    def post(self, body: bytes, headers: dict[str, str]) -> int:
        self._connection.request("POST", "/hook?x=1", body, headers)
        answer = self._connection.getresponse()
        self.body = answer.read()
        return answer.status

    def close(self) -> None:
        self._connection.close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver(SECRET, record=True) as started:
        yield started


@pytest.fixture
def sender(receiver: Receiver) -> Iterator[Sender]:
    opened = Sender(receiver)
    yield opened
    opened.close()


def test_the_public_test_vector_is_verified(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bridge.cli.receiver.time.time_ns", lambda: 1_614_265_330 * 1_000_000_000)
    headers = {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }
    receiver = Receiver(SECRET)

    assert receiver.receive(Request(path="/", headers=headers, body=b'{"test": 2432232314}')).status == 204
    assert receiver.receive(Request(path="/", headers=headers, body=b'{"test": 2432232315}')).status == 400


def test_a_signed_callback_is_accepted_once_and_then_is_a_duplicate(receiver: Receiver, sender: Sender) -> None:
    assert sender.send(event("evt_1")) == 204
    assert sender.send(event("evt_1")) == 204

    assert receiver.counts == Counts(requests=2, accepted=1, duplicates=1)


def test_a_signature_of_another_secret_is_refused(receiver: Receiver, sender: Sender) -> None:
    assert sender.send(event("evt_1"), secret=OTHER) == 400
    assert sender.body == b"no signature matches"

    assert receiver.counts == Counts(requests=1, bad_signatures=1)


@pytest.mark.parametrize("age_s", [310, -310])
def test_a_timestamp_further_than_five_minutes_away_is_refused(receiver: Receiver, sender: Sender, age_s: int) -> None:
    assert sender.send(event("evt_1"), age_s=age_s) == 400

    assert receiver.counts == Counts(requests=1, bad_signatures=1)


def test_during_a_rotation_one_matching_signature_is_enough(sender: Sender) -> None:
    text, at = json.dumps(event("evt_1")), datetime.now(UTC)
    signatures = [Webhook(secret).sign("evt_1", at, text) for secret in (OTHER, SECRET)]
    stamp = str(int(at.timestamp()))
    headers = {"webhook-id": "evt_1", "webhook-timestamp": stamp, "webhook-signature": " ".join(signatures)}

    assert sender.post(text.encode(), headers) == 204


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"webhook-id": "evt_1", "webhook-timestamp": "1"},
        {"webhook-id": "evt_1", "webhook-timestamp": "soon", "webhook-signature": "v1,x"},
        {"webhook-id": "evt_1", "webhook-timestamp": "9" * 5000, "webhook-signature": "v1,x"},
        {"webhook-id": "evt_1", "webhook-timestamp": "1", "webhook-signature": "no comma"},
        {"webhook-id": "\xe9vt", "webhook-timestamp": "1", "webhook-signature": "v1,\xff\xfe"},
    ],
)
def test_malformed_headers_are_refused_and_break_nothing(
    receiver: Receiver, sender: Sender, headers: dict[str, str]
) -> None:
    assert sender.post(b"{}", headers) == 400
    assert sender.send(event("evt_2")) == 204

    assert receiver.counts == Counts(requests=2, accepted=1, bad_signatures=1)


def test_a_sequence_that_goes_down_is_out_of_order_on_its_first_arrival_alone(
    receiver: Receiver, sender: Sender
) -> None:
    for event_id, sequence in (("evt_1", 1), ("evt_3", 3), ("evt_2", 2), ("evt_2", 2), ("evt_1", 1)):
        sender.send(event(event_id, sequence=sequence))
    sender.send(event("evt_4", sequence=1, phone="(86)18500000001"))
    sender.send(event("evt_5", sequence=1, session="s2"))

    assert receiver.counts == Counts(requests=7, accepted=5, duplicates=2, out_of_order=1)


def test_events_of_a_batch_are_counted_by_their_own_ids(receiver: Receiver, sender: Sender) -> None:
    first, second = event("evt_1"), event("evt_2", sequence=2)
    sender.send({"type": "bridge.batch", "data": [first, second]}, webhook_id="batch_1")
    sender.send({"type": "bridge.batch", "data": [second]}, webhook_id="batch_2")

    assert receiver.counts == Counts(requests=2, accepted=2, duplicates=1)


def test_the_format_of_the_provider_is_acknowledged_as_the_provider_wants_it(sender: Sender) -> None:
    assert sender.send({"MsgType": 2, "Data": []}) == 200
    assert sender.body == b'{"code":0}'


@pytest.mark.parametrize("body", ["", "no JSON", "[1]", "[" * 100_000, '{"type":"bridge.batch","data":[1]}'])
def test_a_verified_body_that_is_no_event_is_counted_by_its_header(
    receiver: Receiver, sender: Sender, body: str
) -> None:
    assert sender.send(body) == 204
    assert sender.send(body) == 204

    assert receiver.counts == Counts(requests=2, accepted=1, duplicates=1)


def test_the_secret_may_be_set_later_and_until_then_nothing_counts_as_accepted() -> None:
    with Receiver() as receiver:
        late = Sender(receiver)
        assert late.send(event("evt_1")) == 204
        receiver.set_secret(SECRET)
        assert late.send(event("evt_1")) == 204
        assert late.send(event("evt_2"), secret=OTHER) == 400
        late.close()

        assert receiver.counts == Counts(requests=3, accepted=1, unverified=1, bad_signatures=1)


@pytest.mark.parametrize("secret", ["whsec_", "whsec_!", "whsec_é", ""])
def test_a_secret_that_is_none_is_refused_at_once(secret: str) -> None:
    with pytest.raises(UsageError, match="whsec_"):
        Receiver(secret)


def test_each_event_is_told_to_the_hook_with_what_was_found() -> None:
    told: list[Callback] = []
    with Receiver(SECRET, on_callback=told.append) as receiver:
        own = Sender(receiver)
        own.send(event("evt_1"))
        own.send(event("evt_1"))
        own.send(event("evt_2"), secret=OTHER)
        own.close()

    assert [(one.id, one.verified, one.duplicate, one.problem) for one in told] == [
        ("evt_1", True, False, ""),
        ("evt_1", True, True, ""),
        ("evt_2", False, False, "no signature matches"),
    ]
    assert told[0].event == event("evt_1")


def test_verified_requests_can_be_answered_by_somebody_else() -> None:
    with Receiver(SECRET, respond=lambda request: Answer(status=503, body=request.body)) as receiver:
        own = Sender(receiver)
        assert own.send("x") == 503
        assert own.body == b"x"
        assert own.send("x", secret=OTHER) == 400
        own.close()


def test_requests_are_recorded_as_they_came(receiver: Receiver, sender: Sender) -> None:
    sender.send(event("evt_1"))
    [recorded] = receiver.recorded

    assert recorded.path == "/hook?x=1"
    assert json.loads(recorded.body) == event("evt_1")
    Webhook(SECRET).verify(recorded.body, dict(recorded.headers))


def test_one_connection_serves_many_callbacks_and_many_serve_at_once(receiver: Receiver) -> None:
    def run(number: int) -> None:
        own = Sender(receiver)
        for index in range(50):
            assert own.send(event(f"evt_{number}_{index}", sequence=index + 1, session=f"s{number}")) == 204
        own.close()

    threads = [threading.Thread(target=run, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert receiver.counts == Counts(requests=400, accepted=400)


@pytest.mark.parametrize(
    ("request_text", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"405"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", b"411"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n", b"413"),
    ],
)
def test_other_requests_are_refused_and_the_connection_closed(
    receiver: Receiver, request_text: bytes, status: bytes
) -> None:
    with socket.create_connection(("127.0.0.1", receiver.port), 10) as connection:
        connection.sendall(request_text)
        answer = b""
        while block := connection.recv(4096):
            answer += block

    assert answer.split()[1] == status
    assert receiver.counts == Counts()


def test_stopping_does_not_wait_for_open_connections() -> None:
    receiver = Receiver(SECRET).start()
    sender = Sender(receiver)
    sender.send(event("evt_1"))
    with socket.create_connection(("127.0.0.1", receiver.port), 10) as half:
        half.sendall(b"POST / HTTP/1.1\r\nContent-Length: 10\r\n\r\nhalf")

        receiver.stop()
        with suppress(ConnectionResetError):  # closed at once, in one way or the other
            assert half.recv(1) == b""
    sender.close()


def test_what_is_being_answered_while_stopping_is_answered() -> None:
    begun, go_on = threading.Event(), threading.Event()

    def respond(_request: Request) -> Answer:
        begun.set()
        go_on.wait(10)
        return Answer(status=204)

    receiver = Receiver(SECRET, respond=respond).start()
    sender, statuses = Sender(receiver), list[int]()
    posting = threading.Thread(target=lambda: statuses.append(sender.send(event("evt_1"))))
    posting.start()
    assert begun.wait(10)
    stopping = threading.Thread(target=receiver.stop)
    stopping.start()
    go_on.set()
    posting.join(10)
    stopping.join(10)
    sender.close()

    assert statuses == [204]


def test_a_port_that_is_taken_is_a_clear_error(receiver: Receiver) -> None:
    with pytest.raises(UsageError, match=f"127.0.0.1:{receiver.port}"):
        Receiver(port=receiver.port).start()


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch, receiver: Receiver, sender: Sender) -> None:
    monkeypatch.setattr("bridge.cli.receiver.REMEMBERED", 2)
    for event_id in ("evt_1", "evt_2", "evt_3", "evt_1"):
        sender.send(event(event_id))

    assert receiver.counts == Counts(requests=4, accepted=4)

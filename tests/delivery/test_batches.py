"""Batches on a real store and real sockets: all arrive, in order, and one bad event stands alone in the end."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from msgspec.structs import replace
from standardwebhooks.webhooks import Webhook

from bridge.domain.deliveries import Part
from bridge.domain.events import lane_id
from bridge.domain.subscriptions import BodyFormat, Options
from bridge.wiring import Bridge
from tests.delivery.slices import FAILED, QUICK, Around, drain, publish, run
from tests.hostile import Connection, ok, serving
from tests.parts import Parts, entry


class Batches:
    """Answers each POST as ``answers`` says of its events; notes (head, events, whether it was accepted)."""

    def __init__(self, answers: Callable[[list[Any]], bytes] = lambda _events: ok()) -> None:
        self._answers = answers
        self.posts: list[tuple[bytes, list[Any], bool]] = []
        self.bodies: list[bytes] = []

    def __call__(self, connection: Connection) -> None:
        while (request := connection.request()) is not None:
            told = json.loads(request[1])
            events = told["data"] if "data" in told else told["Data"]
            answer = self._answers(events)
            self.posts.append((request[0], events, answer.startswith(b"HTTP/1.1 2")))
            self.bodies.append(request[1])
            connection.sock.sendall(answer)

    @property
    def sizes(self) -> list[int]:
        return [len(events) for _, events, _ in self.posts]

    @property
    def accepted(self) -> list[tuple[str, str, int]]:
        """(SessionNo, phone, sequence) of what was accepted, in order of arrival."""
        return [
            (one["data"]["session_no"], one["data"]["phone"], one["data"]["sequence"])
            for _, events, accepted in self.posts
            if accepted
            for one in events
        ]


def subscribe(bridge: Bridge, url: str, most: int, **options: Any) -> tuple[str, str]:
    """A subscription that takes batches; its id and its secret."""
    made, secret, _ = bridge.subscribe(url, "default", Options(**options), lambda one: replace(one, max_batch=most))
    return made.id, secret


def publish_apart(log: Parts, name: str, *, sessions: int) -> list[tuple[str, str, int]]:
    """Commit an event for each of so many sessions, each with a phone of its own."""
    for session in range(sessions):
        log.write(f"s{session}", entry(f"s{session}", f"1850000{session:04}", to=[name]))
    return sorted((f"s{session}", f"1850000{session:04}", 1) for session in range(sessions))


def test_many_events_come_in_few_posts_each_signed(bridge: Bridge, log: Parts) -> None:
    receiver = Batches()
    with serving(receiver) as server:
        name, secret = subscribe(bridge, server.url, 100)
        told = publish_apart(log, name, sessions=300)
        report = drain(bridge)

    assert report.accepted == len(told) == 300
    assert sorted(receiver.accepted) == told
    assert max(receiver.sizes) <= 100
    assert len(receiver.posts) <= 30
    for (head, events, _), body in zip(receiver.posts, receiver.bodies, strict=True):
        lines = [line.decode().partition(": ") for line in head.split(b"\r\n")[1:]]
        headers = {key.lower(): value for key, _, value in lines}
        assert Webhook(secret).verify(body.decode(), headers)
        assert headers["webhook-id"].startswith("bat_")
        phones = [one["data"]["phone"] for one in events]
        assert len(phones) == len(set(phones)), "at most one event of a phone"
    log.assert_index_is_right()


def test_a_phones_events_stay_in_order_over_batches_that_fail(bridge: Bridge, log: Parts) -> None:
    turns = iter(range(10_000))
    receiver = Batches(lambda _events: ok() if next(turns) % 3 else FAILED)
    with serving(receiver) as server:
        name, _ = subscribe(bridge, server.url, 16)
        told = publish(log, name, sessions=6, phones=4, each=5)
        report = drain(bridge)

    assert report.accepted == len(told)
    last: dict[tuple[str, str], int] = {}
    for _, events, _ in receiver.posts:
        for one in events:
            line = (one["data"]["session_no"], one["data"]["phone"])
            assert one["data"]["sequence"] >= last.get(line, 0)
            last[line] = one["data"]["sequence"]
    assert sorted(receiver.accepted) == told


def test_one_event_that_is_refused_stands_alone_in_the_end_and_the_others_arrive(bridge: Bridge, log: Parts) -> None:
    receiver = Batches(lambda events: FAILED if any(one["data"]["session_no"] == "s7" for one in events) else ok())
    with serving(receiver) as server:
        name, _ = subscribe(bridge, server.url, 64)
        told = publish_apart(log, name, sessions=64)
        report = drain(bridge, replace(QUICK, retry_ms=(5,) * 8))

    assert (report.accepted, report.dead) == (63, 1)
    assert sorted(receiver.accepted) == [one for one in told if one[0] != "s7"]
    refused = [len(events) for _, events, accepted in receiver.posts if not accepted]
    assert refused[0] > 1
    assert refused[-1] == 1
    assert all(size <= max(1, 64 >> failures) for failures, size in enumerate(refused))
    (letter,) = bridge.queues.dead_letters(name)
    assert letter.attempts == 9


def test_an_abort_ends_the_event_that_it_is_said_of_alone(bridge: Bridge, log: Parts) -> None:
    aborted = b"HTTP/1.1 422 No\r\nwebhook-delivery: abort\r\nContent-Length: 0\r\n\r\n"
    receiver = Batches(lambda events: aborted if any(one["data"]["session_no"] == "s3" for one in events) else ok())
    with serving(receiver) as server:
        name, _ = subscribe(bridge, server.url, 8)
        publish_apart(log, name, sessions=8)
        report = drain(bridge)

    assert (report.accepted, report.dead) == (7, 1)
    assert [letter.error for letter in bridge.queues.dead_letters(name)] == ["aborted"]


def test_a_phone_with_events_in_two_sessions_is_in_a_batch_once(bridge: Bridge, log: Parts) -> None:
    receiver = Batches()
    with serving(receiver) as server:
        name, _ = subscribe(bridge, server.url, 50)
        for session in range(5):
            log.write(
                f"s{session}", *(entry(f"s{session}", phone, to=[name]) for phone in ("18500000001", "8618500000001"))
            )
        # Two spellings of one phone share a lane within a session.
        assert lane_id("s0", "18500000001") == lane_id("s0", "8618500000001")
        report = drain(bridge)

    assert report.accepted == 10
    assert receiver.sizes == [1] * 10


def test_the_providers_format_comes_in_batches_too(bridge: Bridge, log: Parts) -> None:
    receiver = Batches(lambda _events: ok(b'{"code":0}'))
    with serving(receiver) as server:
        name, _ = subscribe(bridge, server.url, 100, format=BodyFormat.USMS)
        publish_apart(log, name, sessions=40)
        report = drain(bridge)
    assert report.accepted == 40
    assert sum(receiver.sizes) == 40
    assert max(receiver.sizes) > 1


def test_a_failed_batch_is_noted_for_each_of_its_events_and_counts_once_for_the_receiver(
    bridge: Bridge, log: Parts
) -> None:
    receiver = Batches(lambda _events: FAILED)
    around = Around()
    with serving(receiver) as server:
        name, _ = subscribe(bridge, server.url, 32)
        publish_apart(log, name, sessions=32)
        run(bridge, replace(QUICK, retry_ms=(3_600_000,)), around)

    assert len(list(bridge.attempts.newest(name))) == 32
    assert len(around.attempts) == len(receiver.posts) < 32
    assert bridge.queues.health([Part(name)])[0].failures == len(receiver.posts)

"""Many POSTs, large ones, kept connections, and what remains of them: nothing."""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bridge.delivery import transport as transport_module
from bridge.delivery.libcurl import pycurl
from bridge.delivery.transport import Request, Transport
from bridge.domain.outcome import Answer
from tests.delivery.posting import LOOPBACK, PATIENT_MS, post, request, run
from tests.hostile import NO_CONTENT, Connection, answering, ok, once, serving, silent
from tests.ports import unused_port


@pytest.fixture
def transport() -> Iterator[Transport]:
    made = Transport(policy=LOOPBACK)
    yield made
    made.close()


def test_a_large_body_is_sent_without_asking_first(transport: Transport) -> None:
    body = os.urandom(3_000_000)
    with serving(answering(NO_CONTENT)) as server:
        assert post(transport, server.url, body=body).status == 204
    ((head, seen),) = server.requests
    assert seen == body
    assert b"expect" not in head.lower()


@pytest.mark.parametrize("size", [16_385, 65_537, 200_000, 1_000_000])
def test_a_large_body_never_stalls(transport: Transport, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fault: 300 kB took until the deadline. Cause: libcurl writes 64 kB at a time and an edge-triggered epoll says
    nothing of a socket that never was full. Fix: such a socket is armed again before each wait.
    """
    monkeypatch.setattr(transport_module, "_LOOK_MS", 60_000)  # nothing but edges may wake it
    with serving(answering(NO_CONTENT)) as server:
        for _ in range(3):
            assert post(transport, server.url, body=b"x" * size, timeout_ms=10_000).status == 204


def test_a_slow_reader_of_a_large_body_costs_no_spinning(transport: Transport, monkeypatch: pytest.MonkeyPatch) -> None:
    reading = threading.Event()

    def behave(connection: Connection) -> None:
        assert reading.wait(30)
        connection.request()
        connection.sock.sendall(NO_CONTENT)

    monkeypatch.setattr(transport_module, "_LOOK_MS", 60_000)
    with serving(behave) as server:
        transport.start(request(server.url, body=b"x" * 8_000_000))
        rounds = 0
        started = time.monotonic()
        while time.monotonic() < started + 0.5:
            assert transport.perform(100) == []
            rounds += 1
        assert rounds < 200  # a piece each, until the socket is full; then one for each 100 ms
        reading.set()
        done: list[tuple[Request, Answer]] = []
        while not done:
            done = transport.perform(1_000)
        assert done[0][1].status == 204
        assert len(server.requests[0][1]) == 8_000_000


def test_a_connection_is_kept_and_used_again(transport: Transport) -> None:
    with serving(answering(NO_CONTENT)) as server:
        for _ in range(20):
            assert post(transport, server.url).status == 204
        assert server.connections == 1
        run(transport, *(request(server.url, key) for key in range(5)))
        run(transport, *(request(server.url, key) for key in range(5)))
        assert server.connections <= 5


def test_a_kept_connection_that_was_closed_meanwhile_costs_no_attempt(transport: Transport) -> None:
    with serving(once(NO_CONTENT)) as server:
        assert [post(transport, server.url).status for _ in range(10)] == [204] * 10


def test_two_hundred_at_once(transport: Transport) -> None:
    """Nobody is answered before all have asked."""
    barrier = threading.Barrier(200)

    def behave(connection: Connection) -> None:
        connection.request()
        barrier.wait(30)
        connection.sock.sendall(NO_CONTENT)

    with serving(behave) as server:
        answers = run(transport, *(request(server.url, key) for key in range(200)))
    assert {answer.status for answer in answers.values()} == {204}
    assert server.connections == 200


def test_hanging_receivers_delay_nobody(transport: Transport) -> None:
    with serving(silent) as hanging, serving(answering(NO_CONTENT)) as healthy:
        for number in range(50):
            transport.start(request(hanging.url, ("hanging", number), timeout_ms=PATIENT_MS * 10))
        for number in range(200):
            transport.start(request(healthy.url, number, timeout_ms=PATIENT_MS * 10))
            done: list[tuple[Request, Answer]] = []
            while not done:
                done = transport.perform(1_000)
            assert [(each.key, answer.status) for each, answer in done] == [(number, 204)]
        assert transport.in_flight == 50


def test_abort_returns_what_had_not_finished(transport: Transport) -> None:
    with serving(silent) as hanging, serving(answering(NO_CONTENT)) as healthy:
        for key in ("a", "b"):
            transport.start(request(hanging.url, key))
        transport.start(request("http://10.0.0.1/", "refused"))
        assert transport.in_flight == 3
        assert {one.key for one in transport.abort()} == {"a", "b", "refused"}
        assert transport.in_flight == 0
        assert transport.perform(1_000) == []
        assert transport.abort() == []
        assert post(transport, healthy.url).status == 204


def test_perform_waits_no_longer_than_it_was_told(transport: Transport) -> None:
    assert transport.perform(60_000) == []  # nothing in flight: nothing to wait for
    with serving(silent) as server:
        transport.start(request(server.url, timeout_ms=600_000))
        deadline = time.monotonic() + 0.2
        while time.monotonic() < deadline:
            assert transport.perform(20) == []
        assert time.monotonic() < deadline + 60
        assert transport.perform(0) == []


DESCRIPTORS = Path("/proc/self/fd")


@pytest.mark.skipif(not DESCRIPTORS.exists(), reason="counts descriptors in /proc")
def test_nothing_is_left_behind() -> None:
    """Handles go by reference counts alone, and descriptors with them: a slice ends every ten seconds."""
    round_of_everything()  # what is loaded once and stays
    gc.collect()
    gc.disable()
    try:
        handles, descriptors = living_handles(), len(list(DESCRIPTORS.iterdir()))
        for _ in range(3):
            round_of_everything()
        assert living_handles() == handles
        assert len(list(DESCRIPTORS.iterdir())) == descriptors
    finally:
        gc.enable()


def living_handles() -> int:
    # Not isinstance: it asks each object's __class__, and a lazy proxy of another library comes to life at that.
    return sum(type(each) is pycurl.Curl for each in gc.get_objects())


def round_of_everything() -> None:
    """Answered, refused and aborted requests, more of them than handles are kept."""
    with serving(answering(NO_CONTENT, ok(b"x"))) as server, serving(silent) as hanging:
        transport = Transport(policy=LOOPBACK, max_connections=4)
        run(transport, *(request(server.url, key) for key in range(40)))
        run(transport, *(request(server.url, key) for key in range(4)))
        run(transport, request(f"http://127.0.0.1:{unused_port()}/"))
        run(transport, request("http://10.0.0.1/"))
        transport.start(request(hanging.url))
        transport.perform(0)
        transport.close()

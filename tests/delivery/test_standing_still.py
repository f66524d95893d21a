"""What becomes of POSTs while their sender looks at nothing, until after their deadline."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bridge.delivery.transfer import Notes
from bridge.delivery.transport import Request, Transport
from bridge.domain.outcome import Answer, Failure
from tests.delivery.posting import LOOPBACK, post, request, run
from tests.hostile import NO_CONTENT, Behaviour, Certificate, Connection, answering, serving, silent

STOOD_STILL_MS = 4_000
"""Long enough that a busy machine, which stands still too, has come to what must be before the end."""


@pytest.fixture
def certificate(tmp_path: Path) -> Certificate:
    return Certificate(tmp_path / "server.pem", "127.0.0.1")


@pytest.fixture
def transport(certificate: Certificate) -> Iterator[Transport]:
    made = Transport(policy=LOOPBACK, ca_file=str(certificate.path))
    yield made
    made.close()


def stand_still(until_s: float) -> None:
    while time.monotonic() < until_s:
        time.sleep(0.01)


def outcomes(transport: Transport, count: int = 1) -> list[tuple[Request, Answer]]:
    """The answers to so many that are under way."""
    finished: list[tuple[Request, Answer]] = []
    while len(finished) < count:
        finished += transport.perform(1_000)
    return finished


def outcome(transport: Transport) -> Answer:
    """The answer to the one that is under way."""
    ((_, answer),) = outcomes(transport)
    return answer


def after_standing_still(transport: Transport, behave: Behaviour, arrived: threading.Event) -> Answer:
    """The answer to a POST whose sender looks at nothing from its arrival until after its deadline."""
    with serving(behave) as server:
        deadline = time.monotonic() + STOOD_STILL_MS / 1000
        transport.start(request(server.url, timeout_ms=STOOD_STILL_MS))
        while not server.requests:
            assert transport.perform(1) == []
        arrived.set()
        stand_still(deadline + 0.1)
        return outcome(transport)


def test_an_answer_that_came_while_nobody_looked_counts(transport: Transport) -> None:
    """Fault: a store that answered nothing for two seconds (CLIENT PAUSE) held up the loop that waited for it.

    Cause: libcurl looks at a transfer's deadline before it reads what has arrived, so answers that had come in time
    were taken for time-outs, and each of those callbacks was sent again. Fix: after standing still, what is past its
    deadline is read once more.
    """
    arrived = threading.Event()

    def behave(connection: Connection) -> None:
        connection.request()
        arrived.wait(60)
        connection.sock.sendall(NO_CONTENT)
        connection.gone()

    assert after_standing_still(transport, behave, arrived).status == 204


def test_so_does_one_that_came_in_the_last_moment(transport: Transport) -> None:
    """Fault: a process that was kept from its turn for 0.1 s as a time-out ran off took the answer for none.

    Cause: only after 0.2 s it looked again. Fix: after anything that is longer than a wait for answers.
    """
    last_moment, answered = threading.Event(), threading.Event()

    def behave(connection: Connection) -> None:
        connection.request()
        last_moment.wait(60)
        connection.sock.sendall(NO_CONTENT)
        answered.set()
        connection.gone()

    with serving(behave) as server:
        while True:
            deadline = time.monotonic() + STOOD_STILL_MS / 1000
            transport.start(request(server.url, timeout_ms=STOOD_STILL_MS))
            while transport.in_flight and time.monotonic() < deadline - 0.1:
                transport.perform(1)
            if time.monotonic() < deadline - 0.05:
                break
            # The machine stood still itself, over the last moment of that one: there is another.
            transport.abort()
        last_moment.set()
        assert answered.wait(60)
        stand_still(deadline + 0.01)
        assert outcome(transport).status == 204


def test_so_does_one_whose_deadline_passes_while_others_are_read(
    transport: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fault: a process that came back to a hundred answers took those for time-outs that it read last.

    Cause: who was past the deadline was decided before the first of them was read, and reading them took 0.1 s. Fix:
    whose deadline comes within as long as the process was away is looked at once more too.
    """
    came_back = threading.Event()

    def behave(connection: Connection) -> None:
        connection.request()
        came_back.wait(60)
        connection.sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        connection.gone()

    with serving(behave) as server:
        deadline = time.monotonic() + STOOD_STILL_MS / 1000
        began: list[float] = []
        keep = Notes.write

        def read_slowly(notes: Notes, data: bytes) -> int | None:
            began.append(time.monotonic())
            stand_still(deadline + 0.1)
            return keep(notes, data)

        monkeypatch.setattr(Notes, "write", read_slowly)
        transport.start(request(server.url, 1, timeout_ms=10 * STOOD_STILL_MS))
        transport.start(request(server.url, 2, timeout_ms=STOOD_STILL_MS))
        while len(server.requests) < 2:
            assert transport.perform(1) == []
        came_back.set()
        stand_still(deadline - 1)
        answers = {one.key: answer.status for one, answer in outcomes(transport, 2)}
        assert began[0] < deadline, "the first was read before the second's deadline"
        assert answers == {1: 200, 2: 200}


def test_a_deadline_that_is_not_over_is_kept(transport: Transport) -> None:
    with serving(silent) as server:
        deadline = time.monotonic() + STOOD_STILL_MS / 1000
        transport.start(request(server.url, timeout_ms=STOOD_STILL_MS))
        while not server.requests:
            assert transport.perform(1) == []
        stand_still(deadline - 1)
        assert outcome(transport).error == f"timed out after {STOOD_STILL_MS} ms"
        assert deadline <= time.monotonic() < deadline + STOOD_STILL_MS / 2000


def test_until_then_libcurl_may_send_again(transport: Transport) -> None:
    looked = threading.Event()
    bodies: list[bytes] = []

    def behave(connection: Connection) -> None:
        while (came := connection.request()) is not None:
            bodies.append(came[1])
            if bodies == [b"first", b"second"]:
                looked.wait(60)
                return
            connection.sock.sendall(NO_CONTENT)

    with serving(behave) as server:
        assert post(transport, server.url, body=b"first").status == 204
        deadline = time.monotonic() + STOOD_STILL_MS / 1000
        transport.start(request(server.url, body=b"second", timeout_ms=STOOD_STILL_MS))
        while len(bodies) < 2:
            assert transport.perform(1) == []
        stand_still(deadline - 2.5)
        assert transport.perform(0) == []
        looked.set()
        assert outcome(transport).status == 204
        assert bodies == [b"first", b"second", b"second"]


def test_standing_still_makes_no_answer_of_none(transport: Transport) -> None:
    answer = after_standing_still(transport, silent, threading.Event())
    assert (answer.status, answer.failure) == (0, Failure.TIMEOUT)
    assert answer.error == f"timed out after {STOOD_STILL_MS} ms"


def test_what_was_not_sent_by_its_deadline_is_sent_no_more(transport: Transport, certificate: Certificate) -> None:
    """Fault: while a cluster's master was replaced a slice waited for it, amid handshakes with receivers; another one
    had leased those lanes and delivered them by the time that this one woke up and sent its POSTs as well.

    Cause: what is past its deadline is looked at once more, and to libcurl that was leave to go on where it was: to end
    the handshake and send. Fix: only what was sent by then is looked at again.
    """
    greeted = threading.Event()

    def shake_hands(*_: object) -> None:
        greeted.wait(60)

    certificate.context.sni_callback = shake_hands
    with serving(answering(NO_CONTENT), tls=certificate.context) as server:
        deadline = time.monotonic() + 0.5
        transport.start(request(server.url, timeout_ms=500))
        while not server.connections:
            assert transport.perform(1) == []
        greeted.set()
        stand_still(deadline + 0.3)
        answer = outcome(transport)
        assert (answer.status, answer.failure) == (0, Failure.TIMEOUT)
        assert post(transport, server.url, body=b"the next").status == 204
        assert [body for _, body in server.requests] == [b"the next"]


def test_nor_does_libcurl_send_again_then(transport: Transport) -> None:
    """Fault: as above, but the POST had been sent, and its connection closed without an answer while nobody looked.

    Cause: libcurl takes a used connection that closes so for one that had been idle for too long, and sends by another.
    Fix: past its deadline there is no other.
    """
    arrived = threading.Event()

    def behave(connection: Connection) -> None:
        connection.request()
        connection.sock.sendall(NO_CONTENT)
        if connection.request() is not None:
            arrived.wait(60)

    with serving(behave) as server:
        one, other = request(server.url, 1), request(server.url, 2)
        run(transport, one, other)
        assert server.connections == 2
        server.requests.clear()
        deadline = time.monotonic() + 0.5
        transport.start(request(server.url, body=b"once", timeout_ms=500))
        while not server.requests:
            assert transport.perform(1) == []
        arrived.set()
        stand_still(deadline + 0.3)
        answer = outcome(transport)
        assert (answer.status, answer.failure) == (0, Failure.TIMEOUT)
        assert post(transport, server.url, body=b"the next").status == 204
        assert [body for _, body in server.requests].count(b"once") == 1

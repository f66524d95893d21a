"""``bridge listen`` as its user runs it: a process of its own, callbacks signed by the public library."""

from __future__ import annotations

import http.client
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from urllib.parse import urlsplit

import msgspec
import pytest
from standardwebhooks.webhooks import Webhook

from bridge.cli.receiver import Answer, Receiver, Request

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"  # noqa: S105 - of the public test vectors
OTHER = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
EVENT = {
    "id": "evt_1",
    "type": "sms.status.changed",
    "timestamp": "2026-11-23T06:31:08.123Z",
    "data": {
        "account": "default",
        "session_no": "nAQDODtO",
        "phone": "(86)18500000000",
        "status": "delivered",
        "previous_status": "unknown",
        "sequence": 2,
    },
}


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """A line of ``bridge listen --json``."""

    received: str
    id: str
    verified: bool
    problem: str | None
    duplicate: bool
    event: dict[str, object]


class Listening:
    """A running ``bridge listen``."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "bridge.cli.main", "listen", "--port", "0", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        first = self.line()
        self.port = urlsplit(json.loads(first)["url"] if "--json" in arguments else first.split()[-1]).port

    def line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.process.communicate()[1]
        return line.rstrip("\n")

    def post(self, event: object = EVENT, *, secret: str = SECRET, age_s: float = 0) -> int:
        text, at = json.dumps(event), datetime.fromtimestamp(time.time() - age_s, UTC)
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        headers = {
            "content-type": "application/json",
            "webhook-id": "evt_1",
            "webhook-timestamp": str(int(at.timestamp())),
            "webhook-signature": Webhook(secret).sign("evt_1", at, text),
        }
        try:
            connection.request("POST", "/", text.encode(), headers)
            return connection.getresponse().status
        finally:
            connection.close()


@pytest.fixture
def listen() -> Iterator[Callable[..., Listening]]:
    started: list[Listening] = []

    def start(*arguments: str) -> Listening:
        started.append(Listening(*arguments))
        return started[-1]

    yield start
    for listening in started:
        listening.process.kill()
        listening.process.communicate()


def test_a_signed_callback_is_answered_with_204_and_shown(listen: Callable[..., Listening]) -> None:
    listening = listen("--secret", SECRET)

    assert listening.post() == 204
    assert listening.post() == 204

    first, second = listening.line(), listening.line()
    assert first.endswith("(86)18500000000  unknown → delivered  #2  verified")
    assert second.endswith("verified  duplicate")


def test_json_lines_tell_all_that_was_found(listen: Callable[..., Listening]) -> None:
    listening = listen("--secret", SECRET, "--json")
    assert [
        listening.post(),
        listening.post(),
        listening.post(secret=OTHER),
        listening.post(age_s=400),
    ] == [204, 204, 400, 400]

    lines = [msgspec.json.decode(listening.line(), type=Line) for _ in range(4)]

    assert [(line.verified, line.duplicate) for line in lines] == [
        (True, False),
        (True, True),
        (False, False),
        (False, False),
    ]
    assert lines[2].problem == "no signature matches"
    assert "away from this clock" in (lines[3].problem or "")
    assert lines[0].event == EVENT
    assert datetime.fromisoformat(lines[0].received).tzinfo == UTC


def test_without_a_secret_all_is_accepted_and_shown_as_not_verified(listen: Callable[..., Listening]) -> None:
    listening = listen()

    assert listening.post(secret=OTHER) == 204
    assert "NOT VERIFIED" in listening.line()


def test_control_characters_of_a_callback_do_not_reach_the_terminal(listen: Callable[..., Listening]) -> None:
    listening = listen("--secret", SECRET)
    listening.post({"id": "evt_1", "type": "\x1b[2J\nforged line"})

    assert r"\x1b[2J\nforged line" in listening.line()


def test_verified_callbacks_are_forwarded_whole_and_answered_with_the_applications_status(
    listen: Callable[..., Listening],
) -> None:
    def respond(request: Request) -> Answer:
        return Answer(status=503 if b"evt_1" in request.body else 204)

    with Receiver(SECRET, respond=respond, record=True) as application:
        listening = listen("--secret", SECRET, "--forward-to", f"{application.url}sms?a=b")

        assert [listening.post(), listening.post({"id": "evt_2"}), listening.post(secret=OTHER)] == [503, 204, 400]

        assert [request.path for request in application.recorded] == ["/sms?a=b"] * 2
        assert [json.loads(request.body) for request in application.recorded] == [EVENT, {"id": "evt_2"}]
        # The application could verify the same signatures: id, timestamp and bytes went on unchanged.
        assert application.counts.accepted == 2
        assert application.counts.bad_signatures == 0


def test_an_application_that_does_not_answer_is_502_and_said(listen: Callable[..., Listening]) -> None:
    with Receiver(SECRET) as application:
        url = application.url
    listening = listen("--secret", SECRET, "--forward-to", url)

    assert listening.post() == 502
    listening.process.send_signal(signal.SIGTERM)
    assert f"cannot forward to {url}" in listening.process.communicate(timeout=30)[1]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_it_ends_quietly_when_asked_to(listen: Callable[..., Listening], number: signal.Signals, code: int) -> None:
    listening = listen()
    listening.process.send_signal(number)
    _out, errors = listening.process.communicate(timeout=30)

    assert (listening.process.returncode, errors) == (code, "")


def test_it_ends_quietly_when_nobody_reads_it(listen: Callable[..., Listening]) -> None:
    listening = listen()
    assert listening.process.stdout is not None
    listening.process.stdout.close()

    assert listening.post() == 204
    assert listening.process.wait(30) == 1
    assert listening.process.stderr is not None
    assert listening.process.stderr.read() == ""


@pytest.mark.parametrize(
    "arguments", [("--secret", "nonsense!"), ("--forward-to", "ftp://x/"), ("--forward-to", "no url"), ("--port", "x")]
)
def test_what_is_wrong_on_the_command_line_is_said_with_exit_code_2(arguments: tuple[str, ...]) -> None:
    argv = [sys.executable, "-m", "bridge.cli.main", "listen", *arguments]
    done = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=60)

    assert done.returncode == 2
    assert "rror: " in done.stderr
    assert "Traceback" not in done.stderr

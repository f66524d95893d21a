from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from typing import Any

import celery
import pytest
import sentry_sdk
import structlog
from sentry_sdk.envelope import Envelope
from sentry_sdk.transport import Transport

from bridge.observe.logs import get_logger
from bridge.observe.sentry import setup_sentry

DSN = "https://public@sentry.example/1"
PHONE = "(86)18500001234"
DIGITS = "18500001234"
LOCAL = "hunter2-in-a-local"
SECRETS = (DIGITS, LOCAL, "whsec_MfKQ9r8", "p4ssw0rd", "argv-secret")


class Collected(Transport):
    """What would have gone to Sentry."""

    def __init__(self) -> None:
        super().__init__()
        self.envelopes: list[Envelope] = []

    def capture_envelope(self, envelope: Envelope) -> None:
        self.envelopes.append(envelope)

    def text(self) -> str:
        return b"\n".join(envelope.serialize() for envelope in self.envelopes).decode()

    def events(self) -> list[dict[str, Any]]:
        items = [item for envelope in self.envelopes for item in envelope.items]
        return [json.loads(item.get_bytes()) for item in items if item.type in ("event", "transaction")]


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collected]:
    monkeypatch.setattr(sys, "argv", ["bridge", "--secret", "argv-secret", PHONE])
    collected = Collected()
    assert setup_sentry(DSN, "usms-bridge@0.1.0", collected)
    yield collected
    assert not any(secret in collected.text() for secret in SECRETS)
    sentry_sdk.get_client().close(timeout=0)
    sentry_sdk.get_global_scope().set_client(None)
    structlog.reset_defaults()


def fail(phone: str) -> None:
    secret = LOCAL
    raise ValueError(
        f"refused {phone} ({len(secret)}) at redis://:p4ssw0rd@h/0, whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    )


def test_nothing_is_set_up_without_a_dsn() -> None:
    assert not setup_sentry(None, "r")
    assert not setup_sentry("", "r")


def test_an_exception_is_reported_without_phones_secrets_and_locals(sent: Collected) -> None:
    try:
        fail(PHONE)
    except ValueError as error:
        sentry_sdk.capture_exception(error)
    (event,) = sent.events()
    (exception,) = event["exception"]["values"]
    assert exception["type"] == "ValueError"
    assert exception["value"] == "refused ***1234 (18) at redis://***@h/0, whsec_***"
    assert [frame["function"] for frame in exception["stacktrace"]["frames"]][-1] == "fail"
    assert event["release"] == "usms-bridge@0.1.0"
    assert not any("vars" in frame or "context_line" in frame for frame in exception["stacktrace"]["frames"])


def test_a_logged_error_is_reported_scrubbed_with_its_traceback(sent: Collected) -> None:
    get_logger("bridge").info("before", phone=PHONE)
    try:
        fail(PHONE)
    except ValueError:
        get_logger("bridge").exception("could not deliver", phone=PHONE, secret="p4ssw0rd")  # noqa: S106 - made up
    (event,) = sent.events()
    assert event["logentry"]["message"] == "could not deliver"
    assert event["exception"]["values"][0]["type"] == "ValueError"
    assert event["extra"]["bridge_fields"] == {"phone": "***1234", "secret": "***"}
    assert not event.get("breadcrumbs")


def test_a_library_s_error_line_is_reported_scrubbed(sent: Collected) -> None:
    logging.getLogger("some.library").error("no answer for %s", PHONE)
    (event,) = sent.events()
    assert event["logentry"]["params"] == ["***1234"]


def test_every_part_of_an_event_is_scrubbed(sent: Collected) -> None:
    with sentry_sdk.new_scope() as scope:
        scope.set_extra("item", {"phones": [PHONE], "text": f"for {PHONE}"})
        scope.set_context("delivery", {"url": f"https://u:p4ssw0rd@h/?to={DIGITS}"})
        scope.set_tag("phone", PHONE)
        scope.set_user({"id": DIGITS})
        scope.add_breadcrumb(message=PHONE)
        scope.fingerprint = [PHONE]
        sentry_sdk.capture_event(
            {
                "message": f"about {PHONE}",
                "request": {"url": f"https://h/{DIGITS}", "data": {"phone": PHONE}, "headers": {"a": LOCAL}},
                "exception": {"values": [{"value": PHONE, "stacktrace": {"frames": [{"vars": {"a": LOCAL}}]}}]},
            }
        )
    (event,) = sent.events()
    assert event["message"] == "about ***1234"
    assert event["contexts"]["delivery"]["url"] == "https://***@h/?to=***1234"
    assert len(event["event_id"]) == 32
    assert not {"request", "user", "breadcrumbs"} & set(event)


def test_a_transaction_is_scrubbed(sent: Collected) -> None:
    sentry_sdk.get_client().options["traces_sample_rate"] = 1.0
    with (
        sentry_sdk.start_transaction(name=f"deliver {PHONE}") as transaction,
        sentry_sdk.start_span(op="redis", name=f"GET {PHONE}") as span,
    ):
        transaction.set_data("to", PHONE)
        span.set_data("phone", PHONE)
    (event,) = sent.events()
    assert event["transaction"] == "deliver ***1234"
    assert event["contexts"]["trace"]["trace_id"] == transaction.trace_id
    assert event["spans"][0]["span_id"] == span.span_id


def test_a_failed_task_is_reported_without_its_arguments(sent: Collected) -> None:
    app = celery.Celery("test", set_as_current=False)

    @app.task(name="bridge.track", shared=False)
    def record(items: list[object], account: str) -> None:  # noqa: ARG001 - its arguments are what must not leak
        fail(f"{PHONE} ({len(items)})")

    item = {"session_no": "S1", "phones": [PHONE], "metadata": {"a": LOCAL}}
    record.apply(args=([item],), kwargs={"account": LOCAL})
    errors = [event for event in sent.events() if event.get("extra", {}).get("celery-job")]
    (event,) = errors
    assert event["extra"]["celery-job"] == {"task_name": "bridge.track"}
    assert event["exception"]["values"][0]["type"] == "ValueError"


def test_the_line_that_celery_logs_of_a_failed_task_has_no_arguments(sent: Collected) -> None:
    given = {"name": "bridge.track", "args": f"[{LOCAL!r}]", "kwargs": LOCAL, "exc": PHONE}
    logging.getLogger("celery.like").error("%(name)s raised %(exc)s", given, extra={"data": given})
    (event,) = sent.events()
    assert event["extra"]["data"] == {"name": "bridge.track", "exc": "***1234"}
    assert event["logentry"]["params"] == {"name": "bridge.track", "exc": "***1234"}

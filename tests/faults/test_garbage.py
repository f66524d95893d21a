"""Whatever is pushed into its queues, a worker goes on: what it cannot work on is kept aside, and acknowledged."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bridge.domain.tracking import MAX_MESSAGE_BYTES
from bridge.wiring import Bridge
from tests.faults.house import Running, foreign_app, running, tracked, wait_until
from tests.servers import bridge_on, environ_for, valkey
from tests.unit.test_intake import JSON

QUEUE = "bridge.track"
PHONE = "18612345678"


def envelope(items: object, **changes: object) -> dict[str, Any]:
    """A message on the wire as kombu writes it, with some of its fields replaced."""
    message: dict[str, Any] = {
        "body": base64.b64encode(json.dumps([[items], {}, {}]).encode()).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {"lang": "py", "task": "bridge.track", "id": "i"},
        "properties": {
            "correlation_id": "i",
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": QUEUE},
            "priority": 0,
            "body_encoding": "base64",
            "delivery_tag": "the same on all of them",
        },
    }
    return message | changes


@dataclass
class Line:
    """A worker at its queues, one line for all tests of this module."""

    worker: Running
    bridge: Bridge
    queues: redis.Redis
    numbers: Iterator[int] = field(default_factory=count)

    def aside(self) -> int:
        return sum(1 for _ in self.bridge.tracking.rejected("default"))

    def take(self, *garbage: bytes) -> None:
        """Push these, then a good one, and wait until that one is tracked and nothing is left of any."""
        good = f"good-{next(self.numbers)}"
        for raw in (*garbage, json.dumps(envelope([good])).encode()):
            self.queues.lpush(QUEUE, raw)
        wait_until("the good one is tracked", lambda: tracked(self.bridge, [good]), self.worker)
        wait_until("all is acknowledged", lambda: not self.queues.exists(QUEUE, "bridge.taken"), self.worker)


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Line]:
    with (
        valkey() as url,
        bridge_on(url) as bridge,
        running(tmp_path_factory.mktemp("garbage"), environ_for(url), "worker", "--concurrency", "4") as worker,
        redis.Redis.from_url(url) as queues,
    ):
        yield Line(worker, bridge, queues)


GZIPPED = {"task": "bridge.track", "id": "i", "compression": "application/x-gzip"}
RAW = {
    "nothing": b"",
    "bytes": b"\xff\xfe\x00",
    "a text": b"hello",
    "a phone": PHONE.encode() + b" is no message",
    "null": b"null",
    "a number": b"7",
    "a list": b"[]",
    "an object": b"{}",
    "deep": b"[" * 50_000,
    "no properties": json.dumps({"body": "x", "headers": {}}).encode(),
    "properties of another type": json.dumps(envelope(["x"], properties=7)).encode(),
    "no delivery info": json.dumps(envelope(["x"], properties={})).encode()[:-1],
    "headers of another type": json.dumps(envelope(["x"], headers=[1])).encode(),
    "a body that is no base64": json.dumps(envelope(["x"], body="!!!")).encode(),
    "no body": json.dumps(envelope(["x"], body=None)).encode(),
    "a body that is not compressed as it says": json.dumps(envelope(["x"], headers=GZIPPED, body="aGk=")).encode(),
    "a bomb": json.dumps(
        envelope(["x"], headers=GZIPPED, body=base64.b64encode(zlib.compress(bytes(100_000_000))).decode())
    ).encode(),
    "a pickle": json.dumps(envelope(["x"], **{"content-type": "application/x-python-serialize"})).encode(),
    "an unknown task": json.dumps(envelope([PHONE], headers={"task": "app.send_sms", "id": "i"})).encode(),
    "a task of Celery's own": json.dumps(envelope(["x"], headers={"task": "celery.map", "id": "i"})).encode(),
    "too large": b'"' + b"x" * (2 * MAX_MESSAGE_BYTES),
    "too large a body": json.dumps(envelope("x" * (MAX_MESSAGE_BYTES + 1))).encode(),
    "too many items": json.dumps(envelope(["x"] * 10_001)).encode(),
}


@pytest.mark.parametrize("raw", RAW.values(), ids=RAW)
def test_what_cannot_be_worked_on_is_kept_aside_once(line: Line, raw: bytes) -> None:
    before = line.aside()
    line.take(raw)
    assert line.aside() == before + 1
    newest = next(line.bridge.tracking.rejected("default"))
    assert len(newest.item) <= 4096
    assert newest.reason
    assert PHONE not in line.worker.log


def test_a_message_of_another_release_is_read_as_far_as_it_is_understood(line: Line) -> None:
    newer = {"session_no": "newer", "phones": [{"phone": "(86)18500000001", "carrier": "x"}], "urgency": "high"}
    body = base64.b64encode(json.dumps([[[newer], "default", "more"], {"future": 1}, {}]).encode()).decode()
    older = {"task": "bridge.track", "id": "i", "args": [["older"]], "kwargs": {}}
    old_body = base64.b64encode(json.dumps(older).encode()).decode()
    before = line.aside()
    line.take(
        json.dumps(envelope([], body=body)).encode(), json.dumps(envelope([], body=old_body, headers={})).encode()
    )
    assert tracked(line.bridge, ["newer", "older"]) == {"newer", "older"}
    assert line.aside() == before


def test_a_field_that_is_nearly_right_is_kept_aside_all_the_same(line: Line) -> None:
    before = line.aside()
    line.take(json.dumps(envelope([{"session_no": "typo", "phone_cout": 2}])).encode())
    assert line.aside() == before + 1


def test_a_stock_app_that_adds_a_priority_a_delay_and_an_expiry_is_understood(line: Line) -> None:
    url = line.bridge.settings.redis_url
    assert url is not None
    with foreign_app(url.get_secret_value()) as app:
        app.send_task("bridge.track", [["plain"]], queue=QUEUE)
        app.send_task("bridge.track", [["urgent"]], queue=QUEUE, priority=9)
        app.send_task("bridge.track", [["later"]], queue=QUEUE, countdown=3_600)
        app.send_task("bridge.track", [["expired"]], queue=QUEUE, expires=-5)
        app.send_task("bridge.track", [["compressed"]], queue=QUEUE, compression="gzip")
    names = ["plain", "urgent", "later", "expired", "compressed"]
    wait_until("all are tracked", lambda: tracked(line.bridge, names) == set(names), line.worker)


FIELDS = st.sampled_from(["content-encoding", "content-type", "headers", "properties", "body"])
PROPERTIES = st.sampled_from(
    ["delivery_info", "body_encoding", "delivery_tag", "priority", "correlation_id", "reply_to"]
)


@st.composite
def garbage(draw: st.DrawFn) -> bytes:
    kind = draw(st.sampled_from(["bytes", "json", "fields", "properties", "body"]))
    if kind == "bytes":
        return draw(st.binary(max_size=200))
    if kind == "json":
        return json.dumps(draw(JSON)).encode()
    message = envelope(["mutant"])
    if kind == "fields":
        message |= draw(st.dictionaries(FIELDS, JSON, min_size=1))
    elif kind == "properties":
        message["properties"] |= draw(st.dictionaries(PROPERTIES, JSON, min_size=1))
    else:
        message["body"] = base64.b64encode(json.dumps(draw(JSON)).encode()).decode()
    return json.dumps(message).encode()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batch=st.lists(garbage(), min_size=1, max_size=10))
def test_no_garbage_stops_a_worker(line: Line, batch: list[bytes]) -> None:
    line.take(*batch)
    line.worker.check()

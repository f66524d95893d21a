"""Receivers that misbehave in every way we know, through a whole slice: what becomes of the event, in bounded time."""

from __future__ import annotations

import gzip
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bridge.wiring import Bridge
from tests.delivery.slices import QUICK, Around, publish, run, subscribe
from tests.delivery.test_receivers import policy
from tests.hostile import (
    Behaviour,
    Certificate,
    Connection,
    answering,
    dripping,
    flooding,
    ok,
    once,
    resetting,
    serving,
    silent,
)
from tests.parts import Parts

HOUR_MS = 3_600_000
TIMEOUT_MS = 400


@pytest.fixture
def log(bridge: Bridge, store_url: str) -> Iterator[Parts]:
    """The store's parts, over the bridge's shards."""
    made = Parts(store_url, bridge.settings.shards)
    yield made
    made.close()


def interim(connection: Connection) -> None:
    """Says for ever that an answer will come."""
    connection.request()
    connection.flood(b"HTTP/1.1 102 Processing\r\n\r\n")


def refusing(status: int, *headers: str) -> Behaviour:
    lines = [f"HTTP/1.1 {status} No", "Content-Length: 0", *headers]
    return answering("\r\n".join(lines).encode() + b"\r\n\r\n")


BOMB = gzip.compress(b"\0" * 50_000_000)
TIMED_OUT = f"timed out after {TIMEOUT_MS} ms"

RETRIED: dict[str, tuple[Behaviour, str]] = {
    "hang": (silent, TIMED_OUT),
    "header drip": (dripping(b"HTTP/1.1 200 OK\r\nX-Header: "), TIMED_OUT),
    "body drip": (dripping(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"), TIMED_OUT),
    "reset": (resetting, "failure when receiving data from the peer"),
    "hang up": (once(b""), "server returned nothing (no headers, no data)"),
    "1xx flood": (interim, "too many response headers"),
    "endless body of a refusal": (flooding(b"HTTP/1.1 500 No\r\n\r\n", b"z" * 10_000), "HTTP 500"),
    "redirect": (refusing(307, "Location: http://127.0.0.1:1/"), "HTTP 307"),
    "not found": (refusing(404), "HTTP 404"),
}
ACCEPTED: dict[str, Behaviour] = {
    "endless body": flooding(b"HTTP/1.1 200 OK\r\n\r\n", b"z" * 10_000),
    "gzip bomb": answering(ok(BOMB, "Content-Encoding: gzip")),
}


@pytest.mark.parametrize(("behave", "error"), RETRIED.values(), ids=RETRIED.keys())
def test_what_is_no_acceptance_is_retried_later_and_said(
    bridge: Bridge, log: Parts, behave: Behaviour, error: str
) -> None:
    around = Around()
    with serving(behave) as server:
        name = subscribe(bridge, server.url)
        publish(log, name, sessions=3)
        began = time.monotonic()
        report = run(bridge, policy(timeout_ms=TIMEOUT_MS, retry_ms=(HOUR_MS,)), around)
        assert time.monotonic() - began < TIMEOUT_MS / 1000 + 3
    assert (report.accepted, report.retrying, report.dead, report.unsettled) == (0, 3, 0, 0)
    assert {one.outcome.error for one in around.attempts} == {error}
    waiting = bridge.queues.waiting(name, 10)
    assert [one.attempts for one in waiting] == [1, 1, 1]
    assert min(one.due_ms for one in waiting) > log.now_ms() + HOUR_MS // 2
    log.assert_index_is_right()


@pytest.mark.parametrize("behave", ACCEPTED.values(), ids=ACCEPTED.keys())
def test_a_2xx_accepts_whatever_comes_behind_it(bridge: Bridge, log: Parts, behave: Behaviour) -> None:
    with serving(behave) as server:
        publish(log, subscribe(bridge, server.url), sessions=3)
        began = time.monotonic()
        report = run(bridge, QUICK)
        assert time.monotonic() - began < 3
    assert (report.accepted, report.retrying) == (3, 0)
    log.assert_index_is_right()


def test_a_wrong_certificate_gets_no_event(bridge: Bridge, log: Parts, tmp_path: Path) -> None:
    around = Around()
    with serving(answering(ok()), tls=Certificate(tmp_path / "pem", "another.example").context) as server:
        publish(log, subscribe(bridge, server.url), sessions=2)
        report = run(bridge, policy(retry_ms=(HOUR_MS,)), around)
        assert server.requests == []
    assert (report.accepted, report.retrying) == (0, 2)
    assert all(one.outcome.error.startswith("certificate: ") for one in around.attempts)


@pytest.mark.parametrize(
    ("status", "asked", "wait_ms"),
    [(429, "7200", 2 * HOUR_MS), (503, "7200", 2 * HOUR_MS), (503, "999999999", 24 * HOUR_MS), (429, "soon", HOUR_MS)],
)
def test_a_retry_after_puts_the_event_off_by_the_longer(
    bridge: Bridge, log: Parts, status: int, asked: str, wait_ms: int
) -> None:
    with serving(refusing(status, f"Retry-After: {asked}")) as server:
        name = subscribe(bridge, server.url)
        publish(log, name, sessions=1)
        began_ms = log.now_ms()
        assert run(bridge, policy(retry_ms=(HOUR_MS,))).retrying == 1
    (lane,) = bridge.queues.waiting(name, 10)
    assert wait_ms <= lane.due_ms - began_ms < wait_ms + 5_000
    log.assert_index_is_right()

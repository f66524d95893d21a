"""Receivers that misbehave in every way we know, through a whole slice: what becomes of the event, in bounded time."""

from __future__ import annotations

import gzip
import time
from contextlib import ExitStack
from pathlib import Path

import msgspec
import pytest

from bridge.domain import events
from bridge.domain.commits import Entry, Route
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
from tests.parts import PHONE, Parts, record
from tests.servers import bridge_on

HOUR_MS = 3_600_000
TIMEOUT_MS = 400


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
    "redirect loop": (refusing(308, "Location: /hook"), "HTTP 308"),
    "429": (refusing(429), "HTTP 429"),
    "503": (refusing(503), "HTTP 503"),
    "lying length": (once(ok(b"x" * 20)[:-5]), "transferred a partial file"),
    "HTTP/0.9": (once(b"<html>hello</html>\r\n" * 5), "unsupported protocol"),
    "a megabyte of headers": (
        flooding(b"HTTP/1.1 200 OK\r\n", b"X-A: " + b"a" * 1_000 + b"\r\n"),
        "too many response headers",
    ),
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
    # What is seen by what arrives takes no time of its own, but a busy machine's.
    timeout_ms = TIMEOUT_MS if error == TIMED_OUT else 20 * TIMEOUT_MS
    with serving(behave) as server:
        name = subscribe(bridge, server.url)
        publish(log, name, sessions=3)
        began = time.monotonic()
        report = run(bridge, policy(timeout_ms=timeout_ms, retry_ms=(HOUR_MS,)), around)
        assert time.monotonic() - began < timeout_ms / 1000 + 20, "most of them would go on for ever"
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
        report = run(bridge, QUICK)  # at its time-out it would be no acceptance
    assert (report.accepted, report.retrying) == (3, 0)
    log.assert_index_is_right()


@pytest.mark.parametrize("fault", ["another name", "expired", "self-signed"])
def test_a_wrong_certificate_gets_no_event(
    bridge: Bridge, store_url: str, log: Parts, tmp_path: Path, fault: str
) -> None:
    """Of the first two the authority is trusted, so that the name, or the date, is what is wrong."""
    around = Around()
    name = "another.example" if fault == "another name" else "127.0.0.1"
    certificate = Certificate(tmp_path / "pem", name, expired=fault == "expired")
    trusted = None if fault == "self-signed" else certificate.path
    del bridge
    with (
        bridge_on(store_url, allow_networks="127.0.0.0/8", callback_ca_file=trusted) as trusting,
        serving(answering(ok()), tls=certificate.context) as server,
    ):
        publish(log, subscribe(trusting, server.url), sessions=2)
        report = run(trusting, policy(retry_ms=(HOUR_MS,)), around)
        assert server.requests == []
    assert (report.accepted, report.retrying) == (0, 2)
    assert all(one.outcome.error.startswith("certificate: ") for one in around.attempts)


def test_410_disables_and_keeps_the_event(bridge: Bridge, log: Parts) -> None:
    around = Around()
    with serving(refusing(410)) as server:
        name = subscribe(bridge, server.url)
        publish(log, name, sessions=3)
        report = run(bridge, policy(concurrency=1), around)
    assert (report.accepted, report.retrying, report.dead) == (0, 0, 0)
    assert around.disabled == [(name, "HTTP 410")]
    assert [one.attempts for one in bridge.queues.waiting(name, 10)] == [0, 0, 0]
    log.assert_index_is_right()


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak of memory is read from Linux' /proc")
def test_all_of_them_at_once_cost_no_memory_to_speak_of(bridge: Bridge, log: Parts) -> None:
    """Of each some at once; what they send is read up to a few kilobytes, and not unpacked.

    The time-out is longer than elsewhere: all these receivers share this process with the slice.
    """
    behaviours = [behave for behave, _ in RETRIED.values()] + list(ACCEPTED.values())
    with ExitStack() as stack:
        servers = [stack.enter_context(serving(behave)) for behave in behaviours]
        names = [subscribe(bridge, server.url) for server in servers]
        publish(log, *names, sessions=8)
        Path("/proc/self/clear_refs").write_text("5")  # forgets the peak that there was
        before = peak_bytes()
        report = run(bridge, policy(timeout_ms=10 * TIMEOUT_MS, retry_ms=(HOUR_MS,)))
        grown = peak_bytes() - before
    assert report.accepted + report.retrying == 8 * len(behaviours)
    assert report.accepted > 0
    assert grown < 40_000_000, "with the threads of all these receivers"


def peak_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def test_what_senders_and_receivers_write_smuggles_nothing_into_a_request(bridge: Bridge, log: Parts) -> None:
    """Metadata, a phone and a description with line breaks and NUL are text in a JSON string, and nothing else."""
    evil = "\r\nX-Evil: 1\r\n\r\nPOST /evil HTTP/1.1\r\n\0"
    metadata = msgspec.json.encode({"note": evil}).decode()
    event = msgspec.structs.replace(events.unpack(record("s1")), description=evil, user_id=evil, metadata=metadata)
    with serving(answering(ok())) as server:
        name = subscribe(bridge, server.url)
        log.write("s1", Entry(events.pack(event), [Route(name, events.lane_id("s1", PHONE))]))
        assert run(bridge).accepted == 1
    ((head, body),) = server.requests
    assert b"evil" not in head.lower()
    assert not any(byte in body for byte in b"\r\n\0")
    data = msgspec.json.decode(body)["data"]
    assert (data["metadata"], data["user_id"], data["receipt"]["description"]) == ({"note": evil}, evil, evil)


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
    assert wait_ms <= lane.due_ms - began_ms < wait_ms + 60_000
    log.assert_index_is_right()


def test_quiet_slows_the_subscription_and_no_event_of_it_is_lost_to_it(bridge: Bridge, log: Parts) -> None:
    """What was refused waits for as long as it was told; the others are tried again within a probe's longest wait, one
    at a time, for the word on one event is not the word on all of a day's.
    """
    with serving(refusing(429, "Retry-After: 86400")) as server:
        name = subscribe(bridge, server.url)
        publish(log, name, sessions=5)
        quiet = policy(first_ms=HOUR_MS // 8, concurrency=1, retry_ms=(1_000,) * 5)
        for asked in (1, 2, 3):
            assert run(bridge, quiet).retrying == 1
            assert run(bridge, quiet).retrying == 0, "quiet is kept"
            assert len(server.requests) == asked
            log.pass_ms(HOUR_MS // 2)
        waits_ms = sorted(one.due_ms - log.now_ms() for one in bridge.queues.waiting(name, 10))
    assert [wait_ms > 22 * HOUR_MS for wait_ms in waits_ms] == [False] * 2 + [True] * 3
    log.assert_index_is_right()

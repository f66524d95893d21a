"""The senders that are compared, each in a process of its own: the bridge's slice, libcurl with less around it, and
requests in threads.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import requests

from bridge.delivery.libcurl import pycurl
from bridge.delivery.loop import Slice, Surroundings
from bridge.delivery.transport import Request, Transport
from bridge.domain import events
from bridge.domain.accounts import DEFAULT_ACCOUNT
from bridge.domain.outcome import Answer
from bridge.domain.signing import Signer
from bridge.wiring import USER_AGENT, url_policy
from tests.bench.house import open_bridge
from tests.bench.machine import server_cpu_s


class _Watched(Transport):
    """The transport that a worker has, and when it last handed back an answer: a slice lingers after that."""

    last_s = 0.0

    def perform(self, wait_ms: int) -> list[tuple[Request, Answer]]:
        finished = super().perform(wait_ms)
        if finished:
            self.last_s = time.perf_counter()
        return finished


def bridge_slices(environment: Mapping[str, str], count: int) -> dict[str, float]:
    """Run slices until all events were accepted: as ``bridge.deliver`` does, in a row."""
    bridge = open_bridge(environment)
    around = Surroundings(
        chance=random.random,
        user_agent=USER_AGENT,
        stopping=lambda: False,
        observe=_unexpected,
        complain=_unexpected,
        disabled=lambda _name, _reason: None,
        call_help=lambda: None,
        keep_awake=lambda: bridge.wakes.keep("deliver", 2_000),
        hand_over=lambda: None,
    )
    ca_file = bridge.settings.callback_ca_file
    transport = _Watched(policy=url_policy(bridge.settings), ca_file=str(ca_file) if ca_file else None)
    ports, policy, shards = bridge.delivery_ports, bridge.delivery_policy, bridge.settings.shards
    trips, accepted = bridge.client.round_trips, 0
    server_s = server_cpu_s(environment["BRIDGE_REDIS_URL"])
    began_s, cpu_s = time.perf_counter(), time.process_time()
    while accepted < count:
        report = Slice(ports, transport, policy, around, shards=shards).run()
        if not report.accepted:
            raise AssertionError(f"a slice found nothing after {accepted} of {count} events")
        accepted += report.accepted
    # The slice's time of lingering costs CPU and is counted; it is not time that an event waited.
    figures = _figures(count, transport.last_s - began_s, time.process_time() - cpu_s)
    server_s = server_cpu_s(environment["BRIDGE_REDIS_URL"]) - server_s
    trips = bridge.client.round_trips - trips
    bridge.close()
    return figures | {"CPU µs/event, server": server_s / count * 1e6, "round trips/event": trips / count}


def _unexpected(*what: object) -> None:
    raise AssertionError(what)


def bare_libcurl(url: str, count: int, connections: int, body: bytes, ca_file: str = "") -> dict[str, float]:
    """perform and select over kept-alive connections, with bytes and headers that were made before."""
    return _libcurl(url, count, connections, lambda handle, _: handle.setopt(pycurl.POSTFIELDS, body), ca_file)


def signing_libcurl(url: str, records: Sequence[bytes], connections: int, ca_file: str = "") -> dict[str, float]:
    """The same loop, rendering and signing each event: what any sender in Python has to do. No store, no order."""
    signer = Signer([b"k" * 32])
    always = ["Content-Type: application/json", f"User-Agent: {USER_AGENT}", "Expect:"]

    def prepare(handle: pycurl.Curl, number: int) -> None:
        message_id, body = events.render(DEFAULT_ACCOUNT, events.unpack(records[number]))
        seconds = int(time.time())
        signature = signer.sign(message_id, seconds, body)
        lines = [f"webhook-id: {message_id}", f"webhook-timestamp: {seconds}", f"webhook-signature: {signature}"]
        handle.setopt(pycurl.HTTPHEADER, [*always, *lines])
        handle.setopt(pycurl.POSTFIELDS, body)

    return _libcurl(url, len(records), connections, prepare, ca_file)


def requests_in_threads(url: str, body: bytes, count: int, threads: int) -> dict[str, float]:
    """requests with a kept Session a thread: sign, post, next. No store, no order."""
    signer = Signer([b"k" * 32])
    here = threading.local()

    def post(number: int) -> None:
        session = getattr(here, "session", None)
        if session is None:
            session = here.session = requests.Session()
            session.trust_env = False
        seconds = int(time.time())
        headers = {
            "Content-Type": "application/json",
            "webhook-id": f"evt_{number}",
            "webhook-timestamp": str(seconds),
            "webhook-signature": signer.sign(f"evt_{number}", seconds, body),
        }
        session.post(url, data=body, headers=headers, timeout=15).raise_for_status()

    with ThreadPoolExecutor(threads) as pool:
        began_s, cpu_s = time.perf_counter(), time.process_time()
        list(pool.map(post, range(count)))
        return _figures(count, time.perf_counter() - began_s, time.process_time() - cpu_s)


def _libcurl(
    url: str, count: int, connections: int, prepare: Callable[[pycurl.Curl, int], None], ca_file: str
) -> dict[str, float]:
    multi = pycurl.CurlMulti()
    idle = [_handle(url, ca_file) for _ in range(connections)]
    started = finished = 0
    began_s, cpu_s = time.perf_counter(), time.process_time()
    while finished < count:
        while idle and started < count:
            handle = idle.pop()
            prepare(handle, started)
            multi.add_handle(handle)
            started += 1
        multi.perform()
        _, succeeded, failed = multi.info_read()
        if failed:
            raise AssertionError(failed)
        for handle in succeeded:
            if handle.getinfo(pycurl.RESPONSE_CODE) != 204:
                raise AssertionError("the receiver refuses")
            multi.remove_handle(handle)
            idle.append(handle)
        finished += len(succeeded)
        if not succeeded:
            multi.select(1.0)
    return _figures(count, time.perf_counter() - began_s, time.process_time() - cpu_s)


def _handle(url: str, ca_file: str) -> pycurl.Curl:
    handle = pycurl.Curl()
    if ca_file:
        handle.setopt(pycurl.CAINFO, ca_file)
    lines = [
        "Content-Type: application/json",
        f"User-Agent: {USER_AGENT}",
        "webhook-id: evt_abcdefghijklmnopqrstuvwxyz",
        "webhook-timestamp: 1795423107",
        "webhook-signature: v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
        "Expect:",
    ]
    options: list[tuple[int, Any]] = [
        (pycurl.URL, url),
        (pycurl.POST, 1),
        (pycurl.NOSIGNAL, 1),
        (pycurl.HTTPHEADER, lines),
    ]
    for option, value in options:
        handle.setopt(option, value)
    return handle


def _figures(count: int, elapsed_s: float, cpu_s: float) -> dict[str, float]:
    return {"events/s": count / elapsed_s, "CPU µs/event": cpu_s / count * 1e6}

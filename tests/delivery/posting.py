"""Sending through a transport and waiting for what comes of it."""

from __future__ import annotations

import time
from ipaddress import ip_network

from bridge.delivery.guard import UrlPolicy
from bridge.delivery.transport import Request, Transport
from bridge.domain.outcome import Answer

LOOPBACK = UrlPolicy(allow_http=True, allow_networks=(ip_network("127.0.0.0/8"), ip_network("::1/128")))
HEADERS = [b"Content-Type: application/json", b"webhook-id: evt_1"]
PATIENT_MS = 20_000  # for what must not run into its deadline


def request(url: str, key: object = None, *, timeout_ms: int = PATIENT_MS, body: bytes = b'{"a":1}') -> Request:
    return Request(key, url, HEADERS, body, timeout_ms)


def run(transport: Transport, *requests: Request) -> dict[object, Answer]:
    """Start all, and wait until all were handed back, each once."""
    for one in requests:
        transport.start(one)
    answers: dict[object, Answer] = {}
    deadline = time.monotonic() + 60
    while transport.in_flight:
        assert time.monotonic() < deadline, "the transport never finished"
        for done, answer in transport.perform(1_000):
            assert done.key not in answers
            answers[done.key] = answer
    assert len(answers) == len(requests)
    return answers


def post(transport: Transport, url: str, *, timeout_ms: int = PATIENT_MS, body: bytes = b'{"a":1}') -> Answer:
    """One POST and its answer."""
    return run(transport, request(url, timeout_ms=timeout_ms, body=body))[None]

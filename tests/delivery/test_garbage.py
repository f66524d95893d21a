"""Whatever a receiver answers: an outcome that the contract knows, from raw bytes on a socket and from any answer."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.delivery.transport import Transport
from bridge.domain.outcome import LONGEST_WAIT_MS, READ_BODY, Answer, Failure, Verdict, Wish, judge
from tests.delivery.posting import LOOPBACK, PATIENT_MS, post
from tests.examples import examples
from tests.hostile import Says, Server, serving

NOW_MS = 1_795_423_107_000
SCHEDULE_MS = (5_000, 30_000, 86_400_000)


@pytest.fixture(scope="module")
def receiver() -> Iterator[tuple[Says, Server, Transport]]:
    said = Says()
    transport = Transport(policy=LOOPBACK)
    with serving(said) as server:
        yield said, server, transport
    transport.close()


heads = st.sampled_from(
    [
        *(
            b"HTTP/1.1 200 OK",
            b"HTTP/1.1 204 x",
            b"HTTP/1.1 404 x",
            b"HTTP/1.1 410 x",
            b"HTTP/1.1 429 x",
            b"HTTP/1.0 503",
        ),
        *(b"HTTP/0.9 200 OK", b"HTTP/1.1 99 x", b"HTTP/1.1 9999 x", b"HTTP/1.1 302 x", b"ICY 200 OK", b"\xff\xfe", b""),
        *(b"HTTP/1.1 100 Continue", b"HTTP/1.1 101 Switching", b"HTTP/2 200", b"HTTP/1.1", b"HTTP/1.1 2x0 OK"),
    ]
)
headers = st.lists(
    st.sampled_from(
        [
            *(b"Retry-After: 9999999999", b"Retry-After: \xff", b"Retry-After: Fri, 31 Dec 9999 23:59:59 GMT"),
            *(b"Retry-After: -5", b"Retry-After: 1e9", b"webhook-delivery: abort", b"webhook-delivery: disable"),
            *(b"webhook-delivery: \x00", b"Content-Length: 3", b"Content-Length: -1", b"Content-Length: 99999999999"),
            *(b"Content-Encoding: gzip", b"Transfer-Encoding: chunked", b"Location: file:///etc/passwd", b"no colon"),
            *(b": no name", b" folded", b"Set-Cookie: a=b", b"X: " + b"x" * 20_000),
        ]
    ),
    max_size=3,
)


@examples(150, shared=True)
@given(
    head=heads, lines=headers, body=st.binary(max_size=80) | st.just(b"z" * 5_000), cut=st.none() | st.integers(0, 90)
)
def test_any_bytes_are_an_answer_that_can_be_judged(
    receiver: tuple[Says, Server, Transport], head: bytes, lines: list[bytes], body: bytes, cut: int | None
) -> None:
    said, server, transport = receiver
    said.answer = (b"\r\n".join([head, *lines]) + b"\r\n\r\n" + body)[:cut]
    answer = post(transport, server.url)
    assert answer.failure is not Failure.INTERNAL
    assert answer.failure is not Failure.TIMEOUT, "it hung up: there is nothing to wait for"
    assert answer.elapsed_ms < PATIENT_MS
    assert len(answer.body) <= READ_BODY
    assert answer.error.isprintable()
    assert bool(answer.error) == (answer.failure is not None)
    if answer.failure is None:
        assert 200 <= answer.status <= 999
        assert head.split(b" ")[1].startswith(str(answer.status).encode())  # libcurl reads three digits of it
    _check(answer, attempt=1, chance=0.5)


any_answer = st.builds(
    Answer,
    status=st.integers(0, 999),
    failure=st.none() | st.sampled_from(Failure),
    error=st.sampled_from(["", "reset"]),
    body=st.binary(max_size=20),
    elapsed_ms=st.integers(0, 30_000),
    wish=st.sampled_from(Wish),
    retry_after=st.text(max_size=64)
    | st.integers(-(10**12), 10**70).map(str)
    | st.datetimes().map(lambda when: when.strftime("%a, %d %b %Y %H:%M:%S GMT")),
)


@examples(300)
@given(any_answer, st.integers(1, 6), st.floats(0, 1, exclude_max=True))
def test_any_answer_has_one_of_the_outcomes_that_the_contract_names(
    answer: Answer, attempt: int, chance: float
) -> None:
    _check(answer, attempt, chance)


def _check(answer: Answer, attempt: int, chance: float) -> None:
    outcome = judge(answer, attempt, SCHEDULE_MS, NOW_MS, chance)
    read = answer.failure is None
    accepted = read and 200 <= answer.status < 300
    assert (outcome.verdict is Verdict.ACCEPTED) == accepted
    stops = read and not accepted and (answer.status == 410 or answer.wish is Wish.DISABLE)
    assert (outcome.verdict is Verdict.DISABLE) == stops
    assert bool(outcome.error) != accepted
    assert 0 <= outcome.slow_ms <= LONGEST_WAIT_MS
    assert not outcome.slow_ms or answer.status in {429, 503}
    if outcome.verdict is Verdict.RETRY:
        assert attempt <= len(SCHEDULE_MS)
        step_ms = SCHEDULE_MS[attempt - 1]
        assert NOW_MS + max(0.8 * step_ms - 1, outcome.slow_ms) <= outcome.due_ms
        assert outcome.due_ms <= NOW_MS + max(1.2 * step_ms + 1, outcome.slow_ms)
    else:
        assert outcome.due_ms == 0

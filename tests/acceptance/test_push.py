"""The provider's push over real HTTP: who may push, what comes of it, and what a flood of pushes cannot do."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast
from urllib.parse import quote

import pytest
import redis
import requests
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.domain.commits import Due
from bridge.errors import StoreUnreachable
from bridge.provider.push import MAX_BODY_BYTES
from bridge.store import keys
from bridge.web.push import Pushes
from bridge.wiring import Bridge
from tests.acceptance.test_web import serving
from tests.commands import track
from tests.parts import Parts, until
from tests.running import process, url_of
from tests.servers import environ_for
from tests.simulator import running_simulator

LATER = 4_000_000_000_000
NO = "nAQDODtO"


class Counting:
    """Admits one token, and remembers what it was asked."""

    def __init__(self) -> None:
        self.hinted: list[tuple[str, tuple[str, ...]]] = []
        self.woken: list[str] = []

    def pushes(self) -> Pushes:
        return Pushes(admits=lambda account, token: (account, token) == ("shop", "t"), hint=self._hint, wake=self._wake)

    def forget(self) -> None:
        self.hinted.clear()
        self.woken.clear()

    def _hint(self, account: str, session_nos: Sequence[str]) -> bool:
        self.hinted.append((account, tuple(session_nos)))
        return bool(session_nos)

    def _wake(self, account: str) -> None:
        self.woken.append(account)


@pytest.fixture(scope="module")
def counting() -> Iterator[tuple[str, Counting]]:
    made = Counting()
    with serving({}, pushes=made.pushes()) as url:
        yield f"{url}/v1/provider/usms", made


def body(*session_nos: str) -> bytes:
    return json.dumps(
        {"MsgType": 2, "Data": [{"SessionNo": name, "Phone": "18500000001"} for name in session_nos]}
    ).encode()


def test_a_push_is_acknowledged_as_the_provider_expects(counting: tuple[str, Counting]) -> None:
    url, made = counting
    made.forget()
    answer = requests.post(f"{url}/shop/t", data=body("s1", "s2"), timeout=10)
    assert (answer.status_code, answer.json()) == (200, {"code": 0})
    assert answer.headers["Content-Type"] == "application/json"
    assert made.hinted == [("shop", ("s1", "s2"))]
    until(lambda: made.woken == ["shop"])


@pytest.mark.parametrize(
    "path",
    ["/shop/x", "/bank/t", "/shop/", "/shop", "/Shop/t", "/a%3Ab/t", "/shop/" + "t" * 1_000, "/shop/%00", "/shop/t/t"],
)
def test_who_does_not_know_the_token_learns_nothing(counting: tuple[str, Counting], path: str) -> None:
    url, made = counting
    made.forget()
    nowhere = requests.post(f"{url}/../nothing/of/the/kind", data=b"x", timeout=10)
    for pushed in (body("s1"), b"not JSON", b"x" * 2 * MAX_BODY_BYTES):
        try:
            answer = requests.post(url + path, data=pushed, timeout=10)
        except requests.ConnectionError:
            assert len(pushed) > MAX_BODY_BYTES  # answered, and closed, before all of it was sent
            continue
        assert (answer.status_code, answer.json()) == (404, nowhere.json())
        assert answer.headers["Content-Type"] == "application/problem+json"
    assert made.hinted == []


@pytest.mark.parametrize(
    ("given", "field"),
    [(b"not JSON", "body"), (b"{}", "MsgType"), (b'{"MsgType":2}', "Data"), (b'{"MsgType":2,"Data":[7]}', "Data[0]")],
)
def test_what_is_malformed_is_a_problem_that_names_the_field(
    counting: tuple[str, Counting], given: bytes, field: str
) -> None:
    url, _ = counting
    answer = requests.post(f"{url}/shop/t", data=given, timeout=10)
    assert (answer.status_code, answer.headers["Content-Type"]) == (400, "application/problem+json")
    found = answer.json()
    assert (found["type"], found["title"], found["status"], found["field"]) == (
        "about:blank",
        "Bad Request",
        400,
        field,
    )
    assert found["detail"].startswith(f"{field}: ")


def test_the_good_entries_of_a_bad_push_count(counting: tuple[str, Counting]) -> None:
    url, made = counting
    made.forget()
    given = b'{"MsgType":2,"Data":[{"SessionNo":"s1"},{"SessionNo":null}]}'
    assert requests.post(f"{url}/shop/t", data=given, timeout=10).status_code == 400
    assert made.hinted == [("shop", ("s1",))]


def _chunks(size: int) -> Iterator[bytes]:
    for _ in range(0, size, 65_536):
        yield b" " * 65_536


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_is_too_large_is_not_taken(counting: tuple[str, Counting], chunked: bool) -> None:
    url, _ = counting
    given = _chunks(MAX_BODY_BYTES + 65_536) if chunked else b" " * (MAX_BODY_BYTES + 1)
    try:
        answer = requests.post(f"{url}/shop/t", data=given, timeout=10)
    except requests.ConnectionError:
        return  # it was answered, and closed, while we were sending
    assert (answer.status_code, answer.json()["title"]) == (413, "Request Entity Too Large")
    assert answer.headers["Content-Type"] == "application/problem+json"


def test_another_method_is_a_problem(counting: tuple[str, Counting]) -> None:
    url, _ = counting
    answer = requests.get(f"{url}/shop/t", timeout=10)
    assert (answer.status_code, answer.headers["Content-Type"]) == (405, "application/problem+json")


@settings(max_examples=150, deadline=None)
@given(
    account=st.one_of(st.just("shop"), st.text(max_size=40)),
    token=st.one_of(st.just("t"), st.text(max_size=40)),
    given=st.one_of(st.binary(max_size=300), st.builds(body, st.text(max_size=70))),
    kind=st.sampled_from(["application/json", "text/plain", "multipart/form-data", "x", ""]),
)
def test_garbage_is_never_a_fault_of_ours(
    counting: tuple[str, Counting], account: str, token: str, given: bytes, kind: str
) -> None:
    url, _ = counting
    path = "/".join(quote(part.encode(errors="surrogatepass"), safe="") for part in (account, token))
    answer = requests.post(f"{url}/{path}", data=given, headers={"Content-Type": kind}, timeout=10)
    assert answer.status_code in {200, 400, 404}
    if (account, token) != ("shop", "t"):
        assert answer.status_code == 404
    if answer.status_code != 200:
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert set(answer.json()) >= {"type", "title", "status", "detail"}


@pytest.mark.parametrize(
    ("error", "status"), [(StoreUnreachable("Redis does not answer"), 503), (RuntimeError("18500000001"), 500)]
)
def test_what_fails_here_says_no_more_than_that(error: Exception, status: int) -> None:
    def failing(_account: str, _token: str) -> bool:
        raise error

    with serving({}, pushes=Pushes(admits=failing, hint=lambda _a, _n: False, wake=lambda _a: None)) as url:
        answer = requests.post(f"{url}/v1/provider/usms/shop/t", data=b"{}", timeout=10)
        assert requests.get(f"{url}/healthz", timeout=10).status_code == 200
    assert (answer.status_code, answer.json()["status"]) == (status, status)
    assert str(error) not in answer.text
    assert (answer.headers.get("Retry-After") == "5") == (status == 503)


def test_a_broker_that_is_slow_to_be_woken_is_not_waited_for() -> None:
    released, woken = threading.Event(), threading.Event()

    def wake(_account: str) -> None:
        released.wait(30)
        woken.set()

    with serving({}, pushes=Pushes(admits=lambda _a, _t: True, hint=lambda _a, _n: True, wake=wake)) as url:
        try:
            answer = requests.post(f"{url}/v1/provider/usms/shop/t", data=body("s1"), timeout=10)
            assert (answer.status_code, woken.is_set()) == (200, False)
        finally:
            released.set()
        until(woken.is_set)


# the real processes


@pytest.fixture(name="store")
def _store(bridge: Bridge, server: str) -> Iterator[Parts]:
    made = Parts(server, bridge.settings.shards)
    yield made
    made.close()


def test_a_push_makes_the_provider_be_asked_at_once_and_its_word_alone_counts(
    bridge: Bridge, store: Parts, server: str, tmp_path: Path
) -> None:
    """No beat runs: nothing but the push wakes the worker."""
    token = bridge.push_tokens.show("default")
    with running_simulator() as simulator:
        session = simulator.send("(86)18500000001")
        track(bridge, {"session_no": session, "phone_count": 1})
        put_off(store, session)
        environ = environ_for(server, provider_url=simulator.url, listen="127.0.0.1:0")
        with process("web", environ, tmp_path) as web, process("worker", environ, tmp_path) as worker:
            url = f"{url_of(web)}/v1/provider/usms/default/{token}"
            # What it says of the phone is not believed: it failed, says the push; delivered, says the provider.
            lie = {"SessionNo": session, "Phone": "(86)18500000001", "ReceiptResult": "Fail", "ReceiptTime": 1}
            given = {"MsgType": 2, "Data": [lie, {"SessionNo": "nobodys"}]}
            answer = requests.post(url, json=given, timeout=20)
            assert (answer.status_code, answer.json()) == (200, {"code": 0})
            until(lambda: simulator.log().last > 0 or worker.poll() is not None, 60)
            until(lambda: bool(_statuses(bridge, session)), 20)
            assert _statuses(bridge, session) == [2]
            counted = bridge.pushes.counts("default")
            assert (counted.pushes, counted.hinted, counted.unknown) == (1, 1, 1)
            # The token is rotated while the process runs.
            bridge.push_tokens.rotate("default")
            assert requests.post(url, json=given, timeout=20).status_code == 404
        said = (tmp_path / "web.log").read_text() + (tmp_path / "worker.log").read_text()
    assert token not in said
    assert "18500000001" not in said


def put_off(store: Parts, session_no: str) -> None:
    store.redis.zadd(keys.due(store.shard(session_no), "default"), {session_no: LATER})


def _statuses(bridge: Bridge, session_no: str) -> list[int]:
    state = bridge.sessions.read("default", [session_no])[session_no].state
    return [] if state is None else [one.status for one in state.phones]


def test_a_flood_of_pushes_is_one_call(bridge: Bridge, store: Parts, server: str, tmp_path: Path) -> None:
    """The worker's part is played here, so that each moment can be looked at."""
    token = bridge.push_tokens.show("default")
    track(bridge, NO)
    put_off(store, NO)
    with process("web", environ_for(server, listen="127.0.0.1:0"), tmp_path) as web:
        url = f"{url_of(web)}/v1/provider/usms/default/{token}"
        claims = 0
        started_ms = store.now_ms()
        for _ in range(60):
            assert requests.post(url, data=body(NO), timeout=20).status_code == 200
            if store.claim_due({store.shard(NO): 10}, 60_000):
                claims += 1
                put_off(store, NO)
        took_ms = store.now_ms() - started_ms
    assert 1 <= claims <= 1 + took_ms // 5_000
    with redis.Redis.from_url(server) as broker:
        # One message woke whoever polls; while it is at it nobody else is woken.
        assert cast("int", broker.llen("bridge.poll")) <= 1 + took_ms // 2_000


def test_an_unknown_token_asks_nothing_of_sessions(bridge: Bridge, server: str, tmp_path: Path) -> None:
    track(bridge, NO)
    store = Parts(server, bridge.settings.shards)
    store.write(NO, due=Due.NONE)
    with process("web", environ_for(server, listen="127.0.0.1:0"), tmp_path) as web:
        url = f"{url_of(web)}/v1/provider/usms"
        for path in ("default/wrong", "nobody/wrong"):
            assert requests.post(f"{url}/{path}", data=body(NO), timeout=20).status_code == 404
    assert store.sessions.due_ms("default", NO) is None
    assert store.redis.exists(keys.pushes("default"), keys.pushes("nobody")) == 0
    store.close()


def test_a_store_that_is_down_is_a_503(tmp_path: Path) -> None:
    environ = environ_for("redis://127.0.0.1:1/0", listen="127.0.0.1:0")
    with process("web", environ, tmp_path) as web:
        answer = requests.post(f"{url_of(web)}/v1/provider/usms/default/t", data=body(NO), timeout=30)
        assert (answer.status_code, answer.headers["Content-Type"]) == (503, "application/problem+json")

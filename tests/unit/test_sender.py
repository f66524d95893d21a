from __future__ import annotations

import base64
import json
import os
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis

from bridge import BrokerUnreachable, InvalidSession, track
from bridge.errors import SettingsError, UsageError
from bridge.sender import WITHIN_S
from bridge.store.server import EmbeddedServer

ROOT = Path(__file__).parents[2]
PHONE = "(86)18500001234"
FULL: dict[str, object] = {
    "session_no": "nAQDODtO",
    "phones": [PHONE, {"phone": "18511112222", "user_id": "1213"}],
    "metadata": {"order": 7},
    "callback_url": "https://example.com/sms",
    "sent_at": 1795423107,
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    directory = tmp_path_factory.mktemp("server")
    with EmbeddedServer(directory, options={"unixsocket": str(directory / "s")}) as running:
        yield running


@pytest.fixture
def store(server: EmbeddedServer) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(server.url) as client:
        client.flushall()
        yield client


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("BRIDGE_", "CELERY_"))]:
        monkeypatch.delenv(name)


def messages(store: redis.Redis) -> list[dict[str, Any]]:
    raw = store.lrange("bridge.track", 0, -1)
    assert isinstance(raw, list)
    return [json.loads(message) for message in raw]


def body(message: dict[str, Any]) -> Any:
    return json.loads(base64.b64decode(message["body"]))


@contextmanager
def listening(*, answers: bytes = b"") -> Iterator[int]:
    """A TCP server that accepts, and says nothing, or ``answers`` a byte each half second."""
    ended = threading.Event()

    def drip(connection: socket.socket) -> None:
        with connection:
            for byte in answers:
                if ended.wait(0.5):
                    return
                connection.sendall(bytes([byte]))
            ended.wait(20)

    def accept() -> None:
        while not ended.is_set():
            try:
                connection, _ = server.accept()
            except OSError:
                return
            thread = threading.Thread(target=drip, args=(connection,))
            thread.start()
            threads.append(thread)

    threads: list[threading.Thread] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        acceptor = threading.Thread(target=accept)
        acceptor.start()
        try:
            yield server.getsockname()[1]
        finally:
            ended.set()
            server.shutdown(socket.SHUT_RDWR)
            acceptor.join()
            for thread in threads:
                thread.join()


GIVEN_UP_S = 15
"""``WITHIN_S`` and what a busy machine takes; what waits for an answer would wait for longer."""


def unreachable(url: str) -> tuple[str, float]:
    started_s = time.monotonic()
    with pytest.raises(BrokerUnreachable) as caught:
        track(["S1"], broker_url=url)
    return str(caught.value), time.monotonic() - started_s


def test_one_call_is_one_message(server: EmbeddedServer, store: redis.Redis) -> None:
    message_id = track(["S1", FULL], account="shop-2", broker_url=server.url)
    (message,) = messages(store)
    assert message["headers"]["id"] == message_id
    assert message["headers"]["task"] == "bridge.track"
    assert message["content-type"] == "application/json"
    assert body(message)[:2] == [[["S1", FULL]], {"account": "shop-2"}]


def test_the_account_is_named_even_where_it_is_the_default(server: EmbeddedServer, store: redis.Redis) -> None:
    track(["S1"], broker_url=server.url)
    assert body(messages(store)[0])[1] == {"account": "default"}


def test_phones_are_in_the_body_alone(server: EmbeddedServer, store: redis.Redis) -> None:
    track([FULL], broker_url=server.url)
    (message,) = messages(store)
    del message["body"]
    assert "18500001234" not in json.dumps(message)
    assert message["headers"]["argsrepr"] == "[1 sessions]"


def test_nothing_is_sent_of_a_call_with_a_wrong_item(server: EmbeddedServer, store: redis.Redis) -> None:
    with pytest.raises(InvalidSession) as caught:
        track(["S1", "S 2"], broker_url=server.url)
    assert caught.value.index == 1
    assert messages(store) == []


@pytest.mark.parametrize("account", ["", "Shop", "a" * 33, "a b", "ä", "default\n"])
def test_a_wrong_account_name_is_refused(account: str) -> None:
    with pytest.raises(UsageError, match="account: give 1 to 32"):
        track(["S1"], account, broker_url="redis://127.0.0.1:1")


def test_the_broker_is_found_in_the_environment(
    server: EmbeddedServer, store: redis.Redis, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("BRIDGE_REDIS_URL", server.url)
    track(["by-the-store"])
    monkeypatch.setenv("BRIDGE_REDIS_URL", "redis://127.0.0.1:1")
    monkeypatch.setenv("BRIDGE_BROKER_URL", server.url)
    track(["by-its-own"])
    monkeypatch.delenv("BRIDGE_BROKER_URL")
    (tmp_path / "url").write_text(server.url + "\n")
    monkeypatch.setenv("BRIDGE_BROKER_URL_FILE", str(tmp_path / "url"))
    track(["by-a-file"])
    assert len(messages(store)) == 3


def test_a_missing_or_doubled_or_wrong_broker_setting_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingsError, match="BRIDGE_BROKER_URL: not set"):
        track(["S1"])
    monkeypatch.setenv("BRIDGE_BROKER_URL", "kafka://:hunter2@h")
    with pytest.raises(SettingsError, match="BRIDGE_BROKER_URL: the scheme kafka:// is not supported") as caught:
        track(["S1"])
    assert "hunter2" not in str(caught.value)
    monkeypatch.setenv("BRIDGE_BROKER_URL_FILE", "/nowhere")
    with pytest.raises(SettingsError, match="BRIDGE_BROKER_URL_FILE too"):
        track(["S1"])
    monkeypatch.delenv("BRIDGE_BROKER_URL")
    with pytest.raises(SettingsError, match="BRIDGE_BROKER_URL_FILE: /nowhere cannot be read"):
        track(["S1"])


@pytest.mark.parametrize("name", ["CELERY_BROKER_URL", "CELERY_BROKER_WRITE_URL", "CELERY_RESULT_BACKEND"])
def test_the_celery_settings_of_the_host_are_not_ours(
    server: EmbeddedServer, store: redis.Redis, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "redis://127.0.0.1:1/0")
    track(["S1"], broker_url=server.url)
    assert len(messages(store)) == 1


def test_valkey_and_socket_urls_work(server: EmbeddedServer, store: redis.Redis) -> None:
    track(["S1"], broker_url=server.url.replace("redis://", "valkey://"))
    password = server.url.partition("://:")[2].partition("@")[0]
    path = server._directory / "s"
    track(["S2"], broker_url=f"unix://:{password}@{path}?db=0")
    assert len(messages(store)) == 2


def test_a_refused_connection_is_told_at_once() -> None:
    message, took_s = unreachable("redis://:hunter2@127.0.0.1:1/0")
    assert "the broker at redis://127.0.0.1:1/0 cannot be reached" in message
    assert "check BRIDGE_BROKER_URL" in message
    assert "hunter2" not in message
    assert took_s < WITHIN_S


def test_less_than_5_s_are_for_the_broker() -> None:
    assert WITHIN_S < 5


@pytest.mark.parametrize("scheme", ["redis", "amqp"])
def test_a_broker_that_says_nothing_is_given_up_within_5_s(scheme: str) -> None:
    with listening() as port:
        message, took_s = unreachable(f"{scheme}://:hunter2@127.0.0.1:{port}//".removesuffix("/" * (scheme == "redis")))
    assert took_s < GIVEN_UP_S
    assert "hunter2" not in message


def test_a_broker_that_drips_its_answer_is_given_up_within_5_s() -> None:
    with listening(answers=b"+" * 60) as port:
        message, took_s = unreachable(f"redis://127.0.0.1:{port}/0")
    assert took_s < GIVEN_UP_S
    assert "does not answer within 5 s" in message


def test_a_name_lookup_that_hangs_is_given_up_within_5_s(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = threading.Event()

    def hang(*_arguments: object, **_options: object) -> list[object]:
        ended.wait(20)
        raise socket.gaierror("no such name")

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    _, took_s = unreachable("redis://broker.example/0")
    ended.set()
    assert took_s < GIVEN_UP_S


def test_an_unknown_name_is_told() -> None:
    message, took_s = unreachable("redis://broker.invalid/0")
    assert "redis://broker.invalid/0" in message
    assert took_s < GIVEN_UP_S


def test_a_refused_login_is_told_without_the_password(server: EmbeddedServer) -> None:
    port = server.url.rpartition(":")[2]
    for login in (":hunter2@", "someone:hunter2@", ""):
        message, _ = unreachable(f"redis://{login}127.0.0.1:{port}")
        assert "refuses the login: check the user and password" in message
        assert "hunter2" not in message


def test_a_broker_without_memory_is_told(server: EmbeddedServer, store: redis.Redis) -> None:
    store.config_set("maxmemory", "1")
    try:
        message, _ = unreachable(server.url)
    finally:
        store.config_set("maxmemory", "0")
    assert "out of memory and takes no messages" in message


def test_a_restarted_broker_is_found_again(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path, password="p") as first:  # noqa: S106 - a server of this test's own
        url, port = first.url, int(first.url.rpartition(":")[2].partition("/")[0])
        track(["S1"], broker_url=url)
    unreachable(url)
    with EmbeddedServer(tmp_path, port=port, password="p") as second:  # noqa: S106 - see above
        assert second.url == url
        track(["S1"], broker_url=url)


def test_threads_share_a_broker(server: EmbeddedServer, store: redis.Redis) -> None:
    url = server.url.replace("127.0.0.1", "localhost")  # no other test's, so that they race for its first connection
    failures: list[BaseException] = []

    def send() -> None:
        try:
            for _ in range(10):
                track(["S1"], broker_url=url)
        except BaseException as error:  # noqa: BLE001 - told below, in the test's own thread
            failures.append(error)

    threads = [threading.Thread(target=send) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert store.llen("bridge.track") == 160


def test_a_forked_child_tracks_on_connections_of_its_own(server: EmbeddedServer, store: redis.Redis) -> None:
    # Another thread holds the lock at the fork: the child must not wait for it.
    script = textwrap.dedent("""
        import os, sys, threading
        from bridge import sender, track
        track(["parent"])
        with sender._brokers.lock:
            child = os.fork()
            if child == 0:
                track(["child"])
                os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        track(["parent"])
    """)
    environ = {**os.environ, "BRIDGE_BROKER_URL": server.url, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", script], check=True, env=environ, timeout=60)
    assert [body(message)[0][0] for message in messages(store)] == [["parent"], ["child"], ["parent"]]


def test_importing_the_sender_loads_nothing_heavy() -> None:
    script = textwrap.dedent("""
        import sys
        import bridge
        loaded = {name for name in sys.modules if name.startswith("bridge.")}
        assert not loaded, loaded
        import bridge.sender
        heavy = {"msgspec", "pydantic", "pydantic_settings", "structlog", "requests", "pycurl", "celery", "kombu"}
        assert not heavy & set(sys.modules), heavy & set(sys.modules)
    """)
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", script], check=True, env=environ, timeout=60)

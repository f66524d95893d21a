"""``bridge doctor``: each thing that can be wrong is found, told with what to do, and has its exit code."""

from __future__ import annotations

import base64
import subprocess
import sys
from pathlib import Path

import pytest
import redis

from bridge.cli.doctor_findings import Verdict
from bridge.cli.doctor_servers import SERVER_CHECKS, Server, broker_findings
from bridge.domain.credentials import Identity
from bridge.domain.rate import Slowed
from bridge.domain.subscriptions import Options
from bridge.store import keys
from bridge.wiring import Bridge
from tests.commands import URL, Terminal, deliveries_in_every_state, use_environ
from tests.servers import environ_for, valkey
from tests.simulator import running_simulator

UNREACHABLE = "redis://127.0.0.1:1/0"

HEALTHY = Server(
    url="redis://store:6379/0",
    info={
        "redis_version": "7.2.4",
        "maxmemory_policy": "noeviction",
        "maxmemory": "1000000000",
        "used_memory": "1000000",
        "aof_enabled": "1",
    },
    config={"save": "", "hash-max-listpack-value": "256"},
    ahead_ms=12.0,
)


def _found(terminal: Terminal, code: int) -> dict[str, tuple[object, str]]:
    """Each check's verdict with all that is said of it; a check that says several things is joined."""
    ran = terminal("doctor", "--json")
    assert ran.code == code, ran.out + ran.err
    found: dict[str, tuple[object, str]] = {}
    for row in ran.rows():
        assert set(row) == {"check", "verdict", "detail", "action"}
        name = str(row["check"])
        _, before = found.get(name, ("", ""))
        found[name] = (row["verdict"], f"{before} {row['detail']} {row['action']}".strip())
    return found


def test_a_healthy_bridge_has_nothing_to_fail(
    bridge: Bridge, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    bridge.subscribe(URL)
    bridge.index.note_tick(bridge.clock.now_ms())
    with running_simulator() as simulator:
        monkeypatch.setenv("BRIDGE_PROVIDER_URL", simulator.url)
        found = _found(terminal, 0)
        people = terminal("doctor")
    warned = {name for name, (verdict, _) in found.items() if verdict != "ok"}
    assert warned == {"persistence"}  # the tests' server writes nothing to disk
    assert set(found) == {
        *("settings", "store", "eviction", "persistence", "memory", "packing", "clocks", "broker", "schema"),
        *("store id", "provider", "secret keys", "workers", "accounts", "rejected", "subscriptions", "log"),
        *("provider rate", "sessions"),
    }
    assert people.code == 0
    assert people.out.splitlines()[0].split() == ["ok", "settings", "all", "are", "understood"]
    assert people.out.splitlines()[-1] == "18 ok, 1 to look at, 0 failed"
    assert "→ set appendonly yes" in people.out


def test_wrong_settings_are_a_line_each_and_exit_2(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    use_environ(monkeypatch, tmp_path, environ_for(UNREACHABLE, shards="0", listen="nowhere"))
    ran = terminal("doctor", "--json")
    assert ran.code == 2
    assert [str(row["detail"]).split(":")[0] for row in ran.rows()] == ["BRIDGE_SHARDS", "BRIDGE_LISTEN"]


@pytest.mark.usefixtures("bridge")
def test_an_unknown_setting_fails_with_the_nearest(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BRIDGE_SHARD", "8")
    verdict, said = _found(terminal, 1)["settings"]
    assert verdict == "fail"
    assert "BRIDGE_SHARD is no setting" in said
    assert "BRIDGE_SHARDS" in said


def test_an_unreachable_store_is_exit_3(terminal: Terminal, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    use_environ(monkeypatch, tmp_path, environ_for(UNREACHABLE))
    found = _found(terminal, 3)
    assert [name for name, (verdict, _) in found.items() if verdict == "fail"] == ["store", "broker"]
    assert "BRIDGE_REDIS_URL" in found["store"][1]


@pytest.mark.usefixtures("bridge")
def test_an_unreachable_broker_is_exit_3_and_the_rest_is_checked(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BRIDGE_BROKER_URL", UNREACHABLE)
    found = _found(terminal, 3)
    assert found["broker"][0] == "fail"
    assert "BRIDGE_BROKER_URL" in found["broker"][1]
    assert "subscriptions" in found


def test_without_a_store_it_says_how_to_get_one(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    environ = environ_for(UNREACHABLE, data_dir=str(tmp_path))
    del environ["BRIDGE_REDIS_URL"]
    use_environ(monkeypatch, tmp_path, environ)
    assert "bridge up" in _found(terminal, 3)["store"][1]


def test_an_emptied_store_fails_until_it_is_restored_or_its_file_removed(
    bridge: Bridge, terminal: Terminal, tmp_path: Path
) -> None:
    assert _found(terminal, 1)["store id"][0] == "ok"
    bridge.client.redis.flushall()
    verdict, said = _found(terminal, 1)["store id"]
    assert verdict == "fail"
    assert "backup" in said
    (path,) = (tmp_path / "data" / "stores").iterdir()
    assert f"remove {path}" in said
    path.unlink()
    assert _found(terminal, 1)["store id"][0] == "ok"


@pytest.mark.usefixtures("bridge")
def test_another_shard_count_fails(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BRIDGE_SHARDS", "3")
    verdict, said = _found(terminal, 1)["schema"]
    assert verdict == "fail"
    assert "BRIDGE_SHARDS=8" in said


@pytest.mark.usefixtures("bridge")
def test_wrong_credentials_name_the_setting_to_check(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BRIDGE_PRIVATE_KEY", "not-the-one")
    with running_simulator() as simulator:
        monkeypatch.setenv("BRIDGE_PROVIDER_URL", simulator.url)
        verdict, said = _found(terminal, 1)["provider"]
    assert verdict == "fail"
    assert "171" in said
    assert "BRIDGE_PRIVATE_KEY" in said
    assert "not-the-one" not in said


@pytest.mark.usefixtures("bridge")
def test_a_provider_that_does_not_answer_fails(terminal: Terminal) -> None:
    verdict, said = _found(terminal, 1)["provider"]
    assert verdict == "fail"
    assert "BRIDGE_PROVIDER_URL" in said


@pytest.mark.usefixtures("bridge")
def test_missing_keys_are_told_how_to_get(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PUBLIC_KEY", "PRIVATE_KEY", "SECRET_KEYS"):
        monkeypatch.delenv(f"BRIDGE_{name}")
    found = _found(terminal, 1)
    assert found["provider"][0] == found["secret keys"][0] == "fail"
    assert "console" in found["provider"][1]
    assert "openssl rand" in found["secret keys"][1]


def test_a_lost_secret_key_fails(bridge: Bridge, terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    name = bridge.subscribe(URL)[0].id
    monkeypatch.setenv("BRIDGE_SECRET_KEYS", base64.b64encode(bytes(32)).decode())
    verdict, said = _found(terminal, 1)["secret keys"]
    assert verdict == "fail"
    assert name in said


def test_without_ticks_it_tells_which_process_is_missing(bridge: Bridge, server: str, terminal: Terminal) -> None:
    verdict, said = _found(terminal, 1)["workers"]
    assert verdict == "fail"
    assert "`bridge beat` and `bridge worker`" in said
    with redis.Redis.from_url(server) as store:
        store.lpush("bridge.control", "a message", "another")
    _, said = _found(terminal, 1)["workers"]
    assert "2 messages for a worker start `bridge worker`" in said
    bridge.index.note_tick(bridge.clock.now_ms())
    assert _found(terminal, 1)["workers"][0] == "ok"


def test_what_is_paused_rejected_or_dead_is_a_warning(bridge: Bridge, terminal: Terminal) -> None:
    assert _found(terminal, 1)["subscriptions"][0] == "warn"  # there is none
    deliveries_in_every_state(bridge)
    bridge.tracking.reject("default", [("{}", "item 0: session_no is missing")])
    bridge.rate.pause("default", "RetCode 172: no such user", 60_000)
    found = _found(terminal, 1)
    for name, words in (
        ("accounts", ["default", "RetCode 172: no such user"]),
        ("rejected", ["1 item ", "bridge rejected list"]),
        ("subscriptions", ["1 subscription,", "2 phones waiting", "2 dead letters", "--state dead"]),
    ):
        assert found[name][0] == "warn"
        assert all(word in found[name][1] for word in words), found[name]


def test_an_account_that_is_refused_fails_and_says_since_when(bridge: Bridge, terminal: Terminal) -> None:
    bridge.rate.pause("default", "RetCode 171: the Signature is wrong", 60_000, refused=True)
    verdict, said = _found(terminal, 1)["accounts"]
    assert verdict == "fail"
    assert "RetCode 171" in said
    bridge.rate.resume("default")
    assert _found(terminal, 1)["accounts"][0] == "ok"


def test_a_rate_that_does_not_cover_what_is_due_is_told_with_the_one_that_does(
    bridge: Bridge, terminal: Terminal
) -> None:
    assert "0 needed" in _found(terminal, 1)["provider rate"][1]
    due_ms = bridge.clock.now_ms() - 120_000
    bridge.client.redis.zadd(keys.due(0, "default"), {"s0": bridge.clock.now_ms() + 60_000})
    assert "< 0.01 needed" in _found(terminal, 1)["provider rate"][1]
    due = {f"s{number}": due_ms for number in range(60_000)}
    bridge.client.redis.zadd(keys.due(0, "default"), due)
    verdict, said = _found(terminal, 1)["provider rate"]
    assert verdict == "ok", "5 calls a second drain 60,000 in two minutes, and nothing else comes"
    assert "60,000 sessions are due, for up to 2m" in said

    soon_ms = bridge.clock.now_ms() + 200_000
    bridge.client.redis.zadd(keys.due(1, "default"), {f"t{number}": soon_ms for number in range(180_000)})
    verdict, said = _found(terminal, 1)["provider rate"]
    assert verdict == "warn"
    assert "raise BRIDGE_PROVIDER_RATE to 7" in said

    bridge.rate.take("default", 5)
    bridge.client.redis.zremrangebyrank(keys.due(1, "default"), 0, 99_999)
    bridge.rate.slow("default", Slowed(0.5, bridge.clock.now_ms()))
    verdict, said = _found(terminal, 1)["provider rate"]
    assert verdict == "warn"
    assert "throttles" in said


def test_damaged_sessions_fail(bridge: Bridge, terminal: Terminal) -> None:
    bridge.client.redis.set(keys.session(keys.shard_of("s1", 8), "default", "s1"), b"vers")
    bridge.sessions.set_aside("default", ["s1"])
    verdict, said = _found(terminal, 1)["sessions"]
    assert verdict == "fail"
    assert "--state damaged" in said


@pytest.mark.parametrize(
    ("days", "verdict", "says"),
    [
        (14.1, "ok", "1 client certificate, none ends within 14 days"),
        (13.9, "warn", "ends in 13.9 days"),
        (0.04, "warn", "ends in 0.0 days"),
        (-1, "fail", "ended on "),
    ],
)
def test_a_client_certificate_that_ends_is_said_in_time(
    bridge: Bridge, terminal: Terminal, days: float, verdict: str, says: str
) -> None:
    ends_ms = bridge.clock.now_ms() + round(days * 86_400_000)
    name = bridge.subscribe(URL, options=Options(identity=(Identity(b"c", b"k", b""), ends_ms)))[0].id
    bridge.subscribe(URL, options=Options(identity=(Identity(b"", b"", b"a"), 0)))
    found, said = _found(terminal, 1)["certificates"]  # 1: nobody runs a worker here
    assert found == verdict
    assert says in said
    assert verdict == "ok" or f"`bridge subscriptions edit {name} --client-cert F --client-key F`" in said


@pytest.mark.parametrize(
    ("info", "config", "check", "verdict"),
    [
        ({}, {}, "", Verdict.OK),
        ({"redis_version": "6.2.1"}, {}, "store", Verdict.FAIL),
        ({"valkey_version": "7.2.5"}, {}, "store", Verdict.FAIL),
        ({"valkey_version": "8.0.1"}, {}, "", Verdict.OK),
        ({"maxmemory_policy": "allkeys-lru"}, {}, "eviction", Verdict.FAIL),
        ({"maxmemory_policy": "allkeys-lru", "maxmemory": "0"}, {}, "eviction", Verdict.WARN),
        ({"aof_enabled": "0"}, {}, "persistence", Verdict.WARN),
        ({"aof_enabled": "0"}, {"save": "3600 1"}, "", Verdict.OK),
        ({"aof_enabled": "0", "rdb_last_bgsave_status": "err"}, {"save": "3600 1"}, "persistence", Verdict.FAIL),
        ({"aof_last_write_status": "err"}, {}, "persistence", Verdict.FAIL),
        ({"used_memory": "800000000"}, {}, "memory", Verdict.WARN),
        ({"used_memory": "900000000"}, {}, "memory", Verdict.FAIL),
        ({"maxmemory": "0"}, {}, "", Verdict.OK),
        ({}, {"hash-max-listpack-value": "64"}, "packing", Verdict.WARN),
    ],
)
def test_a_server_is_judged_by_what_it_says_of_itself(
    info: dict[str, str], config: dict[str, str], check: str, verdict: Verdict
) -> None:
    server = Server(HEALTHY.url, {**HEALTHY.info, **info}, {**HEALTHY.config, **config}, 0.0)
    findings = [finding for look in SERVER_CHECKS for finding in look(server)]
    amiss = [(finding.check, finding.verdict) for finding in findings if finding.verdict is not Verdict.OK]
    assert amiss == ([(check, verdict)] if check else [])
    assert all(finding.action for finding in findings if finding.verdict is not Verdict.OK)


def test_a_server_that_tells_nothing_of_its_configuration_is_no_failure() -> None:
    server = Server(HEALTHY.url, {**HEALTHY.info, "aof_enabled": "0"}, {}, 0.0)
    findings = [finding for look in SERVER_CHECKS for finding in look(server)]
    assert {finding.verdict for finding in findings} == {Verdict.OK, Verdict.WARN}


@pytest.mark.parametrize("ahead_ms", [-5_001.0, 5_001.0])
def test_clocks_that_differ_are_a_warning(ahead_ms: float) -> None:
    server = Server(HEALTHY.url, HEALTHY.info, HEALTHY.config, ahead_ms)
    (clock,) = (finding for look in SERVER_CHECKS for finding in look(server) if finding.check == "clocks")
    assert clock.verdict is Verdict.WARN
    assert "5.0 s" in clock.detail


def test_it_runs_as_a_process_of_its_own(bridge: Bridge, server: str, tmp_path: Path) -> None:
    bridge.index.note_tick(bridge.clock.now_ms())
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-m", "bridge.cli.main", "doctor"],
        env=environ_for(server, data_dir=str(tmp_path)) | {"PYTHONPATH": str(Path(__file__).parents[2])},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ran.returncode, ran.stderr) == (1, "")
    assert "fail  provider" in ran.stdout


def test_a_broker_of_its_own_is_looked_at_too() -> None:
    assert list(broker_findings(HEALTHY)) == []
    poor = Server(
        url="",
        info={"redis_version": "6.2.0", "maxmemory_policy": "allkeys-lru", "maxmemory": "1"},
        config={},
        ahead_ms=0,
    )
    assert [(one.check, one.verdict) for one in broker_findings(poor)] == [("broker", Verdict.FAIL)] * 2


@pytest.mark.usefixtures("bridge")
def test_a_broker_that_evicts_is_found(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    with valkey(maxmemory="100mb", maxmemory_policy="allkeys-lru") as broker:
        monkeypatch.setenv("BRIDGE_BROKER_URL", broker.replace("redis://", "valkey://"))
        found = [row for row in terminal("doctor", "--json").rows() if row["check"] == "broker"]
    assert [row["verdict"] for row in found] == ["ok", "fail"]

"""The whole bridge on a cluster, with a broker of its own, and behind Sentinel: slots are moved, and masters die."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bridge.cli.demo import Heard, Phone, expected_statuses
from bridge.cli.family import Family
from bridge.cli.house import House
from bridge.cli.receiver import Receiver
from bridge.domain.topology import read_members
from bridge.sender import track
from bridge.simulator.sender import send_usms
from bridge.wiring import Bridge
from tests.clusters import Member, RealCluster, real_cluster, slot_of_shard
from tests.commands import Terminal, use_environ
from tests.parts import until
from tests.sentinels import watched
from tests.servers import environ_for, valkey
from tests.tls import ignores_what_redis_py_leaves_open

pytestmark = ignores_what_redis_py_leaves_open

Findings = dict[str, list[tuple[str, str]]]

SESSIONS = 48
DELIVERED = {"result": "发送成功", "code": "DELIVRD"}
UNKNOWN = {"result": "状态未知"}
FAILED = {"result": "发送失败", "code": "UNDELIV"}
RESUMES_WITHIN_S = 30.0


def scenario(spread_s: float) -> dict[str, object]:
    """Phones whose two changes are spread over a time, so that there is always something under way."""
    shares: list[dict[str, object]] = []
    for part in range(12):
        start = 1 + spread_s * part / 12
        steps = [UNKNOWN | {"delay": start}, (FAILED if part % 4 == 0 else DELIVERED) | {"delay": start + 3}]
        shares.append({"share": 1 / 12, "timeline": steps})
    return {"phones": shares, "default": [DELIVERED | {"delay": 3}], "seed": 11}


class Run:
    """A house on a cluster, a receiver, and sessions that were sent and tracked."""

    def __init__(self, house: House, family: Family, receiver: Receiver, heard: Heard) -> None:
        self.house = house
        self.family = family
        self.receiver = receiver
        self.heard = heard
        self.sent = 0

    def send_and_track(self, count: int) -> None:
        items: list[object] = []
        house = self.house
        for _ in range(count):
            phones = [f"(86)187{self.sent:06d}{n:02d}" for n in range(1 + self.sent % 3)]
            no = send_usms(house.provider_url, house.public_key, house.private_key, phones, user_id=f"u{self.sent}")
            items.append({"session_no": no, "phone_count": len(phones)})
            self.sent += 1
        track(items, broker_url=house.environment["BRIDGE_BROKER_URL"])

    @property
    def phones(self) -> int:
        return sum(1 + n % 3 for n in range(self.sent))

    def wait_until(self, what: str, condition: Callable[[], bool], within_s: float = 60.0) -> None:
        deadline = time.monotonic() + within_s
        while not condition():
            self.family.check()
            if time.monotonic() > deadline:
                pytest.fail(f"not within {within_s:.0f} s: {what}")
            time.sleep(0.05)

    def is_complete(self) -> bool:
        told = expected_statuses(self.house.told())
        final = [statuses for statuses in told.values() if statuses[-1] != "unknown"]
        return len(final) == self.phones and once_each(self.heard.statuses()) == told


def once_each(heard: dict[Phone, list[str]]) -> dict[Phone, list[str]]:
    return {phone: [status for status, _ in itertools.groupby(statuses)] for phone, statuses in heard.items()}


@contextmanager
def running(url: str, spread_s: float) -> Iterator[Run]:
    """The house on the store at ``url``; its own server is the broker."""
    heard = Heard(time.monotonic())
    settings = {
        "BRIDGE_POLL_SCHEDULE": "500ms,1s,2s,3s,4s,5s,6s",
        "BRIDGE_CALLBACK_RETRY": "200ms,500ms,1s,2s,3s,3s,3s,3s,3s",
        "BRIDGE_PROVIDER_RATE": "50",
    }
    with Family("cluster", handle_signals=False) as family, Receiver(on_callback=heard.note) as receiver:
        house = House(family, scenario=scenario(spread_s), settings=settings)
        house.start_store_and_provider()
        house.environment["BRIDGE_BROKER_URL"] = house.environment["BRIDGE_REDIS_URL"]
        house.environment["BRIDGE_REDIS_URL"] = url
        bridge = Bridge(house.settings())
        _, secret, _ = bridge.subscribe(receiver.url)
        bridge.close()
        receiver.set_secret(secret)
        house.start_worker()
        house.start_worker()
        house.start_beat()
        run = Run(house, family, receiver, heard)
        yield run
        run.wait_until("every change has arrived", run.is_complete)
        assert receiver.counts.bad_signatures == 0
        assert receiver.counts.out_of_order == 0


def has_refused(cluster: RealCluster, kind: str) -> bool:
    return any(f"errorstat_{kind}" in one.info("errorstats") for one in cluster.members if one.is_alive)


def test_every_change_arrives_once_and_in_order_while_every_shard_is_moved() -> None:
    with real_cluster(masters=3) as cluster, running(cluster.url, 10) as run:
        run.send_and_track(SESSIONS // 2)
        run.wait_until("the first arrive", lambda: len(run.heard.statuses()) > 3)
        for shard in range(8):
            slot = slot_of_shard(shard)
            owner = cluster.owner(slot)
            before = sum(map(len, run.heard.statuses().values()))
            cluster.move_slot(slot, cluster.masters[(cluster.masters.index(owner) + 1) % 3])
            # Of those before, all may have arrived by now: a slow machine moves shards slowly too.
            run.send_and_track(SESSIONS // 2 // 8)
            run.wait_until(
                "others arrive",
                lambda before=before: sum(map(len, run.heard.statuses().values())) > before,  # type: ignore[misc]  # mypy cannot infer a lambda with a default
            )
        run.wait_until("every change has arrived", run.is_complete)
        assert has_refused(cluster, "MOVED")
        assert not has_refused(cluster, "CROSSSLOT")
        assert run.receiver.counts.duplicates == 0


def test_the_bridge_goes_on_within_thirty_seconds_of_a_failover() -> None:
    with real_cluster(masters=3, replicas=3) as cluster, running(cluster.url, 14) as run:
        run.send_and_track(SESSIONS // 2)
        run.wait_until("the first arrive", lambda: len(run.heard.statuses()) > 3)
        victim = cluster.owner(slot_of_shard(2))
        replica = cluster.replicas[cluster.masters.index(victim)]
        victim.kill()
        run.wait_until("the replica has taken over", lambda: replica.info("replication")["role"] == "master")
        took_over = time.monotonic()
        run.send_and_track(SESSIONS - SESSIONS // 2)
        arrived = sum(map(len, run.heard.statuses().values()))
        run.wait_until(
            "callbacks go on", lambda: sum(map(len, run.heard.statuses().values())) > arrived + 5, RESUMES_WITHIN_S
        )
        assert time.monotonic() - took_over < RESUMES_WITHIN_S
        run.wait_until("every change has arrived", run.is_complete)
        assert not has_refused(cluster, "CROSSSLOT")


@pytest.mark.parametrize("tls", [False, True], ids=["in clear", "over TLS"])
def test_a_store_behind_sentinel_may_change_its_master(tls: bool) -> None:
    with watched(tls=tls) as group, running(group.url, 6) as run:
        run.send_and_track(SESSIONS // 4)
        run.wait_until("the first arrive", lambda: len(run.heard.statuses()) > 3)
        group.kill(0)
        run.wait_until("the replica has taken over", lambda: group.is_master(1))
        arrived = sum(map(len, run.heard.statuses().values()))
        # On a slow machine everything may have arrived by now.
        run.send_and_track(SESSIONS // 4)
        run.wait_until(
            "callbacks go on", lambda: sum(map(len, run.heard.statuses().values())) > arrived, RESUMES_WITHIN_S
        )


def is_failed(witness: Member, name: str) -> bool:
    return any(one.name == name and one.is_failed for one in read_members(witness.says("CLUSTER", "NODES")))


@pytest.fixture
def doctor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, terminal: Terminal) -> Callable[[str, str], Findings]:
    """What ``bridge doctor`` finds of a store and a broker: verdicts and details by check."""

    def run(url: str, broker: str) -> Findings:
        use_environ(monkeypatch, tmp_path, environ_for(url, broker_url=broker))
        found: Findings = {}
        for row in terminal("doctor", "--json").rows():
            found.setdefault(str(row["check"]), []).append((str(row["verdict"]), str(row["detail"])))
        return found

    return run


def test_doctor_tells_who_has_what_and_who_is_gone(doctor: Callable[[str, str], Findings]) -> None:
    with real_cluster(masters=3, replicas=1) as cluster, valkey() as broker:
        found = doctor(cluster.url, broker)
        ((verdict, said),) = found["topology"]
        assert (verdict, "no replica of" in said) == ("warn", True)
        assert found["store"][0][0] == found["eviction"][0][0] == "ok"
        assert [verdict for verdict, _ in found["persistence"]] == ["warn"] * 4
        assert {said.partition(": ")[0] for _, said in found["persistence"]} == {
            f"127.0.0.1:{one.address[1]}" for one in cluster.members
        }
        cluster.masters[2].redis.config_set("maxmemory-policy", "allkeys-lru")
        ((_, said),) = doctor(cluster.url, broker)["eviction"]
        assert said.startswith(f"127.0.0.1:{cluster.masters[2].address[1]}: ")

        cluster.masters[1].kill()
        name = f"127.0.0.1:{cluster.masters[1].address[1]}"
        until(lambda: is_failed(cluster.masters[0], name), 30)
        said_of = doctor(cluster.url, broker)["topology"]
        assert ("fail", f"master {name} is failing") in said_of
        assert any("of 16,384 slots are served" in said for _, said in said_of)

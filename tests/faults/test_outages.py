"""What the bridge says, and does, while what it stands on is gone: its store's data, disks, names, and its keys."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest
import requests

from bridge.cli.family import Family
from tests.faults import names
from tests.faults.outages import no_room
from tests.faults.plans import Plan
from tests.faults.receivers import Application
from tests.faults.run import Run
from tests.faults.world import CommandFailed
from tests.waiting import wait_until

_EMPTIED = "the store was emptied, or is another one than before"


@contextmanager
def at_work() -> Iterator[Run]:
    """Two workers, beat and web, with callbacks that are accepted."""
    with Family("faults", handle_signals=False) as family:
        run = Run(Plan(applications=("well",)), family)
        try:
            run.start()
            run.warm_up()
            yield run
        finally:
            run.close()


def findings(run: Run, check: str, environment: Mapping[str, str] | None = None) -> list[Mapping[str, str]]:
    """What ``bridge doctor`` finds."""
    try:
        said = run.world.command("doctor", "--json", environment=environment)
    except CommandFailed as error:
        said = error.said
    found = [json.loads(line) for line in said.splitlines()]
    return [one for one in found if one["check"] == check]


def workers_log(run: Run) -> list[dict[str, Any]]:
    """What all workers logged."""
    lines = [line for name, lines in run.world.log_lines().items() if "worker" in name for line in lines]
    return [json.loads(line) for line in lines if line.startswith("{")]


def pids(run: Run) -> list[int]:
    """The processes, none of which has ended."""
    crew = [*run.crew.workers.values(), *run.crew.beats]
    assert [one.poll() for one in crew] == [None] * len(crew), run.world.log_lines()
    return [one.pid for one in crew]


def accepts_more(run: Run) -> None:
    """Wait until what is sent now is accepted."""
    before = run.accepted()
    run.sender.send()
    wait_until("more is accepted", lambda: run.accepted() > before)


def test_names_that_do_not_resolve_are_failed_attempts_that_are_tried_again() -> None:
    if names.why_not():
        pytest.skip(f"processes cannot have names of their own here: {names.why_not()}")
    with at_work() as run:
        before = pids(run)
        link = run.world.proxy.links["receivers"]
        named = run.operator.subscribe(Application("named", run.chance), through=link.port)
        run.operator.do("pause", named)
        accepts_more(run)
        with run.world.names.forgotten(silent=False):
            run.world.proxy.drop(run.world.proxy.links["provider"])
            run.sender.send()
            run.operator.do("resume", named, "--deliver", "all")
            wait_until("polling is put off", lambda: "Temporary failure in name resolution" in str(workers_log(run)))
            wait_until("callbacks fail", lambda: "resolve" in str(run.reader.read().failed_attempts).lower())
            assert not named.posts
        wait_until("they are tried again", lambda: named.accepted() > 0)
        accepts_more(run)
        assert pids(run) == before


@pytest.mark.parametrize("how", ["FLUSHALL", "lost disk"])
def test_an_emptied_store_is_noticed_and_served_again_once_its_subscriptions_are_back(how: str) -> None:
    with at_work() as run:
        before = pids(run)
        assert requests.get(f"{run.world.web_url()}/readyz", timeout=10).status_code == 200
        empty(run, how)
        url = f"{run.world.web_url()}/readyz"
        answer = requests.get(url, timeout=10)
        assert answer.status_code == 503
        assert _EMPTIED in answer.json()["failures"]["store"]
        (found,) = findings(run, "store id", run.world.environment)
        assert found["verdict"] == "fail"
        assert "Restore" in found["action"]
        assert "add the subscriptions" in found["action"]
        wait_until("each worker says so", lambda: len(complaints(run)) == len(run.crew.workers))
        again = run.operator.subscribe(Application("again", run.chance))
        run.sender.send()
        wait_until("it works again", lambda: again.accepted() > 0)
        assert all(post.verified_by for post in again.posts)
        assert pids(run) == before
        assert len(complaints(run)) == len(run.crew.workers), "it is said once"
        for kept in (run.world.directory / "stores").glob("*.id"):
            kept.unlink()
        wait_until("all is well", lambda: requests.get(url, timeout=10).status_code == 200)


def complaints(run: Run) -> list[dict[str, Any]]:
    """Lines in which workers say that the store is another one."""
    return [line for line in workers_log(run) if _EMPTIED in line.get("reason", "")]


def empty(run: Run, how: str) -> None:
    """Have the store forget everything."""
    server = run.world.server
    if how == "FLUSHALL":
        with server.client() as client:
            client.flushall()
        return
    server.crash()
    server.lose_disk()
    server.revive()


def test_keys_that_are_refused_for_an_hour_are_visible_and_lose_nothing() -> None:
    with at_work() as run:
        before = pids(run)
        run.world.steer_provider({"rates": [{"fault": "retcode", "ret_code": 171, "rate": 1.0}]})
        run.sender.send()
        refused = run.sender.tracked[-5:]
        wait_until("it asks again and again", lambda: refusals(run) > 3)
        assert "the Signature is wrong" in str(findings(run, "provider"))
        assert [one["verdict"] for one in findings(run, "provider")] == ["fail"]
        stored = run.sessions()
        assert not any(stored["default", one.session_no].settled_ms for one in refused)
        run.world.steer_provider({})
        wait_until("all is settled", lambda: all(one.settled_ms for one in run.sessions().values()))
        assert {one.session_no for one in refused} <= {no for _, no in run.sessions()}
        assert [one["verdict"] for one in findings(run, "provider")] == ["ok"]
        told = [line for line in run.sentry.lines if "account refused by the provider" in line]
        assert len(told) == 1
        assert pids(run) == before


def refusals(run: Run) -> int:
    """How often the provider has refused the keys."""
    return sum(entry["fault"] == "retcode" for entry in run.world.provider_log()["entries"])


def test_a_full_disk_of_the_store_is_said_and_waited_for() -> None:
    with at_work() as run, run.world.server.client() as client:
        before = pids(run)
        with run.world.server.full_disk():
            wait_until("a write has failed", lambda: client.info("persistence")["aof_last_write_status"] != "ok")
            wait_until("workers say so", lambda: "MISCONF" in str(workers_log(run)))
            (found,) = findings(run, "persistence")
            assert (found["verdict"], found["detail"]) == ("fail", "the append-only file cannot be written")
        accepts_more(run)
        assert [one["verdict"] for one in findings(run, "persistence")] == ["ok"]
        assert pids(run) == before


def test_a_full_disk_of_a_worker_stops_nothing_but_its_log() -> None:
    with at_work() as run:
        before = pids(run)
        with no_room(before[0]), no_room(before[1]):
            lines = len(workers_log(run))
            for _ in range(3):
                accepts_more(run)
            assert len(workers_log(run)) == lines
        accepts_more(run)
        assert pids(run) == before

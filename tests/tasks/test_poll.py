"""What ``bridge.poll`` asks for and says, and whom it leaves asleep: nobody."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import msgspec
import pytest
import structlog
from celery.signals import celeryd_init

import tasks.app
import tasks.process
from bridge.cli.receiver import Answer, Request
from bridge.cli.receiver import Receiver as VerifyingReceiver
from bridge.domain.subscriptions import Options
from bridge.errors import AccountError, StoreUnreachable
from bridge.store import keys
from tasks.process import Process
from tests.delivery.slices import subscribe
from tests.parts import Parts, until
from tests.polling.scripted import receipt
from tests.tasks.desks import Desk

HOUR_MS = 3_600_000


def test_a_poll_goes_on_until_nothing_is_due_and_wakes_delivery(desk: Desk, log: Parts) -> None:
    subscribe(desk.bridge, "http://127.0.0.1:9009/")
    names = [f"s{number}" for number in range(250)]
    for name in names:
        log.write(name, due=1)
    desk.provider.says = {name: [receipt()] for name in names}

    desk.process.poll("default")

    assert sorted(map(len, desk.provider.asked)) == [50, 100, 100]
    assert desk.sent == [("bridge.deliver", ())]
    assert desk.bridge.wakes.take("poll:default", 1), "whoever has something due may wake it again"


def test_what_comes_due_as_a_poll_ends_is_not_left_alone(
    desk: Desk, log: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    drop = desk.bridge.wakes.drop

    def late(what: str) -> None:
        log.write("s1", due=1)
        assert not desk.bridge.wakes.take(what, 1_000), "the poll is still awake"
        drop(what)

    monkeypatch.setattr(desk.bridge.wakes, "drop", late)
    desk.process.poll("default")
    assert desk.sent == [("bridge.poll", ("default",))]


def test_a_due_session_that_is_gone_does_not_keep_polls_going(desk: Desk, log: Parts) -> None:
    """Fault: see test_what_does_not_exist_is_forgotten_with_its_place_in_the_index: each poll sent the next."""
    log.write("s1", due=1)
    log.redis.delete(keys.session(log.shard("s1"), "default", "s1"))
    desk.process.poll("default")
    assert desk.sent == []
    log.assert_index_is_right()


def test_an_account_with_something_due_is_known_by_name(desk: Desk, log: Parts) -> None:
    """One that was removed while a sender tracked for it: its sessions wait, and somebody must see that they do."""
    log.write("s1", due=1, account="shop")
    assert desk.bridge.tracking.accounts() == []
    desk.process.tick()
    assert desk.bridge.tracking.accounts() == ["shop"]


def test_a_refused_account_sleeps_for_its_pause(desk: Desk, log: Parts) -> None:
    log.write("s1", due=1)
    desk.provider.failures.append(AccountError("RetCode 171", 171))
    desk.process.poll("default")
    assert desk.sent == []
    desk.process.tick()
    assert desk.sent == [], "nobody is woken before the pause is over"
    assert 20_000 < int(str(log.redis.pttl(keys.wake("poll:default")))) <= 60_000


def test_a_call_that_hangs_keeps_no_other_session_waiting(
    desk: Desk, log: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fault: when a task's time was over it waited for its calls, and so did every session that came due meanwhile."""
    monkeypatch.setattr(tasks.process, "_POLL_BUDGET_S", 0.2)
    log.write("s1", due=1)
    done: list[str] = []

    def hang() -> None:
        if not done:
            done.append("hanging")
            log.write("s2", due=log.now_ms() + 300)
            until(lambda: ("bridge.poll", ("default",)) in desk.sent)
            desk.process.poll("default")  # as another thread of the worker does
            done.append(str(desk.provider.asked[-1]))

    desk.provider.meanwhile = hang
    desk.process.poll("default")
    assert done == ["hanging", "['s2']"]
    assert desk.sent.count(("bridge.poll", ("default",))) == 1


def test_a_completed_session_is_told_by_a_signed_callback(desk: Desk, log: Parts) -> None:
    bodies: list[dict[str, object]] = []

    def respond(request: Request) -> Answer:
        bodies.append(json.loads(request.body))
        return Answer(status=204)

    with VerifyingReceiver(respond=respond) as receiver:
        one, secret, _ = desk.bridge.subscribe(receiver.url, options=Options(types=("sms.session.completed",)))
        receiver.set_secret(secret)
        name = one.id
        desk.process.track([{"session_no": f"s{number}", "phone_count": 1} for number in range(20)], "default")
        desk.provider.says = {f"s{number}": [receipt()] for number in range(20)}
        log.make_due()
        desk.process.poll("default")
        desk.process.deliver()
    assert receiver.counts.bad_signatures == 0
    assert [body["type"] for body in bodies] == ["sms.session.completed"] * 20
    assert len({body["id"] for body in bodies}) == 20
    assert desk.bridge.queues.lengths([name]) == {name: 0}


def test_an_outage_of_the_account_is_one_error_and_its_end_is_said(desk: Desk, log: Parts) -> None:
    log.write("s1", due=1)
    desk.provider.failures += [AccountError("RetCode 171", 171)] * 3
    with structlog.testing.capture_logs() as lines:
        for _ in range(4):
            desk.process.poll("default")
            log.redis.hdel(keys.rate("default"), "until")
    said = [(line["log_level"], line["event"]) for line in lines if line["log_level"] != "debug"]
    assert said == [
        ("error", "account refused by the provider; it is not polled"),
        ("warning", "polling paused"),
        ("warning", "polling paused"),
        ("info", "polling resumed"),
    ]


def test_what_no_document_names_is_said_once(desk: Desk, log: Parts) -> None:
    fetch = desk.provider.fetch_receipts

    def strange(session_nos: Sequence[str]) -> object:
        return msgspec.structs.replace(fetch(session_nos), unseen_results=frozenset({"Teleported"}), skipped=1)

    desk.provider.fetch_receipts = strange  # type: ignore[method-assign,assignment]
    with structlog.testing.capture_logs() as lines:
        for _ in range(3):
            log.write("s1", due=1)
            desk.process.poll("default")
    assert [line["result"] for line in lines if "result" in line] == ["Teleported"]
    assert [line["skipped"] for line in lines if "skipped" in line] == [1, 1, 1]


def test_results_that_are_invented_fill_neither_memory_nor_log(desk: Desk, log: Parts) -> None:
    """Fault: each text that no document names was remembered for as long as the worker ran, and said in its log."""
    fetch = desk.provider.fetch_receipts
    asked = 0

    def inventive(session_nos: Sequence[str]) -> object:
        nonlocal asked
        asked += 1
        texts = frozenset(f"invented {asked} {number}" for number in range(60))
        return msgspec.structs.replace(fetch(session_nos), unseen_results=texts)

    desk.provider.fetch_receipts = inventive  # type: ignore[method-assign,assignment]
    with structlog.testing.capture_logs() as lines:
        for _ in range(4):
            log.write("s1", due=1)
            desk.process.poll("default")
    assert asked == 4
    said = [line["result"] for line in lines if "result" in line]
    assert len(said) == len(set(said)) == len(desk.process._seen_results) == 100


def test_overdue_sessions_are_told_by_the_clock_while_the_account_sleeps(desk: Desk, log: Parts) -> None:
    name = subscribe(desk.bridge, "http://127.0.0.1:9009/")
    desk.bridge.subscriptions.update(name, lambda one: msgspec.structs.replace(one, types=("sms.session.overdue",)))
    long_ago = (desk.bridge.clock.now_ms() - 20 * HOUR_MS) // 1000
    desk.process.track([{"session_no": f"s{number}", "sent_at": long_ago} for number in range(30)], "default")
    log.make_due()
    desk.provider.failures.append(AccountError("RetCode 171", 171))
    desk.process.poll("default")
    desk.sent.clear()
    desk.process.trim()
    assert desk.sent == [], "they were tracked a moment ago: the first poll has a minute"

    desk.bridge.clock.note(log.now_ms() + 125_000)
    desk.process.trim()
    assert desk.sent == [("bridge.deliver", ())]
    assert desk.bridge.queues.lengths([name]) == {name: 30}
    desk.process.trim()
    assert desk.bridge.queues.lengths([name]) == {name: 30}


def test_a_poll_that_fails_leaves_nobody_asleep(desk: Desk, log: Parts) -> None:
    """Fault: its wake-up stood for as long as a call may take: the account was left alone for half a minute."""
    log.write("s1", due=1)

    def fail() -> None:
        raise StoreUnreachable("cut")

    desk.provider.meanwhile = fail
    with pytest.raises(StoreUnreachable):
        desk.process.poll("default")
    assert desk.bridge.wakes.take("poll:default", 1)


def test_polls_that_wait_for_a_provider_leave_threads_to_others(desk: Desk, log: Parts) -> None:
    """Fault: a provider that hung, with as many accounts as a worker has threads, kept all of them for half a minute:
    nothing was delivered, tracked or woken meanwhile.
    """
    process = Process(lambda name, args: desk.sent.append((name, args)), most_polls=1)
    process.__dict__["bridge"] = desk.bridge
    asked, answer = Event(), Event()

    def hang() -> None:
        asked.set()
        assert answer.wait(30)

    desk.provider.meanwhile = hang
    log.write("s1", due=1)
    log.write("s2", due=1, account="shop")
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(process.poll, "default")
        assert asked.wait(30)
        process.poll("shop")
        assert desk.provider.asked == [["s1"]], "there is no place for it"
        assert not desk.bridge.wakes.take("poll:shop", 1), "and nobody asks again at once"
        answer.set()
        first.result(30)
    process.poll("shop")
    assert desk.provider.asked == [["s1"], ["s2"]]


@pytest.mark.parametrize(("concurrency", "most"), [(3, 1), (4, 1), (8, 5), (None, 1)])
def test_a_workers_polls_leave_three_of_its_threads(
    concurrency: int | None, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks.app.processes, "most_polls", 7)
    celeryd_init.send(sender="worker", instance=None, conf=tasks.app.app.conf, options={"concurrency": concurrency})
    assert tasks.app.processes.most_polls == most


def test_a_worker_that_is_to_end_hands_its_account_on(desk: Desk, log: Parts) -> None:
    log.write("s1", due=1)
    desk.process.stop()
    desk.process.poll("default")
    assert desk.provider.asked == []
    assert desk.sent == [("bridge.poll", ("default",))]

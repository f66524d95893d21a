"""What the tasks of a worker process do, on a real store: nothing is lost, nobody is left asleep."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import msgspec
import pytest
import structlog
from celery.exceptions import Reject
from celery.signals import celeryd_init
from hypothesis import given
from hypothesis import strategies as st
from kombu.exceptions import OperationalError
from msgspec.structs import replace

import tasks.app
import tasks.process
from bridge import lifecycle
from bridge.cli.receiver import Answer, Request
from bridge.cli.receiver import Receiver as VerifyingReceiver
from bridge.domain.commits import Due
from bridge.domain.subscriptions import Deliver, Options, Subscription
from bridge.errors import AccountError, StoreUnreachable
from bridge.store import keys
from bridge.store.secrets import SecretBox
from bridge.store.server import EmbeddedServer
from bridge.wiring import Bridge
from tasks.process import Process
from tasks.store_watch import StoreWatch
from tests.delivery.slices import Receiver, publish, subscribe
from tests.examples import examples
from tests.hostile import once, serving
from tests.parts import Parts, entry, until
from tests.polling.scripted import Everywhere, Scripted, receipt
from tests.servers import bridge_on, environ_for

HOUR_MS = 3_600_000


class Desk:
    """A process on a bridge, and the messages that it sent."""

    def __init__(self, bridge: Bridge) -> None:
        self.bridge = bridge
        self.provider = Scripted()
        bridge.__dict__["providers"] = Everywhere(self.provider)
        self.sent: list[tuple[str, tuple[str, ...]]] = []
        self.process = Process(lambda name, args: self.sent.append((name, args)))
        self.process.__dict__["bridge"] = bridge

    def rejected(self, account: str = "default") -> list[tuple[str, str]]:
        return [(one.item, one.reason) for one in self.bridge.tracking.rejected(account)]

    def tracked(self, account: str = "default") -> set[str]:
        return {name for name, _ in self.bridge.sessions.scan(account)}


@pytest.fixture
def desk(bridge: Bridge) -> Desk:
    return Desk(bridge)


@pytest.fixture
def log(bridge: Bridge, store_url: str) -> Iterator[Parts]:
    made = Parts(store_url, bridge.settings.shards)
    yield made
    made.close()


# bridge.track


def test_bad_items_are_kept_aside_and_the_good_ones_tracked(desk: Desk) -> None:
    desk.process.track(["s1", {"session_no": "s2", "phone_count": 0}, "has space", {"session_no": "s3"}], "default")
    assert desk.tracked() == {"s1", "s3"}
    kept = desk.rejected()
    assert [json.loads(item) for item, _ in kept] == ["has space", {"session_no": "s2", "phone_count": 0}]
    assert "phone_count" in kept[1][1]
    assert desk.bridge.tracking.accounts() == ["default"]


@pytest.mark.parametrize("items", [None, 7, "s1", {"session_no": "s1"}, [None] * 10_001])
def test_what_is_no_list_is_kept_aside_whole(desk: Desk, items: object) -> None:
    desk.process.track(items, "default")
    assert len(desk.rejected()) == 1
    assert desk.tracked() == set()


def _deep() -> object:
    made: list[object] = []
    for _ in range(3_000):
        made = [made]
    return made


@pytest.mark.parametrize(
    "bad",
    ["\ud800", {"session_no": "\udfff"}, 10**40, float("nan"), _deep(), {1: {2}}, object(), {"session_no": object()}],
)
def test_an_item_that_no_json_can_hold_takes_no_good_one_with_it(desk: Desk, bad: object) -> None:
    """Fault: one lone surrogate in a list raised before anything was stored; the message was gone, and all it held."""
    desk.process.track(["s1", bad, "s2"], "default")
    assert desk.tracked() == {"s1", "s2"}
    assert len(desk.rejected()) == 1


@pytest.mark.parametrize("account", ["a:b", "*", "A", "", "x" * 33, "a b", 7, ["default"], "u{1}"])
def test_an_account_of_another_form_is_kept_aside(desk: Desk, account: object) -> None:
    """Fault: "a:b" was taken, and its session "x" shared its key with the session "b:x" of the account "a"."""
    desk.process.track(["s1"], account)
    assert desk.bridge.tracking.accounts() == []
    ((_, reason),) = desk.rejected()
    assert reason.startswith("account: ")


def test_no_account_is_the_default_one(desk: Desk) -> None:
    desk.process.track(["s1"], None)
    assert desk.tracked() == {"s1"}


def test_who_tracked_first_is_kept(desk: Desk) -> None:
    desk.process.track(["s1"], "default", "gen7@sender-1")
    desk.process.track(["s1", "s2"], "default", "gen8@sender-2")
    desk.process.track(["s3"], "default")
    found = desk.bridge.sessions.read("default", ["s1", "s2", "s3"])
    names = [desk.bridge.origins.name(one.state.origin) for one in found.values() if one.state]
    assert names == ["sender-1", "sender-2", ""]
    desk.bridge.recorder.record("default", {"s1": found["s1"]}, {"s1": [receipt()]})
    (after,) = desk.bridge.sessions.read("default", ["s1"]).values()
    assert after.state is not None
    assert desk.bridge.origins.name(after.state.origin) == "sender-1"


def test_tracking_again_repeats_nothing(desk: Desk) -> None:
    for _ in range(100):
        desk.process.track(["s1", "bad one"] if not desk.tracked() else ["s1"], "default")
    assert desk.tracked() == {"s1"}
    assert len(desk.rejected()) == 1


def test_what_could_not_be_stored_for_a_fault_of_ours_is_kept_aside(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message is acknowledged then, and would take its sessions with it."""

    def fail(*_args: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(desk.bridge.tracker, "track", fail)
    with pytest.raises(ZeroDivisionError):
        desk.process.track(["s1", {"session_no": "s2", "phone_count": 2}], "default")
    assert [json.loads(item) for item, _ in desk.rejected()] == [{"session_no": "s2", "phone_count": 2}, "s1"]


@pytest.fixture
def track_task(store_url: str, monkeypatch: pytest.MonkeyPatch) -> Callable[[list[str]], None]:
    """The body of ``bridge.track``. Celery reads its settings when it is first asked for, and those name a broker."""
    monkeypatch.setenv("BRIDGE_REDIS_URL", store_url)
    run: Callable[[list[str]], None] = tasks.app.track.run
    return run


def test_a_store_that_is_down_puts_the_message_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, track_task: Callable[[list[str]], None]
) -> None:
    with EmbeddedServer(tmp_path) as server, bridge_on(server.url) as bridge:
        desk = Desk(bridge)
        desk.process.stop()  # it need not wait before it gives the message back
        server.stop()
        monkeypatch.setattr(tasks.app.processes, "current", lambda: desk.process)
        with pytest.raises(Reject) as caught:
            track_task(["s1"])
    assert vars(caught.value)["requeue"]


def test_memory_that_is_short_puts_the_message_back_and_keeps_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, track_task: Callable[[list[str]], None]
) -> None:
    with EmbeddedServer(tmp_path) as server, bridge_on(server.url) as bridge:
        desk = Desk(bridge)
        desk.process.stop()
        desk.process.track(["first"], "default")
        monkeypatch.setattr(tasks.app.processes, "current", lambda: desk.process)
        bridge.client.redis.config_set("maxmemory", "1")
        for _ in range(3):
            with pytest.raises(Reject, match="maxmemory"):
                track_task(["s1", "bad one"])
        bridge.client.redis.config_set("maxmemory", "0")
        assert desk.rejected() == []
        track_task(["s1", "bad one"])
        assert desk.tracked() == {"first", "s1"}
        assert len(desk.rejected()) == 1


# bridge.tick


def test_a_tick_wakes_what_is_due_once(desk: Desk, log: Parts) -> None:
    desk.process.tick()
    assert desk.sent == []
    log.write("s1", entry("s1"), due=1)
    log.write("s2", entry("s2"), due=1)
    log.write("s3", due=1, account="other")

    def all_are_woken() -> bool:
        desk.process.tick()
        return len(desk.sent) == 3

    until(all_are_woken)  # the process's clock may be a millisecond behind the server's, which has set the due times
    for _ in range(3):
        desk.process.tick()
    assert sorted(desk.sent) == [("bridge.deliver", ()), ("bridge.poll", ("default",)), ("bridge.poll", ("other",))]
    assert desk.bridge.index.last_tick_ms()


def test_a_tick_of_a_full_store_wakes_and_is_no_failure(bridge: Bridge, log: Parts) -> None:
    """Fault: a due account was noted before anything was woken, by a write that a full store refuses."""
    bridge.tracking.note_account("default")
    log.write("s1", entry("s1", to=["sub_a"]), due=1)
    log.write("s2", due=1, account="unnoted")
    with bridge_on(log.url) as fresh:
        desk = Desk(fresh)
        log.redis.config_set("maxmemory", 1)
        try:
            desk.process.tick()
        finally:
            log.redis.config_set("maxmemory", 0)
    assert sorted(desk.sent) == [("bridge.deliver", ()), ("bridge.poll", ("default",)), ("bridge.poll", ("unnoted",))]
    assert bridge.index.last_tick_ms() is not None
    assert bridge.tracking.accounts() == ["default"]


def test_a_tick_looks_behind_queues_that_nobody_serves(desk: Desk, log: Parts) -> None:
    """Fault: with 128 of them before it in the index, an account was polled no more."""
    shard = log.shard("s1")
    waiting = {f"q:sub_{number}": 1 for number in range(300)}
    log.redis.zadd(keys.index(shard), waiting)
    log.write("s1", due=5)
    desk.process.tick()
    assert ("bridge.poll", ("default",)) in desk.sent
    log.redis.zrem(keys.index(shard), *waiting)


# bridge.poll


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


# bridge.deliver


def test_delivery_sends_what_is_due_and_wakes_nobody_for_nothing(desk: Desk, log: Parts) -> None:
    receiver = Receiver()
    with serving(receiver) as server:
        told = publish(log, subscribe(desk.bridge, server.url), sessions=5)
        desk.process.deliver()
    assert receiver.accepted == told
    assert desk.sent == []
    assert desk.bridge.wakes.take("deliver", 1)


def test_a_broker_that_is_away_ends_no_slice(desk: Desk, log: Parts) -> None:
    """Fault: a slice that asked for another one beside it ended with the broker's error, amid its POSTs: those were
    sent again. So did a poll that passed its account on, with the calls that were under way.
    """

    def refuse(_name: str, _args: tuple[str, ...]) -> None:
        raise OperationalError("Error 111 connecting to localhost:6379. Connection refused.")

    receiver = Receiver()
    process = Process(refuse)
    process.__dict__["bridge"] = desk.bridge
    with serving(receiver) as server:
        # Of two parts a slice serves one, and calls for somebody who serves the other.
        name = desk.bridge.subscribe(server.url, limited=lambda one: replace(one, partitions=2))[0].id
        told = publish(log, name, sessions=16)
        with structlog.testing.capture_logs() as lines:
            process.deliver()
    assert receiver.accepted == told
    said = [line["event"] for line in lines if line["log_level"] == "error"]
    assert said == ["bridge.deliver could not be enqueued (OperationalError); the next tick tries again"]


def test_what_another_slice_holds_wakes_nobody(desk: Desk, log: Parts) -> None:
    name = subscribe(desk.bridge, "http://127.0.0.1:9009/")
    publish(log, name, sessions=5)
    for shard in range(log.shards):
        desk.bridge.queues.claim(b"t" * 16, [(name, shard, 0)], 45_000)
    desk.process.deliver()
    assert desk.sent == []


def test_an_unreadable_secret_is_said_once_and_does_not_keep_slices_going(desk: Desk, log: Parts) -> None:
    """Fault: each slice woke the next, four a second, and each logged the same error, until somebody mended it."""
    sealed = SecretBox([bytes(32)]).seal(b"s" * 32, "sub_locked")
    locked = Subscription(
        id="sub_locked", account="default", url="http://127.0.0.1:9009/", created_ms=1, secrets=(sealed,)
    )
    desk.bridge.subscriptions.put(locked)
    publish(log, "sub_locked", sessions=2)
    with structlog.testing.capture_logs() as lines:
        for _ in range(3):
            desk.process.deliver()
    assert desk.sent == []
    assert [line["subscription"] for line in lines if line["log_level"] == "error"] == ["sub_locked"]
    desk.process.tick()
    assert ("bridge.deliver", ()) in desk.sent, "the tick goes on asking"


# bridge.trim


def test_trimming_finishes_a_resumption_that_was_cut_short(
    desk: Desk, log: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = subscribe(desk.bridge, "http://127.0.0.1:8000/")
    lifecycle.pause(desk.bridge, name)
    publish(log, name, sessions=3)
    with monkeypatch.context() as patch:
        patch.setattr(lifecycle, "finish_release", lambda *_: None)
        lifecycle.resume(desk.bridge, name, Deliver.ALL)
    assert desk.bridge.index.due(log.now_ms()).queues == ()
    desk.process.trim()
    assert desk.bridge.index.due(log.now_ms()).queues
    assert not desk.bridge.subscriptions.get(name).releasing


def test_complaints_are_remembered_for_a_minute_and_no_longer(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fault: a worker kept those of every subscription that there ever was."""
    now = 1_000.0
    monkeypatch.setattr(tasks.process, "monotonic", lambda: now)
    with structlog.testing.capture_logs() as said:
        for number in range(20):
            desk.process._complain(f"sub_{number}", "its secret cannot be read")
            desk.process._complain(f"sub_{number}", "its secret cannot be read")
            now += 40
    assert len(said) == 20
    assert len(desk.process._complaints) == 2


def test_a_subscription_that_is_disabled_is_said_as_an_error_once(desk: Desk, log: Parts) -> None:
    with serving(once(b"HTTP/1.1 410 Gone\r\nContent-Length: 0\r\n\r\n")) as server:
        name = subscribe(desk.bridge, server.url)
        publish(log, name, sessions=5)
        with structlog.testing.capture_logs() as lines:
            desk.process.deliver()
            desk.process.deliver()
    said = [line for line in lines if line["log_level"] == "error"]
    assert [(line["event"], line["subscription"], line["reason"]) for line in said] == [
        ("subscription disabled", name, "HTTP 410")
    ]


def test_trimming_removes_what_was_kept_for_long_enough(desk: Desk, log: Parts) -> None:
    name = subscribe(desk.bridge, "http://127.0.0.1:9009/")
    desk.process.track(["s1"], "default")
    log.write("old", expires_ms=1, due=Due.NONE)
    log.write("young", expires_ms=log.now_ms() + HOUR_MS, due=Due.NONE)
    log.write("s1", entry("s1", to=[name]), entry("s1", "18500000002", to=()), due=1)
    log.redis.xadd(keys.dead(0, name), {"r": b"r", "e": "e", "a": "1", "p": "p"})

    desk.process.trim()
    assert desk.tracked() == {"s1", "young"}
    assert len(list(desk.bridge.log.read("default"))) == 2
    assert len(list(desk.bridge.queues.dead_letters(name))) == 1

    desk.bridge.clock.note(log.now_ms() + desk.bridge.settings.keep_dead_ms + HOUR_MS)
    desk.process.trim()
    assert not list(desk.bridge.log.read("default"))
    (waiting,) = desk.bridge.queues.waiting(name, 10)
    assert desk.bridge.queues.kept(name, {waiting.shard: waiting.positions})
    assert not list(desk.bridge.queues.dead_letters(name))
    assert desk.tracked() == {"s1", "young"}, "the server's clock decides on sessions"


def test_what_limits_did_is_said_once(desk: Desk, log: Parts) -> None:
    name = subscribe(desk.bridge, "http://127.0.0.1:9009/")
    desk.process.track(["s1"], "default")
    log.write("s1", *(entry("s1", to=[name], sequence=number) for number in range(500)), due=1)
    log.redis.hset(keys.counts(0, name), "o", 3)
    settings = desk.bridge.settings
    with structlog.testing.capture_logs() as lines:
        desk.bridge.__dict__["settings"] = settings.model_copy(update={"log_bytes": 1})
        desk.process.trim()
        desk.bridge.__dict__["settings"] = settings  # what tells of it would leave the log too
        desk.process.trim()
    warned = [line for line in lines if line["log_level"] == "warning"]
    assert [line.get("dropped", line.get("over_backlog")) for line in warned] == [500, 3]
    assert sum(len(one.positions) for one in desk.bridge.queues.waiting(name, 10)) == 500


# The protocol of wake-ups


class World:
    """Work that comes due, messages, and runners, all of whose steps may interleave in any way."""

    def __init__(self, parts: Parts) -> None:
        self.wakes = parts.wakes
        self.due = 0
        self.messages = 0
        self.actors: list[Iterator[None]] = []

    def committer(self) -> Iterator[None]:
        self.due += 1
        yield
        self._wake()

    def runner(self, rounds: int) -> Iterator[None]:
        for _ in range(rounds):
            self.wakes.keep("deliver", 60_000)
            yield
            self.due = 0
            yield
        self.wakes.drop("deliver")
        yield
        if self.due:
            yield
            self._wake()

    def step(self, choice: int) -> None:
        """Let one actor go on, take a message up, or make something due."""
        options = len(self.actors) + 2
        choice %= options
        if choice < len(self.actors):
            try:
                next(self.actors[choice])
            except StopIteration:
                del self.actors[choice]
        elif choice == options - 1 and self.messages:
            self.messages -= 1
            self.actors.append(self.runner(1 + options % 2))
        else:
            self.actors.append(self.committer())

    def finish(self) -> None:
        """Nobody starts anything new: let all who are under way come to their end."""
        while self.actors or self.messages:
            if not self.actors:
                self.messages -= 1
                self.actors.append(self.runner(1))
            for actor in list(self.actors):
                for _ in actor:
                    pass
                self.actors.remove(actor)

    def _wake(self) -> None:
        if self.wakes.take("deliver", 60_000):
            self.messages += 1


@examples(150, shared=True)
@given(choices=st.lists(st.integers(0, 30), max_size=60))
def test_no_interleaving_leaves_due_work_without_a_message_or_a_runner(parts: Parts, choices: list[int]) -> None:
    """No tick and no time-out helps here: what comes due is seen by a runner, or wakes one."""
    parts.redis.flushall()
    world = World(parts)
    for choice in choices:
        world.step(choice)
    world.finish()
    assert world.due == 0


def test_a_session_is_polled_to_its_end_by_messages_alone(desk: Desk, log: Parts) -> None:
    """Track, tick, poll, deliver: every message that is sent is run, and then nothing is left."""
    receiver = Receiver()
    with serving(receiver) as server:
        subscribe(desk.bridge, server.url)
        desk.process.track([{"session_no": f"s{number}", "phone_count": 1} for number in range(20)], "default")
        desk.provider.says = {f"s{number}": [receipt()] for number in range(20)}
        log.make_due()
        desk.process.tick()
        while desk.sent:
            name, args = desk.sent.pop(0)
            if name == "bridge.poll":
                desk.process.poll(*args)
            else:
                desk.process.deliver()
    assert len(receiver.accepted) == 20
    settled = [state for _, state in desk.bridge.sessions.scan("default") if state.settled_ms]
    assert len(settled) == 20
    log.assert_index_is_right()


# An emptied store


def test_a_store_that_is_emptied_under_a_worker_is_said_once_and_worked_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fault: a worker that remembered what it had written went on as if it were there: its account was never listed."""
    with EmbeddedServer(tmp_path / "server") as server:
        for name, value in environ_for(server.url, data_dir=str(tmp_path)).items():
            monkeypatch.setenv(name, value)
        process = Process(lambda _name, _args: None)
        now_s = [0.0]
        process._watch = StoreWatch(lambda: now_s[0])
        process.track(["s1"], "default")
        for _ in range(2):
            process.tick()
        first = process.bridge
        first.client.redis.flushall()
        with structlog.testing.capture_logs() as said:
            process.tick()
            assert process.bridge is first, "it is asked for each 5 s, not by each tick"
            for _ in range(3):
                now_s[0] += 5
                process.tick()
        assert [one["log_level"] for one in said] == ["error"]
        assert "backup" in said[0]["reason"]
        assert process.bridge is not first
        process.track(["s2"], "default")
        assert process.bridge.tracking.accounts() == ["default"]
        assert process.bridge.client.redis.hget(keys.STORE, "shards") == b"8"

        process.bridge.identity.path.unlink()
        now_s[0] += 5
        with structlog.testing.capture_logs() as said:
            process.tick()
        assert "remembered again" in said[0]["event"]
        first.close()
        process.bridge.close()

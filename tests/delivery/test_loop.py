"""The delivery loop, on a real store and real sockets: order, retries, and everybody's turn."""

from __future__ import annotations

import random
import time
from typing import cast

import msgspec
import pytest
from standardwebhooks.webhooks import Webhook

from bridge.delivery import intake, loop
from bridge.delivery.queue import HeldQueue, Host
from bridge.domain import events
from bridge.domain.commits import Entry, Route
from bridge.domain.credentials import Credentials
from bridge.domain.deliveries import Lane, Part, Ready, Settlement
from bridge.domain.policy import DeliveryPolicy
from bridge.domain.subscriptions import Subscription
from bridge.store import keys
from bridge.store.secrets import SecretBox
from bridge.wiring import Bridge
from tests.delivery.slices import (
    HANGING_MS,
    QUICK,
    Around,
    Arrival,
    Receiver,
    Running,
    drain,
    hanging,
    publish,
    run,
    subscribe,
)
from tests.hostile import answering, ok, serving
from tests.parts import PHONE, Parts, entry, until
from tests.ports import unused_port


def policy(**changes: object) -> DeliveryPolicy:
    return msgspec.structs.replace(QUICK, **changes)


def in_order(arrivals: list[Arrival]) -> bool:
    """Whether each phone heard no event before an earlier one of its own was done with."""
    last: dict[tuple[str, str], int] = {}
    for one in arrivals:
        line = (one.session_no, one.phone)
        if one.sequence < last.get(line, 0):
            return False
        last[line] = one.sequence
    return True


def test_an_event_reaches_every_subscription_signed(bridge: Bridge, log: Parts) -> None:
    with serving(answering(ok())) as server:
        subscription, secret, _ = bridge.subscribe(server.url)
        log.write("s1", entry("s1", to=[subscription.id]))
        report = run(bridge)

    assert (report.accepted, report.retrying, report.dead, report.unsettled) == (1, 0, 0, 0)
    ((head, body),) = server.requests
    lines = [line.decode().partition(": ") for line in head.split(b"\r\n")[1:]]
    headers = {name.lower(): value for name, _, value in lines}
    told = cast("dict[str, object]", Webhook(secret).verify(body.decode(), headers))
    assert told["id"] == headers["webhook-id"]
    assert headers["user-agent"] == "usms-bridge/test"
    assert bridge.queues.lengths([subscription.id]) == {subscription.id: 0}
    log.assert_index_is_right()


def test_every_attempt_sends_the_same_id_and_bytes(bridge: Bridge, log: Parts) -> None:
    with serving(answering(b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n", ok())) as server:
        log.write("s1", entry("s1", to=[subscribe(bridge, server.url)]))
        report = drain(bridge)
    assert (report.retrying, report.accepted) == (1, 1)
    first, second = server.requests
    assert first[1] == second[1]
    id_of = [line for line in first[0].split(b"\r\n") if line.startswith(b"webhook-id")]
    assert id_of == [line for line in second[0].split(b"\r\n") if line.startswith(b"webhook-id")]


def test_no_phone_sees_its_events_out_of_order_though_a_third_fails(bridge: Bridge, log: Parts) -> None:
    chance = random.Random(7)
    receiver = Receiver(refuses=lambda _number: chance.random() < 1 / 3)
    with serving(receiver) as server:
        told = publish(log, subscribe(bridge, server.url), sessions=10, phones=3, each=5)
        report = drain(bridge)

    assert in_order(receiver.arrivals)
    assert receiver.accepted == told
    assert report.accepted == len(told)
    assert report.retrying == len(receiver.arrivals) - len(told) > 20
    assert report.unsettled == 0
    log.assert_index_is_right()


def test_events_that_come_while_a_slice_runs_keep_their_order(bridge: Bridge, log: Parts) -> None:
    chance = random.Random(8)
    receiver = Receiver(refuses=lambda _number: chance.random() < 1 / 4)
    with serving(receiver) as server:
        name = subscribe(bridge, server.url)
        with Running(bridge):
            told = publish(log, name, sessions=4, phones=4, each=12)
            until(lambda: receiver.accepted == told)
    assert in_order(receiver.arrivals)


def test_after_the_last_retry_an_event_is_a_dead_letter_and_the_next_is_sent(bridge: Bridge, log: Parts) -> None:
    receiver = Receiver(refuses=lambda number: number < 3)
    with serving(receiver) as server:
        name = subscribe(bridge, server.url)
        publish(log, name, sessions=1, each=2)
        report = drain(bridge, policy(retry_ms=(10, 10)))

    assert (report.dead, report.accepted) == (1, 1)
    assert [one.sequence for one in receiver.arrivals] == [1, 1, 1, 2]
    (letter,) = bridge.queues.dead_letters(name)
    assert (events.unpack(letter.record).sequence, letter.attempts, letter.error) == (1, 3, "HTTP 500")


def test_a_receiver_that_cannot_be_reached_is_tried_again_later(bridge: Bridge, log: Parts) -> None:
    name = subscribe(bridge, f"http://127.0.0.1:{unused_port()}/")
    publish(log, name, sessions=3)
    around = Around()
    report = run(bridge, policy(retry_ms=(60_000,)), around)
    assert (report.retrying, report.accepted) == (3, 0)
    assert {one.attempt for one in around.attempts} == {1}
    assert {one.attempts for one in bridge.queues.waiting(name, 10)} == {1}
    assert min(one.due_ms for one in bridge.queues.waiting(name, 10)) > log.now_ms() + 30_000
    log.assert_index_is_right()


def test_a_hanging_receiver_holds_up_no_healthy_one(bridge: Bridge, log: Parts) -> None:
    stuck, well = hanging(), Receiver()
    with serving(stuck) as one, serving(well) as other:
        names = subscribe(bridge, one.url), subscribe(bridge, other.url)
        publish(log, *names, sessions=60)
        with Running(bridge, policy(timeout_ms=HANGING_MS)) as running:
            until(lambda: len(well.accepted) == 60)
            assert running.around.attempts == [], "the other hangs still"
            one.close()


def test_a_queue_that_comes_due_beside_a_full_one_that_hangs_is_served_at_once(bridge: Bridge, log: Parts) -> None:
    """Fault: for as long as the receiver hung, and up to 3 s, nobody looked for new queues.

    A slice looked only while something that it held had room for more; one that hangs has none. It now looks on.
    """
    stuck, well = hanging(), Receiver()
    with serving(stuck) as one, serving(well) as other:
        publish(log, subscribe(bridge, one.url), sessions=60)
        late = subscribe(bridge, other.url)
        with Running(bridge, policy(concurrency=2, timeout_ms=HANGING_MS)) as running:
            until(lambda: len(stuck.arrivals) == 2)
            time.sleep(0.05)  # so that it has claimed all it has room for
            log.write("late", entry("late", to=[late]))
            until(lambda: len(well.accepted) == 1)
            assert running.around.attempts == [], "the other hangs still"
            one.close()


def test_a_subscriptions_concurrency_is_its_limit_and_is_used(bridge: Bridge, log: Parts) -> None:
    receiver = Receiver(takes_s=0.02)
    with serving(receiver) as server:
        publish(log, subscribe(bridge, server.url), sessions=40)
        assert run(bridge, policy(concurrency=3)).accepted == 40
    assert receiver.most == 3


@pytest.mark.parametrize("replaced", [False, True])
def test_a_hold_lost_in_the_middle_loses_no_event(bridge: Bridge, log: Parts, replaced: bool) -> None:
    receiver = Receiver(takes_s=0.01)
    with serving(receiver) as server:
        name = subscribe(bridge, server.url)
        told = publish(log, name, sessions=30, each=2)

        def lose(_arrival: Arrival) -> None:
            if len(receiver.arrivals) == 10:
                for shard in range(log.shards):
                    log.redis.delete(keys.hold(shard, name))
                    if replaced:
                        log.redis.set(keys.hold(shard, name), b"another's", px=300)

        receiver.on_arrival = lose
        report = drain(bridge, policy(timeout_ms=200))

    assert report.unsettled > 0
    assert sorted(set(receiver.accepted)) == told
    first: dict[tuple[str, str, int], Arrival] = {}
    for one in receiver.arrivals:
        first.setdefault((one.session_no, one.phone, one.sequence), one)
    assert in_order(sorted(first.values(), key=lambda one: one.at))
    log.assert_index_is_right()


def test_stopping_hands_back_what_was_ready(bridge: Bridge, log: Parts) -> None:
    receiver = Receiver(takes_s=0.05)
    with serving(receiver) as server:
        name = subscribe(bridge, server.url)
        publish(log, name, sessions=40)
        with Running(bridge, policy(concurrency=2)) as running:
            until(lambda: len(receiver.arrivals) >= 2)
        assert running.report is not None

    waiting = bridge.queues.waiting(name, 100)
    assert running.report.accepted == len(receiver.accepted) < 20
    assert len(waiting) == 40 - len(receiver.accepted)
    assert all(one.due_ms <= log.now_ms() and one.attempts == 0 for one in waiting)
    assert not list(log.redis.scan_iter("*:hold:*"))
    log.assert_index_is_right()


def test_what_waits_for_longer_than_its_lease_is_sent_once(bridge: Bridge, log: Parts) -> None:
    # One takes far less than a time-out; the 32 that are claimed together take longer than a lease, of three time-outs.
    receiver = Receiver(takes_s=0.26)
    with serving(receiver) as server:
        told = publish(log, subscribe(bridge, server.url), sessions=34)
        report = drain(bridge, policy(timeout_ms=2_400, concurrency=1))
    assert receiver.accepted == told
    assert report.unsettled == 0


def test_what_a_store_was_waited_for_too_long_for_is_sent_once(
    bridge: Bridge, log: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fault: a slice that had waited for its store for longer than a lease sent what it had claimed before, by the time
    that it was when the wait began; its hold had run out, so the outcome was lost, and the event sent again.

    It starts by the time that it is.
    """
    look, waits = intake.Intake.look, [0.5]

    def slow(self: intake.Intake, now_ms: int, *, accept_new: bool, aside: bool) -> int:
        found = look(self, now_ms, accept_new=accept_new, aside=aside)
        if found and waits:
            time.sleep(waits.pop())
        return found

    monkeypatch.setattr(intake.Intake, "look", slow)
    receiver = Receiver()
    with serving(receiver) as server:
        told = publish(log, subscribe(bridge, server.url), sessions=3)
        report = drain(bridge, policy(timeout_ms=150))  # a lease is three of them
    assert not waits
    assert receiver.accepted == told
    assert report.unsettled == 0


@pytest.mark.parametrize(("left_ms", "handed_back"), [(1_999, True), (1_001, True), (999, False), (-5, False)])
def test_a_lane_is_handed_back_only_while_its_lease_surely_lasts(
    bridge: Bridge, log: Parts, left_ms: int, handed_back: bool
) -> None:
    """Fault: a lane whose lease had ended while it waited its turn was handed back from whoever had claimed it since,
    this slice as a rule, and its event sent twice at once.

    It comes due by itself.
    """
    now_ms = log.now_ms()
    subscription = Subscription(id="sub_a", account="default", url="http://127.0.0.1:9/", created_ms=1, secrets=())
    two_seconds = policy(timeout_ms=2_000)
    queue = HeldQueue(Part("sub_a"), subscription, Credentials(keys=()), two_seconds, Host())
    lane = Lane(0, b"l" * 8, "bucket", b"p" * 12, 0)
    with bridge.transport() as transport:
        slice_ = loop.Slice(bridge.delivery_ports, transport, two_seconds, Around().surroundings(), shards=8)
        slice_._post(queue, Ready(lane, b"", now_ms + left_ms), now_ms)
        assert transport.in_flight == 0
    assert queue.settled == ([Settlement(lane, None, due_ms=now_ms)] if handed_back else [])


def test_an_event_that_is_in_no_log_becomes_a_dead_letter_that_says_so(bridge: Bridge, log: Parts) -> None:
    receiver, around = Receiver(), Around()
    with serving(receiver) as server:
        name = subscribe(bridge, server.url)
        publish(log, name, sessions=1, each=2)
        first, _ = bridge.log.read("default")
        where = keys.log(first.shard, "default")
        ids = cast("list[tuple[bytes, object]]", log.redis.xrange(where))
        log.redis.xdel(where, ids[0][0])
        report = run(bridge, around=around)
        assert report.accepted + drain(bridge).accepted == report.dead == 1

    (letter,) = bridge.queues.dead_letters(name)
    assert (letter.record, letter.attempts, letter.error) == (b"", 0, "the event was no longer in the log")
    assert around.complaints == [(name, letter.error)]
    assert [one.sequence for one in receiver.arrivals] == [2]


@pytest.mark.parametrize("damaged", [b"\xc1", b"", b"\x91\x01", b"\xa4text"])
def test_a_record_that_cannot_be_read_stops_nobody_elses(bridge: Bridge, log: Parts, damaged: bytes) -> None:
    """Fault: one damaged record ended every slice that came upon it, and all deliveries with them.

    It becomes a dead letter, which keeps it as it is.
    """
    receiver = Receiver()
    with serving(receiver) as server:
        name = subscribe(bridge, server.url)
        log.write("bad", Entry(damaged, [Route(name, events.lane_id("bad", PHONE))]))
        told = publish(log, name, sessions=3)
        report = run(bridge)
    assert (report.dead, report.accepted, receiver.accepted) == (1, 3, told)
    (letter,) = bridge.queues.dead_letters(name)
    assert (letter.record, "could not be read" in letter.error or not damaged) == (damaged, True)


def test_events_kept_beside_a_trimmed_log_are_sent(bridge: Bridge, log: Parts) -> None:
    receiver = Receiver()
    with serving(receiver) as server:
        name = subscribe(bridge, server.url)
        told = publish(log, name, sessions=10, each=2)
        assert bridge.log.trim("default", [name], log.now_ms() + 3_600_000) == (20, 20)
        drain(bridge)
    assert receiver.accepted == told
    assert not list(log.redis.scan_iter("*:kept:*"))


def test_what_waits_for_a_removed_subscription_is_cleaned_away(bridge: Bridge, log: Parts) -> None:
    receiver = Receiver()
    with serving(receiver) as server:
        gone, stays = subscribe(bridge, server.url), subscribe(bridge, server.url)
        publish(log, gone, stays, sessions=5)
        bridge.subscriptions.remove(gone)  # and then the command was killed
        run(bridge)
    assert bridge.queues.lengths([gone, stays]) == {gone: 0, stays: 0}
    assert len(receiver.arrivals) == 5
    assert not [key for key in log.redis.scan_iter() if gone.encode() in key]
    log.assert_index_is_right()


def test_without_its_secret_a_subscription_waits_and_the_others_do_not(bridge: Bridge, log: Parts) -> None:
    receiver, around = Receiver(), Around()
    with serving(receiver) as server:
        locked, well = "sub_locked", subscribe(bridge, server.url)
        sealed = SecretBox([bytes(32)]).seal(b"s" * 32, locked)
        bridge.subscriptions.put(
            Subscription(id=locked, account="default", url=server.url, created_ms=1, secrets=(sealed,))
        )
        publish(log, locked, well, sessions=5)
        report = run(bridge, around=around)

    assert report.accepted == len(receiver.arrivals) == 5
    assert bridge.queues.lengths([locked]) == {locked: 5}
    assert {one.attempts for one in bridge.queues.waiting(locked, 10)} == {0}
    assert [name for name, _ in around.complaints] == [locked], "said once a slice"


def test_subscriptions_that_cannot_be_served_do_not_hide_the_others(
    bridge: Bridge, log: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fault: with more of them due than are read of a shard's index, nothing behind them was ever seen.

    As many more are read as are known to be of no use now.
    """
    monkeypatch.setattr(intake, "_DUE_AT_ONCE", 2)
    receiver = Receiver()
    with serving(receiver) as server:
        sealed = SecretBox([bytes(32)]).seal(b"s" * 32, "x")
        for number in range(6):
            locked = f"sub_locked{number}"
            bridge.subscriptions.put(
                Subscription(id=locked, account="default", url=server.url, created_ms=1, secrets=(sealed,))
            )
            log.write("s1", entry("s1", to=[locked]))
        until(lambda: log.now_ms() > bridge.queues.waiting("sub_locked5", 1)[0].due_ms)
        log.write("s1", entry("s1", to=[subscribe(bridge, server.url)]))
        assert run(bridge).accepted == 1


def test_a_slice_ends_in_its_time_though_a_receiver_hangs_and_a_queue_never_runs_empty(
    bridge: Bridge, log: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "_SLICE_MS", 300)
    monkeypatch.setattr(loop, "_LONGEST_MS", 700)
    stuck, busy = hanging(), Receiver(takes_s=0.1)
    with serving(stuck) as one, serving(busy) as other:
        names = subscribe(bridge, one.url), subscribe(bridge, other.url)
        publish(log, *names, sessions=4, phones=300)
        # 1,200 at 40 a second take longer than is waited for here.
        with Running(bridge, policy(timeout_ms=1_000, concurrency=4)) as running:
            until(lambda: running.ended)
        assert running.around.handed_over.is_set()
    waiting = bridge.queues.lengths(names)
    assert waiting[names[0]] == 1_200
    assert waiting[names[1]] >= 1_200 - len(busy.accepted) > 0
    assert not list(log.redis.scan_iter("*:hold:*"))


def test_a_second_slice_serves_what_the_first_has_no_place_for(
    bridge: Bridge, log: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "MAX_QUEUES", 1)
    stuck, well = hanging(), Receiver()
    with serving(stuck) as one, serving(well) as other:
        first = subscribe(bridge, one.url)
        publish(log, first, sessions=3)
        with Running(bridge, policy(timeout_ms=HANGING_MS)):
            until(lambda: len(stuck.arrivals) == 3)
            told = publish(log, subscribe(bridge, other.url), sessions=20)
            assert run(bridge).accepted == 20
            assert len(stuck.arrivals) == 3, "nobody takes what another holds"
            one.close()
    assert well.accepted == told


def test_a_second_slice_serves_what_comes_after_the_first_handed_over(
    bridge: Bridge, log: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck, well = hanging(), Receiver()
    with serving(stuck) as one, serving(well) as other:
        publish(log, subscribe(bridge, one.url), sessions=3)
        monkeypatch.setattr(loop, "_SLICE_MS", 100)
        with Running(bridge, policy(timeout_ms=HANGING_MS)) as running:
            until(running.around.handed_over.is_set)
            told = publish(log, subscribe(bridge, other.url), sessions=5)
            time.sleep(0.1)
            assert well.arrivals == [], "the first takes on nothing new"
            monkeypatch.undo()
            assert run(bridge).accepted == 5
            one.close()
    assert well.accepted == told


def test_slices_side_by_side_send_each_event_once(bridge: Bridge, log: Parts) -> None:
    receiver = Receiver()
    with serving(receiver) as server:
        names = [subscribe(bridge, f"{server.url}/{number}") for number in range(6)]
        with Running(bridge) as one, Running(bridge) as two, Running(bridge) as three:
            told = publish(log, *names, sessions=10, each=3)
            until(lambda: len(receiver.accepted) >= 6 * len(told))
    reports = [running.report for running in (one, two, three) if running.report]
    assert sum(report.accepted for report in reports) == len(receiver.arrivals) == 6 * len(told)
    assert sum(report.unsettled for report in reports) == 0
    log.assert_index_is_right()

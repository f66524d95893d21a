"""What a slice takes on and lets go of: nothing sticks to it that it does not serve."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import cast

import pytest
from msgspec.structs import replace

from bridge.delivery import intake, loop
from bridge.delivery.queue import HeldQueue, Host
from bridge.domain.credentials import Credentials
from bridge.domain.deliveries import Lane, Part, Ready
from bridge.domain.policy import DeliveryPolicy
from bridge.store import keys
from bridge.store.line import Errand, Line
from bridge.wiring import Bridge
from tests.delivery.slices import QUICK, Arrival, Receiver, Running, drain, hanging, publish, run, subscribe
from tests.hostile import serving
from tests.parts import Parts, subscription, until


def test_an_outcome_is_written_down_though_another_receiver_hangs_and_the_server_forgot_its_scripts(
    bridge: Bridge, log: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fault: with lanes ready that no place was free for, outcomes were asked to be written down without waiting, and
    what came of that was looked at with the next outcome only: one that was refused was lost until the lease's end.
    """
    stuck, well = hanging(), Receiver()
    monkeypatch.setattr(loop, "_ABORT_AFTER_MS", 0)  # the test need not wait for what hangs

    def forget(_arrival: Arrival) -> None:
        log.redis.script_flush()

    well.on_arrival = forget
    with serving(stuck) as one, serving(well) as other:
        publish(log, subscribe(bridge, one.url), sessions=60)
        with Running(bridge, replace(QUICK, concurrency=2, timeout_ms=30_000)):
            until(lambda: len(stuck.arrivals) == 2)
            name = subscribe(bridge, other.url)
            publish(log, name, sessions=1)
            until(lambda: bridge.queues.lengths([name]) == {name: 0}, within_s=10)
            assert len(stuck.arrivals) == 2
    assert len(well.arrivals) == 1


def test_a_slice_that_handed_over_waits_for_nobody_to_take_another_part(
    bridge: Bridge, log: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fault: it went on for its longest time, of 28 s, with nothing that it would have taken on."""
    monkeypatch.setattr(loop, "_SLICE_MS", 300)  # before it would serve the second part itself
    receiver = Receiver()
    with serving(receiver) as server:
        name = bridge.subscribe(server.url, limited=lambda one: replace(one, partitions=2))[0].id
        told = publish(log, name, sessions=40)
        with Running(bridge) as running:
            until(lambda: running.ended, within_s=15)
        assert running.around.asked_for_help
        assert 0 < len(receiver.accepted) < len(told)
        monkeypatch.undo()
        drain(bridge)
    assert receiver.accepted == told


def test_outcomes_lost_as_a_breaker_opens_are_counted(bridge: Bridge, log: Parts) -> None:
    """Fault: those that were written down before the receiver's health was noted were not."""
    receiver = Receiver(refuses=lambda _number: True)
    with serving(receiver) as server:
        name = subscribe(bridge, server.url)
        publish(log, name, sessions=1)

        def lose(_arrival: Arrival) -> None:
            for shard in range(log.shards):
                log.redis.set(keys.hold(shard, name), b"another's", px=60_000)

        receiver.on_arrival = lose
        report = run(bridge, replace(QUICK, breaker=replace(QUICK.breaker, after=1, first_ms=60_000)))
    assert report.unsettled == 1


def test_a_queue_that_is_lost_in_one_shard_is_let_go_of_in_all(bridge: Bridge, log: Parts) -> None:
    """Fault: the others stayed held, by nobody who served them, until their holds ended."""
    receiver = Receiver()
    with serving(receiver) as server:
        name = subscribe(bridge, server.url)
        publish(log, name, sessions=40)
        home = keys.hold(Part(name).home(log.shards), name)

        def lose(_arrival: Arrival) -> None:
            log.redis.set(home, b"another's", px=60_000)

        receiver.on_arrival = lose
        assert run(bridge).unsettled > 0
    assert [key.decode() for key in log.client.scan("*:hold:*")] == [home]


@pytest.mark.parametrize("takes_s", [0.0, 0.5], ids=["heard when it settles", "heard when it renews"])
def test_what_was_under_way_in_other_shards_is_written_down_all_the_same(
    bridge: Bridge, log: Parts, takes_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fault: a hold that was lost in one shard took along the outcomes in all the others, which were held still: their
    events were sent again, by a slice that found them let go of.
    """
    monkeypatch.setattr(DeliveryPolicy, "renew_ms", 200)
    receiver = Receiver(takes_s=takes_s)
    with serving(receiver) as server:
        name = subscribe(bridge, server.url)
        told = publish(log, name, sessions=40)
        home = Part(name).home(log.shards)

        def lose(_arrival: Arrival) -> None:
            log.redis.set(keys.hold(home, name), b"another's", px=60_000)

        receiver.on_arrival = lose
        run(bridge)
        receiver.on_arrival = lambda _arrival: None
        log.redis.delete(keys.hold(home, name))
        log.pass_ms(QUICK.hold_ms)
        drain(bridge)
    assert set(receiver.accepted) == set(told)
    counts = Counter(one.id for one in receiver.arrivals)
    again = {one.session_no for one in receiver.arrivals if counts[one.id] > 1}
    assert {keys.shard_of(session_no, log.shards) for session_no in again} <= {home}


def lose_leases(log: Parts, name: str) -> None:
    """As a store does that loses its last second: what is leased there is due."""
    for shard in range(log.shards):
        for lane in cast("list[bytes]", log.redis.zrange(keys.queue(shard, name), 0, -1)):
            log.redis.zadd(keys.queue(shard, name), {lane: log.now_ms()}, xx=True)
            log.redis.zadd(keys.index(shard), {keys.queue_member(name): log.now_ms()})


def assert_told_once(bridge: Bridge, log: Parts) -> None:
    """Though the leases go with each event that arrives."""
    receiver = Receiver(takes_s=0.005)
    with serving(receiver) as server:
        name = subscribe(bridge, server.url)
        receiver.on_arrival = lambda _arrival: lose_leases(log, name)
        told = publish(log, name, sessions=20)
        drain(bridge, replace(QUICK, concurrency=1))
    assert receiver.accepted == told


def test_what_is_ready_is_not_sent_twice_when_its_lease_went_with_the_store(bridge: Bridge, log: Parts) -> None:
    """Fault: a store that had lost its last second gave out again what a slice still had ready, and that slice sent it
    twice, though nothing that it had written down was lost.

    Cause: of what it claimed it let be what was under way alone. Fix: what is ready too.
    """
    assert_told_once(bridge, log)


def test_what_was_accepted_is_not_sent_again_by_a_claim_that_overtook_the_outcome(
    bridge: Bridge, log: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As above, a moment later: what came of it is on its way to the store, on another connection than the claim."""
    settle = Line.settle

    class Late:
        """An outcome that arrives after something else was looked for and sent."""

        def __init__(self, run: Callable[[], Errand[Mapping[tuple[str, int], int]]]) -> None:
            self._run = run
            self._looks = 0

        def done(self) -> bool:
            self._looks += 1
            return self._looks > 200

        def result(self) -> Mapping[tuple[str, int], int]:
            return self._run().result()

    monkeypatch.setattr(Line, "settle", lambda *args: Late(lambda: settle(*args)))
    assert_told_once(bridge, log)


@pytest.mark.parametrize("far", [False, True])
def test_what_was_ready_can_be_claimed_again(far: bool) -> None:
    """With the new lease; and so can what went back, whether that is to be written down or not."""
    queue = HeldQueue(Part("sub_a"), subscription("sub_a"), Credentials(keys=()), QUICK, Host())
    first, anew = (Ready(Lane(0, b"l" * 8, "bucket", b"p" * 12, 0), b"", end_ms) for end_ms in (5_000, 90_000))
    assert queue.take([first], 1_000) == 1
    assert queue.take([anew], 2_000) == 1
    assert list(queue.ready) == [anew]
    queue.ready.clear()
    assert queue.take([anew], 2_000) == 0, "it is under way"
    queue.hand_back(anew if far else first, 4_500)
    assert bool(queue.settled) is far
    assert queue.take([anew], 4_600) == int(not far), "what is to be written down is in hand until it is"


def test_what_is_under_way_is_not_sent_again_when_its_lease_ends_meanwhile(
    bridge: Bridge, log: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fault: while a cluster's master was replaced a slice waited for its store for longer than a lease. Its POSTs had
    been accepted by then, and all were sent once more by that very slice.

    Cause: it looked for what is due before it read their answers, and its own leases had ended. What had failed was
    sent beside the outcome of that, which made it due a third time. Fix: of what it claims a slice lets be what it has
    under way; what comes of that counts under the new lease.
    """
    look, waits = intake.Intake.look, [0.5]

    def slow(self: intake.Intake, now_ms: int, *, accept_new: bool, aside: bool) -> int:
        if waits and any(queue.in_flight for queue in self.queues.values()):
            time.sleep(waits.pop())
            now_ms = log.now_ms()
        return look(self, now_ms, accept_new=accept_new, aside=aside)

    monkeypatch.setattr(intake.Intake, "look", slow)
    receiver = Receiver(takes_s=0.05)
    with serving(receiver) as server:
        told = publish(log, subscribe(bridge, server.url), sessions=3)
        report = drain(bridge, replace(QUICK, timeout_ms=150))  # a lease is three of them
    assert not waits
    assert receiver.accepted == told
    assert report.unsettled == 0

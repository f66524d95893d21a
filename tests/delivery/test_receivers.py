"""What a slice makes of receivers that fail, ask for something, or may have only so much; on real sockets."""

from __future__ import annotations

import itertools
import threading
import time

import msgspec
import pytest

from bridge.domain.breaker import BreakerPolicy
from bridge.domain.deliveries import Part
from bridge.domain.policy import DeliveryPolicy
from bridge.domain.subscriptions import Changes, Deliver, Options, Subscription, SubscriptionState
from bridge.lifecycle import edit, finish_release, pause, resume
from bridge.store.subscriptions import SubscriptionStore
from bridge.wiring import Bridge
from tests.delivery.slices import HANGING_MS, QUICK, Around, Receiver, Running, drain, hanging, publish, run, subscribe
from tests.hostile import Connection, answering, ok, serving
from tests.parts import Parts, entry, until
from tests.ports import unused_port

HOUR_MS = 3_600_000
LATER = (HOUR_MS,) * 5
REFUSED = b"HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n"
GONE = b"HTTP/1.1 410 Gone\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


def policy(
    *, after: int = 10, first_ms: int = HOUR_MS, disable_ms: int = 100 * HOUR_MS, **changes: object
) -> DeliveryPolicy:
    breaker = BreakerPolicy(after=after, first_ms=first_ms, longest_ms=4 * first_ms, disable_ms=disable_ms)
    return msgspec.structs.replace(QUICK, breaker=breaker, **changes)


def attempts_of(bridge: Bridge, name: str) -> list[int]:
    return sorted(lane.attempts for lane in bridge.queues.waiting(name, 1_000))


class Moody:
    """Refuses until it is told to be well."""

    def __init__(self) -> None:
        self.is_well = False
        self.receiver = Receiver(refuses=lambda _number: not self.is_well)


# the breaker


def test_after_ten_failures_the_others_spend_no_attempt_and_nobody_looks(bridge: Bridge, log: Parts) -> None:
    receiver = Receiver(refuses=lambda _number: True)
    with serving(receiver) as server:
        name = subscribe(bridge, server.url)
        publish(log, name, sessions=100)
        run(bridge, policy(concurrency=1, retry_ms=LATER))
        assert len(receiver.arrivals) == 10
        assert attempts_of(bridge, name) == [0] * 90 + [1] * 10
        assert bridge.index.due(log.now_ms()).queues == (), "until the probe's time"
        log.assert_index_is_right()

        publish(log, name, sessions=130)
        assert bridge.index.due(log.now_ms()).queues == (), "though more came in"
        run(bridge, policy(concurrency=1, retry_ms=LATER))
        assert len(receiver.arrivals) == 10
    log.assert_index_is_right()


def test_while_it_is_open_one_event_is_tried_at_a_time_ever_more_rarely(bridge: Bridge, log: Parts) -> None:
    receiver = Receiver(refuses=lambda _number: True)
    with serving(receiver) as server:
        name = subscribe(bridge, server.url)
        publish(log, name, sessions=40)
        deadline = time.monotonic() + 20
        while len(receiver.arrivals) < 13 and time.monotonic() < deadline:
            run(bridge, policy(first_ms=200, concurrency=1, retry_ms=LATER))
    probes = [one.at for one in receiver.arrivals[10:]]
    # By another clock than the slice's; each is to wait twice as long as the one before it.
    assert probes[1] - probes[0] > 0.3
    assert probes[2] - probes[1] > 0.6
    log.assert_index_is_right()


def test_a_success_makes_all_that_waited_due_at_once(bridge: Bridge, log: Parts) -> None:
    moody = Moody()
    with serving(moody.receiver) as server:
        name = subscribe(bridge, server.url)
        told = publish(log, name, sessions=30, each=2)
        run(bridge, policy(first_ms=300, concurrency=1, retry_ms=LATER))
        assert len(moody.receiver.arrivals) == 10
        moody.is_well = True
        drain(bridge, policy(first_ms=300, retry_ms=LATER))  # which does not wait for an hour
    assert moody.receiver.accepted == told
    (health,) = bridge.queues.health([Part(name)])
    assert not health.is_open
    log.assert_index_is_right()


def test_it_is_due_at_once_even_if_the_slice_ends_before_it_could_see_to_that(
    bridge: Bridge, log: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    moody = Moody()
    with serving(moody.receiver) as server:
        name = subscribe(bridge, server.url)
        told = publish(log, name, sessions=11)
        run(bridge, policy(first_ms=300, concurrency=1, retry_ms=LATER))
        moody.is_well = True
        with monkeypatch.context() as patch:
            patch.setattr(type(bridge.queues), "hasten", lambda *_: True)
            until(lambda: bool(bridge.index.due(log.now_ms()).queues))
            with Running(bridge, policy(first_ms=300, retry_ms=LATER)):
                until(lambda: len(moody.receiver.accepted) == 1)
        assert bridge.index.due(log.now_ms()).queues, "a slice is woken, though every retry lies an hour ahead"
        drain(bridge, policy(retry_ms=LATER))
    assert moody.receiver.accepted == told
    log.assert_index_is_right()


def test_failures_add_up_over_slices(bridge: Bridge, log: Parts) -> None:
    name = subscribe(bridge, f"http://127.0.0.1:{unused_port()}/")
    for number in range(10):
        log.write(f"s{number}", entry(f"s{number}", to=[name]))
        assert not bridge.queues.health([Part(name)])[0].is_open
        run(bridge, policy(retry_ms=LATER))
    assert bridge.queues.health([Part(name)])[0].is_open


def test_a_receiver_that_never_comes_back_is_disabled_in_the_end(bridge: Bridge, log: Parts) -> None:
    around = Around()
    name = subscribe(bridge, f"http://127.0.0.1:{unused_port()}/")
    publish(log, name, sessions=30)
    run(bridge, policy(first_ms=50, disable_ms=120, retry_ms=LATER), around)
    run(bridge, policy(first_ms=50, disable_ms=120, retry_ms=LATER), around)
    assert around.disabled == [(name, "no attempt succeeded for 120ms")]
    found = bridge.subscriptions.get(name)
    assert (found.state, found.reason) == (SubscriptionState.DISABLED, "no attempt succeeded for 120ms")
    assert bridge.index.due(log.now_ms() + 100 * HOUR_MS).queues == ()
    assert bridge.queues.lengths([name]) == {name: 30}


def test_another_url_is_tried_at_once(bridge: Bridge, log: Parts) -> None:
    receiver = Receiver()
    with serving(receiver) as server:
        name = subscribe(bridge, f"http://127.0.0.1:{unused_port()}/")
        told = publish(log, name, sessions=30)
        run(bridge, policy(retry_ms=LATER))
        assert bridge.queues.health([Part(name)])[0].is_open
        edit(bridge, name, url=server.url)
        drain(bridge, policy(retry_ms=LATER))
    assert receiver.accepted == told
    log.assert_index_is_right()


@pytest.mark.parametrize("is_held", [False, True])
def test_so_is_another_token(bridge: Bridge, log: Parts, is_held: bool) -> None:
    """A receiver, or a gateway before it, that refused the old one said nothing of the new one."""
    accepted: list[bytes] = []
    places, edited = itertools.count(), threading.Event()

    def behave(connection: Connection) -> None:
        while (came := connection.request()) is not None:
            if is_held and next(places) == 1:
                assert edited.wait(20), "a slice has it all the while"
            well = b"X-Token: new" in came[0]
            accepted.extend([came[1]] * well)
            connection.sock.sendall(ok() if well else REFUSED)

    later = policy(retry_ms=LATER, timeout_ms=20_000)
    changes = Changes(headers=(("X-Token", "new"),))
    with serving(behave) as server:
        name = bridge.subscribe(server.url, options=Options(headers=(("X-Token", "old"),)))[0].id
        told = publish(log, name, sessions=2 if is_held else 30)
        if is_held:
            with Running(bridge, later):
                until(lambda: attempts_of(bridge, name) == [0, 1])
                edit(bridge, name, changes=changes)
                edited.set()
                until(lambda: not attempts_of(bridge, name))
        else:
            run(bridge, later)
            assert bridge.queues.health([Part(name)])[0].is_open
            edit(bridge, name, changes=changes)
            drain(bridge, later)
    assert len(accepted) == len(told)
    log.assert_index_is_right()


# what receivers ask for


def test_410_disables_and_the_event_stays_the_first_of_its_phone(bridge: Bridge, log: Parts) -> None:
    receiver, around = Receiver(), Around()
    is_gone = True

    def behave(connection: Connection) -> None:
        if is_gone:
            connection.request()
            connection.sock.sendall(GONE)
        else:
            receiver(connection)

    with serving(behave) as server:
        name = subscribe(bridge, server.url)
        told = publish(log, name, sessions=20, each=3)
        report = run(bridge, policy(concurrency=2), around)
        assert 1 <= len(server.requests) <= 4
        assert (report.accepted, report.retrying, report.dead) == (0, 0, 0)
        assert around.disabled == [(name, "HTTP 410")]
        assert attempts_of(bridge, name) == [0] * 20
        publish(log, name, sessions=25)
        assert bridge.index.due(log.now_ms() + HOUR_MS).queues == (), "parked, and nobody looks"
        log.assert_index_is_right()

        is_gone = False
        bridge_dropped = resume(bridge, name, Deliver.ALL)[1]
        drain(bridge)
    assert bridge_dropped == 0
    assert {(one.session_no, one.phone, one.sequence) for one in receiver.arrivals} >= set(told)
    first = [one.sequence for one in receiver.arrivals if one.session_no == "s0"]
    assert first[:3] == [1, 2, 3]
    log.assert_index_is_right()


def test_an_event_that_its_receiver_aborts_is_a_dead_letter_and_the_next_is_sent(bridge: Bridge, log: Parts) -> None:
    abort = b"HTTP/1.1 422 No\r\nwebhook-delivery: abort\r\nContent-Length: 0\r\n\r\n"
    with serving(answering(abort, ok())) as server:
        name = subscribe(bridge, server.url)
        publish(log, name, sessions=1, each=2)
        report = run(bridge)
    assert (report.dead, report.accepted) == (1, 1)
    (letter,) = bridge.queues.dead_letters(name)
    assert (letter.error, letter.attempts) == ("aborted", 1)


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_leaves_the_whole_subscription_alone(bridge: Bridge, log: Parts, status: int) -> None:
    refusal = b"HTTP/1.1 %d No\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n" % status
    at: list[float] = []

    def behave(connection: Connection) -> None:
        while connection.request() is not None:
            at.append(time.monotonic())
            connection.sock.sendall(refusal if len(at) == 1 else ok())

    with serving(behave) as server:
        name = subscribe(bridge, server.url)
        publish(log, name, sessions=10)
        drain(bridge, policy(concurrency=1))
    assert len(at) == 11
    assert at[1] - at[0] >= 0.98
    log.assert_index_is_right()


@pytest.mark.parametrize("after", [10, 1], ids=["breaker closed", "breaker opened"])
def test_what_was_under_way_then_does_not_end_the_quiet(bridge: Bridge, log: Parts, after: int) -> None:
    """Fault: a receiver that refused one of two POSTs with Retry-After, and accepted the other a moment later, got the
    next one at once.

    Cause: any success was taken for the end of what the receiver had asked for. Fix: one within it is not.
    """
    refusal = b"HTTP/1.1 429 No\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n"
    at: list[float] = []
    places = itertools.count()

    def behave(connection: Connection) -> None:
        while connection.request() is not None:
            place = next(places)
            at.append(time.monotonic())
            if place == 1:
                until(lambda: log.queues.health([Part(name)])[0].quiet_ms > 0)
            connection.sock.sendall(refusal if not place else ok())

    with serving(behave) as server:
        name = subscribe(bridge, server.url)
        publish(log, name, sessions=10)
        drain(bridge, policy(after=after, concurrency=2))
    assert len(at) == 11
    assert at[2] - at[0] > 0.9  # by another clock than the slice's
    log.assert_index_is_right()


# limits


def test_a_rate_holds_over_slices(bridge: Bridge, log: Parts) -> None:
    receiver = Receiver()
    with serving(receiver) as server:
        name = bridge.subscribe(server.url, limited=lambda one: msgspec.structs.replace(one, rate=40.0))[0].id
        publish(log, name, sessions=40)
        # Not from the first arrival on: a busy receiver may notice that one late.
        began = time.monotonic()
        with Running(bridge):
            until(lambda: len(receiver.arrivals) >= 15)
        drain(bridge)
    assert len(receiver.arrivals) == 40
    # 100 ms may be made up for, and the first goes at once.
    assert max(one.at for one in receiver.arrivals) - began > (40 - 1 - 4) / 40 * 0.9


def test_a_rate_that_is_slower_than_leases_last_is_kept_all_the_same(bridge: Bridge, log: Parts) -> None:
    """Fault: what is claimed waits an interval for its turn. Where that is longer than its lease, each turn was spent
    on finding that out, and next to nothing was sent.
    """
    receiver = Receiver()
    quick = policy(timeout_ms=200)  # leased for 600 ms, of which the attempt may need 200
    with serving(receiver) as server:
        name = bridge.subscribe(server.url, limited=lambda one: msgspec.structs.replace(one, rate=1.5))[0].id
        publish(log, name, sessions=6)
        drain(bridge, quick, within_s=20)
    assert len(receiver.arrivals) == 6
    log.assert_index_is_right()


def test_limits_of_its_own_count_instead_of_the_bridges(bridge: Bridge, log: Parts) -> None:
    receiver = Receiver(refuses=lambda number: number < 4, takes_s=0.01)
    own: dict[str, object] = {"concurrency": 2, "retry_ms": ()}
    with serving(receiver) as server:
        name = bridge.subscribe(server.url, limited=lambda one: msgspec.structs.replace(one, **own))[0].id
        publish(log, name, sessions=20)
        report = run(bridge)
    assert (report.dead, report.accepted, receiver.most) == (4, 16, 2)


# pausing


def test_a_pause_is_heard_while_a_slice_runs_and_loses_nothing(bridge: Bridge, log: Parts) -> None:
    receiver = Receiver(takes_s=0.005)
    with serving(receiver) as server:
        name = subscribe(bridge, server.url)
        told = publish(log, name, sessions=300, each=2)
        with Running(bridge, policy(concurrency=1)) as running:
            until(lambda: len(receiver.arrivals) >= 5)
            pause(bridge, name)
            until(lambda: not any(bridge.queues.held([(name, shard) for shard in range(8)])))
            sent = len(receiver.arrivals)
            assert sent < 600
            assert bridge.index.due(log.now_ms() + HOUR_MS).queues == ()
            log.assert_index_is_right()
            assert sum(len(lane.positions) for lane in bridge.queues.waiting(name, 1_000)) == 600 - sent
            resume(bridge, name, Deliver.ALL)
        assert running.report is not None
        drain(bridge)
    assert receiver.accepted == told, "each once"
    assert bridge.subscriptions.get(name).is_active


@pytest.mark.parametrize(("deliver", "left", "dropped"), [(Deliver.LATEST, 6, 12), (Deliver.NONE, 0, 18)])
def test_what_an_operator_drops_is_counted(
    bridge: Bridge, log: Parts, deliver: Deliver, left: int, dropped: int
) -> None:
    receiver = Receiver()
    with serving(receiver) as server:
        name = subscribe(bridge, server.url)
        pause(bridge, name)
        publish(log, name, sessions=6, each=3)
        assert bridge.log.trim("default", [name], log.now_ms() + HOUR_MS) == (18, 18)
        assert resume(bridge, name, deliver)[1] == dropped
        assert bridge.queues.dropped(name) == dropped
        run(bridge)
    assert [one.sequence for one in receiver.arrivals] == [3] * left
    assert not list(log.redis.scan_iter("*:kept:*")), "what is dropped is kept no longer"
    log.assert_index_is_right()


def test_a_released_events_retries_start_anew(bridge: Bridge, log: Parts) -> None:
    name = subscribe(bridge, f"http://127.0.0.1:{unused_port()}/")
    publish(log, name, sessions=5)
    run(bridge, policy(retry_ms=LATER))
    assert attempts_of(bridge, name) == [1] * 5
    pause(bridge, name)
    resume(bridge, name, Deliver.ALL)
    assert attempts_of(bridge, name) == [0] * 5
    assert all(lane.due_ms <= log.now_ms() for lane in bridge.queues.waiting(name, 10))
    log.assert_index_is_right()


def test_a_resumption_that_was_cut_short_is_finished(
    bridge: Bridge, log: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    receiver = Receiver()
    with serving(receiver) as server:
        name = subscribe(bridge, server.url)
        pause(bridge, name)
        publish(log, name, sessions=5)
        with monkeypatch.context() as patch:
            patch.setattr("bridge.lifecycle.finish_release", lambda *_: None)
            resume(bridge, name, Deliver.ALL)
        assert run(bridge).accepted == 0
        assert bridge.subscriptions.get(name).releasing
        finish_release(bridge, name)
        assert run(bridge).accepted == 5
    assert not bridge.subscriptions.get(name).releasing


def test_a_pause_that_was_cut_short_is_finished_by_the_slice_that_finds_the_queue(bridge: Bridge, log: Parts) -> None:
    receiver = Receiver()
    with serving(receiver) as server:
        name = subscribe(bridge, server.url)
        publish(log, name, sessions=5)
        bridge.subscriptions.change(name, lambda one: msgspec.structs.replace(one, state=SubscriptionState.PAUSED))
        run(bridge)
    assert receiver.arrivals == []
    assert bridge.index.due(log.now_ms() + HOUR_MS).queues == ()


def test_an_edit_and_a_disabling_at_once_both_stand(bridge: Bridge) -> None:
    """Each reads, changes and writes the whole: the later one does it again."""
    name = subscribe(bridge, f"http://127.0.0.1:{unused_port()}/")
    store: SubscriptionStore = bridge.subscriptions

    def slow(one: Subscription) -> Subscription:
        store.disable(name, "HTTP 410", 5)
        return msgspec.structs.replace(one, rate=7.0)

    store.change(name, slow)
    found = store.get(name)
    assert (found.state, found.rate) == (SubscriptionState.DISABLED, 7.0)


# neighbours


def test_fifty_receivers_that_hang_leave_room_for_one_that_does_not(bridge: Bridge, log: Parts) -> None:
    stuck, well = hanging(), Receiver()
    with serving(stuck) as one, serving(well) as other:
        names = [subscribe(bridge, f"{one.url}/{number}") for number in range(50)]
        publish(log, *names, sessions=20)
        with Running(bridge, policy(timeout_ms=HANGING_MS, concurrency=20)) as running:
            until(lambda: len(stuck.arrivals) >= 120)
            told = publish(log, subscribe(bridge, other.url), sessions=50)
            until(lambda: well.accepted == told)
            assert running.around.attempts == [], "the others hang still"
            one.close()

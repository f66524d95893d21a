"""Nobody's events wait for all of somebody else's: long queues beside short ones, accounts, and hosts."""

from __future__ import annotations

from contextlib import ExitStack

import msgspec
import pytest

from bridge.delivery import intake, queue
from bridge.domain.commits import Due, Write
from bridge.wiring import Bridge
from tests.delivery.slices import HANGING_MS, QUICK, Receiver, Running, hanging, publish, run, subscribe
from tests.delivery.test_receivers import HOUR_MS, policy
from tests.hostile import serving
from tests.parts import OPEN, Parts, entry, until


def fill(log: Parts, name: str, sessions: int, *, account: str = "default", prefix: str = "long") -> None:
    """Many events for one subscription, in few calls."""
    for start in range(0, sessions, 500):
        numbers = [f"{prefix}{number}" for number in range(start, min(sessions, start + 500))]
        writes = [Write(no, b"", OPEN, Due.NONE, None, [entry(no, to=[name])]) for no in numbers]
        log.sessions.commit(account, writes)


def test_ten_events_do_not_wait_for_ten_thousand_of_another(bridge: Bridge, log: Parts) -> None:
    long, short = Receiver(), Receiver()
    with serving(long) as one, serving(short) as other:
        fill(log, subscribe(bridge, one.url), 10_000)
        with Running(bridge) as running:
            until(lambda: len(long.arrivals) > 100)
            before = len(long.arrivals)
            told = publish(log, subscribe(bridge, other.url), sessions=10)
            until(lambda: short.accepted == told)
            meanwhile = len(long.arrivals) - before
            assert not running.ended
    assert meanwhile < 9_000, "not behind all the others"


def test_an_account_with_many_subscriptions_does_not_starve_another(bridge: Bridge, log: Parts) -> None:
    """More of them than a slice holds at once, each with more events than it takes at once."""
    many, well = Receiver(takes_s=0.002), Receiver()
    with serving(many) as one, serving(well) as other:
        names = [bridge.subscribe(f"{one.url}/{number}", account="busy")[0].id for number in range(80)]
        for number in range(20):
            no = f"busy{number}"
            log.write(no, *(entry(no, f"1850000{n:04}", to=names) for n in range(5)), account="busy")
        with Running(bridge), Running(bridge):
            until(lambda: len(many.arrivals) > 200)
            name = bridge.subscribe(other.url, account="quiet")[0].id
            log.write("quiet", entry("quiet", to=[name]), account="quiet")
            until(lambda: len(well.accepted) == 1)
            assert len(many.arrivals) < 80 * 100, "and not after all of the other's"


def test_a_healthy_receiver_does_not_wait_for_two_hundred_that_hang(bridge: Bridge, log: Parts) -> None:
    """Fault: a slice held 64 queues. When all of those hung, the next one waited until the slice's time was over.

    Nor was there a place under way for it: the first of them took all, and the last of them not one.
    """
    stuck, well = hanging(), Receiver()
    with serving(well) as other, ExitStack() as stack:
        hosts = [stack.enter_context(serving(stuck)) for _ in range(4)]
        names = [bridge.subscribe(f"{hosts[n % 4].url}/{n}", account=f"busy{n % 4}")[0].id for n in range(200)]
        for number in range(12):
            for account in range(4):
                no = f"busy{account}-{number}"
                log.write(no, entry(no, to=names[account::4]), account=f"busy{account}")
        with Running(bridge, policy(timeout_ms=HANGING_MS)) as running:
            until(lambda: sum(host.connections for host in hosts) >= len(names))
            name = bridge.subscribe(other.url, account="quiet")[0].id
            log.write("quiet", entry("quiet", to=[name]), account="quiet")
            until(lambda: len(well.accepted) == 1)
            assert running.around.attempts == [], "none of those that hang was given up"
            stack.close()  # they hang up: the slice would wait for them


def test_for_more_queues_than_it_holds_a_slice_calls_help(
    bridge: Bridge, log: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "MAX_QUEUES", 3)
    stuck = hanging()
    with ExitStack() as stack:
        server = stack.enter_context(serving(stuck))
        publish(log, *(subscribe(bridge, f"{server.url}/{number}") for number in range(3)), sessions=2)
        with Running(bridge, policy(timeout_ms=HANGING_MS)) as running:
            until(lambda: len(stuck.arrivals) == 6)
            assert running.around.asked_for_help == 0
            publish(log, subscribe(bridge, f"{server.url}/3"), sessions=2)
            until(lambda: running.around.asked_for_help > 0)
            stack.close()


def test_a_host_gets_only_so_many_connections_however_many_subscriptions_name_it(
    bridge: Bridge, log: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue, "_MOST_A_HOST", 12)
    stuck, well = hanging(), Receiver()
    with serving(stuck) as one, serving(well) as other:
        names = [subscribe(bridge, f"{one.url}/{number}") for number in range(10)]
        publish(log, *names, sessions=10)
        with Running(bridge, policy(timeout_ms=HANGING_MS)):
            until(lambda: len(stuck.arrivals) >= 12)
            told = publish(log, subscribe(bridge, other.url), sessions=30)
            until(lambda: well.accepted == told)
            assert len(stuck.arrivals) == one.connections == 12
            one.close()


def test_while_no_event_is_due_an_open_breaker_sends_none(bridge: Bridge, log: Parts) -> None:
    """A probe is an attempt of its event, which has a schedule: made ahead of it, each would cost one of the twelve."""
    receiver = Receiver(refuses=lambda _number: True)
    careful = policy(first_ms=HOUR_MS // 60, concurrency=1, retry_ms=(HOUR_MS, *QUICK.retry_ms))
    with serving(receiver) as server:
        name = subscribe(bridge, server.url)
        publish(log, name, sessions=11)
        run(bridge, careful)
        log.pass_ms(2 * HOUR_MS // 60)
        run(bridge, careful)
        assert len(receiver.arrivals) == 11, "ten that opened it, and the one that was due is the probe"
        log.pass_ms(HOUR_MS // 2)
        run(bridge, careful)
        assert len(receiver.arrivals) == 11, "nothing is due"
        assert bridge.index.due(log.now_ms()).queues == (), "and nobody looks"
        log.pass_ms(HOUR_MS // 2)
        run(bridge, msgspec.structs.replace(careful, retry_ms=(HOUR_MS,) * 5))
        assert len(receiver.arrivals) == 12, "the oldest that is due, alone"
    log.assert_index_is_right()

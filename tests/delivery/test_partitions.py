"""A subscription that is cut into parts: several slices serve it at once, in order, within its limits."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from bridge.domain.deliveries import Part, part_with, parts_of
from bridge.domain.subscriptions import Deliver
from bridge.lifecycle import edit, pause, resume
from bridge.wiring import Bridge
from tests.delivery.slices import QUICK, Around, Receiver, Running, drain, publish, run
from tests.hostile import serving
from tests.parts import Parts, until


def subscribe(bridge: Bridge, url: str, partitions: int, concurrency: int | None = None) -> str:
    limited = lambda one: replace(one, partitions=partitions, concurrency=concurrency)  # noqa: E731 - two words of it
    return bridge.subscribe(url, limited=limited)[0].id


@given(st.text(min_size=1), st.one_of(st.none(), st.integers(1, 300)), st.integers(1, 256))
def test_each_shard_belongs_to_one_part_whose_home_is_its_own(name: str, partitions: int | None, shards: int) -> None:
    parts = parts_of(name, partitions, shards)
    assert len(parts) == min(partitions or 1, shards)
    assert sorted(shard for part in parts for shard in part.shards(shards)) == list(range(shards))
    for part in parts:
        assert part.home(shards) in part.shards(shards)
        assert all(part_with(shard, name, partitions, shards) == part for shard in part.shards(shards))


def test_slices_at_once_serve_parts_each_and_every_phone_in_order(bridge: Bridge, log: Parts) -> None:
    receiver = Receiver(takes_s=0.005)
    with serving(receiver) as server:
        name = subscribe(bridge, server.url, 4)
        told = publish(log, name, sessions=60, phones=2, each=3)
        with Running(bridge) as first, Running(bridge) as second:
            until(lambda: receiver.accepted == told)
    reports = [running.report for running in (first, second)]
    assert all(report is not None and report.accepted > 0 for report in reports), "each of them served a part"
    last: dict[tuple[str, str], int] = {}
    for one in receiver.arrivals:
        assert one.sequence == last.get((one.session_no, one.phone), 0) + 1
        last[one.session_no, one.phone] = one.sequence
    log.assert_index_is_right()


def test_a_slice_alone_asks_for_help_and_serves_all_parts_itself_where_none_comes(bridge: Bridge, log: Parts) -> None:
    receiver = Receiver()
    around = Around()
    with serving(receiver) as server:
        name = subscribe(bridge, server.url, 3)
        told = publish(log, name, sessions=40)
        assert run(bridge, QUICK, around).accepted == len(told)
    assert receiver.accepted == told
    assert around.asked_for_help >= 2, "for each part but its own"


def test_no_help_is_asked_for_where_others_serve_the_other_parts(bridge: Bridge, log: Parts) -> None:
    receiver = Receiver()
    around = Around()
    with serving(receiver) as server:
        name = subscribe(bridge, server.url, 2)
        publish(log, name, sessions=40)
        bridge.queues.claim(b"o" * 16, [(name, Part(name, 1, 2).home(8), 0)], 45_000)
        run(bridge, QUICK, around)
    assert receiver.arrivals
    assert around.asked_for_help == 0


def test_parts_share_the_limits_of_their_subscription(bridge: Bridge, log: Parts) -> None:
    receiver = Receiver(takes_s=0.02)
    with serving(receiver) as server:
        name = subscribe(bridge, server.url, 2, concurrency=4)
        told = publish(log, name, sessions=60)
        with Running(bridge), Running(bridge):
            until(lambda: receiver.accepted == told)
    assert receiver.most <= 4


def test_a_subscription_may_be_cut_anew_while_it_is_served(bridge: Bridge, log: Parts) -> None:
    receiver = Receiver(takes_s=0.003)
    with serving(receiver) as server:
        name = subscribe(bridge, server.url, 1)
        told = publish(log, name, sessions=80, phones=2, each=2)
        with Running(bridge), Running(bridge), Running(bridge):
            for partitions in (4, 2, 8, None):
                arrived = len(receiver.arrivals)
                until(lambda arrived=arrived: len(receiver.arrivals) > arrived or receiver.accepted == told)  # type: ignore[misc]  # mypy cannot infer a lambda's default
                edit(bridge, name, lambda one, partitions=partitions: replace(one, partitions=partitions))  # type: ignore[misc]  # as above
            until(lambda: receiver.accepted == told)
    assert len(receiver.arrivals) == len(told), "nothing was sent twice"
    last: dict[tuple[str, str], int] = {}
    for one in receiver.arrivals:
        assert one.sequence == last.get((one.session_no, one.phone), 0) + 1
        last[one.session_no, one.phone] = one.sequence
    log.assert_index_is_right()


def test_each_part_has_a_breaker_and_cutting_anew_forgets_them(bridge: Bridge, log: Parts) -> None:
    receiver = Receiver(refuses=lambda _number: True)
    breaker = replace(QUICK.breaker, after=3, first_ms=3_600_000)
    with serving(receiver) as server:
        name = subscribe(bridge, server.url, 2)
        publish(log, name, sessions=80)
        with Running(bridge, replace(QUICK, breaker=breaker)), Running(bridge, replace(QUICK, breaker=breaker)):
            parts = parts_of(name, 2, 8)
            until(lambda: all(health.is_open for health in bridge.queues.health(parts)))
        edit(bridge, name, lambda one: replace(one, partitions=None))
        assert not any(health.is_open for health in bridge.queues.health([Part(name), *parts]))
        log.assert_index_is_right()


def test_pausing_and_resuming_concern_every_part(bridge: Bridge, log: Parts) -> None:
    receiver = Receiver(takes_s=0.002)
    with serving(receiver) as server:
        name = subscribe(bridge, server.url, 4)
        told = publish(log, name, sessions=100)
        with Running(bridge), Running(bridge):
            until(lambda: len(receiver.arrivals) > 10)
            pause(bridge, name)
            until(lambda: not any(bridge.queues.held([(name, shard) for shard in range(8)])))
            before = len(receiver.arrivals)
            assert before < len(told)
        resume(bridge, name, Deliver.ALL)
        drain(bridge)
    assert receiver.accepted == told
    assert len(receiver.arrivals) == len(told)

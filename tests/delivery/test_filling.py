"""A subscription that is added with a time hears of what was recorded since, beside what comes in at that moment."""

from __future__ import annotations

import threading
from collections import Counter
from typing import cast

import pytest

from bridge import filling, lifecycle
from bridge.domain.commits import CommitResult, Due, Write
from bridge.domain.events import unpack
from bridge.domain.policy import Limits
from bridge.domain.subscriptions import Deliver, Options, SubscriptionState
from bridge.errors import BridgeError, NotFound, UsageError
from bridge.store import filling as store_filling
from bridge.store import keys
from bridge.wiring import Bridge
from tests.delivery.slices import Receiver, drain, run
from tests.hostile import serving
from tests.parts import OPEN, Parts, entry, until

HOUR_MS = 3_600_000
NOWHERE = "http://127.0.0.1:9009/"
PHONES = tuple(f"1850000{number:04}" for number in range(8))


class Poller:
    """Commits events as polls do, fenced by the registry that it knows, until it is stopped."""

    def __init__(self, log: Parts) -> None:
        self._log = log
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.told: Counter[tuple[str, str]] = Counter()
        self.refused = 0

    def __enter__(self) -> Poller:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._stop.set()
        self._thread.join(30)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        registry = self._log.subscriptions.load()
        number = 0
        while not self._stop.is_set():
            session_no, phone = f"s{number % 7}", PHONES[number % len(PHONES)]
            to = registry.audience("default", "", 2)
            version = self._log.sessions.read("default", [session_no])[session_no].version
            made = entry(session_no, phone, to=to, sequence=self.told[session_no, phone] + 1)
            write = Write(session_no, version, OPEN, Due.KEEP, None, [made])
            done = self._log.sessions.commit("default", [write], registry.versions)[session_no]
            if done is CommitResult.WRITTEN:
                self.told[session_no, phone] += 1
                number += 1
            else:
                self.refused += 1
                registry = self._log.subscriptions.load()


def filled(bridge: Bridge, url: str, since_ms: int = 0, options: Options | None = None) -> str:
    """Add a subscription that is to be filled, without filling it."""
    make = lifecycle.to_be_filled(bridge, "default", since_ms)
    return bridge.subscribe(url, options=options or Options(), limited=make)[0].id


def test_each_event_arrives_once_and_in_order_while_others_come_in(bridge: Bridge, log: Parts) -> None:
    receiver = Receiver()
    with serving(receiver) as server:
        with Poller(log) as poller:
            until(lambda: sum(poller.told.values()) >= 700)
            name = filled(bridge, server.url)
            until(lambda: poller.refused > 0)  # it has heard of it
            seen: list[int] = []
            lifecycle.resume(bridge, name, Deliver.ALL, seen.append)
            reached = sum(poller.told.values())
            until(lambda: sum(poller.told.values()) >= reached + 100)
        drain(bridge)
    assert sum(seen) >= 700
    heard: dict[tuple[str, str], list[int]] = {}
    for one in receiver.arrivals:
        heard.setdefault((one.session_no, one.phone), []).append(one.sequence)
    assert heard == {key: list(range(1, last + 1)) for key, last in poller.told.items() if last}
    assert bridge.subscriptions.get(name).state is SubscriptionState.ACTIVE
    log.assert_index_is_right()


def test_it_hears_only_what_it_asked_for(bridge: Bridge, log: Parts) -> None:
    log.write("s1", entry("s1", to=[]))
    bridge.test(bridge.subscribe(NOWHERE)[0].id)
    wants = filled(bridge, NOWHERE, options=Options(statuses=("delivered",)))
    others = filled(bridge, NOWHERE, options=Options(statuses=("failed",)))
    operators = filled(bridge, NOWHERE, options=Options(types=("bridge.*",)))
    assert [filling.fill(bridge, name, lambda _more: None) for name in (wants, others, operators)] == [1, 0, 0]


def test_until_it_is_resumed_it_is_told_nothing(bridge: Bridge, log: Parts) -> None:
    receiver = Receiver()
    with serving(receiver) as server:
        name = filled(bridge, server.url)
        log.write("s1", entry("s1", to=[name]))
        run(bridge)
        assert receiver.arrivals == []
        with pytest.raises(UsageError, match="filling"):
            lifecycle.pause(bridge, name)
        lifecycle.resume(bridge, name, Deliver.ALL)
        drain(bridge)
    assert len(receiver.arrivals) == 1


def test_a_filling_that_was_cut_short_goes_on_and_is_never_taken_for_whole(
    bridge: Bridge, log: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was killed after a page, and no shard knew of it yet: whoever commits by the old registry is refused now."""
    monkeypatch.setattr(store_filling, "PAGE", 2)
    log.write("s1", *(entry("s1", to=[], sequence=number) for number in range(1, 6)))
    versions = bridge.subscriptions.load().versions
    receiver = Receiver()
    with serving(receiver) as server:
        name = filled(bridge, server.url)

        def killed(_more: int) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            lifecycle.resume(bridge, name, Deliver.ALL, killed)
        assert bridge.subscriptions.get(name).state is SubscriptionState.FILLING
        for shard, version in versions.items():
            bridge.client.redis.set(keys.registry(shard), version)
        log.write("s1", entry("s1", to=[], sequence=6))
        run(bridge)
        assert receiver.arrivals == []
        late: list[CommitResult] = []

        def meanwhile(_more: int) -> None:
            version = log.sessions.read("default", ["s1"])["s1"].version
            write = Write("s1", version, OPEN, Due.KEEP, None, [entry("s1", to=[], sequence=7)])
            late.append(log.sessions.commit("default", [write], versions)["s1"])

        lifecycle.resume(bridge, name, Deliver.ALL, meanwhile)
        assert set(late) == {CommitResult.STALE_REGISTRY}
        drain(bridge)
    assert [one.sequence for one in receiver.arrivals] == [1, 2, 3, 4, 5, 6]


def test_two_that_fill_put_nothing_twice_even_after_it_is_served(bridge: Bridge, log: Parts) -> None:
    """The first still runs when an operator thinks it dead: what was delivered must not come back."""
    log.write("s1", *(entry("s1", to=[], sequence=number) for number in range(1, 4)))
    receiver = Receiver()
    with serving(receiver) as server:
        name = filled(bridge, server.url)

        def meanwhile(_more: int) -> None:
            lifecycle.resume(bridge, name, Deliver.ALL)
            drain(bridge)
            bridge.client.redis.hdel(keys.state(log.shard("s1"), name), "filled")
            lifecycle.pause(bridge, name)

        for other in range(9):  # so that pages follow
            log.write(f"t{other}", entry(f"t{other}", to=[]))
        with pytest.raises(BridgeError, match="somebody else"):
            filling.fill(bridge, name, meanwhile)
    assert len(receiver.arrivals) == 12
    assert len({(one.session_no, one.sequence) for one in receiver.arrivals}) == 12
    assert bridge.queues.tallies([name])[name].waiting == 0


def test_it_can_be_removed_while_it_is_filled(bridge: Bridge, log: Parts) -> None:
    log.write("s1", *(entry("s1", to=[], sequence=number) for number in range(1, 4)))
    log.write("s2", entry("s2", to=[]))
    log.write("s3", entry("s3", to=[]))
    name = filled(bridge, NOWHERE)
    with pytest.raises(NotFound):
        filling.fill(bridge, name, lambda _more: bridge.unsubscribe(name))
    left = cast("list[bytes]", bridge.client.redis.keys("*"))
    assert [key for key in left if name.encode() in key] == []


def test_what_is_given_up_starts_from_now(bridge: Bridge, log: Parts) -> None:
    log.write("s1", entry("s1", to=[]))
    name = filled(bridge, NOWHERE)
    log.write("s1", entry("s1", to=[name], sequence=2))
    resumed, dropped = lifecycle.resume(bridge, name, Deliver.NONE)
    assert (resumed.state, dropped) == (SubscriptionState.ACTIVE, 1)
    assert bridge.queues.lengths([name]) == {name: 0}


def test_the_latest_of_each_phone_may_be_enough(bridge: Bridge, log: Parts) -> None:
    log.write("s1", *(entry("s1", to=[], sequence=number) for number in range(1, 4)))
    name = filled(bridge, NOWHERE)
    _, dropped = lifecycle.resume(bridge, name, Deliver.LATEST)
    assert dropped == 2


def test_a_phone_that_is_erased_meanwhile_does_not_come_back(bridge: Bridge, log: Parts) -> None:
    """The erasure set its tombstone, and has not come to the record yet."""
    log.write("s1", entry("s1", to=[]), entry("s1", PHONES[0], to=[]))
    name = filled(bridge, NOWHERE)
    bridge.tombstones.put("18500000001", bridge.clock.now_ms())
    bridge.subscriptions.bump()
    assert filling.fill(bridge, name, lambda _more: None) == 1
    (lane,) = bridge.queues.waiting(name, 9)
    (record,) = bridge.log.fetch("default", {lane.shard: lane.positions}).values()
    assert unpack(record).phone == PHONES[0]


def test_a_log_that_was_trimmed_meanwhile_is_said(bridge: Bridge, log: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_filling, "PAGE", 2)
    log.write("s1", *(entry("s1", to=[], sequence=number) for number in range(1, 6)))
    name = filled(bridge, NOWHERE)

    def trimmed(_more: int) -> None:
        bridge.log.trim("default", [name], bridge.clock.now_ms() + HOUR_MS)

    with pytest.raises(BridgeError, match="left the log before it was read"):
        lifecycle.resume(bridge, name, Deliver.ALL, trimmed)
    assert bridge.subscriptions.get(name).state is SubscriptionState.FILLING


def test_more_than_may_wait_is_said(bridge: Bridge, log: Parts) -> None:
    bridge.filling = store_filling.FillStore(bridge.client, bridge.settings.shards, Limits(backlog=8))
    log.write("s1", *(entry("s1", to=[], sequence=number) for number in range(1, 4)))
    name = filled(bridge, NOWHERE)
    with pytest.raises(BridgeError, match="BRIDGE_MAX_BACKLOG"):
        lifecycle.resume(bridge, name, Deliver.ALL)
    assert bridge.subscriptions.get(name).state is SubscriptionState.FILLING


def test_what_the_log_cannot_tell_is_refused_before_anything_is_added(bridge: Bridge, log: Parts) -> None:
    log.write("s1", entry("s1", to=[]))
    now_ms = bridge.clock.now_ms()
    with pytest.raises(UsageError, match="still to come"):
        lifecycle.to_be_filled(bridge, "default", now_ms + HOUR_MS)
    lifecycle.to_be_filled(bridge, "default", 0)
    bridge.log.trim("default", [], now_ms + HOUR_MS)
    with pytest.raises(UsageError, match="give that time, or a later one"):
        lifecycle.to_be_filled(bridge, "default", now_ms - HOUR_MS)
    begins_ms = bridge.filling.begins_ms("default")
    until(lambda: bridge.clock.now_ms() >= begins_ms)  # it is behind the store's by what reading that took
    lifecycle.to_be_filled(bridge, "default", begins_ms)
    lifecycle.to_be_filled(bridge, "other", 0)

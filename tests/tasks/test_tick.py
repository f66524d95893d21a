"""What ``bridge.tick`` wakes, once."""

from __future__ import annotations

from bridge.store import keys
from bridge.wiring import Bridge
from tests.parts import Parts, entry, until
from tests.servers import bridge_on
from tests.tasks.desks import Desk


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

"""The delivery half by property: whatever its receivers answer, and wherever a slice ends, order and events survive."""

from __future__ import annotations

import hashlib
import random
import threading
from collections.abc import Callable

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.errors import FlakyFailure

from bridge.delivery import loop
from bridge.domain import events
from bridge.domain.breaker import BreakerPolicy
from bridge.domain.subscriptions import Deliver
from bridge.lifecycle import edit, pause, resume
from bridge.store.client import script
from bridge.store.scripts import Script
from bridge.wiring import Bridge
from tests.delivery.scripted import Heard, ScriptedReceivers, run_scripted
from tests.delivery.slices import QUICK
from tests.parts import Parts, entry

MINUTE_MS = 60_000
POLICY = msgspec.structs.replace(
    QUICK, retry_ms=(MINUTE_MS,) * 6, breaker=BreakerPolicy(after=4, first_ms=MINUTE_MS, longest_ms=4 * MINUTE_MS)
)
SESSIONS, PHONES = ("s1", "s2", "s3", "s4"), ("18500000001", "18500000002")
NAMES = ("one", "two")


class World:
    """Two subscriptions, what was committed for them, what an operator did."""

    def __init__(self, bridge: Bridge, log: Parts, seed: int) -> None:
        log.redis.flushall()
        bridge.clock.note(log.now_ms())
        self.bridge = bridge
        self.log = log
        self.chance = random.Random(seed)
        self.receivers = ScriptedReceivers(self.chance)
        self.ids = {name: bridge.subscribe(f"http://127.0.0.1:9000/{name}")[0].id for name in NAMES}
        self.committed: dict[tuple[str, str], int] = {}
        self.abandoned = 0

    def commit(self) -> None:
        """A few events of some phones."""
        for _ in range(self.chance.randint(1, 8)):
            phone = (self.chance.choice(SESSIONS), self.chance.choice(PHONES))
            self.committed[phone] = sequence = self.committed.get(phone, 0) + 1
            self.log.write(phone[0], entry(*phone, to=list(self.ids.values()), sequence=sequence))

    def serve(self) -> None:
        """A slice, whose receivers fail sometimes."""
        self.receivers.refuses, self.receivers.gone = self.chance.choice([(0.0, 0.0), (0.3, 0.02), (1.0, 0.0)])
        run_scripted(self.bridge, self.receivers, POLICY)

    def abandon(self) -> None:
        """A slice that ends somewhere; its leases and holds end in time."""
        self.receivers.refuses, self.receivers.gone = 0.2, 0.02
        if run_scripted(self.bridge, self.receivers, POLICY, abandoned_after=self.chance.randint(1, 90)) is None:
            self.abandoned += 1
            self.log.pass_ms(MINUTE_MS)

    def two_at_once(self) -> None:
        """Two slices, beside one another."""
        self.receivers.refuses, self.receivers.gone = 0.2, 0.0
        both = [
            threading.Thread(target=run_scripted, args=(self.bridge, self.receivers, POLICY), daemon=True)
            for _ in range(2)
        ]
        for one in both:
            one.start()
        for one in both:
            one.join(30)
            assert not one.is_alive()

    def pass_minutes(self) -> None:
        """Retries and probes come due."""
        self.log.pass_ms(self.chance.randint(1, 5) * MINUTE_MS)

    def halt(self) -> None:
        """An operator pauses one, and resumes it later."""
        name = self._any()
        if self.bridge.subscriptions.get(name).is_active:
            pause(self.bridge, name)

    def resume(self) -> None:
        """One that is paused or was disabled is served again."""
        name = self._any()
        if not self.bridge.subscriptions.get(name).is_active:
            resume(self.bridge, name, self.chance.choice([Deliver.ALL, Deliver.ALL, Deliver.LATEST, Deliver.NONE]))

    def edit(self) -> None:
        """Other limits, batches or none, in one part or several."""
        changes = {
            "concurrency": self.chance.choice([None, 1, 3]),
            "max_batch": self.chance.choice([None, None, 2, 5]),
            "partitions": self.chance.choice([None, None, 2, 3]),
        }
        edit(self.bridge, self._any(), lambda one: msgspec.structs.replace(one, **changes))

    def trim(self) -> None:
        """The log forgets; the queues do not."""
        self.bridge.log.trim("default", list(self.ids.values()), self.log.now_ms() + 1)

    def _any(self) -> str:
        return self.ids[self.chance.choice(NAMES)]

    def finish(self) -> None:
        """All is well in the end, and nothing is left."""
        self.receivers.refuses = self.receivers.gone = 0.0
        for name in self.ids.values():
            if not self.bridge.subscriptions.get(name).is_active:
                resume(self.bridge, name, Deliver.ALL)
        for _ in range(40):
            self.log.pass_ms(5 * MINUTE_MS)
            run_scripted(self.bridge, self.receivers, POLICY)
            if not any(self.bridge.queues.lengths(list(self.ids.values())).values()):
                return
        raise AssertionError("the queues never ran empty")

    def check(self) -> None:
        """Nothing is lost, and each phone hears its events in order."""
        for name, subscription in self.ids.items():
            heard = self.receivers.heard.get(name, [])
            given_up = {_key(letter.record) for letter in self.bridge.queues.dead_letters(subscription)}
            accepted = {(one.phone, one.sequence) for one in heard if one.accepted}
            wanted = {(phone, n) for phone, most in self.committed.items() for n in range(1, most + 1)}
            assert accepted <= wanted, "nothing is invented"
            missing = wanted - accepted - given_up
            assert len(missing) <= self.bridge.queues.dropped(subscription), "nothing is lost"
            assert_in_order(heard, excused=given_up | missing)
            assert self.abandoned or len(accepted) == sum(one.accepted for one in heard), "nothing comes twice"
        self.log.assert_index_is_right()


def _key(record: bytes) -> tuple[tuple[str, str], int]:
    event = events.unpack(record)
    return (event.session_no, event.phone), event.sequence


def assert_in_order(heard: list[Heard], excused: set[tuple[tuple[str, str], int]]) -> None:
    """No event arrives before an earlier one of its phone was accepted, unless that was given up or dropped."""
    done: set[tuple[tuple[str, str], int]] = set()
    for one in heard:
        before = {(one.phone, n) for n in range(1, one.sequence)}
        assert before <= done | excused, f"{one} overtook {sorted(before - done - excused)}"
        if one.accepted:
            done.add((one.phone, one.sequence))


STEPS: dict[str, Callable[[World], None]] = {
    "commit": World.commit,
    "serve": World.serve,
    "abandon": World.abandon,
    "two at once": World.two_at_once,
    "minutes pass": World.pass_minutes,
    "halt": World.halt,
    "resume": World.resume,
    "edit": World.edit,
    "trim": World.trim,
}


def play_all(bridge: Bridge, log: Parts, *, examples: int, phases: tuple[Phase, ...] = tuple(Phase)) -> None:
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=phases,
        suppress_health_check=list(HealthCheck),
        print_blob=False,
    )
    @given(seed=st.integers(0, 2**32), steps=st.lists(st.sampled_from(list(STEPS)), min_size=4, max_size=14))
    def play(seed: int, steps: list[str]) -> None:
        world = World(bridge, log, seed)
        world.commit()
        for step in steps:
            STEPS[step](world)
        world.finish()
        world.check()

    play()


def test_order_and_events_survive_whatever_happens(bridge: Bridge, log: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "_LINGER_MS", 10)
    play_all(bridge, log, examples=25)


FAULTS = {
    "an event is lost": ("commit", "waiting .. position", "waiting"),
    "an event overtakes": ("commit", "waiting .. position", "'\\0' .. position .. string.sub(waiting, 2)"),
    "an event comes twice": ("settle_lanes", "done[#done + 1] = lane", "call('HSET', KEYS[i], lane, waiting[i])"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_it_would_be_noticed_if(bridge: Bridge, log: Parts, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    monkeypatch.setattr(loop, "_LINGER_MS", 10)
    name, right, wrong = FAULTS[fault]
    source = script(name).source
    assert right in source, "the script has changed: seed the fault anew"
    faulty = source.replace(right, wrong)
    seeded = Script(faulty, hashlib.sha1(faulty.encode()).hexdigest())  # noqa: S324  # the server's own name for it
    monkeypatch.setattr("bridge.store.client.script", lambda wanted: seeded if wanted == name else script(wanted))
    with pytest.raises((AssertionError, FlakyFailure)):
        play_all(bridge, log, examples=60, phases=(Phase.generate,))

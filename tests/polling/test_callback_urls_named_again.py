"""A callback URL that is named again while its subscription is being removed as unused.

The removal, the tracking and the poll are three processes; each of their exchanges with a real store is a step, and the
test says in which order they come.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from itertools import product

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bridge.domain.events import unpack
from bridge.domain.receipts import Receipt
from bridge.domain.subscriptions import callback_id
from bridge.domain.tracking import parse_items
from bridge.polling.answers import Recorder
from bridge.polling.commits import Committer
from bridge.store import keys
from bridge.wiring import Bridge
from tests.delivery.slices import QUICK, Around, run
from tests.parts import Parts
from tests.servers import bridge_on, valkey
from tests.stepping import Actor

URL = "http://127.0.0.1:1025/"
NAME = callback_id("default", URL)
LONG_MS = 400 * 24 * 3600 * 1000


class Scene:
    """A store with a subscription that a URL implied long ago, and whoever may act on it."""

    def __init__(self, url: str, trimming: Bridge, also_trimming: Bridge, tracking: Bridge, polling: Bridge) -> None:
        self.parts = Parts(url, trimming.settings.shards)
        self._trimming, self._also_trimming, self._tracking, self._polling = trimming, also_trimming, tracking, polling

    def begin(self) -> None:
        """Anew: the URL was named once, long ago; what was sent to it was accepted."""
        self.parts.empty()
        self._trimming.callback_for("default", URL)
        self.let_time_pass()
        committer = Committer(self._polling.sessions, self._polling.subscriptions, self._polling.clock)
        self._recorder = Recorder(
            committer=committer, policy=self._polling.poll_policy, chance=lambda: 0.5, tombstone=lambda _phone: b""
        )
        self._committer = committer

    def let_time_pass(self) -> None:
        """So long that no session which named the URL can use it any more."""
        used = keys.callbacks("default")
        self.parts.redis.zadd(used, {NAME: self.parts.now_ms() - LONG_MS}, xx=True)

    def removal(self) -> Actor:
        return Actor(self._trimming.client, self.remove_unused)

    def second_removal(self) -> Actor:
        return Actor(self._also_trimming.client, lambda: self._also_trimming.forget_unused_callbacks("default"))

    def removal_by_hand(self) -> Actor:
        return Actor(self._trimming.client, lambda: self._trimming.unsubscribe(NAME))

    def slice(self) -> Actor:
        self.around = Around()
        return Actor(self._trimming.client, lambda: run(self._trimming, QUICK, self.around))

    def tracking(self) -> Actor:
        return Actor(self._tracking.client, lambda: self.track("s1"))

    def track(self, session_no: str) -> None:
        """A sender names the URL with a session."""
        name = self._tracking.callback_for("default", URL)
        requests = parse_items([{"session_no": session_no, "callback_url": URL}])
        self._tracking.tracker.track("default", requests, {URL: name})

    def load_registry(self) -> None:
        """The poller reads the registry, if it knows none yet; it goes by that for seconds, until it is refused."""
        self._committer.commit("default", {}, lambda _registry, _stored, _now_ms: [], lambda _write: None)

    def poll(self, session_no: str) -> int:
        """A tracked session's phone was delivered. Returns how many were told of it."""
        stored = self._polling.sessions.read("default", [session_no])
        heard = Receipt("18500000000", "", "Success", "DELIVRD", "", 1_795_423_107, 1)
        recorded = self._recorder.record("default", stored, {session_no: [heard]})
        assert recorded.changed == 1
        return recorded.routed

    def remove_unused(self) -> int:
        return self._trimming.forget_unused_callbacks("default")

    def names(self) -> list[str]:
        """The subscriptions that the URLs of sessions imply; each is counted, and simply there."""
        found = self.parts.subscriptions.load().of("default")
        assert all(one.passage is None for one in found)
        names = [one.id for one in found]
        (counted,) = self.parts.client.commands([["ZRANGE", keys.callbacks("default"), 0, -1]])
        assert counted == [name.encode() for name in names]
        return names

    def waiting(self) -> list[str]:
        """The sessions whose events wait."""
        lanes = self.parts.queues.waiting(NAME, 10)
        records = self.parts.log.fetch("default", {one.shard: one.positions for one in lanes})
        return sorted(unpack(record).session_no for record in records.values())

    def assert_nothing_is_lost(self) -> None:
        """The event waits for the URL, and will be sent; the URL counts, and the next removal finds it in use."""
        assert self.names() == [NAME]
        assert self.waiting() == ["s1"]
        self.parts.assert_index_is_right()
        assert self.remove_unused() == 0
        assert self.waiting() == ["s1"]


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    with ExitStack() as stack:
        url = stack.enter_context(valkey())
        bridges = [stack.enter_context(bridge_on(url, allow_http="yes", shards=2)) for _ in range(4)]
        made = Scene(url, *bridges)
        yield made
        made.parts.close()


def play(scene: Scene, order: str) -> tuple[int, int]:
    """Let them act: a step of the (r)emoval, of a second removal (q) or of the (t)racking, R or T all that is left of
    one, (l)oading the registry. Whatever is left of the tracking, the poll and what is left of the removals come then,
    in this order.

    Returns how many steps removal and tracking took.
    """
    scene.begin()
    with scene.removal() as removal, scene.tracking() as tracking, scene.second_removal() as second:
        acts = {"r": removal.step, "t": tracking.step, "R": removal.finish, "T": tracking.finish, "q": second.step}
        for one in order:
            acts.get(one, scene.load_registry)()
        tracking.finish()
        scene.poll("s1")
        removal.finish()
    scene.assert_nothing_is_lost()
    return removal.steps, tracking.steps


def test_a_url_that_is_named_again_while_its_subscription_is_removed_loses_no_event(scene: Scene) -> None:
    """Fault: an event of a session that named a URL again, of which the subscription was being removed as unused, was
    removed with it: committed, and never sent. Or the session was tracked, and its URL told of nothing.

    Cause: the removal looked when the URL was last named, and went on by that however much came in between: it took
    away a subscription that was in use again, and the queue of the one that was made in its stead. Fix: see
    ``bridge.store.callback_urls``.

    Each of both is interrupted once, wherever it can be, and the other goes on from there.
    """
    removing, tracking = (steps + 2 for steps in play(scene, "R"))  # and some more where they meet
    for first, second, most, more in (("r", "t", removing, tracking), ("t", "r", tracking, removing)):
        for before, after, rest in product(range(most), range(more), ("", "l", "lR", "R")):
            play(scene, first * before + second * after + rest)


# The tracking takes away the first removal's mark; the second removal sets its own just before the first one goes on.
@example(order="rrrrrqqttttqqR")
@given(order=st.text("rtql", max_size=40))
@settings(max_examples=150, deadline=None)
def test_in_whatever_order_they_come_no_event_is_lost(scene: Scene, order: str) -> None:
    play(scene, order)


@pytest.mark.parametrize("who", ["removal", "tracking"])
def test_whoever_is_killed_in_between_leaves_what_the_next_one_finishes(scene: Scene, who: str) -> None:
    steps = 0
    killed = True
    while killed:
        scene.begin()
        with scene.removal() if who == "removal" else scene.tracking() as actor:
            for _ in range(steps):
                actor.step()
            killed = not actor.ended
            actor.kill()
        # What is left of it is removed, once it was not named for long: nothing stays behind for good.
        scene.let_time_pass()
        scene.remove_unused()
        assert scene.names() == []
        scene.track("s1")
        scene.poll("s1")
        scene.assert_nothing_is_lost()
        steps += 1
    assert steps > 3


def test_one_that_is_removed_by_hand_and_named_again_loses_nothing_that_was_committed_since(scene: Scene) -> None:
    """An older session still names the URL: its events may be committed as soon as the registry has it again."""
    committed = 0
    for removing, tracking, rest, first in product(range(3, 8), range(12), ("", "l", "R", "T", "lR"), "RT"):
        scene.begin()
        scene.track("s0")
        with scene.removal_by_hand() as removal, scene.tracking() as naming:
            for _ in range(removing):
                removal.step()
            for _ in range(tracking):
                naming.step()
            acts = {"l": scene.load_registry, "R": removal.finish, "T": naming.finish}
            for one in rest:
                acts[one]()
            # By now the removal is known to every commit: what is routed from here on is the new one's.
            routed = scene.poll("s0")
            acts[first]()
            naming.finish()
        assert scene.names() == [NAME]
        assert scene.waiting() == ["s0"] * routed
        committed += routed
        scene.parts.assert_index_is_right()
    assert committed > 0


def test_a_slice_that_comes_upon_what_a_removal_left_takes_nothing_of_the_one_that_is_named_again(scene: Scene) -> None:
    """Whoever removed the subscription was killed before its queue was."""
    for before, after in product(range(8), range(10)):
        scene.begin()
        scene.track("s0")
        scene.poll("s0")
        scene.parts.subscriptions.remove(NAME)
        with scene.slice() as slice_, scene.tracking() as tracking:
            for _ in range(before):
                slice_.step()
            for _ in range(after):
                tracking.step()
            scene.load_registry()
            slice_.step()
            tracking.finish()
            scene.poll("s1")
            scene.around.stop.set()
        assert "s1" in scene.waiting()
        scene.parts.assert_index_is_right(may_be_early=True)

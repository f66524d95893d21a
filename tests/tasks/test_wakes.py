"""Messages alone take work to its end, however their steps interleave, and on a store that was emptied."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from bridge.store import keys
from bridge.store.server import EmbeddedServer
from tasks.process import Process
from tasks.store_watch import StoreWatch
from tests.delivery.slices import Receiver, subscribe
from tests.examples import examples
from tests.hostile import serving
from tests.parts import Parts
from tests.polling.scripted import receipt
from tests.servers import environ_for
from tests.tasks.desks import Desk


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

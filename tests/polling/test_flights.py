"""Several calls under way at once: what they share, how a run of them ends, and what a failure among them means."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from threading import Event, Lock

import pytest

from bridge.errors import BridgeError
from bridge.polling.flights import Flights, Surroundings
from bridge.polling.poll import Poller, Step
from tests.parts import Parts
from tests.polling.scripted import DOWN, Scripted, poller, receipt, track


class Slow(Scripted):
    """Answers when it is told to, with the last word on each session: none comes due again, however slow the machine.

    Knows how many calls were under way at once.
    """

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__({name: [receipt()] for name in names})
        self.answer = Event()
        self.under_way = self.most = 0
        self._count = Lock()
        self.meanwhile = self._wait

    def _wait(self) -> None:
        with self._count:
            self.under_way += 1
            self.most = max(self.most, self.under_way)
        self.answer.wait(20)
        with self._count:
            self.under_way -= 1


def flights(
    polling: Poller, *, until: Callable[[], bool] = lambda: False, budget_s: float = 20
) -> tuple[Flights, list[Step]]:
    steps: list[Step] = []
    around = Surroundings(
        stopping=until, sleep=time.sleep, keep_awake=lambda: None, report=steps.append, hand_over=lambda: None
    )
    return Flights(polling, around, budget_s), steps


def test_a_provider_that_takes_long_is_called_many_times_at_once(parts: Parts) -> None:
    names = [f"s{number}" for number in range(2_000)]
    track(parts, *names)
    provider = Slow(names)

    def enough() -> bool:
        if provider.under_way >= 16:
            provider.answer.set()
        return False

    run, steps = flights(poller(parts, provider), until=enough)
    assert run.run("default") == 0
    assert provider.most == 16
    assert sum(step.polled for step in steps) == 2_000
    assert all(len(asked) == 100 for asked in provider.asked)


def test_after_a_failure_one_call_finds_out_whether_the_provider_is_back(parts: Parts) -> None:
    names = [f"s{number}" for number in range(1_000)]
    track(parts, *names)
    parts.rate.pause("default", "down", 1)
    provider = Slow(names)
    looks = []

    def look() -> bool:
        looks.append(provider.under_way)
        if len(looks) == 3:
            provider.answer.set()
        return False

    run, steps = flights(poller(parts, provider), until=look)
    run.run("default")
    assert max(looks[:3]) == 1
    assert sum(step.polled for step in steps) == 1_000
    assert provider.most == 16 or len(provider.asked) == 10


def test_calls_under_way_when_the_provider_goes_down_are_one_failure(parts: Parts) -> None:
    names = [f"s{number}" for number in range(800)]
    track(parts, *names)
    provider = Slow(names)
    provider.failures += [DOWN] * 8

    def enough() -> bool:
        if provider.under_way >= 8:
            provider.answer.set()
        return False

    run, steps = flights(poller(parts, provider), until=enough)
    asleep_ms = run.run("default")
    assert asleep_ms <= 1_000
    failed = [step for step in steps if step.failure]
    assert len(failed) == 8
    assert {step.failures for step in failed} == {1}
    assert sum(step.polled for step in steps) == 800, "and after the pause all are polled"


def test_an_error_of_ours_ends_the_run_when_all_calls_have_ended(parts: Parts) -> None:
    track(parts, "s1")
    provider = Scripted()

    def break_down() -> None:
        raise BridgeError("cut")

    provider.meanwhile = break_down
    run, _ = flights(poller(parts, provider))
    with pytest.raises(BridgeError, match="cut"):
        run.run("default")


def test_a_run_ends_with_its_budget_and_hands_on_what_is_left(parts: Parts) -> None:
    track(parts, *(f"s{number}" for number in range(300)))
    run, steps = flights(poller(parts, Scripted()), budget_s=0)
    assert run.run("default") == 0
    assert steps == []

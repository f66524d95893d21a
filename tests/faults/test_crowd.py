"""A sender that ends before its time would leave a run without work, and nobody would know why.

And an application that expects a secret for longer than it must would accuse whoever is right.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from bridge.cli.family import Family
from tests.faults.crowd import Sender
from tests.faults.receivers import Application
from tests.faults.records import Secret
from tests.faults.world import World
from tests.waiting import wait_until


@pytest.fixture
def world() -> Iterator[World]:
    """A world that was not started."""
    with Family("crowd", handle_signals=False) as family:
        world = World(family, scenario={}, settings={})
        world.provider_url = "http://127.0.0.1:9/"
        yield world
        world.close()


def test_a_provider_that_does_not_answer_ends_no_sender(world: World) -> None:
    sender = Sender(world, 1, 5, 1000.0)
    sender.start()
    wait_until("it has tried again", lambda: sender.failed > 2)
    assert sender.is_alive()
    sender.quit()
    assert not sender.error


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # it is what is told of
def test_a_sender_that_dies_says_of_what(world: World) -> None:
    world.keys = ()  # type: ignore[assignment]  # with which no request can be made
    sender = Sender(world, 1, 5, 1000.0)
    sender.start()
    sender.join(30)
    assert "the sender died" in sender.error
    sender.quit()


def test_nothing_is_sent_while_somebody_must_know_of_all_that_was(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fault: a broker was emptied as a tracking had just been handed to it, of which nobody knew yet."""
    sender = Sender(world, 1, 5, 1000.0)
    held: list[bool] = []
    monkeypatch.setattr(sender, "_send_some", lambda: held.append(sender.sending.locked()))
    sender.send()
    assert held == [True]
    assert not sender.sending.locked()


def test_a_secret_need_not_sign_from_when_its_successor_was_asked_for() -> None:
    application = Application("slow", random.Random(1))
    application.know(Secret(value="old", since_ms=1_000, given_ms=1_500))
    application.know(Secret(value="new", since_ms=60_000, given_ms=2**53))
    application.shift("new", since_ms=60_000, given_ms=68_000, overlap_ms=0)
    old, new = application.secrets
    assert old.until_ms == 60_000
    assert (new.given_ms, new.until_ms) == (68_000, None), "it must sign from when the operator heard of it"

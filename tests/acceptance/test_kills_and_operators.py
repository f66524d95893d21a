"""Two real workers serve a subscription, are killed again and again, and its operator pauses, resumes and edits it."""

from __future__ import annotations

from collections.abc import Callable

from msgspec.structs import replace

from bridge.cli.family import Family
from bridge.domain.subscriptions import Deliver, Subscription
from bridge.lifecycle import edit, pause, resume
from tests.bench import drill
from tests.bench.house import House, open_bridge
from tests.bench.listener import EACH, ask, listens
from tests.bench.machine import apart
from tests.ports import unused_port
from tests.waiting import wait_until

EVENTS = 4_000
RATE = 600.0
ROUNDS = 4
CONCURRENCY = 8


def with_concurrency(concurrency: int) -> Callable[[Subscription], Subscription]:
    return lambda one: replace(one, concurrency=concurrency)


def test_nothing_is_lost_or_reordered_by_kills_pauses_and_edits_at_once() -> None:
    with Family("kills", handle_signals=False) as family:
        house = House(family)
        # Short attempts make short holds: what a killed worker had is another's after 3 s.
        house.environment |= {"BRIDGE_CALLBACK_TIMEOUT": "1s", "BRIDGE_CALLBACK_RETRY": "200ms,500ms,1s,1s,1s,1s,1s,1s"}
        port = unused_port()
        house.start("receiver", "-m", "tests.bench.listener", str(port))
        bridge = open_bridge(house.environment)
        try:
            limits = {"rate": RATE, "concurrency": CONCURRENCY}
            name = bridge.subscribe(f"http://127.0.0.1:{port}/", limited=lambda one: replace(one, **limits))[0].id
            apart(drill.fill, house.environment, name, EVENTS)
            workers = [house.start(f"worker{n}", "-m", "tasks", "worker", "--concurrency", "4") for n in range(2)]
            house.start("beat", "-m", "tasks", "beat")
            wait_until("the receiver listens", lambda: listens(port))
            for number in range(ROUNDS):
                heard = ask(port).drained.requests
                wait_until("a worker delivers", lambda heard=heard: ask(port).drained.requests > heard + 200)  # type: ignore[misc]  # mypy cannot infer a lambda with a default
                victim = workers.pop(0)
                victim.kill()
                victim.wait(10)
                pause(bridge, name)
                edit(bridge, name, with_concurrency(CONCURRENCY - number))
                workers.append(house.start(f"again{number}", "-m", "tasks", "worker", "--concurrency", "4"))
                resume(bridge, name, Deliver.ALL)
            wait_until("all is delivered", lambda: ask(port).phones_done(EVENTS // EACH), 120)
            wait_until("all is written down", lambda: not bridge.queues.tallies([name])[name].waiting)
            seen, tally = ask(port).drained, bridge.queues.tallies([name])[name]
        finally:
            bridge.close()
        family.check()
    assert (seen.phones, seen.out_of_order) == (EVENTS // EACH, 0)
    assert tally.dead == 0
    # What was under way, or answered and not yet written down, when a worker was killed.
    assert seen.repeated <= ROUNDS * (CONCURRENCY + RATE / 10)

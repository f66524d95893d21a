"""A day of a provider that is wrong in a fifth of its answers, compressed: ``python -m tests.polling.day``.

The simulator, over HTTP, by the real client; a real store; the product's own polling. Only time is not: timelines and
the schedule are 10,800 times as fast, and pauses 100 times as short.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import msgspec

from bridge.domain import events
from bridge.domain.receipts import Status, classify, normalise_phone
from bridge.domain.tracking import parse_items
from bridge.polling.flights import Flights, Surroundings
from bridge.polling.poll import Step
from bridge.store.index import RateStore
from bridge.wiring import Bridge
from tests.parts import subscription
from tests.servers import bridge_on, valkey
from tests.simulator import RunningSimulator, running_simulator

SCALE = 10_800
SCHEDULE = "50ms,100ms,200ms,300ms,500ms,1s,2s,4s,8s"
FATES: Mapping[str, tuple[float, list[dict[str, object]]]] = {
    "at once": (0.4, [{"result": "发送成功", "code": "DELIVRD", "delay": 5}]),
    "by way of unknown": (0.2, [{"result": "Unknow", "delay": 20}, {"result": "Success", "code": "0", "delay": 1800}]),
    "carrier's failure": (0.15, [{"result": "Fail", "code": "UNDELIV", "delay": 60}]),
    "expired": (0.1, [{"result": "发送失败", "code": "EXPIRED:001", "delay": 21_600}]),
    "corrected": (0.05, [{"result": "Fail", "code": "X", "delay": 60}, {"result": "Success", "delay": 30_000}]),
    "never": (0.1, []),
}
FAULTS = [
    {"fault": "retcode", "ret_code": 150, "rate": 0.03},
    {"fault": "retcode", "ret_code": 153, "rate": 0.02},
    {"fault": "http_status", "status": 503, "rate": 0.02},
    {"fault": "http_status", "status": 429, "rate": 0.01},
    {"fault": "truncated", "rate": 0.03},
    {"fault": "omitted", "rate": 0.03},
    {"fault": "regressed", "rate": 0.02},
    {"fault": "duplicated", "rate": 0.02},
    {"fault": "late", "seconds": 0.2, "rate": 0.01},
    {"fault": "hang", "seconds": 0.6, "rate": 0.005},
    {"fault": "drip", "seconds": 0.05, "rate": 0.005},
]


class Day(msgspec.Struct, frozen=True, kw_only=True):
    """What a day came to: calls by how they ended, and everything that was not as it should be."""

    sessions: int
    calls: int
    failed: int
    events: int
    corrected: int
    regressed: int
    seconds: float
    faults: list[str]


class _Impatient(RateStore):
    """Pauses a hundredth as long."""

    def pause(self, account: str, reason: str, pause_ms: int, *, refused: bool = False) -> tuple[int, bool]:
        return super().pause(account, reason, max(1, pause_ms // 100), refused=refused)


@contextmanager
def _house(seed: int) -> Iterator[tuple[RunningSimulator, Bridge]]:
    scenario = {
        "seed": seed,
        "time_scale": SCALE,
        "timelines": {name: timeline for name, (_, timeline) in FATES.items()},
        "phones": [{"share": share, "timeline": name} for name, (share, _) in FATES.items()],
        "faults": {"rates": FAULTS},
    }
    with (
        running_simulator(scenario) as simulator,
        valkey() as url,
        bridge_on(
            url,
            provider_url=simulator.url,
            provider_rate="1000",
            provider_timeout_ms="400ms",
            poll_schedule_ms=SCHEDULE,
            give_up_after_ms="9s",
            keep_settled_ms="1h",
        ) as bridge,
    ):
        yield simulator, bridge


def run(sessions: int, seed: int, within_s: float) -> Day:
    """Track sessions of one to three phones, poll until all have settled, and compare what was told."""
    with _house(seed) as (simulator, bridge):
        bridge.rate = _Impatient(bridge.client)
        bridge.subscriptions.put(subscription())
        sent: dict[str, list[str]] = {}
        steps: list[Step] = []
        around = Surroundings(
            stopping=lambda: False,
            sleep=time.sleep,
            keep_awake=lambda: None,
            report=steps.append,
            hand_over=lambda: None,
        )
        began_s = time.monotonic()
        while time.monotonic() - began_s < within_s:
            if len(sent) < sessions:
                sent |= _send(simulator, bridge, range(len(sent), min(sessions, len(sent) + max(3, sessions // 150))))
            elif not _waiting(bridge):
                break
            Flights(bridge.poller, around, 0.02).run("default")
            time.sleep(0.005)
        calls = [step for step in steps if step.polled or step.failure]
        told = [events.unpack(one.record) for one in bridge.log.read("default")]

        def judge(told: Sequence[events.Record]) -> list[str]:
            return [*_untrue(simulator, told), *_wrong(bridge, sent, told)]

        return Day(
            sessions=sessions,
            calls=len(calls),
            failed=sum(step.failure is not None for step in calls),
            events=len(told),
            corrected=sum(one.corrected for one in told),
            regressed=sum(step.regressed for step in steps),
            seconds=time.monotonic() - began_s,
            faults=[*_unsettled(bridge), *judge(told), *_missed(told, judge)],
        )


def _send(simulator: RunningSimulator, bridge: Bridge, numbers: range) -> dict[str, list[str]]:
    sent: dict[str, list[str]] = {}
    for number in numbers:
        phones = [f"(86)1{number * 3 + place:010d}" for place in range(1 + number % 3)]
        sent[simulator.send(*phones)] = phones
    items = [{"session_no": no, "phone_count": len(phones)} for no, phones in sent.items()]
    bridge.tracker.track("default", parse_items(items))
    return sent


def _waiting(bridge: Bridge) -> int:
    return sum(bridge.sessions.due_counts("default", 1 << 50))


def _unsettled(bridge: Bridge) -> list[str]:
    return [f"{no} has not settled" for no, state in bridge.sessions.scan("default") if not state.settled_ms]


def _missed(told: Sequence[events.Record], judge: Callable[[Sequence[events.Record]], list[str]]) -> list[str]:
    """A checker that finds nothing proves nothing: of these made-up mistakes it must find each."""
    first, *others = told
    mistakes = {
        "an event that is lost": others,
        "an event that is told twice": [first, *told],
        "a status that nobody said": [msgspec.structs.replace(first, status=int(Status.FAILED)), *others],
        "an event of another session": [msgspec.structs.replace(first, session_no="elsewhere"), *others],
    }
    return [f"the check does not see {name}" for name, made_up in mistakes.items() if not judge(made_up)]


def _untrue(simulator: RunningSimulator, told: Sequence[events.Record]) -> list[str]:
    """Events that the provider never gave a reason for."""
    said = {
        (one.session_no, normalise_phone(one.phone), classify(word.result, word.code))
        for one in simulator.told()
        for word in one.told
    }
    return [
        f"{one.session_no} #{one.sequence} {Status(one.status).text} was never said"
        for one in told
        if one.result is not None and (one.session_no, normalise_phone(one.phone), one.status) not in said
    ]


def _wrong(bridge: Bridge, sent: Mapping[str, Sequence[str]], told: Sequence[events.Record]) -> list[str]:
    """Phones whose events do not follow from one another to what became of them, and what was told twice."""
    faults = []
    by_phone: dict[tuple[str, str], list[events.Record]] = defaultdict(list)
    for one in told:
        by_phone[one.session_no, normalise_phone(one.phone)].append(one)
    ids = [events.event_id("default", one) for one in told]
    if len(set(ids)) != len(ids):
        faults.append(f"{len(ids) - len(set(ids))} events were told twice")
    waiting = sum(bridge.queues.lengths(["sub_a"]).values())
    lanes = len(by_phone)
    if waiting not in {lanes, len(told)}:
        faults.append(f"{len(told)} events of {lanes} phones, but {waiting} wait for the subscription")
    for session_no, phones in sent.items():
        mine = {key: found for key, found in by_phone.items() if key[0] == session_no}
        finals = 0
        for (_, phone), found in mine.items():
            statuses = [one.status for one in found]
            previous = [0, *statuses[:-1]]
            if [one.previous for one in found] != previous or [one.sequence for one in found] != list(
                range(1, len(found) + 1)
            ):
                faults.append(f"{session_no} {phone[-4:]}: {statuses} do not follow from one another")
            finals += statuses[-1] >= Status.DELIVERED
        given_up = len(phones) - len(mine)
        state = bridge.sessions.read("default", [session_no])[session_no].state
        if state is None or finals + given_up != len(phones):
            faults.append(f"{session_no}: {finals} of {len(phones)} phones are final")
        elif given_up and state.settled_ms - state.sent_ms < bridge.settings.give_up_after_ms:
            faults.append(f"{session_no} settled before its time with {given_up} phones unheard of")
    return faults


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.polling.day", description=__doc__)
    parser.add_argument("--sessions", type=int, default=5_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--within", type=float, default=300.0, help="seconds")
    options = parser.parse_args(argv)
    day = run(options.sessions, options.seed, options.within)
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(day)).decode() + "\n")
    return 1 if day.faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

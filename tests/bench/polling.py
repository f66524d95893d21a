"""A poll, from the answer in hand to done: of unchanged and changed receipts; beside a diff by hand and the SDK."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Mapping, Sequence

import msgspec

from bridge.cli.family import Family
from bridge.domain.accounts import DEFAULT_ACCOUNT
from bridge.domain.subscriptions import Subscription
from bridge.domain.tracking import SessionRequest
from bridge.polling.poll import Batch, Poller
from bridge.provider.client import UsmsClient
from bridge.provider.wire import Receipts, parse_answer
from bridge.wiring import Bridge
from tests.bench.figures import Goal, Measured, by_name, ratio
from tests.bench.house import House, open_bridge
from tests.bench.machine import apart
from tests.bench.sdk import official_sdk
from tests.simulator import PRIVATE_KEY, PUBLIC_KEY, running_simulator

SESSIONS = 100
SDK = "a call over HTTP, official SDK"
BY_HAND = "json and a dict, nothing kept, 10 a session"


class Sizes(msgspec.Struct, frozen=True, kw_only=True):
    """Calls that are measured in each round, sessions that are due for full ones, and rounds."""

    calls: int
    due: int
    rounds: int


def measure(sizes: Sizes) -> Measured:
    """Run all of it, each round in a fresh process."""
    with Family("bench") as family:
        house = House(family)
        rounds = []
        full = []
        for _ in range(sizes.rounds):
            house.empty()
            rounds.append(apart(one_round, house.environment, sizes.calls))
            house.empty()
            full.append(apart(sessions_a_call, house.environment, sizes.due))
    micros = by_name(rounds)
    goals = [
        Goal(what=f"poll: CPU of {what}", unit="µs", samples=micros[what], wanted=wanted, reference=reference)
        for what, wanted, reference in (
            ("an unchanged receipt, 10 a session", 3, BY_HAND),
            ("a changed receipt, 10 a session", 25, BY_HAND),
            ("a changed receipt, 1 a session", 60, ""),
        )
    ]
    call, official = micros["a call over HTTP, our client"], micros[SDK]
    goals += [
        Goal(
            what="poll: less CPU a call than the official SDK",
            unit="×",
            samples=ratio(official, call),
            better="more",
            reference=SDK,
        ),
        Goal(
            what=f"poll: sessions a call, of {sizes.due:,} due", unit="", samples=tuple(full), wanted=95, better="more"
        ),
    ]
    return Measured(
        about={"calls": f"{sizes.calls} of {SESSIONS} sessions"},
        figures={what: {"CPU µs/receipt": samples} for what, samples in micros.items()},
        references=(BY_HAND, SDK),
        goals=tuple(goals),
    )


def one_round(environment: Mapping[str, str], calls: int) -> dict[str, float]:
    """µs an item of everything that is compared, one after the other in this process."""
    bridge = open_bridge(environment)
    subscription = Subscription(
        id="sub_bench", account=DEFAULT_ACCOUNT, url="http://127.0.0.1:9/", created_ms=1, secrets=()
    )
    bridge.subscriptions.put(subscription)
    found: dict[str, float] = {}
    for phones in (10, 1):
        changed, unchanged = _by_bridge(bridge, phones, calls)
        found[f"a changed receipt, {phones} a session"] = changed
        found[f"an unchanged receipt, {phones} a session"] = unchanged
    found[BY_HAND] = _by_hand(10, calls)
    found |= _over_http(calls)
    bridge.close()
    return found


def _by_bridge(bridge: Bridge, phones: int, calls: int) -> tuple[float, float]:
    """(µs an event of changed receipts, µs a receipt of unchanged ones).

    Sessions expect one phone more than they hear of, so that they stay open; those that change settle.
    """
    changed: list[float] = []
    unchanged: list[float] = []
    for call in range(calls):
        for expected, into in ((phones, changed), (phones + 1, unchanged)):
            names = [f"{phones:x}{expected:x}{call:x}n{number:08x}" for number in range(SESSIONS)]
            requests = [SessionRequest(name, phone_count=expected) for name in names]
            bridge.tracker.track(DEFAULT_ACCOUNT, requests)
            body = _answer(names, phones)
            if into is unchanged:
                _poll(bridge, names, body)
            stored = bridge.sessions.read(DEFAULT_ACCOUNT, names)
            began_s = time.process_time()
            answer = parse_answer(body, names)
            bridge.recorder.record(DEFAULT_ACCOUNT, stored, answer.receipts.by_session)
            into.append((time.process_time() - began_s) * 1e6 / (SESSIONS * phones))
    return _median(changed), _median(unchanged)


def _poll(bridge: Bridge, names: Sequence[str], body: bytes) -> None:
    stored = bridge.sessions.read(DEFAULT_ACCOUNT, names)
    bridge.recorder.record(DEFAULT_ACCOUNT, stored, parse_answer(body, names).receipts.by_session)


def _by_hand(phones: int, calls: int) -> float:
    """µs a receipt of json and a dict of what is known, in memory: what a script does that keeps nothing."""
    names = [f"n{number:010x}" for number in range(SESSIONS)]
    body = _answer(names, phones)
    known: dict[tuple[str, str], tuple[str, str]] = {}
    spent = []
    for _ in range(calls):
        began_s = time.process_time()
        news = 0
        for session in json.loads(body)["Data"]:
            for receipt in session["ReceiptSet"]:
                key, word = (session["SessionNo"], receipt["Phone"]), (receipt["ReceiptResult"], receipt["ReceiptCode"])
                if known.get(key) != word:
                    known[key] = word
                    news += 1
        spent.append((time.process_time() - began_s) * 1e6 / (SESSIONS * phones))
    return _median(spent)


def _over_http(calls: int) -> dict[str, float]:
    """µs a receipt of a whole call, without recording it: our client, and the official SDK."""
    with running_simulator() as simulator:
        names = [simulator.send(*(f"(86)185{place:08d}" for place in range(10))) for _ in range(SESSIONS)]
        client = UsmsClient(url=simulator.url, public_key=PUBLIC_KEY, private_key=PRIVATE_KEY, timeout_ms=10_000)
        sdk = official_sdk(simulator.url, PUBLIC_KEY, PRIVATE_KEY)
        ours = _timed(lambda: client.fetch_receipts(names), calls)
        theirs = _timed(lambda: sdk.get_usms_send_receipt({"SessionNoSet": names}), calls)
        client.close()
    return {"a call over HTTP, our client": ours, SDK: theirs}


def _timed(call: Callable[[], object], calls: int) -> float:
    """µs of this thread's CPU a receipt: the simulator runs on another."""
    spent = []
    for _ in range(calls):
        began_s = time.thread_time()
        call()
        spent.append((time.thread_time() - began_s) * 1e6 / (SESSIONS * 10))
    return _median(spent)


class _Silent:
    """A provider that has no receipts."""

    def fetch_receipts(self, session_nos: Sequence[str]) -> Receipts:
        return Receipts(by_session={no: [] for no in session_nos})


def sessions_a_call(environment: Mapping[str, str], due: int) -> float:
    """How many sessions calls hold on average while at least 100 are due, spread over all shards."""
    bridge = open_bridge(environment)
    poller = Poller(
        sessions=bridge.sessions,
        recorder=bridge.recorder,
        rate=bridge.rate,
        clock=bridge.clock,
        provider=lambda _account: _Silent(),
        calls_per_second=lambda _account: 1_000.0,
        policy=bridge.poll_policy,
        chance=random.random,
    )
    for begin in range(0, due, 1_000):
        names = [SessionRequest(f"due{number}", phone_count=1, sent_at_ms=1) for number in range(begin, begin + 1_000)]
        bridge.tracker.track(DEFAULT_ACCOUNT, names)
    held = []
    while True:
        bridge.client.redis.delete("u:rate:default")  # what is measured is not the rate
        prepared = poller.prepare(DEFAULT_ACCOUNT)
        if not isinstance(prepared, Batch):
            break
        held.append(sum(map(len, prepared.calls)))
        done = poller.finish(prepared)
        if done.failure is not None:
            raise AssertionError(done.failure)
        if prepared.left < SESSIONS:
            break
    bridge.close()
    return sum(held) / len(held)


def _median(values: Sequence[float]) -> float:
    return sorted(values)[(len(values) - 1) // 2]


def _answer(session_nos: Sequence[str], phones: int) -> bytes:
    """An answer in which every phone was delivered."""
    receipts = [
        {
            "Phone": f"(86)185{place:08d}",
            "CostCount": 1,
            "ReceiptResult": "发送成功",
            "ReceiptCode": "DELIVRD",
            "ReceiptDesc": "成功",
            "ReceiptTime": 1_795_423_107,
            "UserId": "",
        }
        for place in range(phones)
    ]
    data = [{"SessionNo": no, "ReceiptSet": receipts} for no in session_nos]
    return json.dumps({"RetCode": 0, "Action": "GetUSMSSendReceiptResponse", "Data": data}).encode()

"""What tests of commands share: a way to run one, and a bridge with sessions, events and deliveries in every state."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pytest

from bridge.cli.main import run
from bridge.domain.accounts import DEFAULT_ACCOUNT
from bridge.domain.deliveries import Lane, Settlement
from bridge.domain.events import unpack
from bridge.domain.outcome import Verdict
from bridge.domain.receipts import Receipt
from bridge.domain.subscriptions import Subscription
from bridge.domain.tracking import parse_items
from bridge.store import keys
from bridge.wiring import Bridge

ONE, TWO, THREE, FOUR = "(86)18500000001", "(86)18500000002", "(86)18500000003", "(86)18500000004"
URL = "https://127.0.0.1/sms"
"""On the loopback, which ``bridge_on`` allows: a worker that a test might start reaches nobody."""

RECEIPT_S = 1_795_415_462


@dataclass(frozen=True)
class Ran:
    """A command that has ended."""

    code: int
    out: str
    err: str

    def rows(self) -> list[dict[str, object]]:
        """The JSON objects that it printed, one a line."""
        return [cast("dict[str, object]", json.loads(line)) for line in self.out.splitlines()]


class Terminal:
    """Runs commands in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *argv: str) -> Ran:
        self._capsys.readouterr()
        code = run(argv)
        said = self._capsys.readouterr()
        return Ran(code, said.out, said.err)


def heard(phone: str, result: str, code: str = "", *, time: int = RECEIPT_S) -> Receipt:
    return Receipt(phone, "", result, code, "", time, 1)


def track(bridge: Bridge, *items: object, account: str = DEFAULT_ACCOUNT) -> None:
    """Track as a worker does."""
    bridge.tracking.note_account(account)
    bridge.tracker.track(account, parse_items(list(items)))


def answer(bridge: Bridge, session_no: str, *receipts: Receipt, account: str = DEFAULT_ACCOUNT) -> None:
    """Apply an answer of the provider as a poll does that has leased the session, where it was due at some time."""
    shard = keys.shard_of(session_no, bridge.settings.shards)
    lease_end = f"{bridge.clock.now_ms() + 60_000}.5"
    bridge.client.commands([["ZADD", keys.due(shard, account), "XX", lease_end, session_no]])
    stored = bridge.sessions.read(account, [session_no])
    bridge.recorder.record(account, stored, {session_no: list(receipts)})


def settle(bridge: Bridge, subscription: Subscription, outcomes: Mapping[str, tuple[Verdict, bool]]) -> None:
    """Claim what waits and settle the first event of each of these phones; True keeps its record, False loses it."""
    token = secrets.token_bytes(8)
    for shard in range(bridge.settings.shards):
        now_ms, (claimed,) = bridge.queues.claim(token, [(subscription.id, shard, 100)], 30_000)
        assert claimed is not None
        (lanes,) = bridge.queues.peek([(subscription.id, shard, claimed)])
        records = bridge.log.fetch(subscription.account, {shard: [lane.position for lane in lanes]})
        settled = [_settlement(lane, records[shard, lane.position], outcomes, now_ms) for lane in lanes]
        bridge.queues.settle(token, {(subscription.id, shard): settled})
        bridge.queues.release(token, [(subscription.id, shard)])


def _settlement(lane: Lane, record: bytes, outcomes: Mapping[str, tuple[Verdict, bool]], now_ms: int) -> Settlement:
    verdict, keeps = outcomes.get(unpack(record).phone, (None, True))
    if verdict is Verdict.RETRY:
        return Settlement(lane, verdict, 3, now_ms + 300_000)
    if verdict is Verdict.DEAD:
        return Settlement(lane, verdict, 12, 0, record if keeps else b"", "HTTP 500")
    return Settlement(lane, verdict, 0, now_ms)


def deliveries_in_every_state(bridge: Bridge) -> str:
    """A subscription with one phone in each state, and one dead letter whose event is lost."""
    subscription, _, _ = bridge.subscribe(URL)
    track(bridge, {"session_no": "nAQDODtO", "phone_count": 4})
    answer(bridge, "nAQDODtO", *(heard(phone, "状态未知") for phone in (ONE, TWO, THREE, FOUR)))
    settle(
        bridge,
        subscription,
        {TWO: (Verdict.RETRY, True), THREE: (Verdict.DEAD, True), FOUR: (Verdict.DEAD, False)},
    )
    answer(bridge, "nAQDODtO", heard(ONE, "发送成功"))
    return subscription.id


def cells(ran: Ran) -> list[list[str]]:
    """A plain table as its words; two columns have two spaces between them at least."""
    assert ran.code == 0, ran.err
    return [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in ran.out.splitlines()]


def use_environ(monkeypatch: pytest.MonkeyPatch, directory: Path, environ: dict[str, str]) -> None:
    monkeypatch.chdir(directory)  # no .env of ours is there
    environ = {**environ, "BRIDGE_DATA_DIR": str(directory / "data")} if "BRIDGE_DATA_DIR" not in environ else environ
    for name in os.environ.keys() - environ.keys():
        monkeypatch.delenv(name)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)

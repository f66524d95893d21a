"""The poller that the bridge is compared with does its job: a comparison with one that did less would be unfair."""

from __future__ import annotations

import hashlib
import hmac
import json
import random
from base64 import b64encode
from collections import Counter
from collections.abc import Mapping, Sequence

import pytest

from bridge.simulator.scenario import Cast
from tests.bench import minutely
from tests.bench.by_hand import Poller
from tests.bench.calls import FATES, final_age_ms
from tests.hostile import NO_CONTENT, answering, serving

PHONE = "(86)18500000001"


class Provider:
    """What the SDK would answer: ``status`` of each session's phone; no receipt without one."""

    def __init__(self) -> None:
        self.status: dict[str, str] = {}
        self.asked: list[list[str]] = []

    def get_usms_send_receipt(self, request: Mapping[str, Sequence[str]]) -> dict[str, object]:
        asked = list(request["SessionNoSet"])
        self.asked.append(asked)
        return {"Data": [{"SessionNo": no, "ReceiptSet": self._receipts(no)} for no in asked]}

    def _receipts(self, session_no: str) -> list[dict[str, str]]:
        status = self.status.get(session_no)
        return [{"Phone": PHONE, "ReceiptResult": status}] if status else []


def test_each_change_is_posted_once_signed_and_what_is_final_is_not_asked_for_again() -> None:
    provider = Provider()
    with serving(answering(NO_CONTENT)) as receiver:
        poller = Poller(provider, receiver.url)
        poller.follow(["one\n", "two\n"])
        for provider.status in (
            {},
            {"one": "状态未知"},
            {"one": "状态未知", "two": "发送成功"},
            {"one": "发送失败"},
            {},
        ):
            poller.look()
        posts = list(receiver.requests)
    assert provider.asked == [["one", "two"]] * 3 + [["one"]]
    assert poller.calls == 4
    told = [json.loads(body)["data"] for _, body in posts]
    assert [(one["session_no"], one["status"]) for one in told] == [
        ("one", "状态未知"),
        ("two", "发送成功"),
        ("one", "发送失败"),
    ]
    head, body = posts[0]
    lines = dict(line.split(": ", 1) for line in head.decode().split("\r\n")[1:])
    signed = f"{lines['webhook-id']}.{lines['webhook-timestamp']}.".encode() + body
    assert lines["webhook-signature"] == "v1," + b64encode(hmac.digest(b"k" * 32, signed, hashlib.sha256)).decode()


def test_it_asks_in_full_calls() -> None:
    provider = Provider()
    poller = Poller(provider, "http://127.0.0.1:9/")
    poller.follow(f"n{number}" for number in range(250))
    poller.look()
    assert [len(asked) for asked in provider.asked] == [100, 100, 50]


def test_phones_become_final_when_those_of_the_simulated_calls_do() -> None:
    scenario = minutely.scenario(compress=6)
    cast = Cast(scenario, 7)
    ages = [[step.delay for step in cast.timeline_of(f"(86)185{number:08d}")] for number in range(20_000)]
    rng = random.Random(1)
    simulated = [final_age_ms(rng) / 1000 for _ in range(20_000)]
    begin = 0.0
    for share, end_ms in FATES:
        end = end_ms / 1000
        for played in (
            Counter(begin < age[0] <= end for age in ages if age),
            Counter(begin < age <= end for age in simulated),
        ):
            assert played[True] / 20_000 == pytest.approx(share, abs=0.01)
        begin = end
    assert sum(not age for age in ages) / 20_000 == pytest.approx(0.01, abs=0.004)
    assert scenario.time_scale == 6

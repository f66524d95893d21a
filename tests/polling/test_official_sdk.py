"""The provider's official SDK, unchanged, against the simulator: what it accepts there, the provider accepts too."""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Iterator, Mapping
from typing import Protocol, cast

import pytest
from ucloud.core import exc  # type: ignore[import-untyped]  # the SDK carries no types
from ucloud.services.usms.client import USMSClient  # type: ignore[import-untyped]  # the SDK carries no types

from bridge.provider.client import UsmsClient
from tests.simulator import PRIVATE_KEY, PUBLIC_KEY, RunningSimulator, running_simulator

DOMESTIC, FOREIGN = "18500000001", "(60)123456789"


class Sdk(Protocol):
    """What of the SDK's untyped client is used here."""

    def send_usms_message(self, req: Mapping[str, object]) -> dict[str, object]: ...
    def send_batch_usms_message(self, req: Mapping[str, object]) -> dict[str, object]: ...
    def get_usms_send_receipt(self, req: Mapping[str, object]) -> dict[str, object]: ...


@pytest.fixture(name="simulator", scope="module")
def _simulator() -> Iterator[RunningSimulator]:
    with running_simulator() as simulator:
        yield simulator


def _sdk(simulator: RunningSimulator, *, public_key: str = PUBLIC_KEY, private_key: str = PRIVATE_KEY) -> Sdk:
    # Its own default logger prints every request and answer, phones included.
    quiet = logging.getLogger("tests.quiet-sdk")
    quiet.addHandler(logging.NullHandler())
    quiet.propagate = False
    config = {
        "base_url": simulator.url,
        "public_key": public_key,
        "private_key": private_key,
        "project_id": "org-x",
        "region": "cn-bj2",
        "timeout": 10,
    }
    return cast("Sdk", USMSClient(config, logger=quiet))


def _receipts(answer: Mapping[str, object]) -> dict[str, list[dict[str, object]]]:
    sessions = cast("list[dict[str, object]]", answer["Data"])
    return {
        cast("str", session["SessionNo"]): cast("list[dict[str, object]]", session["ReceiptSet"])
        for session in sessions
    }


def test_it_sends_and_asks(simulator: RunningSimulator) -> None:
    sdk = _sdk(simulator)
    sent = sdk.send_usms_message(
        {
            "PhoneNumbers": [DOMESTIC, FOREIGN],
            "TemplateId": "UTA20212831C85C",
            "SigContent": "UCloud",
            "TemplateParams": ["成功", "13455"],
            "UserId": "order-7",
        }
    )
    session_no = cast("str", sent["SessionNo"])
    assert sent["UserId"] == "order-7"
    receipts = _receipts(sdk.get_usms_send_receipt({"SessionNoSet": [session_no]}))
    assert [(r["Phone"], r["UserId"], r["ReceiptResult"], r["CostCount"]) for r in receipts[session_no]] == [
        (DOMESTIC, "order-7", "发送成功", 1),
        (FOREIGN, "order-7", "发送成功", 1),
    ]


def test_it_sends_a_batch_and_asks(simulator: RunningSimulator) -> None:
    sdk = _sdk(simulator)
    tasks = [
        {
            "TemplateId": "UTA20212831C85C",
            "SigContent": "UCloud",
            "Target": [
                {"TemplateParams": ["x" * 70], "Phone": DOMESTIC, "UserId": "long"},
                {"TemplateParams": ["x" * 10], "Phone": DOMESTIC, "UserId": "short", "ExtendCode": "123"},
            ],
        }
    ]
    content = base64.b64encode(json.dumps(tasks).encode()).decode()
    sent = sdk.send_batch_usms_message({"TaskContent": content})
    assert sent["SuccessCount"] == 2
    assert sent["FailContent"] == []
    session_no = cast("str", sent["SessionNo"])
    receipts = _receipts(sdk.get_usms_send_receipt({"SessionNoSet": [session_no]}))
    assert [(r["UserId"], r["CostCount"]) for r in receipts[session_no]] == [("long", 2), ("short", 1)]


def test_it_asks_for_a_hundred_sessions(simulator: RunningSimulator) -> None:
    session_nos = [simulator.send(f"(86)1850000{index:04d}") for index in range(100)]
    receipts = _receipts(_sdk(simulator).get_usms_send_receipt({"SessionNoSet": session_nos}))
    assert [len(found) for found in receipts.values()] == [1] * 100


def test_it_and_our_client_are_told_the_same(simulator: RunningSimulator) -> None:
    session_no = simulator.send(DOMESTIC, FOREIGN, user_id="u")
    client = UsmsClient(url=simulator.url, public_key=PUBLIC_KEY, private_key=PRIVATE_KEY, timeout_ms=10_000)
    ours = client.fetch_receipts([session_no]).by_session[session_no]
    client.close()
    theirs = _receipts(_sdk(simulator).get_usms_send_receipt({"SessionNoSet": [session_no]}))[session_no]
    assert [(r.phone, r.user_id, r.result, r.code, r.description, r.time, r.segments) for r in ours] == [
        (
            r["Phone"],
            r["UserId"],
            r["ReceiptResult"],
            r["ReceiptCode"],
            r["ReceiptDesc"],
            r["ReceiptTime"],
            r["CostCount"],
        )
        for r in theirs
    ]


@pytest.mark.parametrize(("keys", "ret_code"), [({"private_key": "wrong"}, 171), ({"public_key": "nobody's"}, 172)])
def test_a_wrong_key_is_refused(keys: dict[str, str], ret_code: int, simulator: RunningSimulator) -> None:
    with pytest.raises(exc.RetCodeException) as caught:
        _sdk(simulator, **keys).get_usms_send_receipt({"SessionNoSet": ["s1"]})
    assert caught.value.code == ret_code


def test_a_throttled_call_is_a_ret_code_to_it(simulator: RunningSimulator) -> None:
    simulator.steer("faults", {"script": [{"fault": "retcode", "ret_code": 153}]})
    with pytest.raises(exc.RetCodeException) as caught:
        _sdk(simulator).get_usms_send_receipt({"SessionNoSet": ["s1"]})
    assert caught.value.code == 153

"""The simulated provider: what it takes, what becomes of a phone, how it errs, and that its log tells the truth."""

from __future__ import annotations

import base64
import json
import math
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import cast

import msgspec
import pytest
import requests

from bridge.domain.receipts import Receipt
from bridge.errors import RequestError, TransientProviderError, Unreachable, UsageError
from bridge.provider.client import UsmsClient
from bridge.simulator.actions import segments
from bridge.simulator.app import create_app
from bridge.simulator.faults import FaultKind
from bridge.simulator.scenario import Scenario
from bridge.simulator.sender import BatchTarget, send_usms, send_usms_batch
from bridge.simulator.server import running, serve
from bridge.simulator.signature import signature_of
from tests.hostile import once, serving
from tests.ports import unused_port
from tests.simulator import PRIVATE_KEY, PUBLIC_KEY, RunningSimulator, running_simulator
from tests.waiting import wait_until

PHONE = "(86)18500000001"
OTHER = "(60)123456789"
START = 1_795_423_107.5

UNKNOWN = {"result": "状态未知", "delay": 10}
DELIVERED = {"result": "发送成功", "code": "DELIVRD", "description": "成功", "delay": 60}
AT_ONCE = [{**DELIVERED, "delay": 0}]


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> float:
        return self.now


@pytest.fixture(name="clock")
def _clock() -> Clock:
    return Clock()


@pytest.fixture(name="quick", scope="module")
def _quick() -> Iterator[RunningSimulator]:
    """One that delivers at once, for tests that change nothing of it."""
    with running_simulator() as simulator:
        yield simulator


def _client(simulator: RunningSimulator, *, keys: tuple[str, str] = (PUBLIC_KEY, PRIVATE_KEY)) -> UsmsClient:
    return UsmsClient(url=simulator.url, public_key=keys[0], private_key=keys[1], timeout_ms=5000)


def _ask(simulator: RunningSimulator, *session_nos: str) -> dict[str, list[Receipt]]:
    client = _client(simulator)
    try:
        return client.fetch_receipts(session_nos).by_session
    finally:
        client.close()


def _results(simulator: RunningSimulator, session_no: str) -> list[str]:
    return [receipt.result for receipt in _ask(simulator, session_no)[session_no]]


def _fails(simulator: RunningSimulator, *session_nos: str, timeout_ms: int = 5000) -> None:
    client = UsmsClient(url=simulator.url, public_key=PUBLIC_KEY, private_key=PRIVATE_KEY, timeout_ms=timeout_ms)
    with pytest.raises(TransientProviderError):
        client.fetch_receipts(session_nos)
    client.close()


def _signed(**parameters: str) -> dict[str, str]:
    signed = {"PublicKey": PUBLIC_KEY, **parameters}
    return signed | {"Signature": signature_of(signed.items(), PRIVATE_KEY)}


def _post(simulator: RunningSimulator, form: Mapping[str, str]) -> dict[str, object]:
    answer = requests.post(simulator.url, data=form, timeout=10)
    assert answer.status_code == 200
    return msgspec.json.decode(answer.content, type=dict[str, object])


def _post_for(simulator: RunningSimulator, session_no: str) -> dict[str, object]:
    """The answer for a session, as it came."""
    return _post(simulator, _signed(Action="GetUSMSSendReceipt", **{"SessionNoSet.0": session_no}))


# How it may be asked


def test_get_and_post_form_and_json_are_all_taken(quick: RunningSimulator) -> None:
    session_no = quick.send(PHONE)
    asked = {"Action": "GetUSMSSendReceipt", "SessionNoSet.0": session_no}
    form = _signed(**asked)
    listed: dict[str, object] = {
        "Action": "GetUSMSSendReceipt",
        "PublicKey": PUBLIC_KEY,
        "SessionNoSet": [session_no],
        "Signature": form["Signature"],
        "Region": None,
    }
    answers = [
        requests.post(quick.url, data=form, timeout=10),
        requests.get(quick.url, params=form, timeout=10),
        requests.post(quick.url, json=form, timeout=10),
        requests.post(quick.url, json=listed, timeout=10),
        requests.post(quick.url + "any/path", params={"Action": form.pop("Action")}, data=form, timeout=10),
    ]
    assert [answer.json()["RetCode"] for answer in answers] == [0] * 5
    assert {len(answer.json()["Data"][0]["ReceiptSet"]) for answer in answers} == {1}


def test_json_numbers_and_booleans_are_signed_as_the_document_says(quick: RunningSimulator) -> None:
    asked = _signed(**{"Action": "GetUSMSSendReceipt", "SessionNoSet.0": "s1", "A": "true", "B": "42", "C": "1.5"})
    answer = requests.post(quick.url, json={**asked, "A": True, "B": 42.0, "C": 1.5}, timeout=10)
    assert answer.json()["RetCode"] == 0


@pytest.mark.parametrize(
    ("form", "ret_code"),
    [
        ({}, 160),
        ({"Action": "DescribeUHostInstance"}, 161),
        ({"Action": "GetUSMSSendReceipt", "PublicKey": PUBLIC_KEY}, 170),
        ({"Action": "GetUSMSSendReceipt", "PublicKey": PUBLIC_KEY, "Signature": "é"}, 171),
        ({**_signed(Action="GetUSMSSendReceipt"), "More": "unsigned"}, 171),
        ({"Action": "GetUSMSSendReceipt", "Signature": "0"}, 172),
        ({"Action": "GetUSMSSendReceipt", "PublicKey": "nobody's", "Signature": "0"}, 172),
        (_signed(Action="GetUSMSSendReceipt"), 18001),
        (_signed(Action="GetUSMSSendReceipt", **{f"SessionNoSet.{n}": "s" for n in range(101)}), 18003),
        (_signed(Action="SendUSMSMessage", TemplateId="UTA"), 18001),
        (_signed(Action="SendUSMSMessage", **{"PhoneNumbers.0": PHONE}), 18001),
        (_signed(Action="SendUSMSMessage", TemplateId="UTA", **{"PhoneNumbers.0": ""}), 18014),
        (_signed(Action="SendUSMSMessage", TemplateId="U", **{f"PhoneNumbers.{n}": "1" for n in range(1001)}), 18019),
        (_signed(Action="SendBatchUSMSMessage"), 18001),
        (_signed(Action="SendBatchUSMSMessage", TaskContent="no base64!"), 18002),
        (_signed(Action="SendBatchUSMSMessage", TaskContent=base64.b64encode(b"[]").decode()), 18001),
    ],
    ids=lambda value: str(value) if isinstance(value, int) else "",
)
def test_a_bad_request_has_its_ret_code(form: Mapping[str, str], ret_code: int, quick: RunningSimulator) -> None:
    answer = _post(quick, form)
    assert answer["RetCode"] == ret_code
    assert answer["Message"]


@pytest.mark.parametrize(
    ("body", "content_type"),
    [(b"{", "application/json"), (b"[]", "application/json"), (b"\xff\xfe", "application/x-www-form-urlencoded")],
)
def test_a_body_that_cannot_be_read_has_its_ret_code(body: bytes, content_type: str, quick: RunningSimulator) -> None:
    answer = requests.post(quick.url, data=body, headers={"Content-Type": content_type}, timeout=10)
    assert answer.json()["RetCode"] == 18002


def test_a_project_that_does_not_exist_is_refused() -> None:
    with running_simulator({"projects": ["org-x"]}) as simulator:
        keys = (simulator.url, PUBLIC_KEY, PRIVATE_KEY, [PHONE])
        assert send_usms(*keys)
        assert send_usms(*keys, project_id="org-x")
        with pytest.raises(RequestError) as caught:
            send_usms(*keys, project_id="org-y")
    assert caught.value.ret_code == 299


def test_an_account_does_not_see_anothers_sessions() -> None:
    with running_simulator(other_accounts={"other": "key"}) as simulator:
        session_no = simulator.send(PHONE)
        client = _client(simulator, keys=("other", "key"))
        assert client.fetch_receipts([session_no]).by_session == {session_no: []}
        client.close()
        assert len(_ask(simulator, session_no)[session_no]) == 1


@pytest.mark.parametrize(("unknown_sessions", "answered"), [("empty", 2), ("missing", 1)])
def test_an_unknown_session_is_empty_or_missing(unknown_sessions: str, answered: int) -> None:
    with running_simulator({"unknown_sessions": unknown_sessions, "default": AT_ONCE}) as simulator:
        asked = {"SessionNoSet.0": "never-sent", "SessionNoSet.1": simulator.send(PHONE)}
        data = _post(simulator, _signed(Action="GetUSMSSendReceipt", **asked))["Data"]
    assert isinstance(data, list)
    assert len(data) == answered


# What becomes of a phone


def test_a_phone_appears_when_its_first_receipt_exists_and_then_follows_its_timeline(clock: Clock) -> None:
    with running_simulator({"default": [UNKNOWN, DELIVERED]}, clock=clock) as simulator:
        session_no = simulator.send(PHONE)
        clock.now = START + 9.9
        assert _results(simulator, session_no) == []
        clock.now = START + 10
        assert _results(simulator, session_no) == ["状态未知"]
        clock.now = START + 59.9
        assert _results(simulator, session_no) == ["状态未知"]
        clock.now = START + 1000
        (receipt,) = _ask(simulator, session_no)[session_no]
    assert receipt == Receipt(
        phone=PHONE,
        user_id="",
        result="发送成功",
        code="DELIVRD",
        description="成功",
        time=int(START + 60),
        segments=1,
    )


def test_time_can_be_compressed(clock: Clock) -> None:
    with running_simulator({"default": [UNKNOWN, DELIVERED], "time_scale": 60}, clock=clock) as simulator:
        session_no = simulator.send(PHONE)
        clock.now = START + 0.9
        assert _results(simulator, session_no) == ["状态未知"]
        clock.now = START + 1
        (receipt,) = _ask(simulator, session_no)[session_no]
    assert (receipt.result, receipt.time) == ("发送成功", int(START + 1))


def test_phones_are_chosen_by_number_then_prefix_then_share(clock: Clock) -> None:
    def only(result: str) -> list[dict[str, str]]:
        return [{"result": result}]

    scenario = {
        "timelines": {"named": only("number")},
        "default": only("default"),
        "phones": [
            {"share": 1.0, "timeline": only("share")},
            {"prefix": "(60)", "timeline": only("prefix")},
            {"prefix": "(60)1", "timeline": only("later prefix")},
            {"number": "(0086)18500000001", "timeline": "named"},
        ],
    }
    with running_simulator(scenario, clock=clock) as simulator:
        session_no = simulator.send("18500000001", OTHER, "(86)18500000002")
        assert _results(simulator, session_no) == ["number", "prefix", "share"]


def test_a_share_is_about_that_share_and_a_seed_repeats_it() -> None:
    shares = [{"share": 0.6, "timeline": [{"result": "Fail"}]}, {"share": 0.1, "timeline": []}]
    phones = [f"(86)1850000{index:04d}" for index in range(1000)]

    def run(seed: int) -> tuple[str, list[tuple[str, str]]]:
        with running_simulator({"seed": seed, "default": AT_ONCE, "phones": shares}) as simulator:
            session_no = simulator.send(*phones)
            return session_no, [(r.phone, r.result) for r in _ask(simulator, session_no)[session_no]]

    first, again, other = run(7), run(7), run(8)
    assert first == again
    assert first != other
    results = [result for _, result in first[1]]
    # Four standard deviations of 1,000 draws.
    assert results.count("Fail") == pytest.approx(600, abs=62)
    assert results.count("发送成功") == pytest.approx(300, abs=58)


def test_phones_come_back_as_sent_or_bare() -> None:
    sent = ["18500000001", "(86)18500000002", "(0086)18500000003", OTHER]
    with running_simulator({"default": AT_ONCE}) as simulator:
        session_no = simulator.send(*sent)
        assert [r.phone for r in _ask(simulator, session_no)[session_no]] == sent
        simulator.steer("scenario", {"echo": "bare"})
        assert [r.phone for r in _ask(simulator, session_no)[session_no]] == [
            "18500000001",
            "18500000002",
            "18500000003",
            OTHER,
        ]


def test_one_phone_twice_in_a_session_has_a_receipt_for_each_user_id(quick: RunningSimulator) -> None:
    targets = [BatchTarget(phone=PHONE, user_id="a"), BatchTarget(phone=PHONE, user_id="b", params=("x" * 200,))]
    session_no = send_usms_batch(quick.url, PUBLIC_KEY, PRIVATE_KEY, targets)
    receipts = _ask(quick, session_no)[session_no]
    assert [(r.phone, r.user_id, r.segments) for r in receipts] == [(PHONE, "a", 1), (PHONE, "b", 3)]


@pytest.mark.parametrize(
    ("signature", "length", "billed"),
    [("", 0, 1), ("", 70, 1), ("", 71, 2), ("", 134, 2), ("", 135, 3), ("UCloud", 62, 1), ("UCloud", 63, 2)],
)
def test_a_long_sms_is_billed_in_parts_of_67(signature: str, length: int, billed: int) -> None:
    assert segments(signature, ["x" * length]) == billed


# Steering


def test_a_phone_can_be_given_a_status_now(clock: Clock) -> None:
    with running_simulator({"default": [UNKNOWN]}, clock=clock) as simulator:
        first, second = simulator.send(PHONE, OTHER), simulator.send(PHONE)
        clock.now = START + 20
        changed = simulator.steer("phones", {"phones": ["18500000001"], "result": "Fail", "code": "UNDELIV"})
        assert changed == {"changed": 2}
        receipts = _ask(simulator, first, second)
        assert [(r.result, r.code, r.time) for r in receipts[first]] == [
            ("Fail", "UNDELIV", int(START + 20)),
            ("状态未知", "", int(START + 10)),
        ]
        assert [r.result for r in receipts[second]] == ["Fail"]


def test_a_phone_can_be_given_another_timeline_in_one_session(clock: Clock) -> None:
    with running_simulator({"default": [UNKNOWN, DELIVERED]}, clock=clock) as simulator:
        first, second = simulator.send(PHONE), simulator.send(PHONE)
        clock.now = START + 20
        timeline = [{"result": "Fail", "delay": 5}]
        simulator.steer("phones", {"phones": [PHONE], "session_no": first, "timeline": timeline})
        clock.now = START + 24
        assert _results(simulator, first) == ["状态未知"]
        clock.now = START + 100
        assert (_results(simulator, first), _results(simulator, second)) == (["Fail"], ["发送成功"])


def test_another_scenario_counts_for_later_sends_only(clock: Clock) -> None:
    with running_simulator({"default": AT_ONCE}, clock=clock) as simulator:
        before = simulator.send(PHONE)
        simulator.steer("scenario", {"default": [{"result": "Fail"}]})
        after = simulator.send(PHONE)
        assert (_results(simulator, before), _results(simulator, after)) == (["发送成功"], ["Fail"])


@pytest.mark.parametrize(
    ("path", "given", "status", "named"),
    [
        ("scenario", {"time_scale": 0}, 400, "scenario.time_scale"),
        ("faults", {"rates": [{"fault": "hang", "rate": 2}]}, 400, "faults.rates[0].rate"),
        ("faults", {"rates": [{"fault": "hang", "rate": 0.6}, {"fault": "late", "rate": 0.6}]}, 400, "faults.rates"),
        ("faults", {"script": [{"fault": "explode"}]}, 400, "explode"),
        ("phones", {"phones": [PHONE]}, 400, "timeline and result"),
        ("phones", {"phones": [], "result": "x"}, 400, "phones.phones"),
        ("phones", {"phones": ["(99)1"], "result": "x"}, 404, "phones[0]"),
        ("phones", {"phones": [PHONE], "timeline": [{"result": "a", "delay": 2}, {"result": "b"}]}, 400, "order"),
        ("nowhere", {}, 404, "/_sim/health"),
    ],
)
def test_a_mistake_in_steering_is_named(
    path: str, given: object, status: int, named: str, quick: RunningSimulator
) -> None:
    answer = requests.post(f"{quick.url}_sim/{path}", json=given, timeout=10)
    assert answer.status_code == status
    assert named in answer.json()["error"]


@pytest.mark.parametrize("query", ["after=x", "after=-1", "limit=1e3", "summry=1"])
def test_a_mistake_in_asking_for_the_log_is_named(query: str, quick: RunningSimulator) -> None:
    answer = requests.get(f"{quick.url}_sim/log?{query}", timeout=10)
    assert answer.status_code == 400
    assert query.split("=", maxsplit=1)[0] in answer.json()["error"]


def test_other_methods_and_huge_requests_are_refused(quick: RunningSimulator, monkeypatch: pytest.MonkeyPatch) -> None:
    assert requests.put(quick.url, timeout=10).status_code == 405
    monkeypatch.setattr("bridge.simulator.http.MAX_BODY_BYTES", 1000)
    assert requests.post(quick.url, data=b"x" * 1001, timeout=10).status_code == 413
    assert requests.post(quick.url, data=b"x" * 1000, timeout=10).status_code == 200


def test_health_says_that_it_serves(quick: RunningSimulator) -> None:
    assert json.loads(quick.get("health"))["status"] == "ok"


# Faults


def test_a_script_is_played_once_in_its_order() -> None:
    script = [
        {"fault": "retcode", "ret_code": 130, "times": 2},
        {"fault": "none"},
        {"fault": "http_status", "status": 500},
    ]
    with running_simulator({"default": AT_ONCE, "faults": {"script": script}}) as simulator:
        session_no = simulator.send(PHONE)
        _fails(simulator, session_no)
        _fails(simulator, session_no)
        assert _results(simulator, session_no) == ["发送成功"]
        _fails(simulator, session_no)
        assert _results(simulator, session_no) == ["发送成功"]
        noted = [(entry.n, entry.fault, entry.ret_code, len(entry.sessions)) for entry in simulator.log().entries]
    assert noted == [
        (1, FaultKind.RETCODE, 130, 0),
        (2, FaultKind.RETCODE, 130, 0),
        (3, FaultKind.NONE, 0, 1),
        (4, FaultKind.HTTP_STATUS, None, 0),
        (5, FaultKind.NONE, 0, 1),
    ]


def test_rates_are_rates_and_a_seed_repeats_them() -> None:
    rates = [{"fault": "retcode", "rate": 0.2}, {"fault": "http_status", "rate": 0.1}]

    def run() -> list[FaultKind]:
        with running_simulator({"seed": 5, "faults": {"rates": rates}}) as simulator:
            with requests.Session() as session:
                form = _signed(Action="GetUSMSSendReceipt", **{"SessionNoSet.0": "s"})
                for _ in range(400):
                    session.post(simulator.url, data=form, timeout=10)
            return [entry.fault for entry in simulator.log().entries]

    faults = run()
    assert faults.count(FaultKind.RETCODE) == pytest.approx(80, abs=32)
    assert faults.count(FaultKind.HTTP_STATUS) == pytest.approx(40, abs=24)
    assert run() == faults


def test_no_faults_befall_sends_and_refusals() -> None:
    with running_simulator({"faults": {"script": [{"fault": "http_status"}]}}) as simulator:
        assert simulator.send(PHONE)
        assert _post(simulator, {"Action": "GetUSMSSendReceipt"})["RetCode"] == 170
        _fails(simulator, "s1")
        assert [entry.ret_code for entry in simulator.log().entries] == [170, None]


def test_an_omitting_answer_leaves_out_at_least_one_session() -> None:
    with running_simulator({"default": AT_ONCE}) as simulator:
        session_nos = [simulator.send(PHONE) for _ in range(10)]
        simulator.steer("faults", {"script": [{"fault": "omitted", "times": 2}]})
        assert _ask(simulator, session_nos[0]) == {session_nos[0]: []}
        present = [no for no, receipts in _ask(simulator, *session_nos).items() if receipts]
        assert 0 <= len(present) < 10
        entry = simulator.log().entries[-1]
        assert [session.session_no for session in entry.sessions] == present


def test_a_regressing_answer_takes_final_statuses_back() -> None:
    with running_simulator({"default": AT_ONCE, "faults": {"script": [{"fault": "regressed"}]}}) as simulator:
        session_no = simulator.send(PHONE)
        assert _results(simulator, session_no) == ["状态未知"]
        assert _results(simulator, session_no) == ["发送成功"]
        (told,) = simulator.told()
    assert [word.result for word in told.told] == ["状态未知", "发送成功"]


def test_a_duplicating_answer_repeats_sessions_and_receipts() -> None:
    with running_simulator({"default": AT_ONCE, "faults": {"script": [{"fault": "duplicated"}]}}) as simulator:
        session_no = simulator.send(PHONE)
        assert _results(simulator, session_no) == ["发送成功"] * 3
        (told,) = simulator.told()
    assert [word.result for word in told.told] == ["发送成功"]


def test_an_emptying_answer_has_each_session_without_receipts() -> None:
    with running_simulator({"default": AT_ONCE, "faults": {"script": [{"fault": "emptied"}]}}) as simulator:
        session_no = simulator.send(PHONE)
        assert _post_for(simulator, session_no)["Data"] == [{"ReceiptSet": [], "SessionNo": session_no}]
        assert _results(simulator, session_no) == ["发送成功"]


def test_an_answer_with_a_stranger_has_a_session_that_nobody_asked_for() -> None:
    with running_simulator({"default": AT_ONCE, "faults": {"script": [{"fault": "stranger"}]}}) as simulator:
        session_no = simulator.send(PHONE)
        asked, stranger = cast("list[dict[str, object]]", _post_for(simulator, session_no)["Data"])
        assert asked["SessionNo"] == session_no != stranger["SessionNo"]
        assert asked["ReceiptSet"] == stranger["ReceiptSet"] != []


def test_a_mistyped_answer_told_the_receipts_that_can_be_read() -> None:
    faults = {"script": [{"fault": "mistyped"}]}
    with running_simulator({"default": AT_ONCE, "faults": faults}) as simulator:
        session_no = simulator.send(PHONE, PHONE[:-1] + "7")
        answer = _ask(simulator, session_no)
        assert [receipt.phone for receipt in answer[session_no]] == [PHONE[:-1] + "7"]
        (told,) = simulator.told()
        assert told.phone == PHONE[:-1] + "7"


def test_a_huge_answer_holds_the_receipts_too() -> None:
    with running_simulator({"default": AT_ONCE, "faults": {"script": [{"fault": "huge"}]}}) as simulator:
        session_no = simulator.send(PHONE)
        answer = _post_for(simulator, session_no)
        asked, huge = [one["ReceiptSet"] for one in cast("list[dict[str, list[object]]]", answer["Data"])]
        assert len(asked) == 1
        assert len(huge) > 90_000


@pytest.mark.parametrize("fault", ["hang", "drip", "late"])
def test_a_fault_that_takes_time_ends_when_the_asker_leaves_and_told_nothing(fault: str) -> None:
    with running_simulator({"default": AT_ONCE, "faults": {"script": [{"fault": fault, "seconds": 60}]}}) as simulator:
        session_no = simulator.send(PHONE)
        _fails(simulator, session_no, timeout_ms=200)
        wait_until("the answer is noted", lambda: simulator.log().last == 1, 20)
        (entry,) = simulator.log().entries
        assert (entry.fault, entry.complete, entry.sessions) == (FaultKind(fault), False, [])
        assert simulator.told() == []
        assert _results(simulator, session_no) == ["发送成功"]


def test_a_truncated_answer_told_nothing() -> None:
    with running_simulator({"default": AT_ONCE, "faults": {"script": [{"fault": "truncated"}]}}) as simulator:
        _fails(simulator, simulator.send(PHONE))
        (entry,) = simulator.log().entries
        assert (entry.fault, entry.complete, entry.sessions) == (FaultKind.TRUNCATED, False, [])
        assert simulator.told() == []


def test_a_late_answer_and_a_drip_to_its_end_told_all() -> None:
    script = [{"fault": "late", "seconds": 0.05}, {"fault": "drip", "seconds": 0}]
    with running_simulator({"default": AT_ONCE, "faults": {"script": script}}) as simulator:
        session_no = simulator.send(PHONE)
        for _ in script:
            assert _results(simulator, session_no) == ["发送成功"]
        wait_until("both answers are noted", lambda: simulator.log().last == 2, 20)
        assert [(e.complete, len(e.sessions)) for e in simulator.log().entries] == [(True, 1)] * 2


def test_a_hang_that_ends_is_a_gateway_time_out() -> None:
    with running_simulator({"faults": {"script": [{"fault": "hang", "seconds": 0.05}]}}) as simulator:
        _fails(simulator, "s1")


def test_a_hanging_answer_does_not_keep_the_simulator_from_stopping() -> None:
    with running_simulator({"faults": {"script": [{"fault": "hang"}]}}) as simulator:
        asker = threading.Thread(target=_fails, args=(simulator, "s1"), kwargs={"timeout_ms": 60_000})
        asker.start()
        wait_until("the answer hangs", lambda: simulator.log().last == 1, 20)
        stopping = time.monotonic()
    assert time.monotonic() - stopping < 30
    asker.join(10)
    assert not asker.is_alive()


# Its log


def test_the_log_tells_what_was_told_page_by_page(clock: Clock) -> None:
    with running_simulator({"default": [UNKNOWN, DELIVERED]}, clock=clock) as simulator:
        session_no = simulator.send(PHONE, user_id="u")
        for seconds in (0, 10, 20, 60, 70):
            clock.now = START + seconds
            _ask(simulator, session_no)
        pages = [simulator.log(after=after) for after in (0, 3, 5, 9)]
        (told,) = simulator.told()
    assert [[entry.n for entry in page.entries] for page in pages] == [[1, 2, 3, 4, 5], [4, 5], [], []]
    assert {(page.last, page.forgotten) for page in pages} == {(5, 0)}
    first, second = pages[0].entries[:2]
    assert (first.at_ms, first.sessions[0].receipts) == (int(START * 1000), [])
    (receipt,) = second.sessions[0].receipts
    assert (receipt.phone, receipt.user_id, receipt.result) == (PHONE, "u", "状态未知")
    assert (told.session_no, told.phone, told.user_id) == (session_no, PHONE, "u")
    assert [(word.result, word.code, word.time) for word in told.told] == [
        ("状态未知", "", int(START + 10)),
        ("发送成功", "DELIVRD", int(START + 60)),
    ]


def test_the_log_is_bounded_and_says_how_much_it_forgot() -> None:
    # An answer of one session and one receipt weighs three.
    with running_simulator({"default": AT_ONCE, "log_limit": 9}) as simulator:
        session_no = simulator.send(PHONE)
        for _ in range(5):
            _ask(simulator, session_no)
        page = simulator.log()
        assert ([entry.n for entry in page.entries], page.last, page.forgotten) == ([3, 4, 5], 5, 2)
        simulator.steer("scenario", {"log_limit": 1})
        assert [entry.n for entry in simulator.log().entries] == [5]
        assert len(simulator.told()) == 1


def test_the_oldest_sessions_are_forgotten() -> None:
    with running_simulator({"default": AT_ONCE, "session_limit": 2}) as simulator:
        session_nos = [simulator.send(PHONE) for _ in range(3)]
        assert [len(found) for found in _ask(simulator, *session_nos).values()] == [0, 1, 1]
        assert simulator.steer("phones", {"phones": [PHONE], "result": "Fail"}) == {"changed": 2}


# Scenarios


def test_a_scenario_is_read_from_yaml_and_from_json(tmp_path: Path) -> None:
    expected = Scenario.from_dict({"seed": 7, "default": [{"result": "发送成功", "delay": 8}]})
    for name, text in {
        "a.yaml": "seed: 7\ndefault:\n  - {result: 发送成功, delay: 8}\n",
        "a.json": json.dumps({"seed": 7, "default": [{"result": "发送成功", "delay": 8}]}),
    }.items():
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        assert Scenario.from_file(path) == expected
    (tmp_path / "empty.yaml").touch()
    assert Scenario.from_file(tmp_path / "empty.yaml") == Scenario()


def test_the_example_in_the_documentation_is_a_scenario(tmp_path: Path) -> None:
    import bridge.simulator.scenario as module

    example = (module.__doc__ or "").partition("::\n")[2]
    path = tmp_path / "example.yaml"
    path.write_text(example, encoding="utf-8")
    assert len(Scenario.from_file(path).phones) == 3


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ([], "scenario: Expected object"),
        ({"sede": 1}, "sede"),
        ({"time_scale": "fast"}, "scenario.time_scale"),
        ({"default": [{"result": ""}]}, "scenario.default[0].result"),
        ({"default": [{"result": "x", "delay": -1}]}, "scenario.default[0].delay"),
        ({"default": [{"result": "x", "code": 0}]}, "scenario.default[0].code"),
        ({"default": "slow"}, "scenario.default: no timeline is named 'slow'"),
        ({"timelines": {"a": [{"result": "x", "delay": 2}, {"result": "y"}]}}, "scenario.timelines.a"),
        ({"phones": [{"timeline": []}]}, "scenario.phones[0]: give one of"),
        ({"phones": [{"timeline": [], "number": "1", "share": 0.5}]}, "scenario.phones[0]: give one of"),
        ({"phones": [{"timeline": [], "number": 18500000001}]}, "scenario.phones[0].number"),
        ({"phones": [{"timeline": [], "share": 0.6}] * 2}, "shares add up"),
        ({"faults": {"rates": [{"fault": "hang", "rate": 0.6}] * 2}}, "scenario.faults.rates"),
        ({"echo": "loud"}, "scenario.echo"),
    ],
    ids=str,
)
def test_a_mistake_in_a_scenario_is_named(given: object, named: str) -> None:
    with pytest.raises(UsageError) as caught:
        Scenario.from_dict(given)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


def test_shares_and_rates_that_add_up_to_all_are_no_mistake() -> None:
    tenths = [{"timeline": [], "share": 0.1}] * 10
    assert math.fsum([0.1] * 10) == 1.0 != sum([0.1] * 10)
    Scenario.from_dict({"phones": tenths, "faults": {"rates": [{"fault": "late", "rate": 0.1}] * 10}})


def test_a_scenario_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    broken = tmp_path / "broken.yaml"
    broken.write_text("a: [")
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("seed: x")
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\xff")
    for path in (broken, wrong, binary, tmp_path / "missing.yaml", tmp_path):
        with pytest.raises(UsageError) as caught:
            Scenario.from_file(path)
        assert str(path) in str(caught.value)


# Running it


def test_a_port_in_use_is_a_mistake_that_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=f"127.0.0.1:{port}"), running(create_app(Scenario(), "p", "k"), port=port):
            pass  # not reached: nothing can listen there


def test_serve_says_its_port_and_ends_on_sigterm() -> None:
    program = (
        "from bridge.simulator.app import create_app\n"
        "from bridge.simulator.scenario import Scenario\n"
        "from bridge.simulator.server import serve\n"
        "serve('127.0.0.1', 0, create_app(Scenario(), 'p', 'k'), lambda port: print(port, flush=True))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        assert requests.get(f"http://127.0.0.1:{port}/_sim/health", timeout=10).json()["sessions"] == 0
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=10)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode in {0, -signal.SIGTERM}
    assert (out, err) == (b"", b"")


def test_serve_is_what_running_runs() -> None:
    with pytest.raises(UsageError, match="cannot listen"):
        serve("192.0.2.1", 0, create_app(Scenario(), "p", "k"), lambda _: None)


def test_a_sender_that_is_refused_or_not_answered_says_so(quick: RunningSimulator) -> None:
    with pytest.raises(RequestError, match="RetCode 171"):
        send_usms(quick.url, PUBLIC_KEY, "wrong", [PHONE])
    with pytest.raises(RequestError, match="RetCode 18001"):
        send_usms(quick.url, PUBLIC_KEY, PRIVATE_KEY, [])
    for url in (f"http://127.0.0.1:{unused_port()}/", f"{quick.url}_sim/nowhere"):
        with pytest.raises(Unreachable) as caught:
            send_usms(url, PUBLIC_KEY, PRIVATE_KEY, [PHONE])
        assert PHONE not in str(caught.value)


def test_what_is_no_answer_of_a_provider_is_unreachable_to_a_sender() -> None:
    with serving(once(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno")) as server, pytest.raises(Unreachable):
        send_usms(server.url, PUBLIC_KEY, PRIVATE_KEY, [PHONE])

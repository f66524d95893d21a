from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.domain.receipts import Status, classify, is_known_result, normalise_phone

DOCUMENTED = [
    ("发送成功", Status.DELIVERED),
    ("Success", Status.DELIVERED),
    ("Send successful", Status.DELIVERED),
    ("发送失败", Status.UNDELIVERED),
    ("Fail", Status.UNDELIVERED),
    ("Send failed", Status.UNDELIVERED),
    ("SubmitFail", Status.FAILED),
    ("状态未知", Status.UNKNOWN),
    ("Unknow", Status.UNKNOWN),
    ("Unknown", Status.UNKNOWN),
    ("Status unknown", Status.UNKNOWN),
]


@pytest.mark.parametrize(("result", "status"), DOCUMENTED)
@pytest.mark.parametrize("spell", [str, str.upper, str.lower, lambda text: f" {text}\t", lambda text: f"　{text}\n"])
def test_each_documented_result_is_known_however_it_is_spelled(result: str, status: Status, spell: type[str]) -> None:
    assert classify(spell(result), "") is status
    assert is_known_result(spell(result))


@pytest.mark.parametrize("result", ["", "发送中", "Rejected", "Successful", "delivered", "success!", "\0", "0"])
def test_a_new_result_is_unknown_and_said_to_be_new(result: str) -> None:
    assert classify(result, "DELIVRD") is Status.UNKNOWN
    assert not is_known_result(result)


@pytest.mark.parametrize("code", ["EXPIRED", "EXPIRED:001", "EXPIRED_001", "EXPIRED：001", "expired", " Expired:1"])
def test_a_failure_whose_code_starts_with_expired_is_expired(code: str) -> None:
    assert classify("Fail", code) is Status.EXPIRED
    assert classify("发送失败", code) is Status.EXPIRED


@pytest.mark.parametrize("code", ["", "UNDELIV", "REJECTD", "MSBLACK", "UNEXPIRED", "E:EXPIRED", "EXPIRE", "DELIVRD"])
def test_any_other_failure_code_is_undelivered(code: str) -> None:
    assert classify("Fail", code) is Status.UNDELIVERED


@pytest.mark.parametrize("result", ["Success", "SubmitFail", "Unknow", "something new"])
def test_an_expired_code_changes_only_a_failure(result: str) -> None:
    assert classify(result, "EXPIRED") is classify(result, "")
    assert classify(result, "EXPIRED") is not Status.EXPIRED


@given(st.text(), st.text())
def test_no_result_or_code_raises_or_invents_a_status_of_ours(result: str, code: str) -> None:
    assert classify(result, code) not in {Status.TRACKED, Status.NO_RECEIPT}


def test_finals_are_what_the_contract_says() -> None:
    provider_final = {Status.DELIVERED, Status.UNDELIVERED, Status.EXPIRED, Status.FAILED}
    assert {status for status in Status if status.is_provider_final} == provider_final
    assert {status for status in Status if status.is_final} == provider_final | {Status.NO_RECEIPT}


def test_the_stored_numbers_and_names_never_change() -> None:
    assert {status.text: int(status) for status in Status} == {
        "tracked": 0,
        "unknown": 1,
        "delivered": 2,
        "undelivered": 3,
        "expired": 4,
        "failed": 5,
        "no_receipt": 6,
    }


@pytest.mark.parametrize(
    "phone",
    [
        "18500000000",
        "(86)18500000000",
        "(0086)18500000000",
        "+8618500000000",
        "008618500000000",
        "8618500000000",
        "+86 185-0000-0000",
        " 18500000000 ",
        "0018500000000",
    ],
)
def test_every_spelling_of_a_chinese_mobile_is_one_phone(phone: str) -> None:
    assert normalise_phone(phone) == "8618500000000"


@pytest.mark.parametrize(
    ("phone", "digits"),
    [
        ("(60)123456789", "60123456789"),
        ("(0060)123456789", "60123456789"),
        ("28500000000", "28500000000"),
        ("1850000000", "1850000000"),
        ("185000000000", "185000000000"),
        ("0001850", "01850"),
        ("1850000٣", "1850000"),
        ("1850000\udcff", "1850000"),
        ("(1)4155550100", "8614155550100"),
        ("14155550100", "8614155550100"),
    ],
)
def test_other_phones_are_their_digits(phone: str, digits: str) -> None:
    assert normalise_phone(phone) == digits


@pytest.mark.parametrize("phone", ["QbPtKJPa", "", "00", "(00)", "１８５００００００００", "٣", "²"])
def test_a_phone_without_digits_is_compared_as_it_stands(phone: str) -> None:
    assert normalise_phone(phone) == phone


@given(st.text(), st.sampled_from(["(", ")", " ", "-", "+", "x", "٣"]), st.data())
def test_what_is_no_digit_never_tells_two_phones_apart(phone: str, noise: str, data: st.DataObject) -> None:
    if not any(char in "123456789" for char in phone):
        return
    place = data.draw(st.integers(0, len(phone)))
    assert normalise_phone(phone[:place] + noise + phone[place:]) == normalise_phone(phone)

"""The request signature, against the provider's published vectors and against a second implementation."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.provider.signature import Parameter, as_text, sign
from bridge.simulator.signature import signature_of

PUBLIC_KEY = "ucloudsomeone@example.com1296235120854146120"
PRIVATE_KEY = "46f09bb9fab4f12dfc160dae12273d5332b5debe"

_RECEIPTS: dict[str, Parameter] = {
    "Action": "GetUSMSSendReceipt",
    "ProjectId": "org-x",
    "Region": "cn-bj2",
    "PublicKey": PUBLIC_KEY,
}


def _sessions(*session_nos: str) -> dict[str, Parameter]:
    return _RECEIPTS | {f"SessionNoSet.{index}": session_no for index, session_no in enumerate(session_nos)}


@pytest.mark.parametrize(
    ("parameters", "signature"),
    [
        (
            {"Action": "DescribeUHostInstance", "Limit": 10, "Region": "cn-bj2", "PublicKey": PUBLIC_KEY},
            "cba5cf5ec4d4233d206b1b54951e3787350a642f",
        ),
        (_sessions("s1", "s2"), "4c636d9e641541b98c0dff741df93958d7bad864"),
        # Twelve: SessionNoSet.10 is signed before SessionNoSet.2.
        (_sessions(*(f"s{index}" for index in range(12))), "eb87f10e6e8e9bcd57da0da9f0f0ecdfba301df9"),
    ],
    ids=["published", "two sessions", "twelve sessions"],
)
def test_the_published_vectors(parameters: dict[str, Parameter], signature: str) -> None:
    assert sign(parameters, PRIVATE_KEY) == signature


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("as it is", "as it is"),
        (True, "true"),
        (False, "false"),
        (10, "10"),
        (42.0, "42"),
        (-0.0, "0"),
        (0.5, "0.5"),
        (1e-7, "0.0000001"),
        (1e22, "10000000000000000000000"),
    ],
)
def test_numbers_are_signed_without_exponents_or_empty_fractions(value: Parameter, text: str) -> None:
    assert as_text(value) == text


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_a_number_without_decimal_notation_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="no decimal notation"):
        as_text(value)


def test_nothing_is_escaped() -> None:
    expected = hashlib.sha1("Na me&é=+/% 成功key".encode(), usedforsecurity=False).hexdigest()
    assert sign({"Na me": "&é=+/% 成功"}, "key") == expected


@given(
    st.dictionaries(
        st.text(max_size=20).filter(lambda name: name != "Signature"),
        st.text(st.characters(codec="utf-8"), max_size=20),
        max_size=12,
    ),
    st.text(st.characters(codec="utf-8"), max_size=40),
)
def test_two_implementations_agree(parameters: dict[str, str], private_key: str) -> None:
    names = {name.encode("utf-8", "ignore").decode(): value for name, value in parameters.items()}
    assert sign(names, private_key) == signature_of(names.items(), private_key)

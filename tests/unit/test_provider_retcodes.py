"""Every RetCode becomes the error that says what to do; what the provider says along with it gives nothing away."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.errors import AccountError, ProviderError, RequestError, TransientProviderError
from bridge.provider.retcodes import RET_CODES, refusal

TRANSIENT = (110, 130, 150, 151, 153, 200, 18004, 18007)
ACCOUNT = (160, 161, 170, 171, 172, 173, 174, 180, 290, 291, 292, 293, 294, 295, 299)
REQUEST = (18000, 18001, 18002, 18003)
UNKNOWN = (-1, 1, 1717, 8000, 18046, 10**12)


@pytest.mark.parametrize(
    ("ret_code", "kind"),
    [
        *((code, TransientProviderError) for code in TRANSIENT),
        *((code, AccountError) for code in ACCOUNT),
        *((code, RequestError) for code in (*REQUEST, *UNKNOWN)),
    ],
)
def test_each_code_has_its_class(ret_code: int, kind: type[ProviderError]) -> None:
    error = refusal(ret_code, "")
    assert type(error) is kind
    assert error.ret_code == ret_code
    assert f"RetCode {ret_code}" in str(error)


def test_the_table_holds_every_documented_code_and_no_other() -> None:
    assert sorted(RET_CODES) == sorted(TRANSIENT + ACCOUNT + REQUEST)


def test_only_throttling_slows_the_rate() -> None:
    errors = [refusal(code, "") for code in TRANSIENT]
    throttled = [e.ret_code for e in errors if isinstance(e, TransientProviderError) and e.throttled]
    assert throttled == [153]


@pytest.mark.parametrize(
    ("ret_code", "named"),
    [
        (171, ("BRIDGE_PUBLIC_KEY", "BRIDGE_PRIVATE_KEY")),
        (172, ("BRIDGE_PUBLIC_KEY",)),
        (292, ("BRIDGE_PROJECT_ID",)),
        (294, ("allow-list", "IP address")),
        (299, ("BRIDGE_PROJECT_ID", "administrator")),
    ],
)
def test_an_account_error_names_what_to_check(ret_code: int, named: tuple[str, ...]) -> None:
    assert all(name in str(refusal(ret_code, "")) for name in named)


@pytest.mark.parametrize("ret_code", ACCOUNT)
def test_every_account_error_says_what_to_check(ret_code: int) -> None:
    assert "; check " in str(refusal(ret_code, ""))


@pytest.mark.parametrize(
    "phone", ["18500000000", "(86)18500000000", "+86 185-0000-0000", "(60) 1 2345 6789", "１８５００００００００"]
)
def test_a_phone_in_the_providers_words_is_masked(phone: str) -> None:
    text = str(refusal(18003, f"invalid phone {phone}, bad luck"))
    assert "invalid phone" in text
    assert "bad luck" in text
    assert "500" not in text
    assert "５００" not in text
    assert "345" not in text


def test_the_providers_words_are_one_short_line() -> None:
    text = str(refusal(18003, "first\r\nsecond\x1b[31m\u202e" + "x" * 5000))
    assert "first second [31m" in text
    assert text.isprintable()
    assert len(text) < 400


@given(st.integers(), st.text())
def test_no_code_and_no_words_raise(ret_code: int, said: str) -> None:
    assert str(refusal(ret_code, said)).isprintable()

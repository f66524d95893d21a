"""What the provider's RetCodes mean, as data, and the error each becomes.

A RetCode that no document names is the request's fault until bisecting shows otherwise: taking it for a passing one
would repeat it for ever, taking it for the account's would stop every session for one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import Enum

import msgspec

from bridge.errors import AccountError, ProviderError, RequestError, TransientProviderError

_LONGEST_QUOTE = 200


class Kind(Enum):
    """What to do about a RetCode: wait, stop calling for the account, or look for the session that is to blame."""

    TRANSIENT = "transient"
    THROTTLED = "throttled"
    ACCOUNT = "account"
    REQUEST = "request"


class RetCode(msgspec.Struct, frozen=True):
    """A RetCode's kind, what the provider's documents say it means, and what a person should check."""

    kind: Kind
    meaning: str
    check: str = ""


_KEYS = "BRIDGE_PUBLIC_KEY and BRIDGE_PRIVATE_KEY (or the account's own keys)"
_PATH = "BRIDGE_PROVIDER_URL, and what between here and there may alter requests"
_PROJECT = "BRIDGE_PROJECT_ID (or the account's own), which sub-accounts must set"
_RIGHTS = "with the account's administrator that these keys may call GetUSMSSendReceipt in this project"

# UCloud's public API documents ("error codes") and its USMS documents ("API error codes").
RET_CODES: Mapping[int, RetCode] = {
    110: RetCode(Kind.TRANSIENT, "the provider's gateway timed out"),
    130: RetCode(Kind.TRANSIENT, "the provider's gateway or authentication is out of order"),
    150: RetCode(Kind.TRANSIENT, "the provider's service is unavailable"),
    151: RetCode(Kind.TRANSIENT, "the provider's gateway cache is out of order"),
    153: RetCode(Kind.THROTTLED, "the provider throttles this account", "BRIDGE_PROVIDER_RATE"),
    200: RetCode(Kind.TRANSIENT, "the provider's common services are unavailable"),
    18004: RetCode(Kind.TRANSIENT, "the provider's SMS service failed"),
    18007: RetCode(Kind.TRANSIENT, "the provider's SMS service failed"),
    160: RetCode(Kind.ACCOUNT, "the request arrived without its Action", _PATH),
    161: RetCode(Kind.ACCOUNT, "this endpoint has no GetUSMSSendReceipt", "BRIDGE_PROVIDER_URL"),
    170: RetCode(Kind.ACCOUNT, "the request arrived without its Signature", _PATH),
    171: RetCode(Kind.ACCOUNT, "the Signature is wrong", f"that the private key belongs to the public key: {_KEYS}"),
    172: RetCode(Kind.ACCOUNT, "no such user", f"the public key: {_KEYS}"),
    173: RetCode(Kind.ACCOUNT, "the account is restricted", "with the provider's support"),
    174: RetCode(Kind.ACCOUNT, "no such token", f"the public key: {_KEYS}"),
    180: RetCode(Kind.ACCOUNT, "the request arrived without an API version", _PATH),
    290: RetCode(Kind.ACCOUNT, "the project is not granted to these keys", _PROJECT),
    291: RetCode(Kind.ACCOUNT, "these keys may not do this", _RIGHTS),
    292: RetCode(Kind.ACCOUNT, "no such project", _PROJECT),
    293: RetCode(Kind.ACCOUNT, "no right to this zone", "BRIDGE_REGION (or the account's own)"),
    294: RetCode(
        Kind.ACCOUNT,
        "calls from this address are refused",
        "that this machine's public IP address is on the allow-list of the API keys in the provider's console",
    ),
    295: RetCode(Kind.ACCOUNT, "the account's security lock refused", "the API keys in the provider's console"),
    299: RetCode(Kind.ACCOUNT, "no permission", f"{_PROJECT}, and {_RIGHTS}"),
    18000: RetCode(Kind.REQUEST, "a parameter is malformed"),
    18001: RetCode(Kind.REQUEST, "a parameter is missing"),
    18002: RetCode(Kind.REQUEST, "a parameter is malformed"),
    18003: RetCode(Kind.REQUEST, "a parameter is invalid"),
}

# A number of five digits or more, however it is written: it may be a phone.
_MAYBE_PHONE = re.compile(r"\d(?:[\s().+-]*\d){4,}")


def refusal(ret_code: int, said: str) -> ProviderError:
    """The error for a RetCode other than 0. ``said`` is the provider's Message: quoted in part, numbers masked."""
    known = RET_CODES.get(ret_code, RetCode(Kind.REQUEST, "the provider refused the request"))
    text = f"RetCode {ret_code}: {known.meaning}"
    if quote := _quotable(said):
        text += f' ("{quote}")'
    if known.check:
        text += f"; check {known.check}"
    match known.kind:
        case Kind.TRANSIENT | Kind.THROTTLED:
            return TransientProviderError(text, ret_code, throttled=known.kind is Kind.THROTTLED)
        case Kind.ACCOUNT:
            return AccountError(text, ret_code)
        case Kind.REQUEST:
            return RequestError(text, ret_code)


def _quotable(said: str) -> str:
    text = " ".join("".join(c if c.isprintable() else " " for c in said).split())
    text = _MAYBE_PHONE.sub("…", text)
    return text if len(text) <= _LONGEST_QUOTE else text[:_LONGEST_QUOTE] + "…"

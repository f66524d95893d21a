"""What the provider says about one phone, and how its words map to ours (the provider's document, ReceiptResult)."""

from __future__ import annotations

from enum import IntEnum
from functools import lru_cache

import msgspec


class Status(IntEnum):
    """A phone's status. The numbers are stored; the names are what subscribers read.

    tracked → unknown → delivered | undelivered | expired | failed; no_receipt is our own deadline.
    """

    TRACKED = 0
    UNKNOWN = 1
    DELIVERED = 2
    UNDELIVERED = 3
    EXPIRED = 4
    FAILED = 5
    NO_RECEIPT = 6

    @property
    def text(self) -> str:
        return self.name.lower()

    @property
    def is_final(self) -> bool:
        return self >= Status.DELIVERED

    @property
    def is_provider_final(self) -> bool:
        return Status.DELIVERED <= self <= Status.FAILED


class Receipt(msgspec.Struct, frozen=True, gc=False):
    """One phone's receipt, as the provider gave it.

    ``time`` is Unix seconds (0 where it gave none); ``segments`` counts billed SMS (0 where unknown).
    """

    phone: str
    user_id: str
    result: str
    code: str
    description: str
    time: int
    segments: int


_RESULTS = {
    "发送成功": Status.DELIVERED,
    "success": Status.DELIVERED,
    "send successful": Status.DELIVERED,
    "发送失败": Status.UNDELIVERED,
    "fail": Status.UNDELIVERED,
    "send failed": Status.UNDELIVERED,
    "submitfail": Status.FAILED,
    "状态未知": Status.UNKNOWN,
    "unknow": Status.UNKNOWN,
    "unknown": Status.UNKNOWN,
    "status unknown": Status.UNKNOWN,
}


def is_known_result(result: str) -> bool:
    """Whether ``result`` is a documented ReceiptResult; another one is treated as ``unknown`` and logged once."""
    return result.strip().casefold() in _RESULTS


@lru_cache(maxsize=1024)  # asked for every receipt of every answer, of few different words
def classify(result: str, code: str) -> Status:
    """The status that a ReceiptResult and ReceiptCode stand for. A new result is ``unknown``, never an error."""
    status = _RESULTS.get(result) or _RESULTS.get(result.strip().casefold(), Status.UNKNOWN)
    if status is Status.UNDELIVERED and code.lstrip().upper().startswith("EXPIRED"):
        return Status.EXPIRED
    return status


_NOT_DIGITS = bytes(byte for byte in range(256) if not chr(byte).isdecimal())
_CHINESE_MOBILE_DIGITS = 11


def normalise_phone(phone: str) -> str:
    """The digits that phones are compared on: a leading 00 dropped, a bare 11-digit number starting with 1 gets 86.

    ``(0086)18500000000``, ``(86)18500000000`` and ``18500000000`` are one phone. A phone without a digit is
    compared as it stands: the provider's own example echoes ``QbPtKJPa``. This is a key, not a number to dial: an
    American ``(1)4155550100`` has 11 digits that start with 1 too, and gets 86 however it is written.
    """
    # Each event's id needs it: as bytes it takes a third of what a regular expression does.
    digits = phone.encode(errors="ignore").translate(None, _NOT_DIGITS).decode().removeprefix("00")
    if not digits:
        return phone
    if len(digits) == _CHINESE_MOBILE_DIGITS and digits[0] == "1":
        return "86" + digits
    return digits

"""The provider's answer to GetUSMSSendReceipt, as bytes, turned into receipts: the one place with its field names.

Two ways lead to the same values. A well-formed answer is decoded straight into typed structs (0.4 ms per 1,000
receipts). Only when that fails is the answer read a second time, receipt by receipt, so that one receipt the
provider garbled costs that receipt and no other. What is undocumented and read all the same: ``Data`` or a
``ReceiptSet`` that is null, empty or missing; a SessionNo that is missing, repeated, or was not asked for; numbers
as strings and strings as numbers; text cut in mid-character.

A receipt is skipped, and counted, when its Phone or ReceiptResult is missing, or when a field that decides a status
is ill-typed. What merely adorns it is not worth losing a status for: a missing UserId, ReceiptCode or ReceiptDesc is
empty, a missing ReceiptTime 0, a CostCount that is no number 0, a description that is too long is cut.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterable, Sequence
from typing import Annotated, cast

import msgspec
from msgspec import Meta

from bridge.domain.receipts import Receipt, is_known_result
from bridge.errors import TransientProviderError

# Far above what the provider documents (UserId: 32 characters), low enough that no answer can fill the store.
_MAX_PHONE = 64
_MAX_USER_ID = 256
_MAX_RESULT = 64
_MAX_CODE = 128
_MAX_DESCRIPTION = 1000
_MAX_SEGMENTS = 1_000_000
_MOST_DIGITS = 400
_MAX_TIME = 253_402_300_799
"""The last second of the year 9999: later ones cannot be written as a date. Milliseconds fall beyond it too."""


class Receipts(msgspec.Struct, frozen=True, kw_only=True):
    """What a successful answer holds.

    ``by_session`` has every SessionNo that was asked for, in that order, with its receipts as they came (none, if
    the provider has none or left the session out). ``skipped`` counts malformed receipts, ``strangers`` the sessions
    in the answer that were not asked for, ``unseen_results`` holds each ReceiptResult that no document names.
    """

    by_session: dict[str, list[Receipt]]
    skipped: int = 0
    strangers: int = 0
    unseen_results: frozenset[str] = frozenset()


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """A whole answer. ``message`` is the provider's own, unbounded and untrusted; ``receipts`` is empty on errors."""

    ret_code: int
    message: str
    receipts: Receipts


class _Phone(msgspec.Struct, frozen=True, gc=False):
    Phone: Annotated[str, Meta(min_length=1, max_length=_MAX_PHONE)]
    ReceiptResult: Annotated[str, Meta(max_length=_MAX_RESULT)]
    ReceiptCode: Annotated[str, Meta(max_length=_MAX_CODE)] = ""
    ReceiptDesc: Annotated[str, Meta(max_length=_MAX_DESCRIPTION)] = ""
    ReceiptTime: Annotated[int, Meta(ge=0, le=_MAX_TIME)] = 0
    CostCount: Annotated[int, Meta(ge=0, le=_MAX_SEGMENTS)] = 0
    UserId: Annotated[str, Meta(max_length=_MAX_USER_ID)] = ""


class _Session(msgspec.Struct, frozen=True, gc=False):
    SessionNo: str
    ReceiptSet: list[_Phone] | None = None


class _Body(msgspec.Struct, frozen=True, gc=False):
    RetCode: int
    Message: str | None = None
    Data: list[_Session] | None = None


_decoder = msgspec.json.Decoder(_Body)


def parse_answer(body: bytes, asked: Sequence[str]) -> Answer:
    """Read an answer's body; ``asked`` are the SessionNos of the request.

    Raises TransientProviderError if the body is no JSON object with a RetCode: such an answer is not the provider's
    but some gateway's, or it was cut short. Nothing else that a body may hold raises.
    """
    well_formed = _well_formed(body)
    if well_formed is None:
        return _parse_tolerantly(body, asked)
    collected = _Collected(asked)
    for session in well_formed.Data or ():
        phones = session.ReceiptSet or ()
        # Spelled out: 1,000 receipts convert in 0.1 ms this way, twice that by attrgetter, thrice by msgspec.convert.
        # A Receipt subclass with the provider's names would need no conversion, but would not equal a Receipt.
        collected.add(
            session.SessionNo,
            [
                Receipt(p.Phone, p.UserId, p.ReceiptResult, p.ReceiptCode, p.ReceiptDesc, p.ReceiptTime, p.CostCount)
                for p in phones
            ],
        )
    return Answer(
        ret_code=well_formed.RetCode, message=well_formed.Message or "", receipts=collected.receipts(skipped=0)
    )


def _well_formed(body: bytes) -> _Body | None:
    try:
        return _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


class _Collected:
    """The receipts of an answer while it is read."""

    def __init__(self, asked: Iterable[str]) -> None:
        self._by_session: dict[str, list[Receipt]] = {session_no: [] for session_no in asked}
        self._strangers = 0
        self._results: set[str] = set()

    def add(self, session_no: str, receipts: list[Receipt]) -> None:
        known = self._by_session.get(session_no)
        if known is None:
            self._strangers += 1
            return
        known.extend(receipts)
        self._results.update([receipt.result for receipt in receipts])

    def receipts(self, *, skipped: int) -> Receipts:
        return Receipts(
            by_session=self._by_session,
            skipped=skipped,
            strangers=self._strangers,
            unseen_results=frozenset(result for result in self._results if not is_known_result(result)),
        )


class _Malformed(Exception):
    """A receipt, or a field of it, that cannot be read."""


def _parse_tolerantly(body: bytes, asked: Sequence[str]) -> Answer:
    top = _load(body)
    ret_code = _ret_code(top)
    message = top.get("Message")
    collected = _Collected(asked)
    sessions, skipped = _objects(top.get("Data"))
    for session in sessions:
        try:
            session_no = _text(session.get("SessionNo"), longest=len(body))
        except _Malformed:
            skipped += 1
            continue
        phones, unreadable = _objects(session.get("ReceiptSet"))
        skipped += unreadable
        receipts = []
        for phone in phones:
            try:
                receipts.append(_receipt(phone))
            except _Malformed:
                skipped += 1
        collected.add(session_no, receipts)
    return Answer(
        ret_code=ret_code,
        message=message if isinstance(message, str) else "",
        receipts=collected.receipts(skipped=skipped),
    )


def _load(body: bytes) -> dict[str, object]:
    value: object = None
    # The standard library's parser, because msgspec refuses a whole document for one broken character: carriers cut
    # descriptions at a byte, not at a character.
    with contextlib.suppress(ValueError, RecursionError):
        value = json.loads(body.decode("utf-8-sig", errors="replace"), parse_int=_whole)
    if not isinstance(value, dict):
        # Not raised while the parser's own error is handled: that holds the whole answer, phones and all.
        raise TransientProviderError("the answer is no JSON object, or was cut short")
    return cast("dict[str, object]", value)


def _whole(digits: str) -> int | float:
    """A number of JSON's. One of thousands of digits is none that can be used, and costs its receipt: ``int`` would
    raise, and cost the whole answer."""
    return int(digits) if len(digits) <= _MOST_DIGITS else math.inf


def _ret_code(top: dict[str, object]) -> int:
    with contextlib.suppress(_Malformed):
        return _number(top.get("RetCode"))
    raise TransientProviderError("the answer has no RetCode: is BRIDGE_PROVIDER_URL the provider's?")


def _objects(value: object) -> tuple[list[dict[str, object]], int]:
    """The objects of a list, and how many of its members are none. Null and ``{}`` are empty lists."""
    if value is None or value == {}:
        return [], 0
    if not isinstance(value, list):
        return [], 1
    members = [cast("dict[str, object]", member) for member in value if isinstance(member, dict)]
    return members, len(value) - len(members)


def _receipt(phone: dict[str, object]) -> Receipt:
    result = phone.get("ReceiptResult")
    if not isinstance(result, str) or len(result) > _MAX_RESULT:
        raise _Malformed
    number = _text(phone.get("Phone"), longest=_MAX_PHONE)
    if not number:
        raise _Malformed
    return Receipt(
        phone=number,
        user_id=_text(phone.get("UserId", ""), longest=_MAX_USER_ID),
        result=_clean(result),
        code=_text(phone.get("ReceiptCode", ""), longest=_MAX_CODE),
        description=_description(phone.get("ReceiptDesc")),
        time=_time(phone.get("ReceiptTime")),
        segments=_segments(phone.get("CostCount")),
    )


def _text(value: object, *, longest: int) -> str:
    """A string; also a whole number, which has but one reading as one. Null is empty."""
    if value is None:
        return ""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or len(value) > longest:
        raise _Malformed
    return _clean(value)


def _number(value: object) -> int:
    """A whole number, or a string or float that says one. JSON's NaN and Infinity, which some write, do not."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise _Malformed
    try:
        number = int(value)
    except (ValueError, OverflowError):
        raise _Malformed from None
    if isinstance(value, float) and number != value:
        raise _Malformed
    return number


def _time(value: object) -> int:
    if value is None or value == "":
        return 0
    seconds = _number(value)
    return seconds if 0 <= seconds <= _MAX_TIME else 0


def _segments(value: object) -> int:
    try:
        count = _number(value)
    except _Malformed:
        return 0
    return count if 0 <= count <= _MAX_SEGMENTS else 0


def _description(value: object) -> str:
    if isinstance(value, str):
        return _clean(value[:_MAX_DESCRIPTION])
    return _text(value, longest=_MAX_DESCRIPTION)


def _clean(text: str) -> str:
    # A lone surrogate (half an emoji, escaped) is a str that no encoder accepts later on.
    return text.encode("utf-8", errors="replace").decode()

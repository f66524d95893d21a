"""How a subscription's callbacks are written, and what acknowledges them.

Rendering is a function of the record and of what the subscription was added with: every attempt sends the same bytes,
under the same id.
"""

from __future__ import annotations

import binascii
import hashlib
import hmac
import json
import re
from collections.abc import Callable
from functools import partial

import msgspec

from bridge.domain import events
from bridge.domain.events import Record
from bridge.domain.outcome import READ_BODY, Answer, Failure
from bridge.domain.receipts import normalise_phone
from bridge.domain.subscriptions import BodyFormat, PhoneFormat, Subscription

Render = Callable[[Record], tuple[str, bytes]]
"""An event's id and the body of its callback."""

_COUNTRY = re.compile(r"\(\+?[0-9]{1,4}\)")
_SHOWN = 4
_NO_WORD = "状态未知"
"""The provider's own word where it has none: what our own deadline is told as in its format."""


class _ReceiptOut(msgspec.Struct, frozen=True, gc=False, rename="pascal"):
    session_no: str
    phone: str
    cost_count: int
    receipt_time: int
    receipt_result: str
    receipt_code: str
    receipt_desc: str
    user_id: str


class _PushOut(msgspec.Struct, frozen=True, gc=False, rename="pascal"):
    msg_type: int
    data: list[_ReceiptOut]


_encoder = msgspec.json.Encoder()
_decoder = json.JSONDecoder()
_SPACES = {mark: re.compile(rf"[ \t\r\n]*{mark}[ \t\r\n]*") for mark in ("", ":", ",")}
_STATUS_REPORTS = 2
PUSH_START, PUSH_END = b'{"MsgType":2,"Data":[', b"]}"
"""What stands around the receipts in the provider's own format."""


def renderer(subscription: Subscription, phone_key: bytes) -> Render:
    """What writes the callbacks of a subscription; ``phone_key`` is what its phones are hashed with."""
    account = subscription.account
    if subscription.format is BodyFormat.STANDARD and subscription.phones is PhoneFormat.FULL:
        return partial(events.render, account)
    write = render_usms if subscription.format is BodyFormat.USMS else events.render
    if subscription.phones is PhoneFormat.FULL:
        return lambda event: write(account, event, event.phone)
    if subscription.phones is PhoneFormat.MASKED:
        return lambda event: write(account, event, masked(event.phone))
    return lambda event: write(account, event, hashed(event.phone, phone_key))


def render_usms(account: str, event: Record, phone: str) -> tuple[str, bytes]:
    """An event's id, and the body that the provider itself would push (its document "Status Report Push").

    Where only our own deadline spoke there is no receipt: it is written as one of an unknown status, at the time of
    that. A test is a push without receipts.
    """
    message_id = events.event_id(account, event)
    receipts: list[_ReceiptOut] = []
    if not event.type:
        heard = event.result is not None
        receipt = _ReceiptOut(
            event.session_no,
            phone,
            event.segments,
            event.receipt_time if heard else event.observed_ms // 1000,
            _NO_WORD if event.result is None else event.result,
            event.code if heard else "NO_RECEIPT",
            event.description if heard else "no receipt within the time that was waited for it",
            event.user_id,
        )
        receipts.append(receipt)
    return message_id, _encoder.encode(_PushOut(_STATUS_REPORTS, receipts))


def masked(phone: str) -> str:
    """``(86)*******0000``: a country code in parentheses and the last four characters stay.

    Of a short number less is shown: never more than is hidden.
    """
    country = _COUNTRY.match(phone)
    start = country.end() if country else 0
    number = phone[start:]
    shown = min(_SHOWN, len(number) // 2)
    return phone[:start] + "*" * (len(number) - shown) + number[len(number) - shown :]


def hashed(phone: str, key: bytes) -> str:
    """HMAC-SHA256 of the phone's digits as they are compared (``86`` before a Chinese number), in hexadecimal.

    One phone has one hash at a subscription, however the provider spells it.
    """
    return binascii.hexlify(hmac.digest(key, normalise_phone(phone).encode(), hashlib.sha256)).decode()


def understood(body_format: BodyFormat, answer: Answer) -> Answer:
    """The answer as the body's format means it.

    A receiver of the provider's pushes acknowledges with ``{"code":0}`` and says no with another code, under status
    200 all the same. So in that format a 2xx whose body is an object with another ``code`` is a failure; so is one that
    goes on where no more of it is read, and had no code until then. Any other 2xx accepts, as in the standard format:
    the provider itself documents no more than the code.
    """
    if body_format is not BodyFormat.USMS or answer.failure is not None or not answer.body:
        return answer
    text = answer.body.decode(errors="replace").strip()
    code = _code_in(text)
    if code is None and text.startswith("{") and len(answer.body) >= READ_BODY:
        error = f"answered with more than {READ_BODY} bytes, and no code in them"
    elif code is None or str(code[0]) == "0":
        return answer
    else:
        error = f"answered with code {code[0]!r:.40} instead of 0"
    return msgspec.structs.replace(answer, failure=Failure.REFUSED, error=error)


def _code_in(text: str) -> tuple[object] | None:
    """The ``code`` of a JSON object, of which the end may be missing; None where there is none so far."""
    if not text.startswith("{"):
        return None
    at = 1
    while True:
        try:
            name, at = _decoder.raw_decode(text, _after(text, at, ""))
            value, at = _decoder.raw_decode(text, _after(text, at, ":"))
            if name == "code":
                return (value,)
            at = _after(text, at, ",")
        except (ValueError, RecursionError):
            return None


def _after(text: str, at: int, mark: str) -> int:
    """The place behind white space, a mark and white space; raises ValueError where there is none."""
    found = _SPACES[mark].match(text, at)
    if found is None:
        raise ValueError(mark)
    return found.end()

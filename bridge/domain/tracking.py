"""What a sender may say of a session: the items of ``bridge.track``, checked once for every way in.

Standard library only: a sending service has nothing but ``celery[redis]``. Messages never show more than the last
four digits of anything, because whatever was given may be a phone.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from difflib import get_close_matches
from urllib.parse import urlsplit

from bridge.errors import InvalidSession

MAX_ITEMS = 10_000
MAX_SESSION_NO_CHARS = 64
MAX_PHONES = 1_000
"""Phones of one session: the most that one send call of the provider takes."""
MAX_PHONE_CHARS = 32
MAX_USER_ID_CHARS = 64
"""The provider's documents say 32, their own example has 38."""
MAX_METADATA_BYTES = 2_000
MAX_METADATA_DEPTH = 32
MAX_URL_CHARS = 2_048
MAX_MESSAGE_BYTES = 16 * 1024 * 1024
"""Of one message that carries items: more would hold a worker's memory for longer than its work."""

_FIELDS = ("session_no", "phones", "phone_count", "metadata", "callback_url", "sent_at")
_PHONE_FIELDS = ("phone", "user_id")
_EARLIEST_S = 946_684_800  # 2000-01-01: older than any session, so a mistake
_LATEST_S = 4_102_444_800  # 2100-01-01: a time in milliseconds lands far beyond it
_SESSION_NO_FORM = f"1 to {MAX_SESSION_NO_CHARS} printable ASCII characters without spaces"

is_account = re.compile(r"[a-z0-9_-]{1,32}").fullmatch
"""Whether a text may name an account: it becomes a part of keys, between colons."""

# Without spaces: no SessionNo of the provider has one, and one around a SessionNo is a copying mistake that would be
# polled for three days.
_is_session_no = re.compile(r"[!-~]{1,64}").fullmatch
_is_phone = re.compile(r"[ -~]{1,32}").fullmatch
_is_url = re.compile(r"https?://[!-~]+", re.IGNORECASE).fullmatch


@dataclass(frozen=True)
class SessionRequest:
    """One session to track.

    ``phones`` are (phone, user id or None) as given, a multiset; None where not told. ``phone_count`` is the length
    of ``phones`` where those are given. ``metadata_json`` is the sender's object as compact JSON with its keys in the
    order given, ``""`` where none was. ``sent_at_ms`` is Unix milliseconds.
    """

    session_no: str
    phones: tuple[tuple[str, str | None], ...] | None = None
    phone_count: int | None = None
    metadata_json: str = ""
    callback_url: str | None = None
    sent_at_ms: int | None = None


class _ItemError(ValueError):
    """What is wrong with an item; the caller adds its index."""


def parse_item(item: object, index: int, *, lenient: bool = False) -> SessionRequest:
    """A SessionNo, or a mapping with ``session_no`` and optional fields, as a request.

    A field that is None counts as absent. ``lenient`` leaves out fields that are unlike any that is known, as a newer
    release may send; one that is nearly right is a mistake all the same. Raises InvalidSession, whose message names the
    field, what is wrong and what is right.
    """
    if type(item) is str and _is_session_no(item):
        return _plain(item)
    try:
        return _parse(item, lenient=lenient)
    except _ItemError as wrong:
        raise InvalidSession(f"item {index}: {wrong}", index) from None


def parse_items(items: object) -> list[SessionRequest]:
    """Every item as a request, raising InvalidSession on the first wrong one, or on none or more than 10,000."""
    given = _listed(items)
    if not given:
        raise InvalidSession("the list of sessions is empty; give at least one SessionNo")
    return [parse_item(item, index) for index, item in enumerate(given)]


def sort_items(items: object) -> tuple[list[SessionRequest], list[tuple[int, object, str]]]:
    """The good items as requests, and the bad ones as (index, item, reason): what a worker does with a message.

    Raises InvalidSession only where ``items`` is no list or longer than 10,000: then nothing of it can be told apart.
    """
    good: list[SessionRequest] = []
    bad: list[tuple[int, object, str]] = []
    for index, item in enumerate(_listed(items)):
        try:
            good.append(parse_item(item, index, lenient=True))
        except InvalidSession as invalid:
            bad.append((index, item, str(invalid)))
    return good, bad


def to_wire(request: SessionRequest) -> str | dict[str, object]:
    """The item that ``parse_item`` reads back as ``request``, of JSON types only."""
    item: dict[str, object] = {}
    if request.phones is not None:
        item["phones"] = [
            phone if user_id is None else {"phone": phone, "user_id": user_id} for phone, user_id in request.phones
        ]
    elif request.phone_count is not None:
        item["phone_count"] = request.phone_count
    if request.metadata_json:
        item["metadata"] = json.loads(request.metadata_json)
    if request.callback_url is not None:
        item["callback_url"] = request.callback_url
    if request.sent_at_ms is not None:
        seconds, rest_ms = divmod(request.sent_at_ms, 1_000)
        item["sent_at"] = request.sent_at_ms / 1_000 if rest_ms else seconds
    return {"session_no": request.session_no, **item} if item else request.session_no


def machine_of(origin: object) -> str:
    """The machine in the ``origin`` header of a Celery message (``gen4711@host``), "" where there is none.

    The header is the sender's own: printable, and of 64 characters at most, or nothing.
    """
    name = origin.rpartition("@")[2] if isinstance(origin, str) else ""
    return name if name.isascii() and name.isprintable() and len(name) <= 64 else ""


def mask(text: str) -> str:
    """``text`` with all digits but the last four starred, and cut to 64 characters: fit for a message."""
    masked = re.sub(r"\d(?=(?:\D*\d){4})", "*", text[:256])
    return masked if len(masked) <= 64 else masked[:63] + "…"


def _plain(session_no: str) -> SessionRequest:
    # The fields' defaults are class attributes, so a plain SessionNo needs only its own: a third of the time of the
    # generated __init__, which sets each field of a frozen instance through object.__setattr__.
    request = object.__new__(SessionRequest)
    request.__dict__["session_no"] = session_no
    return request


def _listed(items: object) -> list[object] | tuple[object, ...]:
    if not isinstance(items, list | tuple):
        raise InvalidSession(f"sessions must be a list, not {_kind(items)}; give a list such as ['nAQDODtO']")
    if len(items) > MAX_ITEMS:
        raise InvalidSession(
            f"{len(items):,} sessions in one call; give at most {MAX_ITEMS:,}, and call again for the rest", MAX_ITEMS
        )
    return items


def _parse(item: object, *, lenient: bool) -> SessionRequest:
    if isinstance(item, str):
        return SessionRequest(_session_no(item))
    if not isinstance(item, Mapping):
        raise _ItemError(f"a session must be a SessionNo or an object with session_no, not {_kind(item)}")
    _refuse_unknown(item, _FIELDS, "", lenient=lenient)
    phones = _phones(item.get("phones"), lenient=lenient)
    return SessionRequest(
        session_no=_session_no(item.get("session_no")),
        phones=phones,
        phone_count=_phone_count(item.get("phone_count"), phones),
        metadata_json=_metadata_json(item.get("metadata")),
        callback_url=_callback_url(item.get("callback_url")),
        sent_at_ms=_sent_at_ms(item.get("sent_at")),
    )


def _refuse_unknown(item: Mapping[object, object], known: tuple[str, ...], prefix: str, *, lenient: bool) -> None:
    for key in item:
        if key not in known:
            near = get_close_matches(key, known, n=1) if isinstance(key, str) else []
            if lenient and isinstance(key, str) and not near:
                continue
            hint = f"; did you mean {near[0]}?" if near else f"; the fields are {', '.join(known)}"
            raise _ItemError(f"{prefix}{_shown(key)} is no field{hint}")


def _session_no(value: object) -> str:
    if value is None:
        raise _ItemError("session_no is missing; give the SessionNo that the provider returned")
    if not isinstance(value, str):
        raise _ItemError(f"session_no: must be a string, not {_shown(value)}; give {_SESSION_NO_FORM}")
    if not _is_session_no(value):
        problem = f"{len(value)} characters" if len(value) > MAX_SESSION_NO_CHARS else _shown(value)
        raise _ItemError(f"session_no: {problem}; give {_SESSION_NO_FORM}")
    return str(value)


def _phones(value: object, *, lenient: bool) -> tuple[tuple[str, str | None], ...] | None:
    if value is None:
        return None
    if not isinstance(value, list | tuple):
        raise _ItemError(f"phones: must be a list, not {_kind(value)}")
    if not 1 <= len(value) <= MAX_PHONES:
        raise _ItemError(f"phones: {len(value):,} of them; give 1 to {MAX_PHONES:,}, or leave phones out")
    return tuple(_phone(phone, f"phones[{place}]", lenient=lenient) for place, phone in enumerate(value))


def _phone(value: object, where: str, *, lenient: bool) -> tuple[str, str | None]:
    if isinstance(value, Mapping):
        _refuse_unknown(value, _PHONE_FIELDS, f"{where}: ", lenient=lenient)
        return _number(value.get("phone"), f"{where}.phone"), _user_id(value.get("user_id"), f"{where}.user_id")
    return _number(value, where), None


def _number(value: object, where: str) -> str:
    if not isinstance(value, str) or not _is_phone(value):
        raise _ItemError(
            f"{where}: {_shown(value)}; give a string of 1 to {MAX_PHONE_CHARS} printable ASCII characters, "
            "a country code in brackets first"
        )
    return str(value)


def _user_id(value: object, where: str) -> str | None:
    if value is None or value == "":
        return None
    if not isinstance(value, str) or len(value) > MAX_USER_ID_CHARS or not value.isprintable():
        raise _ItemError(f"{where}: {_shown(value)}; give a string of 1 to {MAX_USER_ID_CHARS} printable characters")
    return str(value)


def _phone_count(value: object, phones: tuple[object, ...] | None) -> int | None:
    if value is None:
        return None if phones is None else len(phones)
    if type(value) is not int or not 1 <= value <= MAX_PHONES:
        raise _ItemError(f"phone_count: {_shown(value)}; give a whole number from 1 to {MAX_PHONES:,}")
    if phones is not None and value != len(phones):
        raise _ItemError(f"phone_count: {value}, but phones has {len(phones)}; make them agree, or give one of them")
    return value


def _metadata_json(value: object) -> str:
    if value is None:
        return ""
    if not isinstance(value, dict):
        raise _ItemError(f"metadata: must be a JSON object, not {_kind(value)}")
    _refuse_foreign(value, 1)
    try:
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        size = len(text.encode())
    except (TypeError, ValueError, RecursionError):
        # The encoder's own words may quote the value.
        raise _ItemError("metadata: not JSON; use strings, finite numbers, true, false, null, lists, objects") from None
    if size > MAX_METADATA_BYTES:
        raise _ItemError(
            f"metadata: {size:,} bytes of JSON; give at most {MAX_METADATA_BYTES:,}, such as an id of yours"
        )
    return text


def _refuse_foreign(value: object, depth: int) -> None:
    # Other keys than strings would be turned into strings, where two of them may fall together.
    if depth > MAX_METADATA_DEPTH:
        raise _ItemError(f"metadata: nested deeper than {MAX_METADATA_DEPTH} levels; make it flatter")
    if isinstance(value, dict):
        if any(not isinstance(key, str) for key in value):
            raise _ItemError("metadata: a key that is no string; JSON objects have only string keys")
        value = list(value.values())
    if isinstance(value, list | tuple):
        for member in value:
            _refuse_foreign(member, depth + 1)


def _callback_url(value: object) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise _ItemError(f"callback_url: must be a string, not {_kind(value)}")
    if len(value) > MAX_URL_CHARS:
        raise _ItemError(f"callback_url: {len(value):,} characters; give at most {MAX_URL_CHARS:,}")
    if not _is_url(value):
        raise _ItemError("callback_url: must be https:// (or http://) and printable ASCII without spaces")
    try:
        parts = urlsplit(value)
        sound = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        sound = False
    if not sound:
        raise _ItemError("callback_url: has no valid host and port; give one such as https://example.com/sms")
    if "@" in parts.netloc or "#" in value:
        raise _ItemError("callback_url: must have no user name, password or fragment; leave them out")
    return str(value)


def _sent_at_ms(value: object) -> int | None:
    if value is None:
        return None
    seconds = _unix_seconds(value)
    if not _EARLIEST_S <= seconds <= _LATEST_S:
        hint = ", not milliseconds" if _EARLIEST_S <= seconds / 1_000 <= _LATEST_S else ""
        raise _ItemError(
            f"sent_at: {_shown(value)} is outside the years 2000 to 2099; give Unix seconds{hint}, or ISO 8601"
        )
    return round(seconds * 1_000)


def _unix_seconds(value: object) -> float:
    form = "give Unix seconds, or ISO 8601 with an offset such as 2026-11-23T06:31:08Z"
    if isinstance(value, int | float) and not isinstance(value, bool):
        if isinstance(value, float) and not math.isfinite(value):
            raise _ItemError(f"sent_at: {value} is no time; {form}")
        return value
    try:
        # Celery's JSON turns a sender's datetime into one again.
        when = datetime.fromisoformat(value) if isinstance(value, str) else value
        if isinstance(when, datetime):
            if when.tzinfo is None or when.utcoffset() is None:
                raise _ItemError(f"sent_at: {_shown(value)} has no offset from UTC; {form}")
            return when.timestamp()
    except (ValueError, OverflowError) as error:
        if isinstance(error, _ItemError):
            raise
    raise _ItemError(f"sent_at: {_shown(value)} is no time; {form}")


def _kind(value: object) -> str:
    names: dict[type, str] = {str: "a string", dict: "an object", list: "a list", bool: "true or false"}
    return "null" if value is None else names.get(type(value), f"a value of type {type(value).__name__[:40]}")


def _shown(value: object) -> str:
    if isinstance(value, str):
        return repr(mask(value))
    if isinstance(value, int | float) and not isinstance(value, bool):
        # str() of a huge whole number raises ValueError.
        return "a huge number" if isinstance(value, int) and abs(value) >= 10**30 else mask(str(value))
    return _kind(value) if not isinstance(value, datetime) else "a time without an offset"

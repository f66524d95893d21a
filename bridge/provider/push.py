"""The provider's own push (its document "Status Report Push"): which sessions it says there is news of.

It is unsigned, so nothing else of it is believed: the sessions are asked for.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

ACKNOWLEDGED = {"code": 0}
"""The answer that the provider waits for; without it, it pushes again, three times a second apart."""

MAX_BODY_BYTES = 1_000_000

_STATUS_REPORTS = 2
_is_session_no = re.compile(r"[!-~]{1,64}").fullmatch


class Push(msgspec.Struct, frozen=True):
    """The SessionNos that a push names. ``wrong`` says what is not as documented, "" if all is; ``field`` where."""

    session_nos: tuple[str, ...] = ()
    field: str = ""
    wrong: str = ""


def parse_push(body: bytes) -> Push:
    """What a push says. An entry that is wrong takes no good one with it. Nothing of what was given is repeated.

    A push of another kind than status reports names nothing, and is as it should be.
    """
    try:
        found: object = msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return Push(field="body", wrong="is not JSON")
    if not isinstance(found, dict):
        return Push(field="body", wrong=f"must be an object, not {_kind(found)}")
    kind, data = found.get("MsgType"), found.get("Data", "")
    if type(kind) is not int:
        return Push(field="MsgType", wrong=f"must be a whole number, and is {_kind(kind)}")
    if kind == _STATUS_REPORTS and not (data is None or isinstance(data, list)):
        return Push(field="Data", wrong=f"must be a list, and is {_kind(found.get('Data'))}")
    return _named(data) if kind == _STATUS_REPORTS and data else Push()


def _named(data: Sequence[object]) -> Push:
    names: dict[str, None] = {}
    field = wrong = ""
    for place, entry in enumerate(data):
        name = entry.get("SessionNo") if isinstance(entry, dict) else None
        if isinstance(name, str) and _is_session_no(name):
            names[name] = None
        elif not wrong:
            is_object = isinstance(entry, dict)
            field = f"Data[{place}].SessionNo" if is_object else f"Data[{place}]"
            given = _kind(name) if is_object else _kind(entry)
            wrong = "must be 1 to 64 printable ASCII characters" if isinstance(name, str) else f"is {given}"
    return Push(tuple(names), field, wrong)


def _kind(value: object) -> str:
    names: dict[type, str] = {str: "a string", dict: "an object", list: "a list", bool: "true or false"}
    return "missing or null" if value is None else names.get(type(value), "a number")

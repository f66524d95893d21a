"""Masks phones and secrets in whatever is about to leave the process as a log line or a report.

A second line of defence: code does not log phones, but exceptions, libraries and malformed messages quote what they
were given. Where a number cannot be told from a phone it is masked: a lost figure costs less than a leaked phone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import date, time
from typing import Final

MASK: Final = "***"
_DEEPEST = 16

# In this order at each place: what is kept whole goes before what is masked.
_PATTERN = re.compile(
    r"""
    (?P<keep>
        (?<!\d)(?:19|20)\d\d-[01]\d-[0-3]\d                       # ISO 8601, with or without the time of day
            (?:[T ][0-2]\d:[0-5]\d(?::[0-6]\d(?:[.,]\d{1,9})?)?(?:Z|[+-][0-2]\d:?[0-5]\d)?)?(?!\d)
      | (?<![0-9A-Za-z])[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}(?![0-9A-Za-z])        # a UUID
      | (?<![0-9A-Za-z])(?:evt|sub)_[0-9A-Za-z_-]{10,64}          # ids of events and subscriptions
      | (?<![0-9A-Za-z])(?=(?:[0-9]*[a-f]){6})(?:[0-9a-f]{64}|[0-9a-f]{40}|[0-9a-f]{32})(?![0-9A-Za-z])   # a hash
      | (?<![\d(+])1[6-9]\d{11}(?!\d)      # Unix ms, 2020 to 2033: a number of country code 1 has 11 digits, never 13
      | (?<![\d.])0\.\d+                   # a fraction of a second
    )
  | (?P<whsec>whsec_[0-9A-Za-z+/=_-]+)
  | (?P<signature>\bv1,[0-9A-Za-z+/=_-]{16,})
  | (?P<scheme>[a-zA-Z][a-zA-Z0-9+.-]{1,20}://)(?P<userinfo>[^\s/?\#'"]+@|[^\s/'"@]*:[^\s'"@]{1,256}@)
  | (?P<auth>\b(?:bearer|basic)[ ]+)(?P<credential>[0-9A-Za-z._~+/=-]{6,})
  | (?P<name>[0-9A-Za-z_.-]{0,40}(?:private_?key|public_?key|secret_?keys?|api_?key|signature|secret|password|passwd
        |token|authorization|cookie)["']?\s*(?:=|:|%3D)\s*)(?P<quote>(?:b(?=["']))?["']?)
        (?P<value>(?<=["'])[^"'\n]+|(?:(?:bearer|basic)[ ]+)?[^\s"',;&)}\]]+)
  | (?P<phone>
        (?:\(\+?\d{1,5}\)|\+\d{1,3})[ -]?\d{7,}                   # with a country code, all else in one piece
      | \+\d{1,3}[ -]?\(\d{1,4}\)[ -]?\d(?:[ .-]?\d){4,12}        # +1 (415) 555-2671
      | (?:\(\+?\d{1,5}\)|\+)[ -]?\d(?:[ .-]?\d){4,14}            # +86 185-0000-1234
      | (?<!\d)1[3-9]\d[ -]\d{4}[ -]\d{4}(?!\d)                   # a Chinese mobile in its usual groups
      | (?<![\d-])\d{3,4}-\d{3,4}-\d{4}(?![\d-])                   # other numbers in groups
      | \d{7,}
    )
    """,
    re.VERBOSE | re.IGNORECASE,
)

_SECRET_NAMES = {"privatekey", "publickey", "secret", "secrets", "password", "passwd", "token", "authorization"}
_SECRET_NAMES |= {"cookie", "setcookie", "signature", "apikey", "secretkey", "secretkeys", "dsn", "sentrydsn"}
_SECRET_ENDINGS = ("secret", "password", "privatekey", "publickey", "signature", "token", "apikey", "secretkeys")
_PHONE_NAMES = {"phone", "phones", "phonenumber", "phonenumbers", "mobile", "msisdn"}
# Random by construction, and what every line is looked up by: a SessionNo of digits only is one all the same.
_SESSION_NAMES = {"session", "sessions", "sessionno", "sessionnos", "sessionnoset"}
_ID_NAMES = {"eventid", "traceid", "spanid", "parentspanid", "messageid", "taskid", "requestid", "celerytaskid", "id"}
_FIGURE_ENDINGS = ("_ms", "_us", "_ns", "_s", "_bytes", "_at", "count", "memory", "size")
_is_session_no = re.compile(r"[!-~]{1,64}").fullmatch
# Sixteen: a phone has at most 15 digits (E.164), and a span's id has 16.
_is_id = re.compile(r"(?:evt_|sub_)?[0-9A-Za-z_-]{16,64}").fullmatch
_is_mobile_number = re.compile(r"(?:86)?1[3-9]\d{9}").fullmatch


def scrub(value: object) -> object:
    """``value`` with phones and secrets masked, at any depth; mappings, lists and tuples become dicts and lists.

    Other objects than JSON's and times become their scrubbed ``repr``. Never raises for a broken ``repr``.
    """
    return _scrub(value, "", _DEEPEST)


def scrub_text(text: str) -> str:
    """``text`` with phones (7 digits and more, the last four kept), secrets, and passwords in URLs masked."""
    return _PATTERN.sub(_replacement, text)


def _replacement(match: re.Match[str]) -> str:
    kind = match.lastgroup
    if kind == "keep":
        return match[0]
    if kind == "phone":
        return _masked_phone(match[0])
    if kind == "userinfo":
        return f"{match['scheme']}{MASK}@"
    if kind == "credential":
        return f"{match['auth']}{MASK}"
    if kind == "value":
        return f"{match['name']}{match['quote']}{MASK}"
    return f"{match[0].partition('_')[0]}_{MASK}" if kind == "whsec" else f"v1,{MASK}"


def _masked_phone(text: str) -> str:
    digits = [character for character in text if character.isdigit()]
    return MASK + "".join(digits[-4:]) if len(digits) >= 7 else text


def _scrub(value: object, name: str, depth: int) -> object:
    if value is None or isinstance(value, bool | date | time):
        return value
    if _is_secret_name(name):
        return MASK
    if isinstance(value, Mapping | list | tuple | set | frozenset):
        return _members(value, name, depth - 1) if depth else "…"
    return _single(value, name)


def _members(value: Mapping[object, object] | Iterable[object], name: str, depth: int) -> object:
    if isinstance(value, Mapping):
        return {_key(key): _scrub(member, str(key), depth) for key, member in value.items()}
    # The members of a list are called what the list is called: "phones" holds phones.
    return [_scrub(member, name, depth) for member in value]


def _single(value: object, name: str) -> object:
    if isinstance(value, int | float):
        return _number(value, name)
    if isinstance(value, bytes | bytearray):
        return _text(value.decode("utf-8", "backslashreplace"), name)
    return _text(str(value), name) if isinstance(value, str) else scrub_text(_repr(value))


def _text(text: str, name: str) -> str:
    plain = _plain(name)
    if plain in _PHONE_NAMES:
        digits = [character for character in text if character.isdigit()]
        return MASK + ("".join(digits[-4:]) if len(digits) >= 7 else "")
    if plain in _SESSION_NAMES and _is_session_no(text) and not text.startswith("whsec_"):
        return text
    if plain in _ID_NAMES and _is_id(text):
        return text
    return scrub_text(text)


def _number(value: float, name: str) -> object:
    if _plain(name) in _PHONE_NAMES:
        return MASK
    # A sender may give a phone as a number. Figures with a unit in their name are none.
    if isinstance(value, int) and not name.lower().endswith(_FIGURE_ENDINGS) and _is_mobile_number(str(value)):
        return _masked_phone(str(value))
    return value


def _key(key: object) -> str:
    return scrub_text(key if isinstance(key, str) else _repr(key))


def _is_secret_name(name: str) -> bool:
    plain = _plain(name)
    return plain in _SECRET_NAMES or plain.endswith(_SECRET_ENDINGS)


def _plain(name: str) -> str:
    return name.replace("_", "").replace("-", "").lower()


def _repr(value: object) -> str:
    try:
        return repr(value)
    except Exception:  # noqa: BLE001 - a broken repr must not lose the line that tells of it
        return f"<{type(value).__name__}>"

"""Erasing a phone: what is left of a session without it, and how its return is known without keeping it."""

from __future__ import annotations

import hmac
import json
import re
from collections.abc import Collection
from functools import lru_cache

import msgspec

from bridge.domain.receipts import normalise_phone
from bridge.domain.status import Key, SessionState

KEY_BYTES = 32
REMOVED = "***"
_FEWEST_DIGITS = 7
"""Of a shorter number any figure of an order would be taken for the phone."""
_SEPARATORS = r"[ ().-]{0,2}"


def tombstone(key: bytes, phone: str) -> bytes:
    """What stands for an erased phone: 16 bytes of an HMAC-SHA256 of its digits.

    Keyed, for the plain hash of a phone is found by trying all phones.
    """
    return hmac.digest(key, normalise_phone(phone).encode(), "sha256")[:16]


class Cleaned(msgspec.Struct, frozen=True):
    """Metadata without a phone. ``doubtful``: its digits are still in it, within a longer number."""

    metadata: str
    doubtful: bool = False


def without_phone_in(metadata: str, digits: str) -> Cleaned:
    """A session's metadata (JSON) without a phone (its normalised digits), where a sender put it there.

    In a text the number is replaced, in any usual spelling, and what stands beside it stays; a number becomes null; a
    member of an object goes with its name. Within a longer number nobody can tell whether it is the phone.
    """
    if not is_in(metadata, digits):
        return Cleaned(metadata)
    spelled = _spelled(digits)
    try:
        # Not msgspec: a number that has more digits than a double is to stay what it is.
        cleaned = _cleaned(json.loads(metadata), digits, spelled)
    except (ValueError, RecursionError):
        return Cleaned(metadata, doubtful=True)
    text = json.dumps(cleaned, ensure_ascii=False, separators=(",", ":"))
    if text == json.dumps(json.loads(metadata), ensure_ascii=False, separators=(",", ":")):
        text = metadata
    return Cleaned(text, any(_national(digits) in run for run in re.findall("[0-9]+", text)))


def is_in(metadata: str, digits: str) -> bool:
    """Whether metadata has a phone's digits anywhere: in one piece, or as one may spell a number."""
    if len(digits) < _FEWEST_DIGITS or not digits.isdecimal() or not metadata:
        return False
    return _national(digits) in metadata or _spelled(digits).search(metadata) is not None


def _national(digits: str) -> str:
    return digits[2:] if len(digits) == 13 and digits.startswith("86") else digits


@lru_cache(maxsize=8)
def _spelled(digits: str) -> re.Pattern[str]:
    national = _national(digits)
    country = r"(?:\(?(?:\+|00)?86\)?[ .-]?)?" if national != digits else r"\(?(?:\+|00)?"
    return re.compile(rf"(?<![0-9]){country}{_SEPARATORS.join(national)}(?![0-9])")


def _cleaned(value: object, digits: str, spelled: re.Pattern[str]) -> object:
    if isinstance(value, str):
        return spelled.sub(REMOVED, value)
    if isinstance(value, dict):
        return {
            name: _cleaned(member, digits, spelled) for name, member in value.items() if not spelled.search(str(name))
        }
    if isinstance(value, list):
        return [_cleaned(member, digits, spelled) for member in value]
    if isinstance(value, float) and value.is_integer():
        value = int(value) if normalise_phone(str(int(value))) == digits else value
    if isinstance(value, int) and not isinstance(value, bool) and normalise_phone(str(value)) == digits:
        return None
    return value


def without_phone(state: SessionState, digits: str) -> SessionState | None:
    """A session without a phone (its normalised digits), None where it has none of it.

    What is expected goes down with it: a session must not wait for somebody whose receipts are no longer heard.
    Where its metadata names the phone, that goes too.
    """
    metadata = without_phone_in(state.metadata, digits).metadata
    phones = tuple(phone for phone in state.phones if normalise_phone(phone.phone) != digits)
    awaiting = tuple(one for one in state.awaiting if normalise_phone(one[0]) != digits)
    gone = [phone for phone in state.phones if normalise_phone(phone.phone) == digits]
    unmet = len(state.awaiting) - len(awaiting)
    if not gone and not unmet:
        return None if metadata == state.metadata else msgspec.structs.replace(state, metadata=metadata)
    if state.is_listed:
        met, counted = len([phone for phone in gone if phone.expected]) + unmet, 0
    else:
        met = counted = len(gone)
    return msgspec.structs.replace(
        _expecting_fewer(state, met),
        phones=phones,
        awaiting=awaiting,
        metadata=metadata,
        erased_count=state.erased_count + counted,
    )


def without_erased(state: SessionState, heard: Collection[Key]) -> SessionState:
    """A session of which an answer has phones that were erased: it waits for none of them.

    Whose phones they are is not known when they are erased, but where they were heard of or listed. ``heard`` are all
    of the answer's; it has most of them each time.
    """
    for digits in {digits for digits, _ in heard}:
        state = without_phone(state, digits) or state
    new = 0 if state.is_listed else max(0, len(heard) - state.erased_count)
    if not new:
        return state
    return msgspec.structs.replace(_expecting_fewer(state, new), erased_count=state.erased_count + new)


def _expecting_fewer(state: SessionState, by: int) -> SessionState:
    if state.expected_count is None:
        return state
    return msgspec.structs.replace(state, expected_count=max(0, state.expected_count - by))

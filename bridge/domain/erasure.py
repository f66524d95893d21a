"""Erasing a phone: what is left of a session without it, and how its return is known without keeping it."""

from __future__ import annotations

import hmac

import msgspec

from bridge.domain.receipts import normalise_phone
from bridge.domain.status import SessionState

KEY_BYTES = 32


def tombstone(key: bytes, phone: str) -> bytes:
    """What stands for an erased phone: 16 bytes of an HMAC-SHA256 of its digits.

    Keyed, for the plain hash of a phone is found by trying all phones.
    """
    return hmac.digest(key, normalise_phone(phone).encode(), "sha256")[:16]


def without_phone(state: SessionState, digits: str) -> SessionState | None:
    """A session without a phone (its normalised digits), None where it has none of it.

    What is expected goes down with it: a session must not wait for somebody whose receipts are no longer heard.
    """
    phones = tuple(phone for phone in state.phones if normalise_phone(phone.phone) != digits)
    awaiting = tuple(one for one in state.awaiting if normalise_phone(one[0]) != digits)
    gone = [phone for phone in state.phones if normalise_phone(phone.phone) == digits]
    unmet = len(state.awaiting) - len(awaiting)
    if not gone and not unmet:
        return None
    count = state.expected_count
    if count is not None:
        listed = bool(state.awaiting) or any(phone.expected for phone in state.phones)
        met = len([phone for phone in gone if phone.expected]) if listed else len(gone)
        count = max(0, count - met - unmet)
    return msgspec.structs.replace(state, phones=phones, awaiting=awaiting, expected_count=count)

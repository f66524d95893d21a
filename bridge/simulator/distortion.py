"""Faults of what an answer says: a session left out, emptied, taken back, repeated, made up, or told in wrong types.

What no reader can take for a receipt is no part of a distorted answer's receipts, and so of no record of what was told.
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable, Mapping
from functools import cache

import msgspec

from bridge.simulator.faults import FaultKind
from bridge.simulator.phonebook import Part, SimReceipt

_NOT_FINAL = frozenset(("状态未知", "unknow", "unknown", "status unknown"))
_TAKEN_BACK = "状态未知"
_HUGE_BYTES = 20_000_000
"""What 100 sessions of 1,000 phones come to."""


def distort(kind: FaultKind, parts: list[Part], rng: random.Random) -> list[Part]:
    """The parts of an answer with a fault of this kind; unchanged for kinds that do not touch the content."""
    return _DISTORTIONS[kind](parts, rng) if kind in _DISTORTIONS and parts else parts


def _omit(parts: list[Part], rng: random.Random) -> list[Part]:
    """About half of the sessions are missing, at least one."""
    missing = {rng.randrange(len(parts))}
    missing.update(index for index in range(len(parts)) if rng.random() < 0.5)
    return [part for index, part in enumerate(parts) if index not in missing]


def _regress(part: Part) -> Part:
    """Every final status is unknown again, at the same ReceiptTime."""
    receipts = tuple(
        msgspec.structs.replace(receipt, ReceiptResult=_TAKEN_BACK, ReceiptCode="", ReceiptDesc="")
        if _is_final(receipt)
        else receipt
        for receipt in part.receipts
    )
    return part if receipts == part.receipts else Part.of(part.session_no, receipts)


def _duplicate(parts: list[Part], rng: random.Random) -> list[Part]:
    """Every session has its receipts twice, and one session comes twice."""
    doubled = [Part.of(part.session_no, part.receipts * 2) if part.receipts else part for part in parts]
    return [*doubled, rng.choice(parts)]


def _is_final(receipt: SimReceipt) -> bool:
    return receipt.ReceiptResult.strip().casefold() not in _NOT_FINAL


def _stranger(rng: random.Random) -> str:
    """The SessionNo of a session that nobody asked for."""
    return str(uuid.UUID(int=rng.getrandbits(128), version=4))


def _mistype(part: Part) -> Part:
    """The first receipt of a session has fields of other types, and the session a member that is no receipt."""
    if not part.receipts:
        return part
    broken = {**msgspec.to_builtins(part.receipts[0]), "Phone": None, "ReceiptResult": 7, "ReceiptTime": "soon"}
    body = {"ReceiptSet": [broken, "?", *part.receipts[1:]], "SessionNo": part.session_no}
    return Part(part.session_no, part.receipts[1:], msgspec.json.encode(body))


def _add_a_stranger(parts: list[Part], rng: random.Random) -> list[Part]:
    """A session that nobody asked for comes along, with receipts of one that was."""
    return [*parts, Part.of(_stranger(rng), parts[0].receipts)]


def _swell(parts: list[Part], rng: random.Random) -> list[Part]:
    """One that nobody asked for has more receipts than any session has."""
    session_no = _stranger(rng)
    encoded = b'{"ReceiptSet":[' + _many_receipts() + b'],"SessionNo":' + msgspec.json.encode(session_no) + b"}"
    return [*parts, Part(session_no, (), encoded)]


@cache
def _many_receipts() -> bytes:
    one = msgspec.json.encode(SimReceipt(1, "(86)18500000000", "DELIVRD", "成功", "发送成功", 1_700_000_000, ""))
    return b",".join([one] * (_HUGE_BYTES // (len(one) + 1)))


_DISTORTIONS: Mapping[FaultKind, Callable[[list[Part], random.Random], list[Part]]] = {
    FaultKind.OMITTED: _omit,
    FaultKind.REGRESSED: lambda parts, _: [_regress(part) for part in parts],
    FaultKind.DUPLICATED: _duplicate,
    FaultKind.EMPTIED: lambda parts, _: [Part.of(part.session_no, ()) for part in parts],
    FaultKind.STRANGER: _add_a_stranger,
    FaultKind.MISTYPED: lambda parts, _: [_mistype(part) for part in parts],
    FaultKind.HUGE: _swell,
}

"""Faults that leave an answer well-formed and make it say something else: a session left out, taken back, repeated."""

from __future__ import annotations

import random

import msgspec

from bridge.simulator.faults import FaultKind
from bridge.simulator.phonebook import Part, SimReceipt

_NOT_FINAL = frozenset(("状态未知", "unknow", "unknown", "status unknown"))
_TAKEN_BACK = "状态未知"


def distort(kind: FaultKind, parts: list[Part], rng: random.Random) -> list[Part]:
    """The parts of an answer with a fault of this kind; unchanged for kinds that do not touch the content."""
    match kind:
        case FaultKind.OMITTED:
            return _omit(parts, rng)
        case FaultKind.REGRESSED:
            return [_regress(part) for part in parts]
        case FaultKind.DUPLICATED:
            return _duplicate(parts, rng)
        case _:
            return parts


def _omit(parts: list[Part], rng: random.Random) -> list[Part]:
    """About half of the sessions are missing, at least one."""
    missing = {rng.randrange(len(parts))} if parts else set[int]()
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
    if not parts:
        return parts
    doubled = [Part.of(part.session_no, part.receipts * 2) if part.receipts else part for part in parts]
    return [*doubled, rng.choice(parts)]


def _is_final(receipt: SimReceipt) -> bool:
    return receipt.ReceiptResult.strip().casefold() not in _NOT_FINAL

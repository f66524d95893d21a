"""What the simulator said, kept for whoever compares it with what came of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from itertools import islice

import msgspec

from bridge.simulator.faults import FaultKind
from bridge.simulator.phonebook import Part, SimReceipt


class LoggedReceipt(msgspec.Struct, frozen=True, gc=False):
    """One receipt as it was told. ``time`` is its ReceiptTime, Unix seconds."""

    phone: str
    user_id: str
    result: str
    code: str
    time: int


class LoggedSession(msgspec.Struct, frozen=True):
    session_no: str
    receipts: list[LoggedReceipt]


class Entry(msgspec.Struct, frozen=True):
    """One answer to GetUSMSSendReceipt.

    ``n`` counts answers from 1; ``at_ms`` is Unix milliseconds of its end; ``fault`` is none or what befell it;
    ``ret_code`` is the RetCode in it, None where it had none; ``complete`` says whether all of it was sent;
    ``sessions`` are what the asker could read: nothing of a refused, cut or dripped answer.
    """

    n: int
    at_ms: int
    fault: FaultKind
    ret_code: int | None
    complete: bool
    sessions: list[LoggedSession]


class LogPage(msgspec.Struct, frozen=True):
    """``entries`` after the ``n`` asked for; ``last`` is the newest ``n``; ``forgotten`` counts those dropped."""

    entries: list[Entry]
    last: int
    forgotten: int


class _Kept(msgspec.Struct, frozen=True):
    # Receipts are shared with the phonebook and with other entries: a page spells them out when it is read.
    n: int
    at_ms: int
    fault: FaultKind
    ret_code: int | None
    complete: bool
    sessions: tuple[tuple[str, tuple[SimReceipt, ...]], ...]
    weight: int


class AnswerLog:
    """The newest answers, until together they hold ``limit`` sessions and receipts; always the newest one."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kept: deque[_Kept] = deque()
        self._weight = 0
        self._last = 0

    @property
    def last(self) -> int:
        """How many answers there were."""
        return self._last

    def set_limit(self, limit: int) -> None:
        self._limit = limit
        self._trim()

    def add(self, *, at: float, fault: FaultKind, ret_code: int | None, complete: bool, parts: Sequence[Part]) -> None:
        self._last += 1
        weight = 1 + len(parts) + sum(len(part.receipts) for part in parts)
        sessions = tuple((part.session_no, part.receipts) for part in parts)
        self._kept.append(_Kept(self._last, int(at * 1000), fault, ret_code, complete, sessions, weight))
        self._weight += weight
        self._trim()

    def page(self, *, after: int, limit: int) -> LogPage:
        first = self._last - len(self._kept) + 1
        chosen = islice(self._kept, max(0, after + 1 - first), None)
        return LogPage(
            entries=[
                Entry(kept.n, kept.at_ms, kept.fault, kept.ret_code, kept.complete, _spelled_out(kept.sessions))
                for kept in islice(chosen, limit)
            ],
            last=self._last,
            forgotten=first - 1,
        )

    def _trim(self) -> None:
        while self._weight > self._limit and len(self._kept) > 1:
            self._weight -= self._kept.popleft().weight


def _spelled_out(sessions: Iterable[tuple[str, tuple[SimReceipt, ...]]]) -> list[LoggedSession]:
    return [
        LoggedSession(
            session_no,
            [LoggedReceipt(r.Phone, r.UserId, r.ReceiptResult, r.ReceiptCode, r.ReceiptTime) for r in receipts],
        )
        for session_no, receipts in sessions
    ]

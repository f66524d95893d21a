"""The ways in which an answer to GetUSMSSendReceipt can go wrong, and when each is due."""

from __future__ import annotations

import random
from collections import deque
from enum import StrEnum
from typing import Annotated

import msgspec


class FaultKind(StrEnum):
    """What is wrong with an answer."""

    NONE = "none"
    RETCODE = "retcode"
    HTTP_STATUS = "http_status"
    HANG = "hang"
    DRIP = "drip"
    TRUNCATED = "truncated"
    OMITTED = "omitted"
    REGRESSED = "regressed"
    DUPLICATED = "duplicated"
    EMPTIED = "emptied"
    STRANGER = "stranger"
    MISTYPED = "mistyped"
    HUGE = "huge"
    LATE = "late"


_DEFAULT_SECONDS = {FaultKind.HANG: 3600.0, FaultKind.DRIP: 1.0, FaultKind.LATE: 2.0}

_Rate = Annotated[float, msgspec.Meta(ge=0, le=1)]


class Fault(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One fault. ``ret_code`` goes with retcode, ``status`` with http_status.

    ``seconds`` (real ones, never compressed) is how long a hang lasts, the pause between the bytes of a drip, or how
    late a late answer comes; None takes an hour, a second, two seconds.
    """

    fault: FaultKind
    ret_code: int = 150
    status: Annotated[int, msgspec.Meta(ge=400, le=599)] = 503
    seconds: Annotated[float, msgspec.Meta(ge=0)] | None = None

    @property
    def wait_s(self) -> float:
        return _DEFAULT_SECONDS.get(self.fault, 0.0) if self.seconds is None else self.seconds


class RatedFault(Fault, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A fault that befalls a share of the answers, 0 to 1."""

    rate: _Rate


class ScriptedFault(Fault, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A fault that befalls the next ``times`` answers; ``none`` lets them be right whatever the rates say."""

    times: Annotated[int, msgspec.Meta(ge=1)] = 1


class Faults(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The script is played first, one fault an answer; after it, at most one fault an answer by the rates."""

    rates: tuple[RatedFault, ...] = ()
    script: tuple[ScriptedFault, ...] = ()


NO_FAULT = Fault(fault=FaultKind.NONE)


class FaultPlan:
    """Which fault the next answer has. Reproducible: ``rng`` is the only chance in it."""

    def __init__(self, faults: Faults, rng: random.Random) -> None:
        self._rates = faults.rates
        self._script: deque[Fault] = deque(
            fault for fault in faults.script for _ in range(fault.times) if fault.times > 0
        )
        self._rng = rng

    def next(self) -> Fault:
        if self._script:
            return self._script.popleft()
        if not self._rates:
            return NO_FAULT
        draw = self._rng.random()
        for fault in self._rates:
            if draw < fault.rate:
                return fault
            draw -= fault.rate
        return NO_FAULT

"""How fast an account's calls may be made: slowed when the provider says so, recovering by itself; and when to try
again after a failure.

Additive increase, multiplicative decrease: workers that share the provider's limit with strangers settle at their
part of it.
"""

from __future__ import annotations

import math

import msgspec

from bridge.domain.packing import MAX_SESSIONS

MOST_IN_FLIGHT = 16
"""Calls of an account under way at once in one worker: at 5 a second enough for answers that take three seconds."""

RECOVERY_MS = 120_000
"""From a standstill to the full rate."""

SLOWEST = 1 / 50
"""The part of the full rate that is always allowed: less would not find out when the provider takes more again."""

_ONCE_MS = 1_000
_FIRST_PAUSE_MS = 1_000
_LONGEST_PAUSE_MS = 60_000
_FIRST_PROBE_MS = 60_000
_LONGEST_PROBE_MS = 300_000
_DRAIN_S = 600


class Slowed(msgspec.Struct, frozen=True, gc=False):
    """What an account was slowed to (calls a second), and when (Unix ms)."""

    rate: float
    at_ms: int


def allowed(full: float, slowed: Slowed | None, now_ms: int) -> float:
    """The calls a second that may be made now, of ``full`` ones."""
    if slowed is None:
        return full
    regained = full * max(0, now_ms - slowed.at_ms) / RECOVERY_MS
    return min(full, max(slowed.rate, full * SLOWEST) + regained)


def slow_down(full: float, slowed: Slowed | None, now_ms: int) -> Slowed:
    """Half of what is allowed now. Calls that were refused together, within a second, count as one."""
    if slowed is not None and 0 <= now_ms - slowed.at_ms < _ONCE_MS:
        return slowed
    return Slowed(max(full * SLOWEST, allowed(full, slowed, now_ms) / 2), now_ms)


def pause_ms(failures: int, *, refused: bool, chance: float) -> int:
    """How long to make no call after a failure that ``failures`` others came before, in a row.

    1 s, doubling to 60 s; where the account itself is ``refused`` 1 min, doubling to 5 min. Of it ``chance`` in
    [0, 1) picks from the half up, so that workers, and bridges, do not come back together.
    """
    first, longest = (_FIRST_PROBE_MS, _LONGEST_PROBE_MS) if refused else (_FIRST_PAUSE_MS, _LONGEST_PAUSE_MS)
    return round(min(longest, first << min(failures, 10)) * (0.5 + 0.5 * chance))


def most_in_flight(failures: int) -> int:
    """How many calls may be under way: one to find out whether the provider is back, else as many as it takes."""
    return 1 if failures else MOST_IN_FLIGHT


class Demand(msgspec.Struct, frozen=True, gc=False):
    """What an account's sessions ask for: how many are due, for how long at most (ms), and how many come due within
    ``window_ms`` from now."""

    due: int
    lag_ms: int
    soon: int
    window_ms: int


def rate_needed(demand: Demand) -> float:
    """The calls a second that keep up with what comes due, and make up for what is due within ten minutes."""
    coming = demand.soon * 1000 / max(1, demand.window_ms)
    return (coming + demand.due / _DRAIN_S) / MAX_SESSIONS


def is_short(demand: Demand, rate: float, patience_ms: int) -> bool:
    """Whether a rate does not cover the demand: what is due has been so for longer than ``patience_ms``, or will be."""
    waits_ms = demand.due / MAX_SESSIONS / rate * 1000
    return max(demand.lag_ms, waits_ms) > patience_ms and rate_needed(demand) > rate


def rounded_rate(rate: float) -> float:
    """A rate to advise: rounded up to two figures."""
    if rate <= 0:
        return 0.0
    unit = 10.0 ** (math.floor(math.log10(rate)) - 1)
    return float(f"{math.ceil(rate / unit - 1e-9) * unit:.6g}")

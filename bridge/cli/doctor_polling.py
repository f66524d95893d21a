"""The checks of ``bridge doctor`` on polling: whether the rate of calls covers what is due, and what cannot be read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from bridge.cli.common import accounts_of
from bridge.cli.doctor_findings import Finding, fail, ok, warn
from bridge.domain.durations import format_duration_ms
from bridge.domain.rate import Demand, allowed, is_short, rate_needed, rounded_rate

if TYPE_CHECKING:
    from bridge.wiring import Bridge

WINDOW_MS = 300_000
"""What comes due within five minutes is what comes due at all times, about."""

PATIENCE_MS = 60_000
"""How long what is due may wait before the rate is said to be too low."""


def provider_rate(bridge: Bridge) -> Iterator[Finding]:
    """Each account's rate beside what its sessions ask for."""
    now_ms = bridge.clock.now_ms()
    for account in accounts_of(bridge, None):
        full = bridge.providers.rate(account)
        rate = allowed(full, bridge.rate.standing(account).slowed, now_ms)
        demand = bridge.sessions.demand(account, now_ms, WINDOW_MS)
        said = f"{account}: {rate:.3g} calls/s, {_calls(rate_needed(demand))} needed; {_due(demand)}"
        if not is_short(demand, rate, PATIENCE_MS):
            yield ok("provider rate", said)
        elif rate_needed(demand) > full:
            advice = f"raise BRIDGE_PROVIDER_RATE to {rounded_rate(rate_needed(demand)):g}, if the provider takes that"
            yield warn("provider rate", said, advice)
        else:
            yield warn(
                "provider rate",
                f"{said}; the provider throttles it: BRIDGE_PROVIDER_RATE is {full:g}",
                "ask the provider for more calls, or track fewer sessions without phone_count",
            )


def _calls(rate: float) -> str:
    return "< 0.01" if 0 < rate < 0.01 else f"{rate:.2g}"


def damaged_sessions(bridge: Bridge) -> Iterator[Finding]:
    """Sessions whose stored bytes are none that this release reads."""
    found = {account: len(bridge.sessions.damaged(account)) for account in accounts_of(bridge, None)}
    count = sum(found.values())
    if count:
        yield fail(
            "sessions",
            f"{count:,} cannot be read, and are set aside",
            "see `bridge sessions list --state damaged`; tracking one again begins it anew",
        )
    else:
        yield ok("sessions", "none was found damaged")


def _due(demand: Demand) -> str:
    if not demand.due:
        return "nothing is due"
    return f"{demand.due:,} session{'s are' if demand.due > 1 else ' is'} due, for up to {_rounded(demand.lag_ms)}"


def _rounded(lag_ms: int) -> str:
    """In whole seconds, minutes or hours, of the largest of these that there are two of."""
    unit_ms = next((unit_ms for unit_ms in (3_600_000, 60_000) if lag_ms >= 2 * unit_ms), 1000)
    return format_duration_ms(max(1, lag_ms // unit_ms) * unit_ms)


POLLING_CHECKS: dict[str, Callable[[Bridge], Iterator[Finding]]] = {
    "provider rate": provider_rate,
    "sessions": damaged_sessions,
}

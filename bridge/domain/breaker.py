"""The breaker of a subscription: when its receiver has failed often enough, one event at a time finds out how it is.

::

    closed → open (10 failures in a row) → closed (an attempt succeeds)
             open → open (the probe fails: twice the wait, up to 30 min)
"""

from __future__ import annotations

import msgspec


class BreakerPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """``after`` failures in a row open it; probes come after ``first_ms``, doubling to ``longest_ms``.

    After ``disable_ms`` open its subscription is disabled.
    """

    after: int = 10
    first_ms: int = 30_000
    longest_ms: int = 1_800_000
    disable_ms: int = 432_000_000


class Health(msgspec.Struct, frozen=True, array_like=True):
    """How a receiver has been. ``failures`` in a row; ``opened_ms`` is 0 while the breaker is closed.

    ``wait_ms`` is the present wait for a probe, ``probe_ms`` when it may be sent (Unix ms). ``hastening``: the breaker
    closed, and what waited is still to be made due. ``quiet_ms``: the receiver asked for quiet until then (Unix ms);
    ``pace_ms``: its rate is used up until then.
    """

    failures: int = 0
    opened_ms: int = 0
    wait_ms: int = 0
    probe_ms: int = 0
    hastening: bool = False
    quiet_ms: int = 0
    pace_ms: int = 0

    @property
    def is_open(self) -> bool:
        """Whether only probes are sent."""
        return self.opened_ms > 0

    @property
    def gate_ms(self) -> int:
        """Before when nothing is sent (Unix ms), 0 for no such time."""
        return max(self.probe_ms, self.quiet_ms)


WELL = Health()
AT_ONCE = Health(hastening=True)
"""Of a receiver that is back, or new: what waits is to be made due at once."""


def failed(health: Health, policy: BreakerPolicy, now_ms: int, *, probe: bool, quiet_ms: int = 0) -> Health:
    """After an attempt that failed at ``now_ms``. ``probe``: it was sent while the breaker was open.

    ``quiet_ms``: for how long the receiver asked to be left alone; it is, for as long as a probe may wait. That apart,
    what was under way when the breaker opened tells nothing new, and changes nothing.
    """
    quiet_until_ms = health.quiet_ms
    if quiet_ms > 0:
        quiet_until_ms = max(quiet_until_ms, now_ms + min(quiet_ms, policy.longest_ms))
    if health.is_open:
        if not probe:
            return msgspec.structs.replace(health, quiet_ms=quiet_until_ms)
        wait_ms = min(policy.longest_ms, 2 * health.wait_ms)
        return msgspec.structs.replace(
            health, failures=health.failures + 1, wait_ms=wait_ms, probe_ms=now_ms + wait_ms, quiet_ms=quiet_until_ms
        )
    failures = health.failures + 1
    if failures < policy.after:
        return msgspec.structs.replace(health, failures=failures, quiet_ms=quiet_until_ms)
    return Health(failures, now_ms, policy.first_ms, now_ms + policy.first_ms, quiet_ms=quiet_until_ms)


def succeeded(health: Health, now_ms: int) -> Health:
    """After an attempt that was accepted at ``now_ms``: an open breaker closes, and what waited is to be made due.

    What was under way when a receiver asked for quiet was sent before that, and shortens none of it.
    """
    if health.is_open or health.hastening:
        return msgspec.structs.replace(AT_ONCE, quiet_ms=_left_of(health.quiet_ms, now_ms))
    return hastened(health, now_ms)


def hastened(health: Health, now_ms: int) -> Health:
    """Once what waited is due: of what was known only a quiet that is not over at ``now_ms`` still counts."""
    quiet_ms = _left_of(health.quiet_ms, now_ms)
    return Health(quiet_ms=quiet_ms) if quiet_ms else WELL


def _left_of(quiet_ms: int, now_ms: int) -> int:
    return quiet_ms if quiet_ms > now_ms else 0


def is_beyond_hope(health: Health, policy: BreakerPolicy, now_ms: int) -> bool:
    """Whether it has been open for so long that its subscription is to be disabled. Asked after a failure alone."""
    return health.is_open and now_ms - health.opened_ms >= policy.disable_ms

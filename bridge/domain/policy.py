"""The numbers an operator may set, as the rules take them. All times are milliseconds."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from bridge.domain.breaker import BreakerPolicy

MEMORY_SHORT = 0.9
"""From this part of the store's maxmemory on tracking refuses and polling pauses. Only deliveries free memory, and a
server that is full refuses some of what they need: the last tenth is theirs."""


class PollPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """How sessions are polled.

    ``ages_ms`` are the ages at which a session is asked for, ``overdue_ms`` the age
    from which one is overdue, ``give_up_ms`` the age from which a phone without a
    final word becomes ``no_receipt``, ``keep_settled_ms`` how long a settled session is kept, ``lease_ms`` how long a
    poll may hold claimed sessions.
    """

    ages_ms: tuple[int, ...]
    overdue_ms: int
    give_up_ms: int
    keep_settled_ms: int
    lease_ms: int


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """How much may wait, before what is over it is dropped with a count. Each is a subscription's, over all shards.

    ``backlog`` events may wait: of more, the newest become dead letters at once. Nothing that waits or is under way
    is touched, so that what is sent of a phone stays in order. ``dead`` letters are kept, the newest. ``kept``
    records may wait that the log has dropped: of more, the oldest become dead letters. ``log_bytes`` bounds all logs
    together; accepted deliveries are known for ``outcomes_ms``.
    """

    backlog: int = 1_000_000
    dead: int = 100_000
    kept: int = 100_000
    log_bytes: int = 2_000_000_000
    outcomes_ms: int = 98 * 3_600_000

    def share(self, shards: int) -> Limits:
        """What one shard may have of it by itself, for no call sees them all.

        Of the backlog its part, until ``allowances`` says otherwise. Of the others all: what is too much over all
        shards goes within a minute, the oldest first.
        """
        return msgspec.structs.replace(self, backlog=-(-self.backlog // shards))


def allowances(most: int, waiting: Sequence[int]) -> list[int]:
    """How many events may wait in each shard, of ``most`` in all, where so many do: what is free is shared evenly.

    So a subscription whose events are in few of the shards has room for as many as any other, and all together have
    room for ``most``.
    """
    part, rest = divmod(max(0, most - sum(waiting)), len(waiting))
    fullest = sorted(range(len(waiting)), key=lambda place: -waiting[place])
    shares = [count + part for count in waiting]
    for place in fullest[:rest]:
        shares[place] += 1
    return shares


DEFAULT_LIMITS = Limits()


class DeliveryPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """How events are delivered.

    ``retry_ms`` are the waits between attempts, ``timeout_ms`` bounds one attempt as a whole, ``concurrency`` the
    POSTs under way for one subscription. ``rate`` is its attempts a second, None for no limit.
    """

    retry_ms: tuple[int, ...]
    timeout_ms: int
    concurrency: int
    rate: float | None = None
    breaker: BreakerPolicy = BreakerPolicy()

    @property
    def hold_ms(self) -> int:
        """How long a queue is held before the hold must be renewed, and a claimed lane stays with its slice.

        45 s at the default time-out of 15 s and at the longest of 30 s; shorter time-outs let others take over from
        a crashed worker sooner. An attempt starts only if its whole time-out fits.
        """
        return min(45_000, 3 * self.timeout_ms)

    @property
    def renew_ms(self) -> int:
        """How often a hold is renewed: 10 s at the default."""
        return self.hold_ms * 2 // 9

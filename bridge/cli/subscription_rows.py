"""Subscriptions as ``bridge subscriptions`` shows them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bridge.cli.common import moment
from bridge.cli.output import At
from bridge.domain.durations import format_durations_ms

if TYPE_CHECKING:
    from bridge.domain.breaker import Health
    from bridge.domain.deliveries import Tally
    from bridge.domain.subscriptions import Subscription


def about(subscription: Subscription) -> dict[str, object]:
    """What a subscription is."""
    return {
        "id": subscription.id,
        "account": subscription.account,
        "url": subscription.url,
        "state": subscription.state.value,
        "types": list(subscription.types),
        "statuses": list(subscription.statuses) or None,
        "phone_format": subscription.phones.value,
        "format": subscription.format.value,
        "client_certificate_until": moment(subscription.identity.expires_ms) if subscription.identity else None,
        "own_authorities": subscription.identity is not None and subscription.identity.own_authorities,
        "headers": [one.name for one in subscription.headers],
        "created_at": At(ms=subscription.created_ms),
    }


def condition(subscription: Subscription, health: Health) -> dict[str, object]:
    """How it is, and how its receiver has been."""
    retry_ms = subscription.retry_ms
    return {
        "reason": subscription.reason or None,
        "since": moment(subscription.since_ms),
        "rate": subscription.rate,
        "concurrency": subscription.concurrency,
        "max_batch": subscription.max_batch,
        "partitions": subscription.partitions,
        "retry": None if retry_ms is None else format_durations_ms(retry_ms),
        "failures_in_a_row": health.failures,
        "failing_since": At(ms=health.opened_ms) if health.is_open else None,
        "next_attempt_at": moment(health.gate_ms),
    }


def tallied(tally: Tally, dropped: int) -> dict[str, object]:
    """What waits, is dead, and went."""
    return {
        "waiting_events": tally.waiting,
        "dead": tally.dead,
        "given_up": tally.exhausted,
        "over_backlog": tally.over_backlog,
        "over_kept": tally.over_kept,
        "dead_dropped": tally.dead_dropped,
        "dropped": dropped,
    }


def waits(subscription: Subscription, lanes: int) -> dict[str, object]:
    """Phones with an event that is not accepted yet: ``lanes`` of them."""
    return {"waiting": lanes, "parked": 0} if subscription.is_active else {"waiting": 0, "parked": lanes}

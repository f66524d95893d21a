"""What the settings mean to the rules: the numbers of ``bridge.domain.policy``, made of them."""

from __future__ import annotations

from bridge.domain.breaker import BreakerPolicy
from bridge.domain.policy import DeliveryPolicy, Limits, PollPolicy
from bridge.settings import Settings


def limits_of(settings: Settings) -> Limits:
    """How much may wait, and for how long what became of it is known."""
    return Limits(
        backlog=settings.max_backlog,
        log_bytes=settings.log_bytes,
        # Two hours more: they are put together by the hour of the answer.
        outcomes_ms=settings.keep_events_ms + 2 * 3_600_000,
    )


def poll_policy_of(settings: Settings) -> PollPolicy:
    """How sessions are polled."""
    return PollPolicy(
        ages_ms=settings.poll_schedule_ms,
        overdue_ms=settings.overdue_after_ms,
        give_up_ms=settings.give_up_after_ms,
        keep_settled_ms=settings.keep_settled_ms,
        # Twice the call's own bound: resolving the name comes on top of it, and so does the commit.
        lease_ms=2 * settings.provider_timeout_ms,
    )


def delivery_policy_of(settings: Settings) -> DeliveryPolicy:
    """How events are delivered."""
    return DeliveryPolicy(
        retry_ms=settings.callback_retry_ms,
        timeout_ms=settings.callback_timeout_ms,
        concurrency=settings.callback_concurrency,
        rate=settings.callback_rate,
        breaker=BreakerPolicy(disable_ms=settings.disable_after_ms),
    )

"""What a worker's log says of what its tasks did."""

from __future__ import annotations

from bridge.announcements import Told
from bridge.delivery.loop import Attempted, Report
from bridge.domain.events import DISABLED, DROPPED
from bridge.domain.outcome import Verdict
from bridge.observe.logs import get_logger
from bridge.polling.poll import Step

_log = get_logger(__name__)


def step_done(account: str, step: Step) -> None:
    """What a call to the provider brought, or why none was made."""
    if step.failure is not None:
        about = {"reason": str(step.failure), "failures": step.failures, "pause_ms": step.wait_ms}
        if step.first:
            # Said once as an error, which is reported too; every further failure of the outage is only noted.
            hint = "nothing is lost: what is due is polled when the account is let in again; see `bridge doctor`"
            _log.error("account refused by the provider; it is not polled", account=account, hint=hint, **about)
        else:
            _log.warning("polling paused", account=account, **about)
    if step.resumed:
        _log.info("polling resumed", account=account)
    if step.refused:
        hint = "see `bridge sessions list --state quarantined`"
        _log.warning("sessions refused by the provider", account=account, sessions=list(step.refused), hint=hint)
    if step.damaged:
        hint = "they are set aside; see `bridge sessions list --state damaged`"
        _log.error("sessions cannot be read", account=account, count=step.damaged, hint=hint)
    ignored = {
        "skipped": step.skipped,
        "strangers": step.strangers,
        "regressed": step.regressed,
        "conflicts": step.conflicts,
    }
    if any(ignored.values()):
        _log.info("parts of an answer ignored", account=account, **ignored)
    if step.polled:
        _log.debug("polled", account=account, sessions=step.polled, events=step.changed, deliveries=step.routed)


def attempt_failed(attempted: Attempted) -> None:
    """An attempt that was not accepted."""
    dead = attempted.outcome.verdict is Verdict.DEAD
    (_log.warning if dead else _log.info)(
        "delivery given up" if dead else "delivery failed",
        subscription=attempted.subscription,
        attempt=attempted.attempt,
        error=attempted.outcome.error,
        next_attempt_ms=attempted.outcome.due_ms or None,
    )


def disabled(subscription: str, reason: str) -> None:
    """A subscription that was disabled."""
    # An error, which is reported too: nothing is sent there any more until somebody resumes it.
    hint = f"its events are parked; see `bridge subscriptions resume {subscription} --help`"
    _log.error("subscription disabled", subscription=subscription, reason=reason, hint=hint)


def told(one: Told) -> None:
    """Say what trimming told: of what happened since the last time, whoever made it happen."""
    notice, name = one.notice, one.about.id
    if notice.kind == DISABLED and not one.about.is_active:
        disabled(name, one.reason or "")  # the slice that disabled it was stopped before it said so
    elif notice.kind == DROPPED:
        over_backlog, over_kept, dead_dropped = notice.news
        _log.warning(
            "too much waits for a subscription; events became dead letters, or dead letters were dropped",
            subscription=name,
            over_backlog=over_backlog,
            over_kept=over_kept,
            dead_letters_dropped=dead_dropped,
        )


def slice_done(report: Report) -> None:
    """What a slice of deliveries did."""
    if report.unsettled:
        _log.warning("outcomes lost to another holder; these callbacks may repeat", count=report.unsettled)
    if report.unnoted:
        _log.warning("failed attempts could not be noted; deliveries went on", count=report.unnoted)
    _log.debug("slice", accepted=report.accepted, retrying=report.retrying, dead=report.dead)

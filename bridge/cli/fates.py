"""Was this application told? One event's fate at each subscription, as a row."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from bridge.cli.output import At
from bridge.domain.events import event_id, unpack

if TYPE_CHECKING:
    from bridge.domain.subscriptions import Subscription
    from bridge.store.log import Logged
    from bridge.store.outcomes import Fate
    from bridge.wiring import Bridge

FATE_COLUMNS = {
    "subscription": "subscription",
    "state": "state",
    "at": "accepted, died, or due",
    "attempts": "attempts",
    "http": "HTTP",
    "behind": "behind",
    "error": "error",
}


def fates(bridge: Bridge, account: str, logged: Logged) -> Iterator[dict[str, object]]:
    """A row for each of the account's subscriptions and what is known of the event there, the latest word last.

    One that it was never queued for has one row: it subscribed later, or was not to hear of it.
    """
    now_ms = bridge.clock.now_ms()
    for one in bridge.subscriptions.load().of(account):
        fate = bridge.outcomes.fate(one.id, logged.shard, logged.position, logged.record, now_ms)
        rows = list(_rows(fate))
        if fate.waits is not None and fate.waits.attempts:
            event = event_id(account, unpack(logged.record))  # what cannot be read is known to wait nowhere
            rows[-1]["error"] = bridge.attempts.last_errors(one.id, [event]).get(event)
        if not rows:
            rows = [{"state": _why_never(one, logged)}]
        for row in rows:
            yield {"subscription": one.id, **dict.fromkeys(list(FATE_COLUMNS)[2:]), **row}


def _rows(fate: Fate) -> Iterator[dict[str, object]]:
    for told in fate.told:
        yield {"state": "accepted", "at": At(ms=told.at_ms), "attempts": told.attempt, "http": told.status}
    if fate.dead is not None:
        dead = fate.dead
        yield {"state": "dead", "at": At(ms=dead.died_ms), "attempts": dead.attempts, "error": dead.error}
    if fate.waits is not None:
        waits = fate.waits
        state = "retrying" if waits.attempts else "pending"
        yield {"state": state, "at": At(ms=waits.due_ms), "attempts": waits.attempts, "behind": waits.behind}


def _why_never(subscription: Subscription, logged: Logged) -> str:
    later = subscription.created_ms > int.from_bytes(logged.position[:8])
    return "subscribed later" if later else "not queued, or dropped"

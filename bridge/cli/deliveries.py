"""``bridge deliveries``: events on their way to a subscription, and those given up."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from enum import StrEnum
from itertools import islice
from typing import TYPE_CHECKING, Annotated

import typer

from bridge.cli.common import Json, Limit, opened, wide_table
from bridge.cli.output import At, printable
from bridge.domain.deliveries import DeadLetter, FailedAttempt, Waiting
from bridge.domain.events import EVENT_TYPES, event_id, readable
from bridge.domain.receipts import Status

if TYPE_CHECKING:
    from bridge.domain.subscriptions import Subscription
    from bridge.wiring import Bridge

deliveries = typer.Typer(no_args_is_help=True)

_COLUMNS = {
    "state": "state",
    "subscription": "subscription",
    "session_no": "session",
    "phone": "phone",
    "status": "status",
    "attempts": "attempts",
    "when": "due, or died",
    "behind": "behind",
    "error": "error",
    "event": "event",
}


_ATTEMPT = {
    "at": "at",
    "event": "event",
    "attempt": "attempt",
    "http": "HTTP",
    "ms": "ms",
    "error": "error",
    "answer": "answer",
}


class State(StrEnum):
    """Where a delivery stands: pending → retrying → dead; parked, while its subscription is paused or disabled."""

    PENDING = "pending"
    RETRYING = "retrying"
    PARKED = "parked"
    DEAD = "dead"


@deliveries.command("list")
def list_(
    state: Annotated[State | None, typer.Option(help="In this state alone.")] = None,
    subscription: Annotated[str | None, typer.Option(metavar="ID", help="Of this subscription alone.")] = None,
    limit: Annotated[int, typer.Option(metavar="N", min=1, help="At most so many of each state.")] = 50,
    json: Json = False,
) -> None:
    """List deliveries that are not accepted: the next due first, then dead letters, the newest first.

    A phone's events are sent one after another: its first is listed, and "behind" counts those that wait for it.

    \b
    bridge deliveries list --state dead
    """
    with opened() as bridge:
        wanted = _subscriptions(bridge, subscription)
        rows = [
            row
            for each in State
            if state in (None, each)
            for row in (_dead(bridge, wanted, limit) if each is State.DEAD else _waiting(bridge, wanted, each, limit))
        ]
    if not json:
        rows = [row | {"when": row["died_at"] or row["due_at"]} for row in rows]
    wide_table(rows, _COLUMNS, json=json)
    if not rows and not json:
        print("no deliveries" if state is None else f"no deliveries are {state.value}")


@deliveries.command()
def attempts(
    subscription: Annotated[str, typer.Option(metavar="ID", help="Of this subscription.")],
    event: Annotated[str | None, typer.Option(metavar="EVT", help="Of this event alone.")] = None,
    limit: Limit = 50,
    json: Json = False,
) -> None:
    """List failed attempts with what was answered, the newest first: of the last 30 days, and the newest 10,000.

    \b
    bridge deliveries attempts --subscription sub_abcdefghijklmnop
    """
    with opened() as bridge:
        found = bridge.subscriptions.get(subscription)
        failed = (one for one in bridge.attempts.newest(found.id) if event in (None, one.event))
        rows = [_attempt(one) for one in islice(failed, limit)]
    wide_table(rows, _ATTEMPT, json=json)
    if not rows and not json:
        print("no failed attempts")


def _attempt(one: FailedAttempt) -> dict[str, object]:
    return {
        "at": At(ms=one.at_ms),
        "event": one.event,
        "attempt": one.attempt,
        "http": one.status or None,
        "ms": one.elapsed_ms,
        "error": one.error,
        # Anything may be in it: in JSON too, which a terminal may show, nothing of it may steer one.
        "answer": printable(one.body.decode(errors="backslashreplace")) or None,
    }


def _subscriptions(bridge: Bridge, subscription: str | None) -> list[Subscription]:
    if subscription is not None:
        return [bridge.subscriptions.get(subscription)]
    return list(bridge.subscriptions.load().by_id().values())


def _waiting(bridge: Bridge, wanted: list[Subscription], state: State, limit: int) -> list[dict[str, object]]:
    wanted = [one for one in wanted if one.is_active != (state is State.PARKED)]
    found = [(one, lane) for one in wanted for lane in _lanes(bridge, one.id, state, limit)]
    next_due = heapq.nsmallest(limit, found, key=lambda pair: pair[1].due_ms)
    records = {one.id: _records(bridge, one, [lane for own, lane in next_due if own.id == one.id]) for one in wanted}
    rows = [
        _row(
            state,
            one,
            records[one.id].get((lane.shard, lane.positions[0])),
            attempts=lane.attempts,
            due_ms=None if state is State.PARKED else lane.due_ms,
            behind=len(lane.positions) - 1,
        )
        for one, lane in next_due
    ]
    for one in wanted:
        tried = {str(row["event"]): row for row in rows if row["subscription"] == one.id and row["attempts"]}
        for event, error in bridge.attempts.last_errors(one.id, tried).items():
            tried[event]["error"] = error
    return rows


def _lanes(bridge: Bridge, subscription: str, state: State, limit: int) -> list[Waiting]:
    """The first ``limit`` in this state: lanes lie by due time, so ever more are read until enough are found."""
    total = bridge.queues.lengths([subscription])[subscription]
    reach = limit
    while True:
        lanes = bridge.queues.waiting(subscription, reach)
        found = [lane for lane in lanes if state is State.PARKED or (lane.attempts > 0) == (state is State.RETRYING)]
        if len(found) >= limit or reach >= total:
            return found[:limit]
        reach *= 4


def _records(bridge: Bridge, subscription: Subscription, lanes: list[Waiting]) -> dict[tuple[int, bytes], bytes]:
    """The first event of each lane: of the log, or kept aside once the log has dropped it."""
    wanted: dict[int, list[bytes]] = {}
    for lane in lanes:
        wanted.setdefault(lane.shard, []).append(lane.positions[0])
    found = bridge.log.fetch(subscription.account, wanted)
    missing = {shard: [place for place in group if (shard, place) not in found] for shard, group in wanted.items()}
    return found | bridge.queues.kept(subscription.id, missing)


def _dead(bridge: Bridge, wanted: list[Subscription], limit: int) -> list[dict[str, object]]:
    newest = heapq.nlargest(limit, _dead_letters(bridge, wanted), key=lambda pair: pair[1].died_ms)
    return [
        _row(
            State.DEAD, one, letter.record, attempts=letter.attempts, died_ms=letter.died_ms, error=letter.error or None
        )
        for one, letter in newest
    ]


def _dead_letters(bridge: Bridge, wanted: list[Subscription]) -> Iterator[tuple[Subscription, DeadLetter]]:
    for one in wanted:
        for letter in bridge.queues.dead_letters(one.id):
            yield one, letter


def _row(
    state: State,
    subscription: Subscription,
    record: bytes | None,
    *,
    attempts: int,
    due_ms: int | None = None,
    died_ms: int | None = None,
    behind: int | None = None,
    error: str | None = None,
) -> dict[str, object]:
    """``record`` is None or empty where the event itself is lost; one that cannot be read is as good as lost."""
    event = readable(record)
    return {
        "state": state.value,
        "subscription": subscription.id,
        "account": subscription.account,
        "event": event and event_id(subscription.account, event),
        "session_no": event and event.session_no,
        "phone": event and (event.phone or None),
        "status": event and (EVENT_TYPES[event.type] if event.type else Status(event.status).text),
        "attempts": attempts,
        "due_at": None if due_ms is None else At(ms=due_ms),
        "died_at": None if died_ms is None else At(ms=died_ms),
        "behind": behind,
        "error": error,
    }

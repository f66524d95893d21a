"""``bridge events``: what was recorded, as subscribers get it."""

from __future__ import annotations

import heapq
import re
import sys
import time
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Annotated

import typer

from bridge.cli.common import Account, Json, Limit, accounts_of, moment, opened, since_ms, wide_table
from bridge.cli.fates import FATE_COLUMNS, fates
from bridge.cli.output import At, as_text, progress, show, table
from bridge.domain.events import EVENT_TYPES, Record, event_id, readable, render
from bridge.domain.receipts import Status
from bridge.errors import NotFound, UsageError

if TYPE_CHECKING:
    from bridge.store.log import Logged
    from bridge.wiring import Bridge

events = typer.Typer(no_args_is_help=True)

TAIL_EVERY_S = 0.5

_COLUMNS = {
    "at": "observed",
    "session_no": "session",
    "phone": "phone",
    "change": "change",
    "sequence": "sequence",
    "id": "id",
}
_is_event_id = re.compile(r"evt_[a-z2-7]{26}").fullmatch


@events.command("list")
def list_(
    since: Annotated[
        str | None, typer.Option(metavar="T", help="From then on: how long ago (1h), ISO 8601, or Unix seconds.")
    ] = None,
    session: Annotated[str | None, typer.Option(metavar="SESSION", help="Of this session alone.")] = None,
    account: Account = None,
    limit: Limit = 50,
    json: Json = False,
) -> None:
    """List events, the newest first; with --json as subscribers get them.

    \b
    bridge events list --since 1h --session nAQDODtO
    """
    with opened() as bridge:
        from_ms = 0 if since is None else max(0, since_ms(since, bridge.clock.now_ms()))
        walk = (
            (name, event)
            for name, event in _newest_first(bridge, account, from_ms)
            if session is None or event.session_no == session
        )
        if json:
            for name, event in islice(walk, limit):
                print(render(name, event)[1].decode())
            return
        rows = [_row(name, event) for name, event in islice(walk, limit)]
    wide_table(rows, _COLUMNS, json=False)
    if not rows:
        print("no events")


@events.command("show")
def show_(
    event: Annotated[str, typer.Argument(metavar="EVT", help="The event's id (evt_…).")],
    account: Account = None,
    deliveries: Annotated[
        bool, typer.Option("--deliveries", help="Who was told: what became of it at each subscription, a line each.")
    ] = False,
    json: Json = False,
) -> None:
    """Show one event, and what became of it at each subscription; with --json as subscribers get it.

    Ids are not indexed: this searches the log from the newest event on, which takes seconds a million.

    \b
    bridge events show evt_abcdefghijklmnopqrstuvwxyz
    bridge events show evt_abcdefghijklmnopqrstuvwxyz --deliveries --json
    """
    if not _is_event_id(event):
        raise UsageError(f"{event!r} is no event's id: those are evt_ and 26 characters, as `bridge events list` shows")
    with opened() as bridge, progress("searching the log") as advance:
        for name, logged in _logged(bridge, account, 0):
            advance(1)
            found = readable(logged.record)
            if found is not None and event_id(name, found) == event:
                break
        else:
            raise NotFound(f"no event {event} in the log: it never was, or is older than BRIDGE_KEEP_EVENTS")
        rows = [] if json and not deliveries else list(fates(bridge, name, logged))
    if json and not deliveries:
        print(render(name, found)[1].decode())
        return
    if not deliveries:
        show(_detail(name, found), json=False)
        print()
    table(rows, FATE_COLUMNS, json=json)
    if not rows and not json:
        print("nobody is subscribed")


@events.command()
def tail(account: Account = None, json: Json = False) -> None:
    """Print events as they are recorded, until Ctrl-C; with --json as subscribers get them.

    \b
    bridge events tail
    """
    with opened() as bridge:
        ends = {name: bridge.log.ends(name) for name in accounts_of(bridge, account)}
        print("following the log; Ctrl-C ends", file=sys.stderr, flush=True)
        try:
            while True:
                # Asked for again each time: an account that tracks for the first time is followed from its first event.
                fresh = [_follow(bridge, name, ends.setdefault(name, {})) for name in accounts_of(bridge, account)]
                for name, event in (pair for group in fresh for pair in group):
                    print(render(name, event)[1].decode() if json else _line(name, event), flush=True)
                if not any(fresh):
                    time.sleep(TAIL_EVERY_S)  # the log is asked, and tells nobody
        except KeyboardInterrupt:
            return


def _follow(bridge: Bridge, account: str, ends: dict[int, bytes]) -> list[tuple[str, Record]]:
    """The events after ``ends``, which moves on to the last of them."""
    fresh = bridge.log.after(account, ends)
    for logged in fresh:
        ends[logged.shard] = logged.position
    return [(account, event) for logged in fresh if (event := readable(logged.record)) is not None]


def _newest_first(bridge: Bridge, account: str | None, from_ms: int) -> Iterator[tuple[str, Record]]:
    for name, logged in _logged(bridge, account, from_ms):
        event = readable(logged.record)
        if event is not None:
            yield name, event


def _logged(bridge: Bridge, account: str | None, from_ms: int) -> Iterator[tuple[str, Logged]]:
    walks = (_walk(bridge, name, from_ms) for name in accounts_of(bridge, account))
    return heapq.merge(*walks, key=lambda found: found[1].position, reverse=True)


def _walk(bridge: Bridge, account: str, from_ms: int) -> Iterator[tuple[str, Logged]]:
    for logged in bridge.log.read(account, since_ms=from_ms, newest_first=True):
        yield account, logged


def _row(account: str, event: Record) -> dict[str, object]:
    return {
        "at": At(ms=event.observed_ms),
        "session_no": event.session_no,
        "phone": event.phone or None,
        "change": _change(event),
        "sequence": event.sequence,
        "id": event_id(account, event),
    }


def _line(account: str, event: Record) -> str:
    """One event on one line: columns cannot be measured before the last has come."""
    row = _row(account, event) | {"sequence": f"#{event.sequence}"}
    return "  ".join(as_text(row[key]) for key in _COLUMNS)


def _detail(account: str, event: Record) -> dict[str, object]:
    import msgspec

    head = {"id": event_id(account, event), "type": EVENT_TYPES[event.type], "observed": At(ms=event.observed_ms)}
    if event.type:  # what it tells is all in its data
        return head | msgspec.json.decode(event.metadata, type=dict[str, object])
    heard = event.result is not None
    return head | {
        "previous_poll": moment(event.previous_poll_ms),
        "account": account,
        "session_no": event.session_no,
        "phone": event.phone,
        "user_id": event.user_id or None,
        "change": _change(event),
        "sequence": event.sequence,
        "receipt": f"{event.result} {event.code}".strip() if heard else None,
        "description": event.description or None,
        "receipt_time": moment(event.receipt_time * 1000),
        "segments": event.segments if heard else None,
        "metadata": msgspec.json.decode(event.metadata) if event.metadata else {},
    }


def _change(event: Record) -> str:
    """Such as ``unknown → delivered``, with what is special about it; of another event its type."""
    if event.type:
        return EVENT_TYPES[event.type]
    remarks = [word for word, holds in (("corrected", event.corrected), ("late", event.late)) if holds]
    change = f"{Status(event.previous).text} → {Status(event.status).text}"
    return change + (f" ({', '.join(remarks)})" if remarks else "")

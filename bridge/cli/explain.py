"""``bridge explain``: why was my application (not) told? One verdict, and the whole story under it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import typer

from bridge.cli.common import Account, Json, checked_account, moment, opened, wide_table
from bridge.cli.output import At, as_text, local_time, progress, show
from bridge.cli.sessions import PHONE_COLUMNS, phone_row
from bridge.domain.events import EVENT_TYPES, Record
from bridge.domain.explanation import Finding, Verdict, judge
from bridge.domain.receipts import Status, normalise_phone

if TYPE_CHECKING:
    from bridge.explaining import Story

_POLLS = {"at": "polled", "outcome": "result"}
_TOLD = {
    "change": "event",
    "recorded_at": "recorded",
    "subscription": "subscription",
    "verdict": "verdict",
    "at": "when",
    "why": "why",
}
_GOOD, _WAITS, _BAD = "green", "yellow", "bold red"
_COLOURS = {
    Verdict.ACCEPTED: _GOOD,
    Verdict.DEAD: _BAD,
    Verdict.REJECTED: _BAD,
    Verdict.ACCOUNT_STOPPED: _BAD,
    Verdict.PARKED: _BAD,
}


def explain(
    session: Annotated[str, typer.Argument(metavar="SESSION", help="Its SessionNo.")],
    *,
    phone: Annotated[str | None, typer.Option(metavar="P", help="Of this phone alone, however it is written.")] = None,
    subscription: Annotated[str | None, typer.Option(metavar="S", help="At this subscription alone.")] = None,
    account: Account = None,
    json: Json = False,
) -> None:
    """Say why an application was, or was not, told of a session: one verdict, and all that is known under it.

    The verdicts: not tracked, rejected, account stopped, not polled yet, provider has no receipt, filtered out,
    subscribed later, queued behind N, retrying at T, parked, dead, accepted at T, erased, expired from the log. Of
    several phones and subscriptions the one that most asks for somebody's attention is told, each phone by its last
    event; --phone and --subscription ask about one.

    \b
    bridge explain nAQDODtO
    bridge explain nAQDODtO --phone '(86)18500000000' --subscription sub_abcdefghijklmnop
    """
    from bridge.explaining import stories

    if account is not None:
        checked_account(account)
    with opened() as bridge, progress("reading the log"):
        found = stories(bridge, session, account=account, phone=phone, subscription=subscription)
    for place, story in enumerate(found):
        if json:
            show(_as_json(story, phone), json=True)
            continue
        if place:
            print()
        _tell(story, phone)


def sentence(finding: Finding) -> str:
    """The verdict as a person reads it, its time in the local zone."""
    at = "" if finding.at_ms is None else local_time(finding.at_ms)
    text = {
        Verdict.ACCEPTED: f"accepted at {at}",
        Verdict.RETRYING: f"retrying at {at}",
        Verdict.QUEUED: f"queued behind {finding.behind}",
        Verdict.ERASED: f"erased at {at}",
    }.get(finding.verdict, finding.verdict.value)
    where = f" by {finding.subscription}" if finding.verdict is Verdict.ACCEPTED else f" at {finding.subscription}"
    return text + (where if finding.subscription else "") + (f" ({finding.why})" if finding.why else "")


def _tell(story: Story, phone: str | None) -> None:
    _headline(story)
    print()
    show(_head(story), json=False)
    for heading, rows, columns in (
        ("polls", _polls(story), _POLLS),
        ("phones", _phones(story, phone), PHONE_COLUMNS),
        ("events, and who was told", _deliveries(story), _TOLD),
    ):
        if rows:
            print(f"\n{heading}")
            wide_table(rows, columns, json=False)


def _headline(story: Story) -> None:
    text = sentence(story.finding)
    if not sys.stdout.isatty():
        print(as_text(text))
        return
    from rich.console import Console
    from rich.panel import Panel
    from rich.text import Text

    colour = _COLOURS.get(story.finding.verdict, _WAITS)
    title = Text(f"{story.session_no} of {story.account}")
    Console().print(Panel(Text(as_text(text), style=colour), title=title, border_style=colour))


def _head(story: Story) -> dict[str, object]:
    state = story.state
    head: dict[str, object] = {"session": story.session_no, "account": story.account}
    if state is not None:
        head |= {
            "tracked": At(ms=state.tracked_ms),
            "tracked_by": story.machine or None,
            "sent": At(ms=state.sent_ms),
            "last_poll": moment(state.polled_ms),
            "next_poll": None if story.due_ms is None else At(ms=story.due_ms),
            "settled": moment(state.settled_ms),
            "phones": f"{len(state.phones)} seen of {state.expected_count or '?'}",
        }
    if story.facts.stopped:
        head["account_stopped"] = story.facts.stopped
    if story.rejected:
        head["rejected"] = [f"{local_time(one.at_ms)}: {one.reason}" for one in story.rejected[:3]]
    return head


def _polls(story: Story) -> list[dict[str, object]]:
    return [{"at": At(ms=one.at_ms), "outcome": one.outcome} for one in (story.state.polls if story.state else ())]


def _phones(story: Story, phone: str | None) -> list[dict[str, object]]:
    digits = None if phone is None else normalise_phone(phone)
    seen = story.state.phones if story.state else ()
    return [phone_row(one) for one in seen if digits in (None, normalise_phone(one.phone))]


def _deliveries(story: Story) -> list[dict[str, object]]:
    """A row for each event and subscription; for an event that concerns none, one that says so."""
    rows: list[dict[str, object]] = []
    for told in story.events:
        row: dict[str, object] = {"change": _change(told.record), "recorded_at": At(ms=told.facts.at_ms)}
        found = [_finding_row(judge(told.facts, one)) for one in told.facts.deliveries]
        nobody: dict[str, object] = {"subscription": None, "verdict": "nobody subscribed", "at": None, "why": None}
        rows += [row | one for one in found or [nobody]]
    return rows


def _finding_row(finding: Finding) -> dict[str, object]:
    verdict = finding.verdict.value
    if finding.verdict is Verdict.QUEUED:
        verdict = f"{verdict} {finding.behind}"
    return {
        "subscription": finding.subscription,
        "verdict": verdict,
        "at": None if finding.at_ms is None else At(ms=finding.at_ms),
        "why": finding.why or None,
    }


def _change(record: Record) -> str:
    if record.type:
        return EVENT_TYPES[record.type]
    return f"{record.phone} {Status(record.previous).text} → {Status(record.status).text}"


def _as_json(story: Story, phone: str | None) -> Mapping[str, object]:
    state, finding = story.state, story.finding
    return {
        "session_no": story.session_no,
        "account": story.account,
        **_finding_json(finding),
        "event": finding.event,
        "tracked_at": moment(state.tracked_ms) if state else None,
        "tracked_by": story.machine or None,
        "sent_at": moment(state.sent_ms) if state else None,
        "polled_at": moment(state.polled_ms) if state else None,
        "next_poll_at": None if story.due_ms is None else At(ms=story.due_ms),
        "settled_at": moment(state.settled_ms) if state else None,
        "account_stopped": story.facts.stopped or None,
        "rejected": [{"id": one.id, "at": At(ms=one.at_ms), "reason": one.reason} for one in story.rejected],
        "polls": _polls(story),
        "phones": _phones(story, phone),
        "events": [
            {
                "id": told.facts.id,
                "change": _change(told.record),
                "recorded_at": At(ms=told.facts.at_ms),
                "deliveries": [_finding_json(judge(told.facts, one)) for one in told.facts.deliveries],
            }
            for told in story.events
        ],
    }


def _finding_json(finding: Finding) -> dict[str, object]:
    return {
        "verdict": finding.verdict.value,
        "why": finding.why or None,
        "at": None if finding.at_ms is None else At(ms=finding.at_ms),
        "behind": finding.behind,
        "subscription": finding.subscription,
    }

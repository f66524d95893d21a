"""Why was my application (not) told? One verdict from all that is known of a session.

::

    not tracked                       never heard of, or forgotten long after it settled
    rejected                          it arrived, and was wrong
    account stopped                   the provider is not asked for this account
    not polled yet
    provider has no receipt           asked, and nothing was said
    filtered out, subscribed later    it changed, and this was not to be told
    queued behind N                   waits for its turn
    retrying at T                     was tried, and failed
    parked                            its subscription is paused or disabled
    dead                              given up
    accepted at T
    erased                            the phone was, by an operator
    expired from the log              it changed, longer ago than events are kept
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import StrEnum

import msgspec


class Verdict(StrEnum):
    """The answers there are. Programs read them: never change one."""

    NOT_TRACKED = "not tracked"
    REJECTED = "rejected"
    ACCOUNT_STOPPED = "account stopped"
    NOT_POLLED = "not polled yet"
    NO_RECEIPT = "provider has no receipt"
    FILTERED = "filtered out"
    SUBSCRIBED_LATER = "subscribed later"
    QUEUED = "queued behind"
    RETRYING = "retrying"
    PARKED = "parked"
    DEAD = "dead"
    ACCEPTED = "accepted"
    ERASED = "erased"
    EXPIRED = "expired from the log"


class Finding(msgspec.Struct, frozen=True):
    """A verdict, and of these what goes with it: why, when (Unix ms), behind how many, at which subscription, of which
    event."""

    verdict: Verdict
    why: str = ""
    at_ms: int | None = None
    behind: int | None = None
    subscription: str | None = None
    event: str | None = None


class Waiting(msgspec.Struct, frozen=True, gc=False):
    """A delivery that waits: attempts made, when it is due (Unix ms), how many of its phone are before it."""

    attempts: int
    due_ms: int
    behind: int


class DeliveryFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one event at one subscription.

    ``told_ms`` is when it was accepted last, ``died_ms`` when it was given up and ``died_of`` why, ``waiting`` how it
    waits; None for each that it did not. ``parked_for`` is why the subscription is sent nothing, "" if it is active.
    ``subscribed_ms`` is when it was made, ``unwanted`` why its filters, as they are, leave the event out, "" if they
    do not. ``last_error`` is that of its last failed attempt. ``dropped`` counts what an operator, or a limit, ever
    dropped of this subscription.
    """

    subscription: str
    subscribed_ms: int
    told_ms: int | None = None
    died_ms: int | None = None
    died_of: str = ""
    waiting: Waiting | None = None
    parked_for: str = ""
    unwanted: str = ""
    last_error: str = ""
    dropped: int = 0


class EventFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A recorded event, and what became of it at each subscription.

    ``line`` is what it is one of a sequence of: its phone's changes, or the session's events of its type. ``at_ms`` is
    when it was recorded (Unix ms), ``sequence`` its number in its line.
    """

    id: str
    line: str
    sequence: int
    at_ms: int
    deliveries: tuple[DeliveryFacts, ...] = ()


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """All that is known of a session, or of one phone of it.

    ``tracked``: it is there; ``damaged``: it is, and cannot be read. ``rejected``: why items that named it were
    refused, "" if none was. ``stopped``: why its account is not polled, "" if it is. ``polled``: the provider answered
    for it at least once. ``changed``: phones that are asked about have a status, ``awaited``: others have none yet.
    ``refused``: why the provider does not answer for it, "" if it does. ``erased_ms``: when the phone asked about was
    erased (Unix ms), None if it was not.
    """

    tracked: bool
    damaged: bool = False
    rejected: str = ""
    stopped: str = ""
    polled: bool = False
    changed: bool = False
    awaited: bool = False
    refused: str = ""
    erased_ms: int | None = None
    events: tuple[EventFacts, ...] = ()


# The first is the one that asks for somebody's attention before the others do.
_URGENCY = (
    Verdict.DEAD,
    Verdict.PARKED,
    Verdict.RETRYING,
    Verdict.ACCOUNT_STOPPED,
    Verdict.QUEUED,
    Verdict.NOT_POLLED,
    Verdict.NO_RECEIPT,
    Verdict.EXPIRED,
    Verdict.ACCEPTED,
    Verdict.SUBSCRIBED_LATER,
    Verdict.FILTERED,
)


def explain(facts: Facts) -> Finding:
    """The one verdict: of several phones or subscriptions the most urgent, each judged by its phone's last event."""
    if facts.erased_ms is not None:
        return Finding(Verdict.ERASED, at_ms=facts.erased_ms)
    if not facts.tracked and not facts.events:
        if facts.rejected:
            return Finding(Verdict.REJECTED, facts.rejected)
        if facts.damaged:
            return Finding(Verdict.NOT_TRACKED, "what is stored of it cannot be read: track it again")
        return Finding(Verdict.NOT_TRACKED, "it never was, or settled longer than BRIDGE_KEEP_SETTLED ago")
    found = [judge(event, one) for event in latest(facts.events) for one in event.deliveries]
    if facts.events and not found:
        found = [Finding(Verdict.FILTERED, "its account has no subscription", event=facts.events[0].id)]
    elif facts.changed and not facts.events:
        found = [Finding(Verdict.EXPIRED, "it changed longer ago than BRIDGE_KEEP_EVENTS")]
    if facts.tracked and (facts.awaited or not found):
        found.append(_unheard(facts))
    return most_urgent(found)


def judge(event: EventFacts, one: DeliveryFacts) -> Finding:
    """The verdict on one event at one subscription."""
    verdict, why, at_ms, behind = _judged(event, one)
    return Finding(verdict, why, at_ms, behind, one.subscription, event.id)


def latest(events: Iterable[EventFacts]) -> list[EventFacts]:
    """Each line's last event: it is what an application should know by now."""
    last: dict[str, EventFacts] = {}
    for event in events:
        known = last.get(event.line)
        if known is None or (event.sequence, event.at_ms) > (known.sequence, known.at_ms):
            last[event.line] = event
    return list(last.values())


def most_urgent(found: Sequence[Finding]) -> Finding:
    """Of several findings the one that is told; of those alike the one with the latest time, then the first."""
    return min(found, key=lambda one: (_URGENCY.index(one.verdict), -(one.at_ms or 0)))


def _unheard(facts: Facts) -> Finding:
    """Why nothing was said of phones that somebody waits for."""
    if facts.stopped:
        return Finding(Verdict.ACCOUNT_STOPPED, facts.stopped)
    if not facts.polled and not facts.refused:
        return Finding(Verdict.NOT_POLLED)
    return Finding(Verdict.NO_RECEIPT, facts.refused)


_Judged = tuple[Verdict, str, int | None, int | None]


def _judged(event: EventFacts, one: DeliveryFacts) -> _Judged:
    if one.told_ms is not None:
        return Verdict.ACCEPTED, "", one.told_ms, None
    if one.waiting is not None:
        return _waits(one, one.waiting)
    if one.died_ms is not None:
        return Verdict.DEAD, one.died_of, one.died_ms, None
    return _never_queued(event, one)


def _waits(one: DeliveryFacts, waiting: Waiting) -> _Judged:
    if one.parked_for:
        return Verdict.PARKED, one.parked_for, None, waiting.behind
    if waiting.behind or not waiting.attempts:
        return Verdict.QUEUED, "", waiting.due_ms, waiting.behind
    return Verdict.RETRYING, one.last_error, waiting.due_ms, None


def _never_queued(event: EventFacts, one: DeliveryFacts) -> _Judged:
    """Nothing is known of it there: it was not to be told, or was taken out."""
    if one.subscribed_ms > event.at_ms:
        return Verdict.SUBSCRIBED_LATER, "", one.subscribed_ms, None
    if one.unwanted:
        return Verdict.FILTERED, one.unwanted, None, None
    if one.dropped:
        why = f"dropped by an operator or by a limit, as {one.dropped:,} events of this subscription were"
        return Verdict.DEAD, why, None, None
    return Verdict.FILTERED, "its filters were others when it happened", None, None

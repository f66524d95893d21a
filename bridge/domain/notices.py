"""Operators' events: what happened to a subscription, told to its account's other ones, with a count.

What there is to tell is the difference between counts that only grow and what was told of them before. So a crash
between a count and its telling loses nothing, and whoever tells next tells of both.
"""

from __future__ import annotations

import msgspec

from bridge.domain import events
from bridge.domain.events import DISABLED, DROPPED, EVENT_TYPES, EXHAUSTED, Record
from bridge.domain.subscriptions import Subscription

KINDS = (DISABLED, EXHAUSTED, DROPPED)
EVERY_MS = 60_000
"""At most one of a kind in so long for a subscription."""


class Said(msgspec.Struct, frozen=True, array_like=True):
    """What was told last of a kind: counts up to a moment (Unix ms)."""

    counts: tuple[int, ...]
    until_ms: int


class Notice(msgspec.Struct, frozen=True):
    """A kind of event that is due, with what is new of each of its counts since ``since_ms``."""

    kind: int
    news: tuple[int, ...]
    since_ms: int
    before: Said | None
    """What was told before,"""
    said: Said
    """and what was once this is."""


def due(kind: int, counts: tuple[int, ...], before: Said | None, created_ms: int, now_ms: int) -> Notice | None:
    """What there is to tell of a subscription made at ``created_ms``; None where nothing is new, or it is too soon."""
    told = before.counts if before else (0,) * len(counts)
    # A count that is lower than what was told of it is a store's that lost its last second: it has nothing new.
    news = tuple(max(0, count - known) for count, known in zip(counts, told, strict=True))
    if not any(news) or (before is not None and 0 <= now_ms - before.until_ms < EVERY_MS):
        return None
    said = Said(tuple(max(pair) for pair in zip(counts, told, strict=True)), now_ms)
    return Notice(kind, news, before.until_ms if before else created_ms, before, said)


def record_of(notice: Notice, about: Subscription, reason: str | None) -> Record:
    """The event to record. ``reason`` is the last known of what is counted; of limits, the counts say which."""
    data: dict[str, object] = {"account": about.account, "subscription": about.id, "url": about.url}
    if notice.kind == DROPPED:
        data["limits"] = dict(zip(("over_backlog", "over_kept", "dead_dropped"), notice.news, strict=True))
    else:
        data["reason"] = reason
    data["count"] = sum(notice.news)
    data["since"], data["until"] = events.iso_millis(notice.since_ms), events.iso_millis(notice.said.until_ms)
    return events.record_of_ours(notice.kind, about.id, data, notice.said.until_ms)


def audience(kind: int, about: Subscription, others: tuple[Subscription, ...]) -> list[str]:
    """Ids of those of an account's subscriptions that are to hear of what happened to one of them."""
    return [one.id for one in others if one.id != about.id and not one.implicit and one.hears(EVENT_TYPES[kind])]

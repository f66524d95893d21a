"""Telling operators what happened to a subscription, through their account's other ones."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from bridge.domain import notices
from bridge.domain.deliveries import Part, Tally
from bridge.domain.events import DISABLED, DROPPED, EXHAUSTED
from bridge.domain.notices import Notice
from bridge.domain.subscriptions import Subscription
from bridge.observe.scrub import scrub_text
from bridge.store.subscriptions import Registry
from bridge.wiring import Bridge

_TRIES = 5
"""For a registry that is changed all the while; the next minute goes on."""


class Told(msgspec.Struct, frozen=True):
    """What was told, and of which subscription."""

    about: Subscription
    notice: Notice
    reason: str | None


def announce(bridge: Bridge, only: str | None = None) -> list[Told]:
    """Tell what happened to subscriptions (``only`` to one) since it was last told. Returns what this call told.

    Any number of these at once tell each thing once: a telling is noted by the call that records and queues it.
    A crash in between leaves the rest for the next one.
    """
    registry = bridge.subscriptions.load()
    wanted = [one for name, one in registry.by_id().items() if only in (None, name)]
    told: list[Told] = []
    for _ in range(_TRIES):
        done, wanted, registry = _round(bridge, registry, wanted)
        told += done
        if not wanted:
            break
    return told


def _round(
    bridge: Bridge, registry: Registry, wanted: Sequence[Subscription]
) -> tuple[list[Told], list[Subscription], Registry]:
    """Returns what was told, and of whom to tell by the registry as it is by now."""
    names = [one.id for one in wanted]
    tallies, said = bridge.queues.tallies(names), bridge.notices.said(names)
    now_ms = bridge.clock.now_ms()
    told: list[Told] = []
    for place, about in enumerate(wanted):
        for kind, counts in _counts(about, tallies[about.id]).items():
            notice = notices.due(kind, counts, said[about.id][kind], about.created_ms, now_ms)
            if notice is None:
                continue
            reason = _reason(bridge, about, kind)
            done = _tell(bridge, registry, Told(about, notice, reason))
            if done is None:
                fresh = bridge.subscriptions.load()
                left = [one.id for one in wanted[place:]]
                return told, [one for name, one in fresh.by_id().items() if name in left], fresh
            if done:
                told.append(Told(about, notice, reason))
    return told, [], registry


def _tell(bridge: Bridge, registry: Registry, told: Told) -> bool | None:
    about, notice = told.about, told.notice
    # Its account may never have tracked: the log that this is in must be trimmed, and seen, all the same.
    bridge.tracking.note_account(about.account)
    to = notices.audience(notice.kind, about, registry.of(about.account))
    version = registry.versions[Part(about.id).home(bridge.settings.shards)]
    return bridge.notices.tell(about, notice, notices.record_of(notice, about, told.reason), to, version)


def _counts(about: Subscription, tally: Tally) -> dict[int, tuple[int, ...]]:
    limits = (tally.over_backlog, tally.over_kept, tally.dead_dropped)
    return {
        DISABLED: (about.disablings,),
        EXHAUSTED: (tally.exhausted,),
        # What operators' events did to a limit brings on no further one.
        DROPPED: tuple(all_of_it - ours for all_of_it, ours in zip(limits, tally.of_ours, strict=True)),
    }


def _reason(bridge: Bridge, about: Subscription, kind: int) -> str | None:
    if kind == DISABLED:
        return about.reason or None
    # A receiver may have put anything into what it answered.
    return scrub_text(bridge.queues.last_error(about.id)) or None if kind == EXHAUSTED else None

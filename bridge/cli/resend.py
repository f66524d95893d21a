"""``bridge resend``: events once more, by their ids, or all of a time for one subscription."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator
from enum import StrEnum
from itertools import islice
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from bridge.cli.common import audited, opened, since_ms
from bridge.cli.output import progress, show
from bridge.domain.deliveries import DeadLetter
from bridge.domain.events import EVENT_TYPES, STATUSES, TEST, Record, event_id, iso_millis, readable
from bridge.domain.receipts import normalise_phone
from bridge.domain.subscriptions import SubscriptionState, is_asked_for, parse_statuses, parse_types
from bridge.errors import BridgeError, NotFound, UsageError

if TYPE_CHECKING:
    from bridge.domain.subscriptions import Subscription
    from bridge.store.resending import Again, Resent
    from bridge.wiring import Bridge

_AT_ONCE = 200
_is_event_id = re.compile(r"evt_[a-z2-7]{26}").fullmatch


class State(StrEnum):
    """What became of the deliveries to send again."""

    ACCEPTED = "accepted"
    DEAD = "dead"
    ALL = "all"


class _Wish(msgspec.Struct, frozen=True, kw_only=True):
    """What to send again: these ids, or all if there are none; observed within ``span`` (Unix ms); in this state.

    And of these statuses and types, this phone (its digits) and this session, as far as they are given. ``to`` is the
    one subscription that was named, "" if none was.
    """

    ids: frozenset[str]
    span: tuple[int, int]
    state: State
    to: str
    statuses: tuple[str, ...]
    types: tuple[str, ...]
    phone: str
    session: str

    def includes(self, target: Subscription, position: bytes, event: Record | None) -> bool:
        """Of an event that is nowhere any more only the time is known."""
        if not self.span[0] <= int.from_bytes(position[:8]) < self.span[1]:
            return False
        if event is None:
            return not self.ids
        if self.ids and event_id(target.account, event) not in self.ids:
            return False
        return self._matches(event)

    def _matches(self, event: Record) -> bool:
        if self.statuses and (event.type or STATUSES[event.status] not in self.statuses):
            return False
        if self.types and not is_asked_for(EVENT_TYPES.get(event.type, ""), self.types):
            return False
        if self.phone and normalise_phone(event.phone) != self.phone:
            return False
        return not self.session or event.session_no == self.session

    def about(self) -> dict[str, object]:
        """For the audit trail: not the phone."""
        by_time = {} if self.ids else {"since": iso_millis(self.span[0]), "until": iso_millis(self.span[1])}
        given = {"state": self.state.value, "statuses": self.statuses, "types": self.types, "session": self.session}
        chosen: dict[str, object] = {"ids": len(self.ids), **by_time, **given, "by_phone": bool(self.phone)}
        return {name: value for name, value in chosen.items() if value}


class _Done(msgspec.Struct):
    """``lost``: neither the log nor the dead letter has the event any more; ``erased``: nor was it to be kept."""

    found: int = 0
    queued: int = 0
    waiting: int = 0
    no_room: int = 0
    lost: int = 0
    erased: int = 0


def resend(
    event: Annotated[list[str] | None, typer.Argument(metavar="EVENT…", help="Ids of events (evt_…).")] = None,
    *,
    subscription: Annotated[str | None, typer.Option(metavar="ID", help="To this subscription alone.")] = None,
    since: Annotated[
        str | None, typer.Option(metavar="T", help="All observed from then on: 1h (ago), ISO 8601, or Unix seconds.")
    ] = None,
    until: Annotated[str | None, typer.Option(metavar="T", help="And before then. Default: now.")] = None,
    state: Annotated[State, typer.Option(help="Of those, what is in this state alone.")] = State.ALL,
    statuses: Annotated[str | None, typer.Option(metavar="STATUS,…", help="Of these statuses alone.")] = None,
    types: Annotated[str | None, typer.Option(metavar="TYPE,…", help="Of these types of events alone.")] = None,
    phone: Annotated[str | None, typer.Option(metavar="P", help="Of this phone alone, in any spelling.")] = None,
    session: Annotated[str | None, typer.Option(metavar="SESSION", help="Of this session alone.")] = None,
    rate: Annotated[float | None, typer.Option(metavar="N", min=0.1, help="At most so many a second.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count what would be sent, and send nothing.")] = False,
    json: Annotated[bool, typer.Option("--json", help="One JSON object: the counts.")] = False,
) -> None:
    """Send events again, with the same ids and bytes. They keep no order, neither among themselves nor with others.

    By ids they go to every subscription of their account that hears of such events, or to the one named; a time needs
    the subscription. "accepted" is what it accepted, "dead" its dead letters, "all" all that it is to hear of. What is
    waiting already is not sent twice. A dead letter that is sent again is a dead letter no more.

    \b
    bridge resend evt_abcdefghijklmnopqrstuvwxyz
    bridge resend --subscription sub_abcdefghijklmnop --since 2h --state dead --dry-run
    bridge resend --subscription sub_abcdefghijklmnop --since 1d --state accepted --statuses failed --rate 50
    """
    wanted = frozenset(event or [])
    _check(wanted, subscription, since, until)
    filters = _filters(statuses, types, phone, session)
    done = _Done()
    with opened() as bridge:
        now_ms = bridge.clock.now_ms()
        span = 0 if since is None else since_ms(since, now_ms), now_ms if until is None else since_ms(until, now_ms)
        wish = msgspec.structs.replace(filters, ids=wanted, span=span, state=state, to=subscription or "")
        _run(bridge, wish, done, rate, dry_run=dry_run)
    if wanted and not done.found:
        raise NotFound("no such event: it never was, or is older than BRIDGE_KEEP_EVENTS and BRIDGE_KEEP_DEAD")
    show({**msgspec.structs.asdict(done), "dry_run": dry_run}, json=json)
    if done.no_room:
        raise BridgeError(f"{done.no_room} events had no room: too many wait (BRIDGE_MAX_BACKLOG); repeat this later")


def _check(wanted: frozenset[str], subscription: str | None, since: str | None, until: str | None) -> None:
    wrong = sorted(name for name in wanted if not _is_event_id(name))
    if wrong:
        raise UsageError(f"{wrong[0]!r} is no event's id: those are evt_ and 26 characters")
    if wanted and (since or until):
        raise UsageError("give ids of events, or a time, not both")
    if not wanted and not (subscription and since):
        raise UsageError("give ids of events, or --subscription with --since")


def _filters(statuses: str | None, types: str | None, phone: str | None, session: str | None) -> _Wish:
    if phone is not None and not any(char.isdigit() for char in phone):
        raise UsageError("--phone: give the phone with its digits")
    return _Wish(
        ids=frozenset(),
        span=(0, 0),
        state=State.ALL,
        to="",
        statuses=() if statuses is None else parse_statuses(statuses),
        types=() if types is None else parse_types(types),
        phone="" if phone is None else normalise_phone(phone),
        session=session or "",
    )


def _run(bridge: Bridge, wish: _Wish, done: _Done, rate: float | None, *, dry_run: bool) -> None:
    targets = _targets(bridge, wish)
    with progress("sending again") as advance:
        if dry_run:
            for one in targets:
                for _ in _found(bridge, one, wish, done):
                    advance(1)
            return
        with audited(bridge, "resend", wish.to, wish.about()) as noted:
            try:
                for one in targets:
                    for batch in _batches(_found(bridge, one, wish, done), rate):
                        _count(done, bridge.resending.put(one.id, batch))
                        advance(len(batch))
            finally:
                noted.details |= msgspec.structs.asdict(done)


def _targets(bridge: Bridge, wish: _Wish) -> list[Subscription]:
    if not wish.to:
        every = bridge.subscriptions.load().by_id().values()
        return [one for one in every if not one.implicit and one.state is not SubscriptionState.FILLING]
    found = bridge.subscriptions.get(wish.to)
    if found.state is SubscriptionState.FILLING:
        raise UsageError(f"{found.id} is being filled: it hears of past events once")
    if found.implicit and not wish.ids and wish.state is State.ALL:
        # The log does not say which sessions named its URL.
        raise UsageError(f"{found.id} hears of some sessions alone: give ids of events, or --state accepted or dead")
    return [found]


def _found(bridge: Bridge, target: Subscription, wish: _Wish, done: _Done) -> Iterator[Again]:
    """What is to be sent to one subscription: its dead letters, then what else the log has."""
    letters: set[tuple[int, bytes]] = set()
    if wish.state is not State.ACCEPTED:
        yield from _from_dead(bridge, target, wish, done, letters)
    if wish.state is not State.DEAD:
        yield from _from_log(bridge, target, wish, done, letters)


def _from_dead(
    bridge: Bridge, target: Subscription, wish: _Wish, done: _Done, seen: set[tuple[int, bytes]]
) -> Iterator[Again]:
    from bridge.store.resending import Again

    letters: dict[tuple[int, bytes], list[DeadLetter]] = {}
    for letter in bridge.queues.dead_letters(target.id):
        if wish.includes(target, letter.position, readable(letter.record)):
            letters.setdefault((letter.shard, letter.position), []).append(letter)
    missing: dict[int, list[bytes]] = {}
    for (shard, position), group in letters.items():
        if not any(readable(letter.record) for letter in group):
            missing.setdefault(shard, []).append(position)
    logged = bridge.log.fetch(target.account, missing)
    gone = [(shard, place) for shard, group in missing.items() for place in group if (shard, place) not in logged]
    erased = bridge.erased_places.among(target.account, gone)
    for place, group in letters.items():
        record = next((letter.record for letter in group if readable(letter.record)), None) or logged.get(place)
        if not wish.includes(target, place[1], readable(record)):
            continue
        seen.add(place)
        done.found += 1
        if record is None:
            done.erased += place in erased
            done.lost += place not in erased
        else:
            yield Again(*place, record, tuple(letter.id for letter in group))


def _from_log(
    bridge: Bridge, target: Subscription, wish: _Wish, done: _Done, letters: set[tuple[int, bytes]]
) -> Iterator[Again]:
    from bridge.store.resending import Again

    accepted = _accepted(bridge, target, wish)
    for one in bridge.log.read(target.account, since_ms=wish.span[0]):
        if int.from_bytes(one.position[:8]) >= wish.span[1]:
            return
        event = readable(one.record)
        if event is None or (one.shard, one.position) in letters or not accepted(one.shard, one.position, event):
            continue
        if wish.includes(target, one.position, event):
            done.found += 1
            yield Again(one.shard, one.position, one.record)


def _accepted(bridge: Bridge, target: Subscription, wish: _Wish) -> Callable[[int, bytes, Record], bool]:
    """Whether an event of the log is one that is asked for: accepted, or that the subscription is to hear of."""
    if wish.state is State.ACCEPTED:
        from bridge.store.outcomes import mark_of

        now_ms = bridge.clock.now_ms()
        told = [
            bridge.outcomes.accepted(target.id, shard, wish.span[0], now_ms) for shard in range(bridge.settings.shards)
        ]
        return lambda shard, position, _event: mark_of(position) in told[shard]
    if wish.ids and wish.to:
        return lambda _shard, _position, event: _is_allowed(target, event)
    return lambda _shard, _position, event: target.is_to_hear(event)


def _is_allowed(target: Subscription, event: Record) -> bool:
    """Whether an event may go where somebody wants it to: all but another subscription's test."""
    return EVENT_TYPES.get(event.type) != TEST or f'"{target.id}"' in event.metadata


def _batches(found: Iterable[Again], rate: float | None) -> Iterator[list[Again]]:
    """Batches, no sooner than ``rate`` events a second allow."""
    walk = iter(found)
    size = _AT_ONCE if rate is None else max(1, min(_AT_ONCE, int(rate)))
    while batch := list(islice(walk, size)):
        yield batch
        if rate is not None:
            time.sleep(len(batch) / rate)  # the rate that was asked for


def _count(done: _Done, sent: Resent) -> None:
    done.queued += sent.queued
    done.waiting += sent.waiting
    done.no_room += sent.no_room
